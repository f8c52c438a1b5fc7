"""The native engine: the contract of engines/base.py, kept by compiled kernels on the CPU.

Every model is computed apart from all others, in the same order whatever runs beside it: threads share out models, or
the parts of one model's batch, and change no number.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from microgpt.data.examples import Examples
from microgpt.distributed import available_cores
from microgpt.engines.base import Arrays, Draws, EngineInfo, EngineState, Tokens, Workload
from microgpt.engines.native import kernel_cache, train_kernels
from microgpt.engines.native import layout as layouts
from microgpt.engines.native import optimizers as optims
from microgpt.engines.native.decoding import SLOTS, NativeBatchDecoder, NativeDecoder, draw
from microgpt.engines.native.packing import aligned, pack, places, unpack
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.errors import UserError
from microgpt.model.spec import ModelSpec

CHUNK_ROWS = 64  # positions that are computed together; fits the nearer caches at the sizes of this laboratory
PART_EXAMPLES = 16  # a batch is cut into parts of at least so many examples,
MOST_PARTS = 8  # and into so many parts at most: their gradients are added in this order, whoever computed them
SHARED_WORK = 2e7  # products in a step from which on several threads for one model pay their start
LISTED_INDICES = 1 << 22  # example indices that are listed at once
EVALUATION_PART = 64  # examples whose losses are added up before the sum goes into the total


@dataclass
class Workspace:
    """What one thread works in."""

    activations: np.ndarray
    ids: np.ndarray  # tokens, targets, positions, beginnings of a chunk
    gradient: np.ndarray
    other: np.ndarray  # gradient of a further part


class NativeEngine:
    """R models, side by side on the CPU's cores."""

    def __init__(
        self,
        options: EngineOptions,
        spec: ModelSpec,
        optimizer: OptimizerSpec,
        workload: Workload | None,
        state: EngineState,
        say: Callable[[str], None],
    ):
        if options.device not in ("auto", "cpu"):
            raise UserError(f"backend.device={options.device} is not allowed: backend=native runs on the cpu")
        self.dtype = options.dtype or "float32"
        self.spec, self.optimizer, self.workload = spec, optimizer, workload
        self.threads = options.threads or available_cores()
        self.info = EngineInfo("native", "cpu", False, self.dtype, "features", self.threads, options.reason)
        self.compile_seconds = kernel_cache.compile_kernels(self.dtype, say)
        self.layout = layouts.layout_of(spec, max(CHUNK_ROWS, spec.block_size))
        self.places = places(spec, self.layout)
        self.z = layouts.record(self.layout, layouts.DTYPE)
        self.o = layouts.record(optims.optimizer_of(optimizer), optims.DTYPE)
        self.padding = aligned(layouts.LANES, self.dtype)
        self.padding[layouts.LANES - (self.layout.vocab_lanes - spec.vocab_size) :] = -1e30
        self.pool = ThreadPoolExecutor(self.threads, thread_name_prefix="native") if self.threads > 1 else None
        self.workspaces: list[Workspace] = []
        self.load(state)

    # State

    def load(self, state: EngineState) -> None:
        layout = self.layout
        self.replicas = len(next(iter(state.parameters.values())))
        self.parameters = pack(state.parameters, self.places, layout.size, self.dtype, 0)
        self.transposed = aligned(self.replicas * layout.t_size, self.dtype, 1)
        self.m = self.moments(state.m, 2)
        self.v = self.moments(state.v, 3) if self.optimizer.name != "sgd" else self.m  # sgd's kernel does not touch it
        train_kernels.prepare(self.parameters, self.transposed, 0, self.replicas, self.z)

    def moments(self, given: Arrays, place: int) -> np.ndarray:
        """As they were given, or from zero."""
        if given:
            return pack(given, self.places, self.layout.size, self.dtype, place)
        return aligned(self.replicas * self.layout.size, self.dtype, place)

    def state(self) -> EngineState:
        size = self.layout.size
        return EngineState(
            parameters=unpack(self.parameters, self.places, size),
            m=unpack(self.m, self.places, size),
            v=unpack(self.v, self.places, size) if self.v is not self.m else {},
        )

    # Training

    @cached_property
    def examples(self) -> Examples:
        assert self.workload is not None, "this engine was made without a workload"
        return self.workload.packed

    @cached_property
    def targets(self) -> np.ndarray:
        """How many targets each example has."""
        return np.ascontiguousarray(self.examples.targets, np.int64)

    def workspace(self, number: int) -> Workspace:
        """The n-th thread's; made when it is first asked for."""
        while len(self.workspaces) <= number:
            rows, size = self.layout.rows, self.layout.size
            self.workspaces.append(
                Workspace(
                    activations=aligned(self.layout.w_size, self.dtype, 5),
                    ids=np.zeros(4 * rows + 1, np.int64),
                    gradient=aligned(size, self.dtype, 4),
                    other=aligned(size, self.dtype, 6),
                )
            )
        return self.workspaces[number]

    def advance(self, step: int, learning_rates: np.ndarray) -> np.ndarray:
        assert self.workload is not None, "this engine was made without a workload"
        batch_size = self.workload.orders[0].batch_size
        at_once = max(1, LISTED_INDICES // (self.replicas * batch_size))
        losses = np.full(learning_rates.shape, np.nan)
        for begin in range(0, len(learning_rates), at_once):
            end = min(begin + at_once, len(learning_rates))
            running = np.isfinite(losses[begin - 1]) if begin else np.ones(self.replicas, bool)
            if running.any():
                losses[begin:end] = self.train(step + begin, learning_rates[begin:end], running)
        return losses

    def train(self, step: int, learning_rates: np.ndarray, running: np.ndarray) -> np.ndarray:
        """`advance` for as many steps as may be listed at once; models that are not `running` get NaN."""
        assert self.workload is not None
        steps, spec = len(learning_rates), self.optimizer
        orders = self.workload.orders
        batches = np.concatenate([order.indices(step, step + steps).ravel() for order in orders])
        batch_size = orders[0].batch_size
        powers = np.arange(step + 1, step + steps + 1)
        given = {
            "step": step,
            "batches": batches,
            "batch_size": batch_size,
            "part": part_size(batch_size),
            "rates": np.ascontiguousarray(learning_rates.T, np.float64),  # a model's next to each other
            "corrections": (1 - spec.beta1**powers, 1 - spec.beta2**powers),
            "losses": np.full((self.replicas, steps), np.nan),
        }
        stretches = list(contiguous(np.flatnonzero(running), self.threads))
        if len(stretches) < self.threads and self.is_shared(batch_size):
            for model in np.flatnonzero(running):
                self.train_together(int(model), steps, given)
        else:
            self.each_thread([partial(self.train_models, begin, end, steps, given) for begin, end in stretches])
        return given["losses"].T

    def is_shared(self, batch_size: int) -> bool:
        """Whether the threads share out one model's batch: never a question of numbers, only of time."""
        parts = -(-batch_size // part_size(batch_size))
        tokens = batch_size * self.examples.positions.mean()
        return self.pool is not None and parts > 1 and tokens * self.layout.size > SHARED_WORK

    def train_models(self, begin: int, end: int, steps: int, given: dict, w: Workspace) -> None:
        x = self.examples
        train_kernels.train(
            self.parameters, self.transposed, self.m, self.v, w.gradient, w.other, w.activations, x.tokens, x.starts,
            x.ends, self.targets, given["batches"], given["step"], steps, given["batch_size"], given["part"],
            given["rates"].ravel(), *given["corrections"], given["losses"].ravel(), w.ids, self.padding, begin, end,
            self.z, self.o,
        )  # fmt: skip

    def train_together(self, model: int, steps: int, given: dict) -> None:
        """One model, with all threads: each takes parts of the batch, and one adds up their gradients in order."""
        x, part, batch_size, size = self.examples, given["part"], given["batch_size"], self.layout.size
        parts = -(-batch_size // part)
        gradients = aligned(parts * size, self.dtype)

        def compute(batch: np.ndarray, weight: float, mine: range, w: Workspace) -> list[float]:
            return [
                train_kernels.loss(
                    self.parameters, self.transposed, gradients[n * size : (n + 1) * size], w.activations, x.tokens,
                    x.starts, x.ends, batch, n * part, min((n + 1) * part, batch_size), weight, w.ids, self.padding,
                    model, self.z,
                )
                for n in mine
            ]  # fmt: skip

        shares = [range(parts)[begin:end] for begin, end in contiguous(np.arange(parts), self.threads)]
        for s in range(steps):
            first = (model * steps + s) * batch_size
            batch = given["batches"][first : first + batch_size]
            count = int(self.targets[batch].sum())
            losses = self.each_thread([partial(compute, batch, 1.0 / count, mine) for mine in shares])
            loss = 0.0
            for each in losses:
                for part_loss in each:
                    loss += part_loss
            loss /= count
            given["losses"][model, s] = loss
            if not math.isfinite(loss):
                return
            train_kernels.finish(
                self.parameters, self.transposed, self.m, self.v, gradients[:size], gradients[size:], parts,
                given["step"] + s, given["rates"][model, s], *(corrections[s] for corrections in given["corrections"]),
                model, self.z, self.o,
            )  # fmt: skip

    def each_thread(self, works: list[Callable]) -> list:
        """Run each piece of work in a thread and a workspace of its own."""
        if self.pool is None or len(works) == 1:
            return [work(self.workspace(0)) for work in works]
        futures = [self.pool.submit(work, self.workspace(n)) for n, work in enumerate(works)]
        return [future.result() for future in futures]

    # Use

    def evaluate(self, examples: Sequence[Tokens]) -> np.ndarray:
        x = Examples.of(examples)
        order = np.arange(len(x))
        slices = [(begin, min(begin + EVALUATION_PART, len(x))) for begin in range(0, len(x), EVALUATION_PART)]
        work = [(model, *s) for model in range(self.replicas) for s in slices]

        def compute(mine: list[tuple[int, int, int]], w: Workspace) -> list[float]:
            return [
                train_kernels.loss(
                    self.parameters, self.transposed, w.gradient, w.activations, x.tokens, x.starts, x.ends, order,
                    begin, end, 0.0, w.ids, self.padding, model, self.z,
                )
                for model, begin, end in mine
            ]  # fmt: skip

        shares = [work[begin:end] for begin, end in contiguous(np.arange(len(work)), self.threads)]
        sums = [loss for each in self.each_thread([partial(compute, mine) for mine in shares]) for loss in each]
        return np.array(sums).reshape(self.replicas, len(slices)).sum(axis=1) / x.targets.sum()

    def decoder(self, replica: int) -> NativeDecoder:
        return NativeDecoder(self, replica)

    def batch_decoder(self, replica: int, slots: int) -> NativeBatchDecoder:
        return NativeBatchDecoder(self, replica, slots)

    def draw(
        self,
        replica: int,
        prompt: Tokens,
        count: int,
        room: int,
        temperature: float,
        top_k: int | None,
        seed: int,
        first: int = 0,
        slots: int = SLOTS,
    ) -> Draws:
        """See base.BulkSampler; `slots` texts are under way at a time, which changes none of them."""
        return draw(self, replica, prompt, count, room, temperature, top_k, seed, first, max(1, min(slots, count)))


def part_size(batch_size: int) -> int:
    """Examples in a part of a batch: a function of the batch size alone, never of the threads."""
    parts = min(MOST_PARTS, -(-batch_size // PART_EXAMPLES))
    return -(-batch_size // parts)


def contiguous(numbers: np.ndarray, pieces: int) -> Iterator[tuple[int, int]]:
    """Ranges (begin, end) that cover the numbers, which ascend, in up to `pieces` shares of about equal size.

    A gap among the numbers ends a range, so that there may be more of them.
    """
    for share in np.array_split(numbers, min(pieces, max(len(numbers), 1))):
        for stretch in np.split(share, np.flatnonzero(np.diff(share) != 1) + 1):
            if len(stretch):
                yield int(stretch[0]), int(stretch[-1]) + 1
