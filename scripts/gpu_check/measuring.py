"""Models, training steps and timing, shared by the parts."""

import gc
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import torch
from harness import say

from gpu_check.results import OutOfTimeError, RestartError, Results, Row
from microgpt.data.batches import BatchOrder
from microgpt.data.corpus import Corpus
from microgpt.engines import make_engine
from microgpt.engines.base import Engine, EngineState, Workload
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.errors import MicrogptError
from microgpt.model.spec import ModelSpec, constant_value

DISTINCT = 64  # seeds; thousands of replicas reuse them, because drawing weights takes milliseconds per model
MIB = 1 << 20
ROUNDS = 3
NO_TIME = "no time"
KERNELS: dict[str, dict[str, Any]] = {  # name in the tables -> options of the engine
    "eager": {},
    "cuda_graph": {"kernel": "cuda_graph"},
    "compiled": {"compile": True},
    "compiled cuda_graph": {"kernel": "cuda_graph", "compile": True},
}


@dataclass(frozen=True)
class Check:
    """The requested options, and the deadline for the measurements of a part."""

    device: str
    quick: bool
    replicas: Sequence[int]
    nanogpt_dir: str | None
    deadline: float  # time.monotonic()
    results: Results

    @property
    def seconds(self) -> float:
        """Length of a timed round."""
        return 0.05 if self.quick else 0.7

    def why_left_out(self, kernel: str) -> str | None:
        """Return the reason why a kind of kernel is not measured, or None if it is."""
        if "cuda_graph" in kernel and self.device != "cuda":
            return "needs CUDA"
        return "not compiled with --quick" if self.quick and "compiled" in kernel else None

    def measure_all(self, part: str, measurements: Sequence[tuple[Row, Callable[[], Row]]]) -> None:
        """Add a row for each measurement that has none: its identification, then its figures or why there are none.

        Raises RestartError after a failure on a GPU. At the end, raises MicrogptError if a measurement failed, and
        OutOfTimeError if there was no time for one.
        """
        rows = self.results.part(part).rows
        for row, measure in measurements:
            if any(row.items() <= found.items() for found in rows):
                continue
            name = " ".join(map(str, row.values()))
            if (reason := self.why_left_out(str(row.get("kernel", "")))) is not None:
                self.results.add_row(part, {**row, "left_out": reason})
                continue
            if time.monotonic() > self.deadline:
                self.results.add_row(part, {**row, "left_out": NO_TIME})
                continue
            say(f"{part}: {name} ...")
            try:
                figures = measure_alone(measure)
            except (MicrogptError, RuntimeError) as error:  # including out of memory
                figures = {"problem": (str(error).strip().splitlines() or [type(error).__name__])[0]}
            self.results.add_row(part, row | figures)
            if "problem" in figures and self.device == "cuda":
                raise RestartError(f"{name} failed")
        failed, left = sum("problem" in row for row in rows), sum(row.get("left_out") == NO_TIME for row in rows)
        if failed:
            raise MicrogptError(f"{failed} of {len(measurements)} measurements failed")
        if left:
            raise OutOfTimeError(f"no time for {left} of {len(measurements)} measurements")


def measure_alone(measure: Callable[[], Row]) -> Row:
    """Return the figures of a measurement and its maximum memory."""
    on_gpu = torch.cuda.is_available()
    if "torch._dynamo" in sys.modules:  # it compiles a function at most eight times and then falls back to eager
        torch.compiler.reset()
    if on_gpu:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    figures = measure()
    # ru_maxrss, in KiB on Linux, is the maximum of the whole process so far.
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return {**figures, "MiB": peak / MIB}


def seconds_a_step(advance: Callable[[int], object], seconds: float, warm_up: int = 3) -> float:
    """Return the median over rounds. `advance(n)` trains n steps and returns after the device has finished."""
    advance(warm_up)  # compiles, records, allocates
    start = time.perf_counter()
    advance(warm_up)
    steps = max(1, min(10_000, int(seconds * warm_up / (time.perf_counter() - start))))
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        advance(steps)
        times.append((time.perf_counter() - start) / steps)
    return median(times)


class Training:
    """An engine that continues training with each call."""

    def __init__(self, engine: Engine, replicas: int, rate: float):
        self.engine, self.replicas, self.rate = engine, replicas, rate
        self.step = 0
        self.last = np.full(replicas, np.nan)  # losses

    def __call__(self, steps: int) -> None:
        losses = self.engine.advance(self.step, np.full((steps, self.replicas), self.rate))
        self.step += steps
        self.last = losses[-1]
        if not np.isfinite(losses).all():
            raise MicrogptError("a loss became non-finite")


def random_state(spec: ModelSpec, seeds: Sequence[int]) -> EngineState:
    """Return weights with the initial distribution, drawn with NumPy."""
    drawn = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        one = {}
        for name, shape in spec.shapes().items():
            constant = constant_value(name)
            std = 0.0 if constant is not None else spec.initial_std(name, shape[1])
            one[name] = rng.normal(constant or 0.0, std, (1, *shape)).astype(np.float32)
        drawn.append(EngineState(one))
    return EngineState.stack(drawn)


def engine_of(
    options: EngineOptions,
    spec: ModelSpec,
    optimizer: OptimizerSpec,
    corpus: Corpus,
    batch_size: int,
    replicas: int = 1,
) -> Engine:
    """Return an engine whose replicas cycle through DISTINCT seeds."""
    distinct = min(replicas, DISTINCT)
    state = random_state(spec, range(distinct))
    places = np.arange(replicas) % distinct
    state = replace(state, parameters={name: array[places] for name, array in state.parameters.items()})
    count = len(corpus.examples)
    orders = [BatchOrder(np.random.default_rng(r).permutation(count), (), 0.0, batch_size) for r in range(distinct)]
    workload = Workload(corpus.examples, [orders[place] for place in places])
    return make_engine(options, spec, optimizer, workload, state, say)
