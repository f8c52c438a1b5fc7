"""What figures over seeds show, and what they do not: summaries, differences, the 2x2 factorial, Holm's correction.

Knows numbers alone: no run, no file, no name of a variant. A sample is a mapping from seed to figure. Runs of one seed
share data order and initial values, so that differences are taken seed by seed where that is possible.

Intervals are two-sided, 95 %, and never adjusted for other comparisons; verdicts follow Holm's adjusted p once a family
of comparisons has been `corrected`. Everything is by Student's t, powers by the noncentral t (power.py).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

from microgpt.reports.power import ALPHA, critical_t, detectable, p_value, seeds_needed

ROUNDING = 8 * float(np.finfo(float).eps)  # of the figures: by how much a difference of up to four of them may err

Sample = Mapping[Any, float]  # figure by seed
# For m and k figures: standard deviation / standard error of the difference, degrees of freedom.
Precision = Callable[[int, int], tuple[float, float]]


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """A sample in a line. A single figure has neither a standard deviation nor an interval."""

    n: int
    mean: float
    sd: float | None  # with n - 1
    median: float
    interval: Interval | None  # of the mean


class Verdict(StrEnum):
    SHOWN = "a difference"
    NOT_SHOWN = "no difference shown"
    ZERO = "all differences are zero"
    EQUAL = "all differences are equal"  # and not zero: a t test would divide by nothing
    UNTESTED = "too few seeds"


@dataclass(frozen=True)
class Difference:
    """The mean of a - b over seeds, or of another contrast, and what it says. Of losses: negative is better for a."""

    paired: bool  # seed by seed; else Welch's comparison of two samples
    n_a: int  # figures of a that were used; paired: the seeds that every sample has
    n_b: int
    left_out: int = 0  # paired: seeds that not every sample has
    mean: float | None = None  # None: nothing to compare
    sd: float | None = None  # of the differences; unpaired: the root of the mean of both variances
    verdict: Verdict = Verdict.UNTESTED
    interval: Interval | None = None  # of the mean difference; None, as all below, where no t test was made
    t: float | None = None
    df: float | None = None
    p: float | None = None  # two-sided, not adjusted
    p_holm: float | None = None  # adjusted for the family; set by `corrected`
    effect_size: float | None = None  # mean / sd, see effect_name
    seeds_needed: int | None = None  # to see a difference of this size with 80 % power; None: more than a million
    detectable: float | None = None  # the true difference that is seen with 80 % power at this n and sd
    seeds: tuple[Any, ...] = ()  # paired: the seeds, sorted, and their differences
    values: tuple[float, ...] = ()

    @property
    def n(self) -> int:
        return min(self.n_a, self.n_b)

    @property
    def effect_name(self) -> str:
        """d_z: over the sd of the differences; d_av: over the root of the mean of both variances (two samples)."""
        return "d_z" if self.paired else "d_av"

    @property
    def sentence(self) -> str:
        """The verdict in words, about a: `lower at 64 seeds`, `no difference shown at 8 seeds (...)`."""
        left = f"; {counted(self.left_out)} without a partner left out" if self.left_out else ""
        return words(self) + left


@dataclass(frozen=True)
class Factorial:
    """Effects of two factors, each of them off or on, from contrasts that are taken seed by seed."""

    a: Difference  # a on minus a off, averaged over b
    b: Difference  # b on minus b off, averaged over a
    interaction: Difference  # the effect of a where b is on, minus that where b is off

    def corrected(self) -> "Factorial":
        """Holm over the three contrasts."""
        return Factorial(*corrected([self.a, self.b, self.interaction]))


def summary(values: Sequence[float]) -> Summary:
    """Raises ValueError for no figures, and for a figure that is not finite."""
    array = finite(values)
    n, mean, median = array.size, center(array), float(np.median(array))
    if n == 1:
        return Summary(1, mean, None, median, None)
    sd = spread(array)
    return Summary(n, mean, sd, median, t_interval(mean, sd / math.sqrt(n), n - 1))


def paired(a: Sample, b: Sample) -> Difference:
    """a - b over the seeds that both have. Raises ValueError for a figure that is not finite, as all of these do."""
    return contrast([(1.0, a), (-1.0, b)])


def contrast(terms: Sequence[tuple[float, Sample]]) -> Difference:
    """The sum of weight * figure, over the seeds that every sample has: Student's t on these sums."""
    samples = [sample for _, sample in terms]
    seeds = tuple(sorted(set(samples[0]).intersection(*samples[1:])))
    n, left_out = len(seeds), len(set().union(*samples)) - len(seeds)
    if n == 0:
        return Difference(True, 0, 0, left_out)
    figures = finite([[weight * sample[seed] for seed in seeds] for weight, sample in terms])  # (terms, n)
    values = figures.sum(axis=0)
    found = Difference(True, n, n, left_out, center(values), seeds=seeds, values=tuple(values.tolist()))
    if n == 1:
        return found
    rounding = ROUNDING * float(np.abs(figures).max())
    if np.ptp(values) <= rounding:
        return without_variation(found, rounding)
    return tested(replace(found, sd=spread(values)), n, n, lambda m, _: (math.sqrt(m), m - 1))


