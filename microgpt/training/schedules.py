"""Learning-rate schedules: the factor at step s, counted from 0, as a function of s, horizon T and warmdown w."""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    name: str
    total_steps: int  # the horizon T
    warmup_steps: int = 0
    warmdown_steps: int | None = None  # w; None: floor(T / 2 + 1/2)

    def factor(self, step: int) -> float:
        """Return the learning-rate factor at a step: the schedule's factor times min(1, (s + 1) / warmup_steps)."""
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return warmup * SCHEDULES[self.name](step, self.total_steps, self.warmdown)

    @property
    def warmdown(self) -> int:
        return math.floor(0.5 * self.total_steps + 0.5) if self.warmdown_steps is None else self.warmdown_steps


def linear(s: int, t: int, w: int) -> float:
    """1 - s/T, as in microgpt.py."""
    return 1 - s / t


def cosine(s: int, t: int, w: int) -> float:
    """(1 + cos(pi s/T)) / 2, as in the first version of microgpt.py (Loshchilov and Hutter, SGDR, 2016)."""
    return 0.5 * (1 + math.cos(math.pi * s / t))


def warmdown(s: int, t: int, w: int) -> float:
    """1 until T - w, then (T - s) / w, as in nanochat."""
    return 1.0 if s <= t - w else (t - s) / w


def sqrt(s: int, t: int, w: int) -> float:
    """1 until T - w, then 1 - sqrt((s - (T - w)) / w) (Hägele et al., 2024)."""
    return 1.0 if s <= t - w else 1 - math.sqrt((s - (t - w)) / w)


def constant(s: int, t: int, w: int) -> float:
    return 1.0


SCHEDULES: dict[str, Callable[[int, int, int], float]] = {
    "linear": linear,
    "cosine": cosine,
    "warmdown": warmdown,
    "sqrt": sqrt,
    "constant": constant,
}
