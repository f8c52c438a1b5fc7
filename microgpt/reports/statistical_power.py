"""Exact power of the two-sided t test: the seeds that a difference needs, and the difference that n seeds detect.

Only scipy.special is imported: scipy.stats takes four times as long.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from functools import lru_cache

ALPHA = 0.05  # two-sided, of one test
POWER = 0.8
MOST_SEEDS = 1_000_000  # larger needs are not computed
CERTAIN = 1000.0  # noncentrality from which the power is 1 to the last bit, for any degrees of freedom

# seeds of each variant -> standard deviation / standard error of the difference, degrees of freedom
Design = Callable[[int], tuple[float, float]]


@lru_cache(maxsize=1024)
def critical_t(df: float, level: float = ALPHA) -> float:
    """Return the t that |t| exceeds with probability `level`, for `df` degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(df, 1 - level / 2))


def p_value(t: float, df: float) -> float:
    """Return the two-sided p value of Student's t."""
    from scipy.special import stdtr

    return float(min(1.0, 2 * stdtr(df, -abs(t))))


def power(noncentrality: float, df: float, level: float = ALPHA) -> float:
    """Return the probability that the test rejects; the noncentrality is the true difference / standard error, >= 0."""
    if noncentrality >= CERTAIN:
        return 1.0
    critical = critical_t(df, level)
    return 1 - probability_below(critical, noncentrality, df) + probability_below(-critical, noncentrality, df)


def probability_below(t: float, noncentrality: float, df: float) -> float:
    """Return the distribution function of the noncentral t; 0 if it is so small that scipy returns NaN."""
    from scipy.special import nctdtr

    found = float(nctdtr(df, noncentrality, t))
    return 0.0 if math.isnan(found) else found


@lru_cache(maxsize=1024)
def detectable(df: float, level: float = ALPHA) -> float:
    """Return the true difference, in standard errors, that a test at `level` detects with probability POWER.

    Only the upper tail counts: the lower one adds less than 1e-6.
    """
    from scipy.special import nctdtrinc

    return float(nctdtrinc(df, 1 - POWER, critical_t(df, level)))


def seeds_needed(effect_size: float, design: Design, level: float = ALPHA) -> int | None:
    """Return the least number of seeds with which a test at `level` detects an effect size with probability POWER.

    None for no effect, and if more than MOST_SEEDS would be needed.
    """

    def enough(seeds: int) -> bool:
        scale, df = design(seeds)
        return power(abs(effect_size) * scale, df, level) >= POWER

    if not enough(MOST_SEEDS):
        return None
    return 2 + bisect_left(range(2, MOST_SEEDS), True, key=enough)
