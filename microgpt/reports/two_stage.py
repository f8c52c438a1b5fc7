"""Stein's two-stage procedure for several contrasts: the number of seeds for intervals of a given half-width.

Stein (Annals of Mathematical Statistics 16, 1945, p. 243-258) estimates a variance from n0 values, takes as many more
as the stated half-width d then needs, and keeps the first variance in the final interval. The number of values depends
on that variance only, which is independent of their mean if they are normal, so the interval has exactly the stated
coverage, whatever the true variance is. Here, for m contrasts of variants that share their seeds:

- The values of contrast k are its weighted sums of losses, seed by seed; s_k is their standard deviation over the first
  n0 seeds, with f = n0 - 1 degrees of freedom. Variances and correlations of the variants may be any.
- The intervals are simultaneous (single-step; Healy, Annals of Mathematical Statistics 27, 1956, p. 687-702, with a
  common variance; here, as in Hochberg and Tamhane, Multiple Comparison Procedures, 1987, with a variance of each
  contrast): c is Student's t at the level a for which the smallest of m p values is below a with probability 5 %
  (simultaneous.py).
- All variants have N = max(n0, ceil(max_k (c s_k / d)^2)) seeds, and the interval of contrast k is its mean over the N
  seeds plus or minus c s_k / sqrt(N), which is at most d.
- Losses need not be normal. With an excess kurtosis g, the variance of s^2 is sigma^4 (2 / (n0 - 1) + g / n0), so s^2
  has about f = 2 / (2 / (n0 - 1) + g / n0) degrees of freedom (Box, Biometrika 40, 1953). g is the mean of the
  contrasts' G2 (Joanes and Gill, The Statistician 47, 1998) in the first stage, and no less than 0.

For one contrast of normal values and g = 0 the coverage is exact; with several contrasts the correlation, and for other
values g, are approximations: tests/reports/test_two_stage.py simulates the coverage.
"""

import math
from dataclasses import dataclass

import numpy as np

from microgpt.reports.paired_statistics import ROUNDING
from microgpt.reports.simultaneous import joint
from microgpt.reports.statistical_power import critical_t

FEWEST_DF = 2


@dataclass(frozen=True, eq=False)
class FirstStage:
    """The variances of the contrasts, estimated from the first seeds."""

    seeds: int
    sd: np.ndarray  # (contrasts,); 0 for one with the same value at every seed
    kurtosis: float  # excess, mean of the contrasts; no less than 0
    df: int
    critical: float  # half-width of an interval in standard errors

    def seeds_needed(self, half_width: float) -> int:
        """Return N, the seeds of every variant with which no interval is wider than half_width on either side."""
        return max(self.seeds, math.ceil(float(np.max(self.critical * self.sd / half_width, initial=0.0)) ** 2))

    def half_widths(self, seeds: int) -> np.ndarray:
        """Return each interval's half-width after that many seeds, those of the first stage included."""
        return self.critical * self.sd / math.sqrt(seeds)


def first_stage(losses: np.ndarray, weights: np.ndarray) -> FirstStage:
    """Estimate the variances from `losses` (cells, first seeds) for contrasts with `weights` (contrasts, cells)."""
    values = weights @ losses  # (contrasts, seeds)
    seeds = values.shape[1]
    rounding = ROUNDING * np.abs(losses).max()
    varies = np.ptp(values, axis=1) > rounding
    sd = np.where(varies, values.std(axis=1, ddof=1), 0.0)
    if not varies.any():
        return FirstStage(seeds, sd, 0.0, seeds - 1, 0.0)
    kurtosis = max(0.0, float(excess_kurtosis(values[varies]).mean())) if seeds > 3 else 0.0
    df = max(min(FEWEST_DF, seeds - 1), int(2 / (2 / (seeds - 1) + kurtosis / seeds) + 1e-9))
    return FirstStage(seeds, sd, kurtosis, df, critical_t(df, joint(weights[varies], df).level))


def excess_kurtosis(values: np.ndarray) -> np.ndarray:
    """Return G2 along the last axis of more than three values, which is unbiased for normal ones."""
    n = values.shape[-1]
    standard = (values - values.mean(axis=-1, keepdims=True)) / values.std(axis=-1, keepdims=True)
    return (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * ((standard**4).mean(axis=-1) - 3) + 6)
