"""Statistics over seeds: summaries, differences and other contrasts, Holm's correction.

A sample maps seeds to values. Runs of one seed share data order and initial weights, so differences are taken seed by
seed if possible.

Intervals are two-sided, 95 %, and not adjusted for other comparisons: simultaneous.py adjusts those of a family, and
`corrected` only the verdicts. All tests use Student's t, powers the noncentral t (statistical_power.py).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np

from microgpt.reports.statistical_power import ALPHA, critical_t, detectable, p_value, seeds_needed

ROUNDING = 8 * float(np.finfo(float).eps)  # relative error of a difference of up to four values

Sample = Mapping[Any, float]  # value by seed
# numbers of values -> standard deviation / standard error of the contrast, degrees of freedom
Precision = Callable[[Sequence[int]], tuple[float, float]]


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """A single value has neither a standard deviation nor an interval."""

    n: int
    mean: float
    sd: float | None  # divided by n - 1
    median: float
    interval: Interval | None  # of the mean


class Verdict(StrEnum):
    SHOWN = "a difference"
    NOT_SHOWN = "no difference shown"
    ZERO = "all differences are zero"
    EQUAL = "all differences are equal"  # and not zero: a t test would divide by zero
    UNTESTED = "too few seeds"


@dataclass(frozen=True)
class Difference:
    """The mean of a - b over seeds, or of another contrast, and its test. Of losses: a is better if it is negative."""

    paired: bool  # seed by seed; else Welch's comparison of two samples
    n_a: int  # values of a; paired: the seeds that every sample has
    n_b: int
    left_out: int = 0  # paired: seeds that not every sample has
    mean: float | None = None  # None: nothing to compare
    sd: float | None = None  # of the differences; unpaired: the root of the mean variance
    verdict: Verdict = Verdict.UNTESTED
    interval: Interval | None = None  # of the mean difference; None, as all below, without a t test
    error: float | None = None  # standard error of the mean difference
    t: float | None = None
    df: float | None = None
    p: float | None = None  # two-sided, unadjusted
    p_adjusted: float | None = None  # for all comparisons: by Holm in `corrected`, or in simultaneous.py
    comparisons: int = 1  # that the verdict is corrected for
    pairs: int = 0  # of those comparisons: differences of two variants
    level: float = ALPHA  # of the test that decides the verdict
    effect_size: float | None = None  # mean / sd, see effect_name
    values: tuple[float, ...] = ()  # paired: the differences, by seed
    # seeds of each sample -> sd / standard error, degrees of freedom
    precision: Callable[[int], tuple[float, float]] | None = field(default=None, compare=False, repr=False)

    @property
    def n(self) -> int:
        return min(self.n_a, self.n_b)

    @property
    def seeds_needed(self) -> int | None:
        """The seeds that detect this effect size with 80 % power at `level`; None: no test, or more than a million."""
        if self.effect_size is None or self.precision is None:
            return None
        return seeds_needed(self.effect_size, self.precision, self.level)

    @property
    def detectable(self) -> float | None:
        """The true difference that is detected with 80 % power at `level`, with this n and sd."""
        if self.df is None or self.error is None:
            return None
        return detectable(self.df, self.level) * self.error

    @property
    def effect_name(self) -> str:
        """d_z: over the sd of the differences; d_av (two samples): over the root of the mean variance."""
        return "d_z" if self.paired else "d_av"

    @property
    def sentence(self) -> str:
        """The verdict about a: `lower (n = 64)`, `no difference shown (n = 8; ...)`."""
        return self.verdict_as("lower", "higher")

    def verdict_as(self, below: str, above: str) -> str:
        """Return the verdict with words for a mean below zero, and for one above."""
        left = f"; {number_of_seeds(self.left_out)} without a partner left out" if self.left_out else ""
        return verdict_words(self, below, above) + left


def summary(values: Iterable[float]) -> Summary:
    """Summarize values. Raises ValueError for none, and for one that is not finite."""
    array = finite(list(values))
    n, mean, median = array.size, center(array), float(np.median(array))
    if n == 1:
        return Summary(1, mean, None, median, None)
    sd = spread(array)
    return Summary(n, mean, sd, median, t_interval(mean, sd / math.sqrt(n), n - 1))


def paired(a: Sample, b: Sample) -> Difference:
    """Compare a and b over the seeds that both have. Raises ValueError for a value that is not finite."""
    return paired_contrast([(1.0, a), (-1.0, b)])


def difference(a: Sample, b: Sample) -> Difference:
    """Compare a and b, paired if they share half of the seeds of the smaller, and at least two."""
    return contrast([(1.0, a), (-1.0, b)])


def contrast(terms: Sequence[tuple[float, Sample]]) -> Difference:
    """Test the sum of weight * mean: seed by seed if the samples share half of the seeds of the smallest."""
    samples = [sample for _, sample in terms]
    shared, fewest = len(set(samples[0]).intersection(*samples[1:])), min(map(len, samples))
    enough = shared >= 2 or max(map(len, samples)) == 1
    return paired_contrast(terms) if enough and 2 * shared >= fewest else unpaired_contrast(terms)


def paired_contrast(terms: Sequence[tuple[float, Sample]]) -> Difference:
    """Test the sum of weight * value, over the seeds that every sample has, with Student's t."""
    samples = [sample for _, sample in terms]
    seeds = sorted(set(samples[0]).intersection(*samples[1:]))
    n, left_out = len(seeds), len(set().union(*samples)) - len(seeds)
    if n == 0:
        return Difference(True, 0, 0, left_out)
    weighted = finite([[weight * sample[seed] for seed in seeds] for weight, sample in terms])  # (terms, n)
    values = weighted.sum(axis=0)
    found = Difference(True, n, n, left_out, center(values), values=tuple(values.tolist()))
    if n == 1:
        return found
    rounding = ROUNDING * float(np.abs(weighted).max()) * max(1.0, len(terms) / 4)
    if np.ptp(values) <= rounding:
        return without_variation(found, rounding)
    return tested(replace(found, sd=spread(values)), [n], lambda sizes: (math.sqrt(sizes[0]), sizes[0] - 1))


