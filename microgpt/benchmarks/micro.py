"""Micro-benchmarks with the names and the order used by earlier implementations, as rows of one JSON document.

The measured time is that of the calls, without the creation of their arguments. In each repeat, the calls together take
at least about the requested number of seconds.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

from microgpt.engines.scalar.engine import no_cycle_collection
from microgpt.engines.scalar.value import Value

Made = TypeVar("Made")
Row = dict[str, Any]
NAMES = ("random_1m", "gauss_100k", "value_forward_10k", "value_backward_1k", "gpt_forward_10", "training_step_1")
SEED = 42


@dataclass(frozen=True)
class Repeats:
    """The number of repeats of a measurement, and the minimum duration of each."""

    count: int
    seconds: float  # minimum duration of a repeat


def measure(run: Callable[[int], tuple[float, int]], repeats: Repeats) -> list[float]:
    """Return the seconds per unit of each repeat. `run(count)` returns the seconds and the number of units.

    The first runs determine the count for the duration of a repeat; they also serve as the warm-up.
    """
    count = 1
    while (spent := run(count)[0]) < repeats.seconds:
        count = 1 + int(count * min(10.0, 1.2 * repeats.seconds / max(spent, 1e-9)))
    runs = [run(count) for _ in range(repeats.count)]
    return [seconds / units for seconds, units in runs]


def seconds_of(call: Callable[[Made], object], make: Callable[[], Made], repeats: Repeats) -> list[float]:
    """Return the seconds per call in each repeat, without the time of `make`, which creates the call's argument."""

    def run(count: int) -> tuple[float, int]:
        total = 0.0
        for _ in range(count):
            made = make()
            start = time.perf_counter()
            call(made)
            total += time.perf_counter() - start
        return total, count

    return measure(run, repeats)


def row(name: str, description: str, iterations: int, seconds: list[float]) -> Row:
    """Return a row with the keys used by earlier implementations (the median), followed by the range of the repeats."""
    middle = median(seconds)
    return {
        "name": name,
        "description": description,
        "iterations": iterations,
        "time_ms": 1e3 * middle,
        "ops_per_sec": iterations / middle,
        "min_ms": 1e3 * min(seconds),
        "max_ms": 1e3 * max(seconds),
        "repeats": len(seconds),
    }


def language_rows(repeats: Repeats) -> list[Row]:
    """Measure random number generation, and forward and backward passes of `Value`."""
    rng = random.Random(SEED)

    def draw(made: None) -> None:
        uniform = rng.random
        for _ in range(1_000_000):
            uniform()

    def draw_normal(made: None) -> None:
        normal = rng.gauss
        for _ in range(100_000):
            normal(0, 1)

    def nothing() -> None:
        return None

    rows = [
        row("random_1m", "uniform random numbers from Python's generator", 1_000_000,
            seconds_of(draw, nothing, repeats)),
        row("gauss_100k", "normal random numbers from Python's generator", 100_000,
            seconds_of(draw_normal, nothing, repeats)),
    ]  # fmt: skip
    with no_cycle_collection():  # as in the scalar engine
        return [
            *rows,
            row("value_forward_10k", "alternating multiplications and additions of Values, which build a graph", 10_000,
                seconds_of(lambda _: chain(10_000), nothing, repeats)),
            row("value_backward_1k", "backpropagation through a graph of this number of such operations", 1_000,
                seconds_of(Value.backward, lambda: chain(1_000), repeats)),
        ]  # fmt: skip


def chain(operations: int) -> Value:
    """Return the result of `operations` alternating operations: x = x * a, x = x + b, ..."""
    x, a, b = Value(0.5), Value(0.999), Value(0.001)
    for _ in range(operations // 2):
        x = x * a + b
    return x
