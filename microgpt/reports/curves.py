"""Histories of runs as arrays, and the curve with a band over several seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np

from microgpt.reports.statistical_power import critical_t
from microgpt.runs.folders import HISTORY
from microgpt.runs.history import History

Loss = Literal["loss", "val_loss"]
COLUMNS = ("step", "tokens", "loss", "val_loss")
MOST_POINTS = 200  # of a band; more would not be visible


@dataclass(frozen=True)
class Curve:
    """A run's history as float64 arrays of equal length, with NaN where a line lacks the value."""

    step: np.ndarray  # ascending
    tokens: np.ndarray  # targets seen so far
    loss: np.ndarray  # of the step's batch, nats per target token
    val_loss: np.ndarray
    steps_per_sec: float | None = None  # over the whole run

    def seconds(self) -> np.ndarray:
        """Return the training time at each line, from the run's mean speed: histories contain no times."""
        return self.step / self.steps_per_sec if self.steps_per_sec else np.full(len(self.step), np.nan)

    def x(self, name: str) -> np.ndarray:
        return self.seconds() if name == "seconds" else getattr(self, name)


@dataclass(frozen=True)
class Band:
    """The mean over runs at each x, and its 95 % interval, NaN for a single run."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    runs: int

    def since(self, x: float) -> "Band":
        """Return the part from an x on."""
        rows = self.x >= x
        return Band(self.x[rows], self.mean[rows], self.low[rows], self.high[rows], self.runs)


def read_curve(folder: Path, steps_per_sec: float | None = None) -> Curve:
    """Read the history in a run's folder. A missing or unreadable one gives a curve without points."""
    try:
        lines = History(folder / HISTORY).lines()
    except OSError:
        lines = []
    table = np.array([number(line.get(name)) for name in COLUMNS for line in lines]).reshape(len(COLUMNS), -1)
    steps = table[0]
    if not np.all(np.diff(steps) > 0):  # true also if a step is NaN
        table = table[:, np.isfinite(steps)]
        table = table[:, np.argsort(table[0], kind="stable")]
    return Curve(*table, steps_per_sec=steps_per_sec)


def number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else np.nan


def over_runs(curves: Sequence[Curve], loss: Loss, x: str = "step") -> Band | None:
    """Return the mean loss over the runs at the steps that all runs have a loss for; None if there is no such step.

    Of more than MOST_POINTS steps, evenly spaced ones are used. `x` is step, tokens or seconds, its mean over the runs.
    """
    known = [np.isfinite(getattr(curve, loss)) & np.isfinite(curve.x(x)) for curve in curves]
    steps = [curve.step[rows] for curve, rows in zip(curves, known, strict=True)]
    if not steps:
        return None
    different = list({one.tobytes(): one for one in steps}.values())
    common = reduce(np.intersect1d, different[1:], np.unique(different[0]))
    if not len(common):
        return None
    if len(common) > MOST_POINTS:
        common = common[np.linspace(0, len(common) - 1, MOST_POINTS).round().astype(int)]

    def at_common(values: str) -> np.ndarray:  # (runs, steps)
        return np.array([
            curve.x(values)[rows][np.searchsorted(own, common)]
            for curve, rows, own in zip(curves, known, steps, strict=True)
        ])  # fmt: skip

    losses = at_common(loss)
    mean, half = losses.mean(axis=0), np.full(len(common), np.nan)
    if len(curves) > 1:
        half = critical_t(len(curves) - 1) * losses.std(axis=0, ddof=1) / np.sqrt(len(curves))
    return Band(at_common(x).mean(axis=0), mean, mean - half, mean + half, len(curves))
