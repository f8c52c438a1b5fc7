"""From the output of runs to figures: seconds per step, target tokens per second, time to a loss, medians, ratios.

The time of a program includes only its training steps: start-up, compiling, the first steps (warm-up), evaluation and
checkpoints are excluded.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

import harness

from karpathy.processes import OutputLine
from karpathy.workloads import Setup


class NoFiguresError(Exception):
    """A run completed but has no figures, for this reason."""


@dataclass
class Figures:
    """The figures of one run."""

    steps: int  # timed steps
    seconds: float  # of all timed steps
    tokens: int  # target tokens of the timed steps
    losses: dict[int, float] = field(default_factory=dict)  # training loss after n steps
    val_losses: dict[int, float] = field(default_factory=dict)  # nats per target token after n steps
    device: str = "cpu"
    facts: dict[str, Any] = field(default_factory=dict)  # reported by the program about its computation

    @property
    def seconds_per_step(self) -> float:
        return self.seconds / self.steps

    @property
    def tokens_per_sec(self) -> float:
        return self.tokens / self.seconds

    def seconds_to(self, val_loss: float) -> float | None:
        """Return the seconds of training until an evaluation finds this loss or a lower one; None if there is none."""
        reached = [step for step, loss in sorted(self.val_losses.items()) if loss <= val_loss]
        return reached[0] * self.seconds_per_step if reached else None

    def to_dict(self) -> dict[str, Any]:
        derived = {"seconds_per_step": self.seconds_per_step, "tokens_per_sec": self.tokens_per_sec}
        return {**asdict(self), **derived}


def read_figures(
    lines: Sequence[OutputLine], pattern: str, setup: Setup, targets: Callable[[int], int] | None = None, first: int = 0
) -> Figures:
    """Return the losses in the output of a program, and the time of the steps between lines without an evaluation.

    `pattern` matches the line printed after a step: group 1 is the number of the step (`first` for the first step), and
    group 2 its loss. An evaluation precedes each step whose number, counted from 0, is a multiple of the interval; the
    steps before the second evaluation are the warm-up. `targets` returns the number of target tokens of a step; the
    default is a whole batch.
    """
    interval, a_batch = setup.interval, setup.batch_size * setup.block_size
    matches = [(found, line.seconds) for line in lines if (found := re.search(pattern, line.text))]
    losses = {int(found[1]) - first + 1: float(found[2]) for found, _ in matches}
    times = [(int(found[1]) - first, seconds) for found, seconds in matches]
    times = [(step, seconds) for step, seconds in times if interval <= step < setup.steps]
    counted, seconds, tokens = 0, 0.0, 0
    for (before, start), (step, end) in pairwise(times):
        if step // interval == before // interval and step > before:
            counted += step - before
            seconds += end - start
            tokens += sum(targets(each) if targets else a_batch for each in range(before + 1, step + 1))
    if counted == 0 or seconds <= 0:
        raise NoFiguresError(f"its output has no times of steps {interval} to {setup.steps}: has its format changed?")
    return Figures(counted, seconds, tokens, losses)


def numbers_by_step(lines: Sequence[OutputLine], pattern: str) -> dict[int, float]:
    """Return the numbers (group 2), keyed by step (group 1)."""
    found = (re.search(pattern, line.text) for line in lines)
    return {int(match[1]): float(match[2]) for match in found if match}


def spread(values: Sequence[float]) -> dict[str, Any] | None:
    """Return median, smallest and largest of the rounds, and the prediction interval; None if there are no values."""
    return {**harness.spread(values), "expected": one_more(values)} if values else None


def one_more(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the interval that contains one more value in 19 of 20 cases: Student's, of the logarithms.

    mean +- t(n - 1, 0.975) s sqrt(1 + 1 / n), s the standard deviation of n values (Montgomery and Runger, Applied
    Statistics and Probability for Engineers, 8-6). The range of three values contains the next one in only half of
    all cases. None for fewer than two values, or if a value is not positive.
    """
    from scipy.special import stdtrit

    if len(values) < 2 or min(values) <= 0:
        return None
    logs = [math.log(value) for value in values]
    middle, half = fmean(logs), stdtrit(len(logs) - 1, 0.975) * stdev(logs) * math.sqrt(1 + 1 / len(logs))
    return math.exp(middle - half), math.exp(middle + half)


def common_loss(runs: Sequence[Figures]) -> float | None:
    """Return the lowest validation loss that all runs reached."""
    best = [min(run.val_losses.values()) for run in runs if run.val_losses]
    return max(best) if best else None
