"""The statistics against scipy and statsmodels, and their properties on arbitrary data."""

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower, TTestPower

from microgpt.reports import statistical_power
from microgpt.reports.paired_statistics import (
    Difference,
    Sample,
    Verdict,
    corrected,
    difference,
    holm,
    paired,
    summary,
    unpaired_contrast,
)

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # of numpy, as for a division by zero

# Student's sleep data (Biometrika 6, 1908): extra hours of sleep of ten patients with two drugs.
DRUG_1 = dict(enumerate([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]))
DRUG_2 = dict(enumerate([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]))
CELLS = ("neither", "only_a", "only_b", "both")

losses = st.floats(0.5, 10, allow_nan=False)
samples = st.dictionaries(st.integers(0, 30), losses, min_size=1, max_size=20)
paired_losses = st.lists(st.tuples(losses, losses), min_size=2, max_size=30)


def unpaired(a: Sample, b: Sample) -> Difference:
    return unpaired_contrast([(1.0, a), (-1.0, b)])


def ablation(seeds: int, effect: float = 0.0, generator: int = 7) -> dict[str, dict[int, float]]:
    """Return four cells with shared seed effects; `effect` is that of a."""
    rng = np.random.default_rng(generator)
    shared = rng.normal(2.4, 0.05, seeds)
    return {
        cell: dict(enumerate((shared + rng.normal(effect * (cell in ("only_a", "both")), 0.01, seeds)).tolist()))
        for cell in CELLS
    }


# Summaries


def test_a_summary_is_that_of_scipy():
    values = list(DRUG_2.values())
    found = summary(values)
    low, high = stats.t.interval(0.95, 9, loc=np.mean(values), scale=stats.sem(values))
    assert found.n == 10
    assert found.mean == pytest.approx(np.mean(values), rel=1e-15)
    assert found.sd == pytest.approx(np.std(values, ddof=1), rel=1e-14)
    assert found.median == np.median(values)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), rel=1e-12)


def test_one_value_has_no_sd_and_no_interval():
    found = summary([2.5])
    assert (found.n, found.mean, found.median, found.sd, found.interval) == (1, 2.5, 2.5, None, None)


@pytest.mark.parametrize("values", [[], [math.nan], [1.0, math.inf]])
def test_no_values_and_values_that_are_not_finite_are_errors(values):
    with pytest.raises(ValueError, match="finite"):
        summary(values)


@given(st.lists(st.floats(-1e300, 1e300), min_size=2, max_size=30))
def test_the_interval_contains_the_mean_and_the_range_does(values):
    found = summary(values)
    assert found.interval is not None
    assert found.interval.low <= found.mean <= found.interval.high
    assert min(values) <= found.mean <= max(values)


@given(losses, st.integers(2, 40))
def test_equal_values_are_their_own_mean_and_interval(loss, n):
    found = summary([loss] * n)
    assert found.interval is not None
    assert (found.mean, found.sd, found.interval.low, found.interval.high) == (loss, 0, loss, loss)


# Differences


def test_a_paired_difference_is_that_of_scipy():
    found = paired(DRUG_1, DRUG_2)
    expected = stats.ttest_rel(list(DRUG_1.values()), list(DRUG_2.values()))
    interval = expected.confidence_interval(0.95)
    assert (found.t, found.p, found.df) == pytest.approx((expected.statistic, expected.pvalue, 9), rel=1e-12)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high), rel=1e-12)
    assert found.p == pytest.approx(0.002833, abs=1e-6)  # as published
    differences = np.subtract(list(DRUG_1.values()), list(DRUG_2.values()))
    assert found.effect_name == "d_z"
    assert found.effect_size == pytest.approx(differences.mean() / differences.std(ddof=1), rel=1e-12)
    assert found.values == tuple(differences.tolist())
    assert found.verdict is Verdict.SHOWN
    assert found.sentence == "lower (n = 10)"


@pytest.mark.parametrize("first", [DRUG_1, {seed: DRUG_1[seed] for seed in range(4)}], ids=["ten", "four"])
def test_an_unpaired_difference_is_welch_s(first):
    found = unpaired(first, DRUG_2)
    expected: Any = stats.ttest_ind(list(first.values()), list(DRUG_2.values()), equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert (found.t, found.p) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-12)
    assert found.df == pytest.approx(expected.df, rel=1e-12)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high), rel=1e-12)
    assert (found.n_a, found.n_b, found.effect_name) == (len(first), 10, "d_av")
    variances = [np.var(list(sample.values()), ddof=1) for sample in (first, DRUG_2)]
    assert found.mean is not None
    assert found.effect_size == pytest.approx(found.mean / math.sqrt(np.mean(variances)), rel=1e-12)


def test_a_p_far_out_is_not_rounded_to_zero():
    a = {seed: 1.0 + seed * 1e-6 for seed in range(64)}
    found = paired(a, dict.fromkeys(a, 0.0))
    expected: Any = stats.ttest_1samp(list(a.values()), 0)
    assert found.p is not None
    assert 0 < found.p == pytest.approx(expected.pvalue, rel=1e-9)


