"""Histories of runs as arrays, and those of many seeds as one curve with a band. Knows nothing of pages or of plots."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np

from microgpt.reports.statistics import summary
from microgpt.runs.folders import HISTORY

Figure = Literal["loss", "val_loss"]
COLUMNS = ("step", "tokens", "loss", "val_loss")
MOST_POINTS = 200  # of a band; more are not seen


@dataclass(frozen=True)
class Curve:
    """What a run's history says, line by line: float64 arrays of one length, NaN where a line has no such figure."""

    step: np.ndarray  # ascending
    tokens: np.ndarray  # targets seen so far
    loss: np.ndarray  # of the step's batch, nats per target token
    val_loss: np.ndarray
    steps_per_sec: float | None = None  # over the whole run

    def seconds(self) -> np.ndarray:
        """Training time at each line, as the run's mean rate has it: histories hold no clock, so that they repeat."""
        return self.step / self.steps_per_sec if self.steps_per_sec else np.full(len(self.step), np.nan)

    def x(self, name: str) -> np.ndarray:
        return self.seconds() if name == "seconds" else getattr(self, name)


@dataclass(frozen=True)
class Band:
    """A mean over runs at each x, and the 95 % interval of that mean; the interval is NaN with a single run."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    runs: int


def read_curve(folder: Path, steps_per_sec: float | None = None) -> Curve:
    """The history in a run's folder; without one, or with one that is no history, a curve without points."""
    try:
        lines = parse((folder / HISTORY).read_text(errors="replace"))
    except OSError:
        lines = []
    table = np.array([[number(line.get(name)) for name in COLUMNS] for line in lines]).reshape(-1, len(COLUMNS))
    table = table[np.isfinite(table[:, 0])]
    table = table[np.argsort(table[:, 0], kind="stable")]
    return Curve(*table.T, steps_per_sec=steps_per_sec)


def parse(text: str) -> list[dict[str, Any]]:
    """The lines up to the first that a crash left unfinished. All at once is several times as fast as one by one."""
    lines = text.splitlines()
    try:
        found = json.loads(f"[{','.join(lines)}]")
    except (ValueError, RecursionError):
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except (ValueError, RecursionError):
                break
    return [line for line in found if isinstance(line, dict)]


def number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else np.nan


def over_runs(curves: Sequence[Curve], figure: Figure, x: str = "step") -> Band | None:
    """The figure over the runs, at the steps where all of them have it; None where there is no such step.

    Of more than MOST_POINTS steps some are left out, evenly. `x` is step, tokens or seconds: where runs differ in it at
    a step, it is their mean as well.
    """
    known = [np.isfinite(getattr(curve, figure)) & np.isfinite(curve.x(x)) for curve in curves]
    steps = [curve.step[rows] for curve, rows in zip(curves, known, strict=True)]
    if not steps:
        return None
    common = reduce(np.intersect1d, steps[1:], np.unique(steps[0]))
    if not len(common):
        return None
    if len(common) > MOST_POINTS:
        common = common[np.linspace(0, len(common) - 1, MOST_POINTS).round().astype(int)]

    def at_common(values: str) -> np.ndarray:  # (runs, steps)
        return np.array([
            curve.x(values)[rows][np.searchsorted(own, common)]
            for curve, rows, own in zip(curves, known, steps, strict=True)
        ])  # fmt: skip

    mean, low, high = mean_with_interval(at_common(figure))
    return Band(at_common(x).mean(axis=0), mean, low, high, len(curves))


def mean_with_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over the rows, and the ends of its 95 % interval."""
    found = [summary(column.tolist()) for column in values.T]
    low = [np.nan if one.interval is None else one.interval.low for one in found]
    high = [np.nan if one.interval is None else one.interval.high for one in found]
    return np.array([one.mean for one in found]), np.array(low), np.array(high)
