"""Fits of L = E + A N^-a + B D^-b to losses, by robust least squares from several starts.

The form is that of Hoffmann et al., Training Compute-Optimal Large Language Models (2022), equation 2: N parameters, D
tokens, E the loss that remains. Intervals are percentiles over resamples of the seeds, all sizes with the same ones.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from microgpt.reports.paired_statistics import Interval

RESAMPLES = 200
STEEPEST = 3.0  # upper bound of an exponent
EDGE = 0.01  # an exponent or loss within this fraction of the range from a bound is not determined
STARTS = (0.1, 0.4, 1.0)  # exponents
START_LEVELS = (0.3, 0.8, 0.97)  # E, as fractions of the lowest loss


@dataclass(frozen=True)
class Fit:
    """L = E + sum of A_k x_k^-a_k over the sizes x_k, such as N and D."""

    names: tuple[str, ...]  # of the sizes
    level: float  # E
    factors: tuple[float, ...]  # A_k
    exponents: tuple[float, ...]  # a_k
    level_interval: Interval
    exponent_intervals: tuple[Interval, ...]
    residuals: np.ndarray  # loss - fit, of each point
    noise: float  # root mean square of the standard errors of the points
    lowest: float  # lowest loss, the upper bound of E

    @property
    def spread(self) -> float:
        """Residual standard deviation: root of the sum of squares divided by the residual degrees of freedom."""
        free = len(self.residuals) - 1 - 2 * len(self.names)
        return float(np.sqrt((self.residuals**2).sum() / max(free, 1)))

    @property
    def is_at_bound(self) -> bool:
        """Whether E or an exponent is at a bound, so that the fit determines nothing."""
        at_end = any(power < EDGE * STEEPEST or power > (1 - EDGE) * STEEPEST for power in self.exponents)
        return at_end or self.level < EDGE * self.lowest

    def at(self, sizes: Sequence[np.ndarray]) -> np.ndarray:
        """Return the fitted loss at sizes."""
        terms = zip(self.factors, sizes, self.exponents, strict=True)
        return np.sum([factor * size**-exponent for factor, size, exponent in terms], axis=0) + self.level

    def remarks(self) -> list[str]:
        """Return the reasons why the fit is unreliable."""
        found = []
        for name, interval in zip(self.names, self.exponent_intervals, strict=True):
            if interval.low < EDGE * STEEPEST:
                found.append(f"the exponent of {name} is not shown to differ from 0")
            if interval.high > (1 - EDGE) * STEEPEST:
                found.append(f"the exponent of {name} has no upper bound")
        if self.level_interval.low < EDGE * self.lowest:
            found.append("E is not shown to differ from 0")
        if self.spread > 2 * self.noise:
            found.append(
                f"the residuals are {self.spread / self.noise:.1f} times the standard error of the means, so that a "
                "power law describes these losses only roughly"
            )
        return found


def fit(names: Sequence[str], sizes: Sequence[np.ndarray], losses: np.ndarray) -> Fit:
    """Fit losses (points, seeds) at sizes (points,) each. Equal arguments give equal intervals.

    There must be more points than parameters, and two or more seeds.
    """
    seeds = losses.shape[1]
    scale = [float(np.exp(np.log(size).mean())) for size in sizes]  # so that parameters are of similar size
    x = np.array([np.log(size / unit) for size, unit in zip(sizes, scale, strict=True)])  # (sizes, points)
    errors = losses.std(axis=1, ddof=1) / np.sqrt(seeds)
    noise = float(np.sqrt((errors**2).mean()))
    best = best_of_starts(x, losses.mean(axis=1), noise)
    chosen = np.random.default_rng(0).integers(seeds, size=(RESAMPLES, seeds))
    found = np.array([solve(x, losses[:, rows].mean(axis=1), noise, best)[0] for rows in chosen])
    low, high = np.quantile(found, [0.025, 0.975], axis=0)
    intervals = [Interval(float(a), float(b)) for a, b in zip(low, high, strict=True)]
    kinds = len(names)
    exponents = tuple(map(float, best[1 + kinds :]))
    factors = tuple(
        float(np.exp(a)) * unit**b for a, unit, b in zip(best[1 : 1 + kinds], scale, exponents, strict=True)
    )
    residuals = losses.mean(axis=1) - predicted(best, x)
    return Fit(
        tuple(names), float(best[0]), factors, exponents, intervals[0], tuple(intervals[1 + kinds :]), residuals, noise,
        float(losses.mean(axis=1).min()),
    )  # fmt: skip


def predicted(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the losses (points,) for E, the logarithms of the factors, and the exponents."""
    kinds = len(x)
    return values[0] + np.exp(values[1 : 1 + kinds, None] - values[1 + kinds :, None] * x).sum(axis=0)


def best_of_starts(x: np.ndarray, y: np.ndarray, noise: float) -> np.ndarray:
    """Return the solution with the least cost from all combinations of starting values."""
    kinds, tried = len(x), []
    for part, *exponents in itertools.product(START_LEVELS, *[STARTS] * kinds):
        level = part * float(y.min())
        amplitude = np.log(max(float(y.mean()) - level, 1e-3) / kinds)
        tried.append(solve(x, y, noise, np.array([level, *[amplitude] * kinds, *exponents])))
    return min(tried, key=lambda one: one[1])[0]


def solve(x: np.ndarray, y: np.ndarray, noise: float, start: np.ndarray) -> tuple[np.ndarray, float]:
    """Minimise the soft absolute value of the residuals, in standard errors; returns the solution and its cost."""
    from scipy.optimize import least_squares

    kinds = len(x)
    lower = np.array([0.0, *[-20.0] * kinds, *[0.0] * kinds])
    upper = np.array([float(y.min()), *[20.0] * kinds, *[STEEPEST] * kinds])

    def residuals(values: np.ndarray) -> np.ndarray:
        return (predicted(values, x) - y) / noise

    def jacobian(values: np.ndarray) -> np.ndarray:
        terms = np.exp(values[1 : 1 + kinds, None] - values[1 + kinds :, None] * x)
        return np.vstack([np.ones(len(y)), terms, -terms * x]).T / noise

    inside = np.clip(start, lower + 1e-6, upper - 1e-6)
    options: dict[str, Any] = {"jac": jacobian, "bounds": (lower, upper), "loss": "soft_l1", "x_scale": "jac"}
    found = least_squares(residuals, inside, **options)
    return found.x, float(found.cost)