def unpaired(a: Sample, b: Sample) -> Difference:
    """Mean of a minus mean of b, over all figures of both: Welch's t, degrees of freedom by Welch-Satterthwaite."""
    if not a or not b:
        return Difference(False, len(a), len(b))
    x, y = finite(list(a.values())), finite(list(b.values()))
    found = Difference(False, x.size, y.size, mean=center(x) - center(y))
    if found.n == 1:
        return found
    rounding = ROUNDING * float(max(np.abs(x).max(), np.abs(y).max()))
    if max(np.ptp(x), np.ptp(y)) <= rounding:
        return without_variation(found, rounding)
    u, v = spread(x), spread(y)
    norm = math.hypot(u, v)
    share_x, share_y = (u / norm) ** 2, (v / norm) ** 2  # of the two variances' sum

    def welch(m: int, k: int) -> tuple[float, float]:
        p, q = share_x / m, share_y / k
        return 1 / math.sqrt(2 * (p + q)), (p + q) ** 2 / (p**2 / (m - 1) + q**2 / (k - 1))

    return tested(replace(found, sd=norm / math.sqrt(2)), x.size, y.size, welch)


def difference(a: Sample, b: Sample) -> Difference:
    """Paired where a and b share half of the seeds of the smaller, and at least two; else unpaired."""
    shared = len(set(a) & set(b))
    enough = shared >= 2 or len(a) == len(b) == 1
    return paired(a, b) if enough and 2 * shared >= min(len(a), len(b)) else unpaired(a, b)


def factorial(neither: Sample, only_a: Sample, only_b: Sample, both: Sample) -> Factorial:
    """The 2x2 design, over the seeds that all four cells have."""
    return Factorial(
        a=contrast([(0.5, only_a), (-0.5, neither), (0.5, both), (-0.5, only_b)]),
        b=contrast([(0.5, only_b), (-0.5, neither), (0.5, both), (-0.5, only_a)]),
        interaction=contrast([(1.0, both), (-1.0, only_b), (-1.0, only_a), (1.0, neither)]),
    )


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted p values, in the order given (S. Holm, Scandinavian Journal of Statistics 6, 1979, pages 65-70)."""
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted


def corrected(family: Sequence[Difference]) -> list[Difference]:
    """The differences with `p_holm`, and with the verdict that follows; those without a test are not counted."""
    adjusted = iter(holm([found.p for found in family if found.p is not None]))
    return [found if found.p is None else judged(found, next(adjusted)) for found in family]


def judged(found: Difference, p_holm: float) -> Difference:
    return replace(found, p_holm=p_holm, verdict=verdict_of(p_holm))


def verdict_of(p: float) -> Verdict:
    return Verdict.SHOWN if p <= ALPHA else Verdict.NOT_SHOWN


def tested(found: Difference, m: int, k: int, precision: Precision) -> Difference:
    """With the t test of its mean and sd, of m and k figures."""
    assert found.mean is not None
    assert found.sd is not None
    scale, df = precision(m, k)
    error = found.sd / scale
    p = p_value(found.mean / error, df)
    return replace(
        found,
        interval=t_interval(found.mean, error, df),
        t=found.mean / error,
        df=df,
        p=p,
        verdict=verdict_of(p),
        effect_size=found.mean / found.sd,
        seeds_needed=seeds_needed(found.mean / found.sd, lambda seeds: precision(seeds, seeds)),
        detectable=detectable(df) * error,
    )


def without_variation(found: Difference, rounding: float) -> Difference:
    """No t test where the differences do not differ by more than rounding."""
    assert found.mean is not None
    if abs(found.mean) <= rounding:
        return replace(found, mean=0.0, sd=0.0, verdict=Verdict.ZERO)
    return replace(found, sd=0.0, verdict=Verdict.EQUAL)


def t_interval(mean: float, error: float, df: float) -> Interval:
    half = critical_t(df) * error
    return Interval(mean - half, mean + half)


def finite(values: Any) -> np.ndarray:
    array = np.asarray(values, float)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError("statistics are of one finite figure or more")
    return array


def center(array: np.ndarray) -> float:
    """The mean; of equal figures exactly the figure."""
    scaled, exponent = binary_scaled(array)
    return float(np.clip(np.ldexp(scaled.mean(), exponent), array.min(), array.max()))


def spread(array: np.ndarray) -> float:
    """The standard deviation with n - 1; of equal figures exactly zero, which their rounded mean would miss."""
    if np.ptp(array) == 0:
        return 0.0
    scaled, exponent = binary_scaled(array)
    return float(np.ldexp(scaled.std(ddof=1), exponent))


def binary_scaled(array: np.ndarray) -> tuple[np.ndarray, int]:
    """The array over a power of two, and that power: a loss of 1e200 is finite still, and its square is not."""
    exponent = math.frexp(np.abs(array).max())[1]
    return np.ldexp(array, -exponent), exponent


def counted(seeds: int) -> str:
    return "1 seed" if seeds == 1 else f"{seeds} seeds"


def words(found: Difference) -> str:
    at = f"at {counted(found.n)}"
    if found.verdict is Verdict.UNTESTED:
        return "nothing to compare" if found.n == 0 else "one seed: cannot be told from chance"
    if found.verdict is Verdict.ZERO:
        return f"no difference shown {at}: all differences are zero"
    assert found.mean is not None
    direction = "lower" if found.mean < 0 else "higher"
    if found.verdict is Verdict.EQUAL:
        return f"{direction} by the same {abs(found.mean):.4g} {at}: no t test"
    if found.verdict is Verdict.SHOWN:
        return f"{direction} {at}"
    if found.p is not None and found.p <= ALPHA:
        return f"no difference shown {at}, as there are several comparisons"
    return f"no difference shown {at} (one of {found.detectable:.3g} would be seen with 80 % power)"
