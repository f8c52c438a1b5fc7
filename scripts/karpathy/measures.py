"""From the lines of runs to figures: seconds a step, target tokens a second, time to a loss, medians and ratios.

Every program's figure is the time of training steps alone: start-up, compiling, the first steps (warm-up), evaluation
and checkpoints are left out, of all programs alike. Knows no program.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from statistics import fmean, median, stdev
from typing import Any

from karpathy.commands import Line


@dataclass
class Figures:
    """What one run came to."""

    steps: int  # how many steps were timed
    seconds: float  # what they took together
    tokens: int  # their target tokens
    losses: dict[int, float] = field(default_factory=dict)  # training loss after n steps
    val_losses: dict[int, float] = field(default_factory=dict)  # nats per target token after n steps
    device: str = "cpu"
    facts: dict[str, Any] = field(default_factory=dict)  # what the program says of how it computed

    @property
    def seconds_per_step(self) -> float:
        return self.seconds / self.steps

    @property
    def tokens_per_sec(self) -> float:
        return self.tokens / self.seconds

    def seconds_to(self, val_loss: float) -> float | None:
        """Seconds of training until an evaluation finds this loss or a lower one; None if none did."""
        reached = [step for step, loss in sorted(self.val_losses.items()) if loss <= val_loss]
        return reached[0] * self.seconds_per_step if reached else None

    def to_dict(self) -> dict[str, Any]:
        derived = {"seconds_per_step": self.seconds_per_step, "tokens_per_sec": self.tokens_per_sec}
        return {**asdict(self), **derived}


class NoFiguresError(Exception):
    """Why a run that ended well has no figures: a sentence."""


@dataclass(frozen=True)
class StepTimes:
    """Which of a program's steps were timed. Steps are counted from 0."""

    steps: int
    seconds: float
    tokens: int


def times_between_evaluations(
    lines: Sequence[Line],
    pattern: str,
    interval: int,
    steps: int,
    targets: Callable[[int], int],
) -> StepTimes:
    """Time of the steps that lie between two lines with no evaluation between them.

    `pattern` finds the number of a step (group 1) in the line that is printed after it. An evaluation comes before
    each step that is a multiple of `interval`; the steps before the first such one after 0 are the warm-up. `targets`
    says how many target tokens a step has.
    """
    printed = [(int(found.group(1)), line.seconds) for line in lines if (found := re.search(pattern, line.text))]
    printed = [(step, at) for step, at in printed if interval <= step < steps]
    counted, seconds, tokens = 0, 0.0, 0
    for (before, began), (step, ended) in pairwise(printed):
        if step // interval == before // interval and step > before:
            counted += step - before
            seconds += ended - began
            tokens += sum(map(targets, range(before + 1, step + 1)))
    if counted == 0 or seconds <= 0:
        raise NoFiguresError(f"its output has no times of steps {interval} to {steps}: was another format expected?")
    return StepTimes(counted, seconds, tokens)


def found_by_step(lines: Sequence[Line], pattern: str, offset: int = 0) -> dict[int, float]:
    """Numbers (group 2) by step (group 1, plus `offset`)."""
    found = (re.search(pattern, line.text) for line in lines)
    return {int(match.group(1)) + offset: float(match.group(2)) for match in found if match}


def spread(values: Sequence[float]) -> dict[str, Any] | None:
    """Median, smallest and largest of the rounds, and where one more is expected; None where there is none."""
    if not values:
        return None
    return {
        "median": median(values),
        "min": min(values),
        "max": max(values),
        "expected": one_more(values),
        "rounds": list(values),
    }


def one_more(values: Sequence[float]) -> tuple[float, float] | None:
    """Where one more value lies in 19 of 20 cases: Student's prediction interval, of the logarithms.

    mean +- t(n - 1, 0.975) s sqrt(1 + 1 / n), s the standard deviation of n values (Montgomery and Runger, Applied
    Statistics and Probability for Engineers, 8-6). The smallest and the largest of three values hold the next one in
    half of all cases only. None for fewer than two values, and where one is not positive.
    """
    from scipy.special import stdtrit  # only where there are figures

    if len(values) < 2 or min(values) <= 0:
        return None
    logs = [math.log(value) for value in values]
    middle, half = fmean(logs), stdtrit(len(logs) - 1, 0.975) * stdev(logs) * math.sqrt(1 + 1 / len(logs))
    return math.exp(middle - half), math.exp(middle + half)


def common_loss(runs: Sequence[Figures]) -> float | None:
    """The lowest validation loss that all of them reached: the worst of their best ones."""
    best = [min(run.val_losses.values()) for run in runs if run.val_losses]
    return max(best) if best else None
