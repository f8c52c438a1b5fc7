"""The scalar engine: engines/base.py implemented with `Value`s. It defines the results of all engines."""

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from microgpt.engines.base import EngineInfo, EngineState, Tokens, Workload, implementation
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.engines.scalar.model import (
    ACTIVATIONS,
    FORWARD,
    NORMS,
    PLAIN,
    POSITIONS,
    WITH_GRADIENTS,
    Cache,
    Weights,
    document_losses,
)
from microgpt.engines.scalar.optimizers import UPDATE_RULES, Optimizer
from microgpt.engines.scalar.value import Value, add_up
from microgpt.model.spec import ModelSpec


class ScalarModel:
    """One model and its optimizer."""

    def __init__(self, spec: ModelSpec, optimizer: OptimizerSpec, matrices: dict[str, list[list[float]]]):
        self.spec = spec
        self.weights: Weights = {
            name: [[Value(number) for number in row] for row in matrices[name]] for name in spec.shapes()
        }
        self.optimizer = Optimizer(optimizer, self.weights)
        self.parameters = self.optimizer.parameters

    def train_step(self, step: int, documents: Sequence[Tokens], lr: float) -> float:
        """Run forward pass, backward pass and update; return the mean loss over the documents' target tokens."""
        losses = [
            loss for tokens in documents for loss in document_losses(self.spec, self.weights, tokens, WITH_GRADIENTS)
        ]
        loss = add_up(losses) * (1 / len(losses))
        if not math.isfinite(loss.data):
            return loss.data
        loss.backward()
        self.optimizer.update(step, lr)
        return loss.data

    def plain_weights(self) -> Weights:
        return {name: [[p.data for p in row] for row in matrix] for name, matrix in self.weights.items()}

    def evaluate(self, documents: Sequence[Tokens]) -> float:
        """Return the mean loss over the documents' target tokens."""
        weights = self.plain_weights()
        try:
            losses = [loss for tokens in documents for loss in document_losses(self.spec, weights, tokens, PLAIN)]
        except OverflowError:
            return math.inf
        return sum(losses) / len(losses)


class ScalarDecoder:
    """Decodes one text with one model, using the model's weights at the time the decoder was created."""

    def __init__(self, model: ScalarModel):
        self.spec = model.spec
        self.weights = model.plain_weights()
        self.cache = Cache(model.spec.n_layer)

    def feed(self, token: int) -> list[float]:
        try:
            return FORWARD[self.spec.kind](self.spec, self.weights, token, self.cache, PLAIN)
        except OverflowError:  # plain Python raises an error where the numbers of other engines become infinite
            return [math.nan] * self.spec.vocab_size


@contextmanager
def no_cycle_collection() -> Iterator[None]:
    """Disable the cycle collector: reference counting frees graphs, and the search for cycles takes most of a step."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class ScalarEngine:
    """Trains R models one after the other, in float64."""

    info = EngineInfo(backend="python", device="cpu", using_gpu=False, dtype="float64", kernel="graph", threads=1)
    compile_seconds = 0.0

    def __init__(
        self,
        options: EngineOptions,
        spec: ModelSpec,
        optimizer: OptimizerSpec,
        workload: Workload | None,
        state: EngineState,
        say: Callable[[str], None] = print,
    ):
        implementation(FORWARD, "model.kind", spec.kind, "FORWARD in engines/scalar/model.py")
        implementation(ACTIVATIONS, "model.activation", spec.activation, "ACTIVATIONS in engines/scalar/model.py")
        implementation(POSITIONS, "model.position", spec.position, "POSITIONS in engines/scalar/model.py")
        implementation(NORMS, "model.norm", spec.norm, "NORMS in engines/scalar/model.py")
        implementation(UPDATE_RULES, "optim.name", optimizer.name, "UPDATE_RULES in engines/scalar/optimizers.py")
        self.spec = spec
        self.optimizer = optimizer
        self.workload = workload
        self.load(state)

    def load(self, state: EngineState) -> None:
        self.models = []
        for r in range(state.replicas):
            matrices = {name: array[r].tolist() for name, array in state.parameters.items()}
            model = ScalarModel(self.spec, self.optimizer, matrices)
            for moments, flat in ((state.m, model.optimizer.m), (state.v, model.optimizer.v)):
                if moments and flat:
                    flat[:] = [number for name in self.spec.shapes() for number in moments[name][r].ravel().tolist()]
            self.models.append(model)

    def state(self) -> EngineState:
        return EngineState(
            parameters=self.arrays([[p.data for p in model.parameters] for model in self.models]),
            m=self.arrays([model.optimizer.m for model in self.models]),
            v=self.arrays([model.optimizer.v for model in self.models]),
        )

    def arrays(self, flat: list[list[float]]) -> dict[str, np.ndarray]:
        """Convert R flat lists over all parameters to arrays (R, rows, columns) by tensor name; empty lists to {}."""
        if not flat[0]:
            return {}
        matrix, start, arrays = np.array(flat), 0, {}
        for name, (rows, columns) in self.spec.shapes().items():
            arrays[name] = matrix[:, start : start + rows * columns].reshape(-1, rows, columns).copy()
            start += rows * columns
        return arrays

    def advance(self, step: int, learning_rates: np.ndarray) -> np.ndarray:
        assert self.workload is not None, "this engine was created without a workload"
        losses = np.full(learning_rates.shape, np.nan)
        examples = self.workload.examples
        with no_cycle_collection():
            for r, (model, order) in enumerate(zip(self.models, self.workload.orders, strict=True)):
                for k in range(len(learning_rates)):
                    documents = [examples[i] for i in order.batch(step + k)]
                    try:
                        losses[k, r] = model.train_step(step + k, documents, float(learning_rates[k, r]))
                    except OverflowError:
                        losses[k, r] = math.inf
                    if not math.isfinite(losses[k, r]):
                        break
        return losses

    def evaluate(self, examples: Sequence[Tokens]) -> np.ndarray:
        with no_cycle_collection():
            return np.array([model.evaluate(examples) for model in self.models])

    def decoder(self, replica: int) -> ScalarDecoder:
        return ScalarDecoder(self.models[replica])
