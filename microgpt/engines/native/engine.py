"""The native engine: compiled kernels on the CPU.

Each model is computed separately, with the same operations in the same order regardless of other models. Threads
compute whole models, or parts of one model's batch; the number of threads does not change the results.
"""

import math
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial

import numpy as np

from microgpt.data.batches import Shuffle
from microgpt.data.examples import Examples
from microgpt.distributed import available_cores
from microgpt.engines.base import BulkRequest, Draws, EngineInfo, EngineState, TextRequest, Tokens, Workload
from microgpt.engines.native import bulk_sampling, python_random
from microgpt.engines.native.kv_cache import DecodingBuffers, NativeBatchDecoder, NativeDecoder
from microgpt.engines.native.machine_code import compile_kernels, kernels_for
from microgpt.engines.native.optimizer_settings import ADD, NORM, TRANSPOSE, UPDATE, bias_corrections, settings_record
from microgpt.engines.native.text_sampling import TextSampler
from microgpt.engines.native.thread_work import Steps, Workspace, contiguous_ranges
from microgpt.engines.native.weights import Weights, aligned, workspace
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import BACKENDS, EngineOptions
from microgpt.errors import UserError
from microgpt.model.init import Normals
from microgpt.model.spec import ModelSpec

CHUNK_ROWS = 64  # positions computed together; at the usual sizes, their activations fit the caches next to the core
PART_EXAMPLES = 16  # minimum number of examples in a part of a batch
MAX_PARTS = 8  # maximum number of parts of a batch; their gradients are added in a fixed order
SPLIT_WORK = 2e8  # positions x parameters of a batch above which the batch is divided into more parts
SPLIT_POSITIONS = 1024  # number of positions in such a part; the batch has at least two parts
SHARED_WORK = 2e7  # tokens x parameters of a step above which several threads are faster for one model
LISTED_INDICES = 1 << 22  # maximum number of example indices in memory
EVALUATION_PART = 64  # examples whose losses are added before their sum is added to the total