@given(paired_losses)
def test_swapped_samples_have_the_opposite_difference(pairs):
    a, b = ({seed: pair[i] for seed, pair in enumerate(pairs)} for i in (0, 1))
    for compare in (paired, unpaired):
        there, back = compare(a, b), compare(b, a)
        assert there.mean is not None
        assert back.mean == pytest.approx(-there.mean, rel=1e-12, abs=1e-15)
        assert (there.verdict, there.n, there.seeds_needed) == (back.verdict, back.n, back.seeds_needed)
        assert there.p == pytest.approx(back.p)
        if there.interval is not None and back.interval is not None:
            assert (there.interval.low, there.interval.high) == pytest.approx((-back.interval.high, -back.interval.low))
            assert there.interval.low <= there.mean <= there.interval.high


@given(paired_losses, st.lists(st.floats(-5, 5), min_size=30, max_size=30))
def test_an_effect_of_the_seed_changes_no_paired_difference(pairs, added):
    a, b = ({seed: pair[i] for seed, pair in enumerate(pairs)} for i in (0, 1))
    before = paired(a, b)
    after = paired({s: x + added[s] for s, x in a.items()}, {s: x + added[s] for s, x in b.items()})
    assert after.values == pytest.approx(before.values, abs=1e-14)
    assert after.mean == pytest.approx(before.mean, abs=1e-14)
    assert after.sd == pytest.approx(before.sd, abs=1e-14)


@given(samples, samples)
def test_a_difference_counts_the_seeds_left_out(a, b):
    found = paired(a, b)
    assert found.n == len(a.keys() & b.keys())
    assert found.left_out == len(a.keys() ^ b.keys())
    assert ("left out" in found.sentence) == (found.left_out > 0)
    assert found.values == tuple(a[seed] - b[seed] for seed in sorted(a.keys() & b.keys()))


def test_samples_are_paired_if_they_share_enough_seeds():
    a = {seed: 2.0 + seed / 100 for seed in range(8)}
    assert difference(a, {seed: a[seed] + 0.1 for seed in range(4)}).paired
    assert not difference(a, {seed + 5: 2.1 + seed / 50 for seed in range(8)}).paired
    assert not difference(a, {seed + 8: 2.1 + seed / 50 for seed in range(8)}).paired
    assert difference({1: 2.0}, {1: 3.0}).paired


# Without a t test


def test_identical_arms_show_no_difference():
    a = ablation(8)["neither"]
    found = difference(a, dict(a))
    assert (found.mean, found.sd, found.p, found.interval, found.effect_size) == (0, 0, None, None, None)
    assert found.verdict is Verdict.ZERO
    assert found.sentence == "no difference shown (n = 8): all differences are zero"


@given(st.lists(losses, min_size=2, max_size=30), st.floats(0.01, 3))
def test_equal_differences_are_not_tested(values, step):
    b = dict(enumerate(values))
    found = paired({seed: value + step for seed, value in b.items()}, b)  # equal up to rounding
    assert found.verdict is Verdict.EQUAL
    assert (found.p, found.t, found.interval) == (None, None, None)
    assert found.mean == pytest.approx(step, rel=1e-12)
    assert f"higher by the same {step:.4g} (n = {len(values)}): no t test" == found.sentence


def test_two_constant_samples_are_not_tested():
    assert unpaired({1: 2.0, 2: 2.0}, {3: 2.0, 4: 2.0}).verdict is Verdict.ZERO
    assert unpaired({1: 2.0, 2: 2.0}, {3: 2.5, 4: 2.5}).verdict is Verdict.EQUAL
    assert unpaired({1: 2.0, 2: 2.0}, {3: 2.5, 4: 2.6}).p is not None


def test_one_seed_has_no_verdict():
    found = difference({1: 2.0}, {1: 3.0})
    assert (found.mean, found.p, found.verdict) == (-1, None, Verdict.UNTESTED)
    assert found.sentence == "one seed: cannot be told from chance"
    assert difference({1: 2.0}, {2: 3.0}).verdict is Verdict.UNTESTED
    assert difference({1: 2.0}, {2: 3.0, 3: 3.1}).verdict is Verdict.UNTESTED


def test_samples_without_a_common_seed_are_not_compared():
    for found in (difference({}, {1: 2.0}), paired({1: 2.0}, {2: 3.0}), unpaired({}, {})):
        assert (found.mean, found.verdict) == (None, Verdict.UNTESTED)
        assert found.sentence.startswith("nothing to compare")


def test_losses_too_large_to_square_are_compared():
    found = paired({1: 1e300, 2: 3e300, 3: 2e300}, {1: 1.0, 2: 2.0, 3: 3.0})
    small = paired({1: 1.0, 2: 3.0, 3: 2.0}, {1: 0.0, 2: 0.0, 3: 0.0})
    assert found.p == pytest.approx(small.p, rel=1e-12)


# Power


