"""The earlier systems' micro-benchmarks, by their names and in their order, as rows for one JSON document.

What is timed is a call; where a call needs something made anew, the making is not timed. A repeat is as many calls as
take the wanted seconds. Knows no engine but the scalar one, whose `Value`s two of them are about.
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
class Patience:
    """How long and how often is measured."""

    repeats: int
    seconds: float  # the least that a repeat takes


def measure(run: Callable[[int], tuple[float, int]], patience: Patience) -> list[float]:
    """Seconds a unit, from each repeat. `run` does n of something; it returns the seconds, and how many units that was.

    The first runs, which find out how many it takes to fill a repeat, do not count: they are the warm-up.
    """
    count = 1
    while (spent := run(count)[0]) < patience.seconds:
        count = 1 + int(count * min(10.0, 1.2 * patience.seconds / max(spent, 1e-9)))
    repeats = [run(count) for _ in range(patience.repeats)]
    return [seconds / units for seconds, units in repeats]


def seconds_of(call: Callable[[Made], object], make: Callable[[], Made], patience: Patience) -> list[float]:
    """Seconds of one call, from each repeat; what `make` takes is not timed."""

    def run(count: int) -> tuple[float, int]:
        total = 0.0
        for _ in range(count):
            made = make()
            began = time.perf_counter()
            call(made)
            total += time.perf_counter() - began
        return total, count

    return measure(run, patience)


def row(name: str, description: str, iterations: int, seconds: list[float]) -> Row:
    """The earlier systems' keys, with the median of the repeats, then what they lack: how far these lie apart."""
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


def language_rows(patience: Patience) -> list[Row]:
    """Random numbers, and `Value`s forward and backward."""
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
            seconds_of(draw, nothing, patience)),
        row("gauss_100k", "normal random numbers from Python's generator", 100_000,
            seconds_of(draw_normal, nothing, patience)),
    ]  # fmt: skip
    with no_cycle_collection():  # as the engine has it
        return [
            *rows,
            row("value_forward_10k", "multiplications and additions of Values, in turn, that make a graph", 10_000,
                seconds_of(lambda _: chain(10_000), nothing, patience)),
            row("value_backward_1k", "gradients through a graph of that many such operations", 1_000,
                seconds_of(Value.backward, lambda: chain(1_000), patience)),
        ]  # fmt: skip


def chain(operations: int) -> Value:
    """x = x * a, x = x + b, ... : the last x of that many operations."""
    x, a, b = Value(0.5), Value(0.999), Value(0.001)
    for _ in range(operations // 2):
        x = x * a + b
    return x
