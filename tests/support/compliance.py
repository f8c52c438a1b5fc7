"""Everything that an engine computes for a model, compared with the scalar engine's.

In float64 the results must be equal to 1e-9, in float32 within FLOAT32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from microgpt.engines import ENGINES, make_engine
from microgpt.engines.base import Arrays, Engine, EngineState, Workload
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.model.spec import ModelSpec


@dataclass(frozen=True)
class Tolerance:
    """Largest deviation from the scalar engine: relative to numbers above 1, absolute below."""

    losses: float  # of all steps
    same_parameters: float  # gradients, logits and evaluated losses at equal parameters
    trained: float  # parameters and moments after the last step


EXACT = Tolerance(losses=1e-9, same_parameters=1e-9, trained=1e-9)  # measured: 2e-14, 3e-15, 6e-13
# A float32 is exact to 6e-8, and a gradient is a sum of hundreds: 2e-6 was measured on both engines, and 2e-5 with a
# norm that divides by a small number. The errors of sgd's steps add up. Other optimizers scale a gradient by its own
# size, so that one near zero, of which float32 may not know the sign, can move a parameter by the learning rate, 0.01:
# up to 5e-4 was measured, and 1e-5 in the later losses.
FLOAT32_SGD = Tolerance(2e-5, 5e-5, 1e-4)
FLOAT32 = Tolerance(2e-4, 5e-5, 1e-2)
# lion moves a parameter whose sign float32 does not know in the other direction: by twice the learning rate.
FLOAT32_LION = Tolerance(1e-3, 5e-5, 4e-2)
OF_OPTIMIZER = {"sgd": FLOAT32_SGD, "lion": FLOAT32_LION}

NEEDS_CUDA = "this machine has no CUDA device that PyTorch finds"
each_engine = pytest.mark.parametrize(
    "engine", [*sorted(ENGINES.keys() - {"python", "torch"}), "torch-cpu", "torch-cuda"]
)
each_dtype = pytest.mark.parametrize("dtype", ["float64", "float32"])


@dataclass(frozen=True)
class Case:
    """A model of two replicas, each with its own initial weights, order of examples and learning rates."""

    spec: ModelSpec
    optimizer: OptimizerSpec
    workload: Workload
    state: EngineState
    rates: np.ndarray  # (steps, 2)

    @property
    def text(self) -> Sequence[int]:
        return self.workload.examples[0]


@dataclass(frozen=True)
class Results:
    """Everything that an engine computes. A gradient is the change by one step of sgd with a learning rate of 1."""

    losses: np.ndarray
    first_gradients: Arrays
    last_gradients: Arrays  # like evaluated and logits, at the scalar engine's final parameters
    final: EngineState
    evaluated: np.ndarray
    logits: np.ndarray  # (2, T, V): at every position of the first example


def engine_of(case: Case, options: EngineOptions, optimizer: OptimizerSpec) -> Engine:
    return make_engine(options, case.spec, optimizer, case.workload, case.state, say=lambda text: None)


def results(case: Case, options: EngineOptions, final: EngineState | None = None) -> Results:
    """Compute everything; the last gradients, losses and logits at `final`, or at the engine's own final state."""
    engine, plain = engine_of(case, options, case.optimizer), engine_of(case, options, OptimizerSpec("sgd"))
    first_gradients = gradients(plain, case.state.parameters)
    losses = engine.advance(0, case.rates)
    state = engine.state()
    at = EngineState((final or state).parameters)
    last_gradients = gradients(plain, at.parameters)
    plain.load(at)
    decoders = [plain.decoder(r) for r in range(2)]
    return Results(
        losses=losses,
        first_gradients=first_gradients,
        last_gradients=last_gradients,
        final=state,
        evaluated=plain.evaluate(case.workload.examples),
        logits=np.array([[decoder.feed(token) for token in case.text[:-1]] for decoder in decoders]),
    )


def gradients(engine: Engine, parameters: Arrays) -> Arrays:
    engine.load(EngineState(parameters))
    before = engine.state().parameters
    engine.advance(0, np.ones((1, 2)))
    after = engine.state().parameters
    return {name: before[name].astype(np.float64) - after[name] for name in before}


def options_of(engine: str, dtype: str) -> EngineOptions:
    backend, _, device = engine.partition("-")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip(NEEDS_CUDA)
    return EngineOptions(backend, device=device or "cpu", dtype=dtype, threads=1)


def tolerance_of(dtype: str | None, optimizer: OptimizerSpec) -> Tolerance:
    if dtype == "float64":
        return EXACT
    return OF_OPTIMIZER.get(optimizer.name, FLOAT32)


def assert_close(found: Arrays, expected: Arrays, tolerance: float) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape, name
        deviation = np.abs(found[name] - array) / np.maximum(1, np.abs(array))
        assert deviation.max() <= tolerance, f"{name}: {deviation.max()}"


def assert_computes(case: Case, expected: Results, options: EngineOptions) -> None:
    """Check that an engine computes the scalar engine's results of this case."""
    assert np.isfinite(expected.losses).all(), "the scalar engine diverged: this case compares nothing"
    found = results(case, options, expected.final)
    allowed = tolerance_of(options.dtype, case.optimizer)
    assert_close({"losses": found.losses}, {"losses": expected.losses}, allowed.losses)
    assert_close(found.first_gradients, expected.first_gradients, allowed.same_parameters)
    assert_close(found.last_gradients, expected.last_gradients, allowed.same_parameters)
    assert_close({"evaluated": found.evaluated}, {"evaluated": expected.evaluated}, allowed.same_parameters)
    assert_close({"logits": found.logits}, {"logits": expected.logits}, allowed.same_parameters)
    for part in ("parameters", "m", "v"):
        of_engine, of_scalar = (with_effect(case.spec, getattr(r.final, part)) for r in (found, expected))
        assert_close(of_engine, of_scalar, allowed.trained)


def with_effect(spec: ModelSpec, arrays: Arrays) -> Arrays:
    """Return the tensors that affect the loss.

    A bias of the keys adds the same number to all scores of a query, which softmax ignores, unless RoPE or a norm comes
    after it: its gradient is rounding errors, which an optimizer that scales gradients turns into steps.
    """
    has_no_effect = spec.position != "rope" and not spec.qk_norm
    return {name: a for name, a in arrays.items() if not (has_no_effect and name.endswith("attn_wk_bias"))}