def unpaired_contrast(terms: Sequence[tuple[float, Sample]]) -> Difference:
    """Test the sum of weight * mean of independent samples, degrees of freedom by Welch-Satterthwaite."""
    sizes = [len(sample) for _, sample in terms]
    if not all(sizes):
        return Difference(False, sizes[0], min(sizes[1:]))
    arrays = [finite(list(sample.values())) for _, sample in terms]
    weights = np.array([weight for weight, _ in terms])
    mean = float(sum(weight * center(values) for weight, values in zip(weights, arrays, strict=True)))
    found = Difference(False, sizes[0], min(sizes[1:]), mean=mean)
    if found.n == 1:
        return found
    rounding = ROUNDING * max(float(np.abs(values).max()) for values in arrays)
    if max(np.ptp(values) for values in arrays) <= rounding:
        return without_variation(found, rounding)
    deviations = np.abs(weights) * [spread(values) for values in arrays]
    norm = math.hypot(*deviations)
    shares = (deviations / norm) ** 2  # of the variance of the contrast
    size = math.hypot(*weights)

    def welch(sizes: Sequence[int]) -> tuple[float, float]:
        parts = shares / sizes
        return 1 / (size * math.sqrt(parts.sum())), float(parts.sum() ** 2 / (parts**2 / (np.array(sizes) - 1)).sum())

    return tested(replace(found, sd=norm / size), sizes, welch)


def holm(ps: Sequence[float]) -> list[float]:
    """Return adjusted p values, in the order given (Holm, Scandinavian Journal of Statistics 6, 1979, p. 65-70)."""
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted


def corrected(family: Sequence[Difference]) -> list[Difference]:
    """Return the differences with `p_adjusted` and the verdict that follows; those without a test do not count."""
    adjusted = iter(holm([found.p for found in family if found.p is not None]))
    count = sum(found.p is not None for found in family)
    return [
        found
        if found.p is None
        else replace(found, p_adjusted=(p := next(adjusted)), verdict=verdict_of(p), comparisons=count)
        for found in family
    ]


def verdict_of(p: float) -> Verdict:
    return Verdict.SHOWN if p <= ALPHA else Verdict.NOT_SHOWN


def tested(found: Difference, sizes: Sequence[int], precision: Precision) -> Difference:
    """Add the t test of a mean and sd of samples of these sizes."""
    assert found.mean is not None
    assert found.sd is not None
    scale, df = precision(sizes)
    error = found.sd / scale
    p = p_value(found.mean / error, df)
    return replace(
        found,
        interval=t_interval(found.mean, error, df),
        error=error,
        t=found.mean / error,
        df=df,
        p=p,
        verdict=verdict_of(p),
        effect_size=found.mean / found.sd,
        precision=lambda seeds: precision([seeds] * len(sizes)),
    )


def without_variation(found: Difference, rounding: float) -> Difference:
    """Return the verdict on differences that differ by no more than rounding, without a t test."""
    assert found.mean is not None
    if abs(found.mean) <= rounding:
        return replace(found, mean=0.0, sd=0.0, verdict=Verdict.ZERO)
    return replace(found, sd=0.0, verdict=Verdict.EQUAL)


def t_interval(mean: float, error: float, df: float, level: float = ALPHA) -> Interval:
    half = critical_t(df, level) * error
    return Interval(mean - half, mean + half)


def finite(values: Any) -> np.ndarray:
    array = np.asarray(values, float)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError("statistics need one or more finite values")
    return array


def center(array: np.ndarray) -> float:
    """Return the mean: exactly the common value if all are equal."""
    scaled, exponent = binary_scaled(array)
    return float(np.clip(np.ldexp(scaled.mean(), exponent), array.min(), array.max()))


def spread(array: np.ndarray) -> float:
    """Return the standard deviation (n - 1): exactly 0 if all values are equal, despite the mean's rounding."""
    if np.ptp(array) == 0:
        return 0.0
    scaled, exponent = binary_scaled(array)
    return float(np.ldexp(scaled.std(ddof=1), exponent))


def binary_scaled(array: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the array divided by a power of two, and its exponent: 1e200 is finite, but its square is not."""
    exponent = math.frexp(np.abs(array).max())[1]
    return np.ldexp(array, -exponent), exponent


def number_of_seeds(number: int) -> str:
    return f"{number} seed{'s' * (number != 1)}"


def verdict_words(found: Difference, below: str, above: str) -> str:
    at = f"(n = {found.n})"
    if found.verdict is Verdict.UNTESTED:
        return "nothing to compare" if found.n == 0 else "one seed: cannot be told from chance"
    if found.verdict is Verdict.ZERO:
        return f"no difference shown {at}: all differences are zero"
    assert found.mean is not None
    direction = below if found.mean < 0 else above
    if found.verdict is Verdict.EQUAL:
        return f"{direction} by the same {abs(found.mean):.4g} {at}: no t test"
    if found.verdict is Verdict.SHOWN:
        return f"{direction} {at}"
    if found.p is not None and found.p <= ALPHA:
        return f"no difference shown {at}, after correction for {found.comparisons} comparisons"
    return f"no difference shown (n = {found.n}; one of {found.detectable:.3g} would be seen with 80 % power)"
