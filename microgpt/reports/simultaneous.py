"""Simultaneous intervals and p values of several contrasts: the distribution of the smallest of their p values.

Each contrast has a standard error of its own, from its values seed by seed, so that a variant with a large variance
widens the intervals of the contrasts that it is part of and no others. The intervals are those of Student's t at the
level `a` for which the smallest of the K p values is below `a` with probability ALPHA if no contrast has an effect:

- orthogonal contrasts: a = 1 - (1 - ALPHA)^(1/K) (Sidak, Journal of the American Statistical Association 62, 1967);
- others (all pairs, against a control, interactions of more than two levels): simulated. Tukey's and Dunnett's
  distributions are those of a common variance. Here contrast k has t_k = z_k / sqrt(w_kk / df), where z is normal with
  the contrasts' correlation and w has Wishart's distribution with it (Bartlett, Proceedings of the Royal Society of
  Edinburgh 53, 1933). The correlation is that of independent residuals of equal variance; with many degrees of
  freedom the level is that of Tukey and of Dunnett.

By Sidak's inequality the first formula is a bound for any correlation; it is used if there are many contrasts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from microgpt.reports.paired_statistics import Difference, Verdict, t_interval
from microgpt.reports.statistical_power import ALPHA

DRAWS = 50_000
FEW_DRAWS = 200  # with fewer draws below a p value, the bound is used instead of the simulation
MOST_DIMENSIONS = 24  # largest rank of the contrasts for which the distribution is simulated
ORTHOGONAL = 0.05  # largest correlation that is treated as zero


@dataclass(frozen=True, eq=False)
class Joint:
    """The distribution of the smallest p value of a family of contrasts without an effect."""

    count: int
    smallest: np.ndarray | None = None  # simulated values, ascending; None: the contrasts are treated as independent
    pairs: int = 0  # of the contrasts: differences of two variants

    @property
    def level(self) -> float:
        """The level of each interval at which all intervals are correct with probability 1 - ALPHA."""
        if self.smallest is None:
            return 1 - (1 - ALPHA) ** (1 / self.count)
        return float(np.quantile(self.smallest, ALPHA))

    def adjusted(self, p: float) -> float:
        """Return the probability that the smallest p value is at most p."""
        bound = float(-np.expm1(self.count * np.log1p(-p))) if p < 1 else 1.0
        if self.smallest is None:
            return bound
        below = int(np.searchsorted(self.smallest, p, side="right"))
        return bound if below < FEW_DRAWS else min(bound, below / len(self.smallest))


def joint(weights: np.ndarray, df: float) -> Joint:
    """Return the distribution for contrasts with `weights` (contrasts, cells) and `df` degrees of freedom each."""
    unit = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    correlation = np.abs(unit @ unit.T)
    np.fill_diagonal(correlation, 0)
    if len(unit) < 2 or correlation.max() <= ORTHOGONAL:
        return Joint(len(unit))
    left, singular, _ = np.linalg.svd(unit, full_matrices=False)
    rank = int((singular > 1e-9 * singular[0]).sum())
    if rank > MOST_DIMENSIONS:
        return Joint(len(unit))
    factor = np.round(left[:, :rank] * singular[:rank], 9)  # (contrasts, rank): correlation = factor factor^T
    return Joint(len(unit), smallest_p(factor.tobytes(), rank, max(1, int(df))))


@lru_cache(maxsize=64)
def smallest_p(factor_bytes: bytes, rank: int, df: int) -> np.ndarray:
    """Simulate the smallest p value; the same arguments give the same values."""
    from scipy.special import stdtr

    factor = np.frombuffer(factor_bytes).reshape(-1, rank)
    rng, largest = np.random.default_rng(0), []
    draws = DRAWS if rank <= 8 else DRAWS // 2
    chunk = max(1, min(draws, 2_000_000 // (rank * max(rank, len(factor)))))
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        means = rng.standard_normal((size, rank)) @ factor.T
        variances = ((factor @ wishart_root(rng, size, rank, df)) ** 2).sum(axis=2) / df
        largest.append(np.abs(means / np.sqrt(variances)).max(axis=1))
    return np.sort(2 * stdtr(df, -np.concatenate(largest)))


def wishart_root(rng: np.random.Generator, size: int, rank: int, df: int) -> np.ndarray:
    """Return matrices A for which A A^T has Wishart's distribution with the unit matrix: (size, rank, rank or df)."""
    if df <= rank:
        return rng.standard_normal((size, rank, df))
    root = np.tril(rng.standard_normal((size, rank, rank)), -1)
    for i in range(rank):
        root[:, i, i] = np.sqrt(rng.chisquare(df - i, size))
    return root


def together(found: Sequence[Difference], weights: np.ndarray) -> list[Difference]:
    """Return the differences with simultaneous 95 % intervals, adjusted p values and the resulting verdicts.

    `weights` (contrasts, cells) are those that the differences were computed with. Differences without a test, because
    of a single seed or no variation, do not count.
    """
    tested = [number for number, one in enumerate(found) if one.p is not None]
    if not tested:
        return list(found)
    return adjusted(found, joint(weights[tested], min(found[number].df or 1 for number in tested)))


def adjusted(found: Sequence[Difference], distribution: Joint) -> list[Difference]:
    """Return differences, which belong to the family of the distribution, with its intervals and p values."""
    level = distribution.level
    return [one if one.p is None else simultaneous(one, distribution, level) for one in found]


def simultaneous(one: Difference, distribution: Joint, level: float) -> Difference:
    assert one.mean is not None
    assert one.error is not None
    assert one.df is not None
    assert one.p is not None
    return replace(
        one,
        interval=t_interval(one.mean, one.error, one.df, level),
        p_adjusted=distribution.adjusted(one.p),
        verdict=Verdict.SHOWN if one.p <= level else Verdict.NOT_SHOWN,
        comparisons=distribution.count,
        pairs=distribution.pairs,
        level=level,
    )
