"""The power of a two-sided t test, exactly: how many seeds a difference needs, and what difference so many seeds show.

Knows the noncentral t distribution alone. Only scipy.special is loaded, in a quarter of the time of scipy.stats.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from functools import lru_cache

ALPHA = 0.05  # two-sided, of one test: not adjusted for others
POWER = 0.8
MOST_SEEDS = 1_000_000  # a need beyond is no number that anyone would plan by
CERTAIN = 1000.0  # a noncentrality beyond which the power is 1 to the last bit, whatever the degrees of freedom

# For a number of seeds of each variant: standard deviation / standard error of the difference, degrees of freedom.
Design = Callable[[int], tuple[float, float]]


@lru_cache(maxsize=1024)
def critical_t(df: float) -> float:
    """The t that is exceeded, on either side, with probability ALPHA; `df` degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(df, 1 - ALPHA / 2))


def p_value(t: float, df: float) -> float:
    """Two-sided, of Student's t."""
    from scipy.special import stdtr

    return float(min(1.0, 2 * stdtr(df, -abs(t))))


def power(noncentrality: float, df: float) -> float:
    """Probability that the test rejects; the noncentrality is the true difference in standard errors, not negative."""
    if noncentrality >= CERTAIN:
        return 1.0
    critical = critical_t(df)
    return 1 - probability_below(critical, noncentrality, df) + probability_below(-critical, noncentrality, df)


def probability_below(t: float, noncentrality: float, df: float) -> float:
    """The noncentral t's distribution function, and 0 where it is too small for scipy, which then has no number."""
    from scipy.special import nctdtr

    found = float(nctdtr(df, noncentrality, t))
    return 0.0 if math.isnan(found) else found


@lru_cache(maxsize=1024)
def detectable(df: float) -> float:
    """The true difference, in standard errors, that is seen with probability POWER.

    Of the two tails the upper alone is counted: the other one adds less than 1e-6.
    """
    from scipy.special import nctdtrinc

    return float(nctdtrinc(df, 1 - POWER, critical_t(df)))


def seeds_needed(effect_size: float, design: Design) -> int | None:
    """The least number of seeds with which a true effect of this size (difference / sd) is seen with probability POWER.

    None for no effect, and where more than MOST_SEEDS would be needed.
    """

    def enough(seeds: int) -> bool:
        scale, df = design(seeds)
        return power(abs(effect_size) * scale, df) >= POWER

    if not enough(MOST_SEEDS):
        return None
    return 2 + bisect_left(range(2, MOST_SEEDS), True, key=enough)