@pytest.mark.parametrize("size", [0.05, 0.2, 0.5, 0.8, 1.3, 2.5])
def test_the_needed_seeds_are_those_of_statsmodels(size):
    expected = TTestPower().solve_power(effect_size=size, alpha=0.05, power=0.8, alternative="two-sided")
    assert statistical_power.seeds_needed(size, lambda n: (math.sqrt(n), n - 1)) == math.ceil(expected)
    assert statistical_power.seeds_needed(-size, lambda n: (math.sqrt(n), n - 1)) == math.ceil(expected)


@pytest.mark.parametrize("size", [0.2, 0.5, 1.3])
def test_two_samples_of_equal_variance_need_the_seeds_of_statsmodels(size):
    rng = np.random.default_rng(3)
    a = rng.normal(0, 1, 40)
    a = (a - a.mean()) / a.std(ddof=1)
    found = unpaired(dict(enumerate((a + size).tolist())), dict(enumerate(a.tolist(), 100)))
    expected = TTestIndPower().solve_power(effect_size=size, alpha=0.05, power=0.8, alternative="two-sided")
    assert found.effect_size == pytest.approx(size)
    assert found.seeds_needed == math.ceil(expected)


@pytest.mark.parametrize("n", [2, 3, 8, 64, 1000])
def test_the_detectable_difference_has_the_stated_power(n):
    rng = np.random.default_rng(n)
    found = paired(dict(enumerate(rng.normal(0, 0.02, n).tolist())), dict.fromkeys(range(n), 0.0))
    assert found.detectable is not None
    assert found.sd is not None
    achieved = TTestPower().power(found.detectable / found.sd, n, 0.05, alternative="two-sided")
    assert achieved == pytest.approx(0.8, abs=1e-5)


@given(st.floats(0, 2000), st.integers(1, 10_000))
def test_power_is_that_of_the_noncentral_t(noncentrality, df):
    found = statistical_power.power(noncentrality, df)
    assert 0.05 - 1e-9 <= found <= 1 + 1e-12
    if noncentrality < 8:
        critical = stats.t.ppf(0.975, df)
        expected = stats.nct.sf(critical, df, noncentrality) + stats.nct.cdf(-critical, df, noncentrality)
        assert found == pytest.approx(expected, abs=1e-9)


def test_a_tiny_effect_has_no_number_of_seeds():
    a = {0: 1.0, 1: -1.0, 2: 1.0, 3: -1.0 + 1e-6}
    found = paired(a, dict.fromkeys(a, 0.0))
    assert found.seeds_needed is None
    assert paired({0: 1.0, 1: -1.0}, {0: 0.0, 1: 0.0}).seeds_needed is None  # a mean of exactly zero


@given(st.floats(0.02, 3))
def test_one_seed_fewer_than_needed_is_not_enough(size):
    def paired_design(n: int) -> tuple[float, float]:
        return math.sqrt(n), n - 1

    needed = statistical_power.seeds_needed(size, paired_design)
    assert needed is not None
    assert statistical_power.power(size * math.sqrt(needed), needed - 1) >= 0.8
    if needed > 2:
        assert statistical_power.power(size * math.sqrt(needed - 1), needed - 2) < 0.8


# Holm


@settings(max_examples=20, deadline=None)  # a correction of statsmodels takes a tenth of a second
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@pytest.mark.slow
def test_holm_s_correction_is_that_of_statsmodels(ps):
    expected = np.asarray(multipletests(ps, method="holm")[1])
    assert holm(ps) == pytest.approx(expected.tolist(), abs=1e-15)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_adjusted_ps_are_not_smaller_at_most_one_and_in_the_same_order(ps):
    adjusted = holm(ps)
    assert all(p <= q <= 1 for p, q in zip(ps, adjusted, strict=True))
    order = sorted(range(len(ps)), key=ps.__getitem__)
    assert [adjusted[i] for i in order] == sorted(adjusted)


def test_verdicts_follow_the_adjusted_p_and_leave_untested_differences_out():
    shown = paired(DRUG_1, DRUG_2)
    assert shown.p is not None
    weak = replace(shown, p=0.04)
    untested = difference({1: 2.0}, {1: 3.0})
    family = corrected([weak, untested, shown, weak])
    assert [one.p_adjusted for one in family] == [pytest.approx(p) for p in (0.08, None, 3 * shown.p, 0.08)]
    assert [one.verdict for one in family] == [
        Verdict.NOT_SHOWN, Verdict.UNTESTED, Verdict.SHOWN, Verdict.NOT_SHOWN,
    ]  # fmt: skip
    assert family[0].sentence == "no difference shown (n = 10), after correction for 3 comparisons"
    assert corrected([]) == []


# Warnings


def test_comparisons_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        a = ablation(4)["neither"]
        for b in (a, ablation(4)["both"], {}, {0: 1.0}, {9: 1.0, 10: 1.0}):
            for compare in (paired, unpaired, difference):
                assert isinstance(compare(a, b), Difference)