class NativeEngine:
    """R models side by side on the cores of the CPU."""

    def __init__(
        self,
        options: EngineOptions,
        spec: ModelSpec,
        optimizer: OptimizerSpec,
        workload: Workload | None,
        state: EngineState,
        say: Callable[[str], None] = print,
    ):
        if options.device not in BACKENDS["native"].devices:
            raise UserError(f"backend.device={options.device} is not allowed: backend=native runs only on the cpu")
        self.dtype = options.dtype or BACKENDS["native"].dtypes[0]
        self.spec, self.optimizer, self.workload = spec, optimizer, workload
        self.threads = options.threads or available_cores()
        self.info = EngineInfo("native", "cpu", False, self.dtype, "features", self.threads, options.reason)
        self.compile_seconds = compile_kernels(self.dtype, say)
        self.kernels = kernels_for(self.dtype)
        self.weights = Weights(spec, self.dtype, self.kernels, rows=max(CHUNK_ROWS, spec.block_size))
        self.settings = settings_record(optimizer)
        self.pool = ThreadPoolExecutor(self.threads, thread_name_prefix="native") if self.threads > 1 else None
        self.workspaces: list[Workspace] = []
        self.part_gradients = np.empty(0)  # used by `train_with_all_threads`
        self.load(state)

    # Training state

    def load(self, state: EngineState) -> None:
        self.weights.load(state.parameters)
        self.m = self.weights.pack(state.m, 2)
        self.v = self.weights.pack(state.v, 3) if self.optimizer.moments == 2 else self.m

    def state(self) -> EngineState:
        unpack = self.weights.unpack
        return EngineState(
            parameters=unpack(self.weights.parameters),
            m=unpack(self.m),
            v=unpack(self.v) if self.optimizer.moments == 2 else {},
        )

    # Training

    @cached_property
    def examples(self) -> Examples:
        assert self.workload is not None, "this engine was created without a workload"
        return self.workload.packed

    @cached_property
    def targets(self) -> np.ndarray:
        """The number of targets of each example."""
        return np.ascontiguousarray(self.examples.targets, np.int64)

    def advance(self, step: int, learning_rates: np.ndarray) -> np.ndarray:
        assert self.workload is not None, "this engine was created without a workload"
        replicas = self.weights.replicas
        at_once = max(1, LISTED_INDICES // (replicas * self.workload.orders[0].batch_size))
        losses = np.full(learning_rates.shape, np.nan)
        for begin in range(0, len(learning_rates), at_once):
            end = min(begin + at_once, len(learning_rates))
            running = np.isfinite(losses[begin - 1]) if begin else np.ones(replicas, bool)
            if running.any():
                losses[begin:end] = self.train(step + begin, learning_rates[begin:end], running)
        return losses

    def train(self, first: int, learning_rates: np.ndarray, running: np.ndarray) -> np.ndarray:
        """Do the same as `advance`, in one piece; models that are not `running` get NaN losses."""
        assert self.workload is not None
        orders, count = self.workload.orders, len(learning_rates)
        steps = Steps(
            first=first,
            count=count,
            batch_size=orders[0].batch_size,
            batches=np.concatenate([order.indices(first, first + count).ravel() for order in orders]),
            rates=np.ascontiguousarray(learning_rates.T, np.float64),
            corrections=bias_corrections(self.optimizer, first, first + count),
            losses=np.full((len(orders), count), np.nan),
        )
        ranges = list(contiguous_ranges(np.flatnonzero(running), self.threads))
        if len(ranges) < self.threads and self.is_shared(steps.batch_size):
            for model in np.flatnonzero(running):
                self.train_with_all_threads(int(model), steps)
        else:
            self.run_in_threads([partial(self.train_models, begin, end, steps) for begin, end in ranges])
        return steps.losses.T

    def is_shared(self, batch_size: int) -> bool:
        """Return whether threads share the batches of one model. This affects the time but not the results."""
        parts = -(-batch_size // self.part_size(batch_size))
        tokens = batch_size * self.examples.positions.mean()
        return self.pool is not None and parts > 1 and tokens * self.weights.layout.size > SHARED_WORK

    def part_size(self, batch_size: int) -> int:
        """Return the number of examples in a part of a batch; it depends only on sizes, not on threads."""
        positions = batch_size * self.spec.block_size
        parts = -(-batch_size // PART_EXAMPLES)
        if positions * self.weights.layout.size >= SPLIT_WORK:
            wanted = max(2, positions // SPLIT_POSITIONS)
            parts = max(parts, 1 << (wanted.bit_length() - 1))  # a power of two gives 2 or 4 threads equal shares
        return -(-batch_size // min(parts, batch_size, MAX_PARTS))

    def train_models(self, begin: int, end: int, steps: Steps, w: Workspace) -> None:
        """Train the models begin .. end - 1 in one thread."""
        x, weights = self.examples, self.weights
        self.kernels.train(
            weights.parameters, weights.transposed, self.m, self.v, w.gradient, w.part_gradient, w.activations,
            x.tokens, x.starts, x.ends, self.targets, steps.batches, steps.first, steps.count, steps.batch_size,
            self.part_size(steps.batch_size), steps.rates.ravel(), *steps.corrections, steps.losses.ravel(), w.ids,
            weights.mask, begin, end, weights.record, self.settings,
        )  # fmt: skip

    def train_with_all_threads(self, model: int, steps: Steps) -> None:
        """Train one model: threads compute the gradients of the parts of a batch, which are added in a fixed order."""
        weights, batch_size, part = self.weights, steps.batch_size, self.part_size(steps.batch_size)
        size, parts = weights.layout.size, -(-batch_size // part)
        if len(self.part_gradients) != parts * size:
            self.part_gradients = aligned(parts * size, self.dtype)
        gradients = self.part_gradients

        losses = np.zeros(parts)
        shares = list(contiguous_ranges(np.arange(parts), self.threads))
        for s in range(steps.count):
            begin = (model * steps.count + s) * batch_size
            batch = steps.batches[begin : begin + batch_size]
            targets = int(self.targets[batch].sum())
            compute = partial(self.losses, model, self.examples, batch, part, 1.0 / targets, gradients, size, losses)
            self.run_in_threads([partial(compute, *share) for share in shares])
            loss = 0.0
            for part_loss in losses.tolist():
                loss += part_loss
            loss /= targets
            steps.losses[model, s] = loss
            if not math.isfinite(loss):
                return
            finish = partial(self.finish_step, model, steps, s, parts, gradients)
            finish(ADD)
            norm = finish(NORM, shares=1) if self.settings["largest_norm"] < math.inf else 0.0
            finish(UPDATE, norm)
            finish(TRANSPOSE)

    def finish_step(
        self,
        model: int,
        steps: Steps,
        s: int,
        parts: int,
        gradients: np.ndarray,
        phase: int,
        norm: float = 0.0,
        shares: int | None = None,
    ) -> float:
        """Run a phase of the update after step s of `steps` (kernels/train.py) in `shares` threads."""
        weights, size, shares = self.weights, self.weights.layout.size, shares or self.threads

        def compute(share: int, w: Workspace) -> float:
            return self.kernels.finish_step(
                weights.parameters, weights.transposed, self.m, self.v, gradients[:size], gradients[size:],
                w.activations, parts, steps.first + s, steps.rates[model, s],
                *(correction[s] for correction in steps.corrections), model, phase, norm, share, shares,
                weights.record, self.settings,
            )  # fmt: skip

        return self.run_in_threads([partial(compute, share) for share in range(shares)])[0]

    def losses(
        self,
        model: int,
        x: Examples,
        batch: np.ndarray,
        part: int,
        weight: float,
        gradients: np.ndarray | None,
        stride: int,
        sums: np.ndarray,
        first: int,
        last: int,
        w: Workspace,
    ) -> None:
        """Write the sum of the losses of each part of the examples x[batch]; see kernels/train.py."""
        self.kernels.losses(
            self.weights.parameters, self.weights.transposed, w.gradient if gradients is None else gradients,
            w.activations, x.tokens, x.starts, x.ends, batch, len(batch), part, -(-len(batch) // part), first, last,
            weight, stride, w.ids, self.weights.mask, model, sums, self.weights.record,
        )  # fmt: skip

    # Evaluation and sampling

    def evaluate(self, examples: Sequence[Tokens]) -> np.ndarray:
        x, replicas = Examples.of(examples), self.weights.replicas
        sums = np.zeros((replicas, -(-len(x) // EVALUATION_PART)))
        compute = partial(self.losses, 0, x, np.arange(len(x)), EVALUATION_PART, 0.0, None, 0, sums.ravel())
        shares = contiguous_ranges(np.arange(sums.size), self.threads)
        self.run_in_threads([partial(compute, begin, end) for begin, end in shares])
        return sums.sum(axis=1) / x.targets.sum()

    def decoder(self, replica: int) -> NativeDecoder:
        return NativeDecoder(self.weights, replica)

    def batch_decoder(self, replica: int, slots: int) -> NativeBatchDecoder:
        return NativeBatchDecoder(self.weights, replica, slots)

    def draw(self, replica: int, request: BulkRequest, slots: int = bulk_sampling.SLOTS) -> Draws:
        """See base.BulkSampler. `slots` is the number of texts in progress at once, which does not change the texts."""
        return bulk_sampling.draw(self.weights, replica, request, slots)

    @cached_property
    def text_sampler(self) -> TextSampler:
        return TextSampler(DecodingBuffers(self.weights, replica=0, rows=1, slots=1))

    def sample(self, replica: int, request: TextRequest, rng: random.Random) -> list[list[int]]:
        """See base.TextSampler."""
        return self.text_sampler.sample(replica, request, rng)

    # Threads

    def run_in_threads(self, works: list[Callable]) -> list:
        """Run each function in a thread, with a separate workspace as argument; return the results in order."""
        while len(self.workspaces) < len(works):
            self.workspaces.append(self.make_workspace())
        if self.pool is None or len(works) == 1:
            return [work(self.workspaces[0]) for work in works]
        futures = [self.pool.submit(work, w) for work, w in zip(works, self.workspaces, strict=False)]
        return [future.result() for future in futures]

    def make_workspace(self) -> Workspace:
        layout = self.weights.layout
        return Workspace(
            activations=workspace(self.spec, layout, self.dtype, 5),
            ids=np.zeros(4 * layout.rows + 1, np.int64),
            gradient=aligned(layout.size, self.dtype, 4),
            part_gradient=aligned(layout.size, self.dtype, 6),
        )


def random_functions(dtype: str | None) -> tuple[Shuffle, Normals]:
    """See engines/__init__.py; `dtype` is the dtype in the engine's options."""
    kernels = kernels_for(dtype or BACKENDS["native"].dtypes[0])
    return partial(python_random.shuffled, kernels), partial(python_random.standard_normals, kernels)
