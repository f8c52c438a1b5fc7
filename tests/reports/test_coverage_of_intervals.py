"""How often intervals and verdicts are wrong in simulated ablations with a known effect.

The share of misses among 2000 simulated ablations has a standard error of sqrt(0.05 0.95 / 2000), half a percent: the
bounds of one percent are two of these. With five seeds an interval by the normal distribution in place of Student's t
would miss in 12 %, and one that did not pair the seeds in hardly any.
"""

import numpy as np
import pytest

from microgpt.reports.power import seeds_needed
from microgpt.reports.statistics import (
    Difference,
    Factorial,
    Verdict,
    corrected,
    difference,
    factorial,
    paired,
    unpaired,
)

COUNT = 2000
BOUND = 0.01  # of a share of misses
CONTRASTS = ("a", "b", "interaction")
SEED_SD, RUN_SD = 0.05, 0.01  # of val_loss: shared by the runs of a seed, and of each run


def simulated_cells(seeds: int, effect_of_a: float, generator: int) -> list[list[dict[int, float]]]:
    """Return the four cells of each ablation: neither, only a, only b, both."""
    rng = np.random.default_rng(generator)
    shared = rng.normal(2.4, SEED_SD, (COUNT, 1, seeds))
    own = rng.normal(0, RUN_SD, (COUNT, 4, seeds))
    means = effect_of_a * np.array([0, 1, 0, 1])[:, np.newaxis]
    return [[dict(enumerate(cell)) for cell in table] for table in (shared + own + means).tolist()]


def simulated(seeds: int, effect_of_a: float = 0.0, generator: int = 1) -> list[Factorial]:
    return [factorial(*cells) for cells in simulated_cells(seeds, effect_of_a, generator)]


def misses(found: Difference, truth: float) -> bool:
    assert found.interval is not None
    return not found.interval.low <= truth <= found.interval.high


def is_shown(found: Difference) -> bool:
    return found.verdict is Verdict.SHOWN


SEEDS = [pytest.param(seeds, marks=pytest.mark.slow) for seeds in (2, 5, 16, 64)]


@pytest.mark.parametrize("seeds", SEEDS)
def test_intervals_of_contrasts_miss_five_percent_under_the_null(seeds):
    found = simulated(seeds)
    shares = {name: np.mean([misses(getattr(one, name), 0) for one in found]) for name in CONTRASTS}
    assert {name: share for name, share in shares.items() if abs(share - 0.05) > BOUND} == {}


@pytest.mark.slow
def test_intervals_miss_five_percent_with_an_effect():
    found = simulated(8, effect_of_a=0.02)
    assert abs(np.mean([misses(one.a, 0.02) for one in found]) - 0.05) <= BOUND
    assert abs(np.mean([misses(one.b, 0.0) for one in found]) - 0.05) <= BOUND


@pytest.mark.slow
def test_at_most_one_ablation_in_twenty_shows_a_difference_under_the_null():
    """Holm over the three contrasts, and over the six pairs."""
    tables = simulated_cells(8, 0.0, generator=2)
    contrasts = [factorial(*cells) for cells in tables]
    alarms = np.mean([any(is_shown(getattr(one, name)) for name in CONTRASTS) for one in contrasts])
    assert 0.02 <= alarms <= 0.05 + BOUND
    pairs = [
        corrected([difference(cells[i], cells[j]) for i in range(4) for j in range(i)])
        for cells in tables[: COUNT // 2]
    ]
    assert 0.01 <= np.mean([any(map(is_shown, one)) for one in pairs]) <= 0.05 + BOUND


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m", "ratio"), [(8, 8, 1), (16, 8, 2), (6, 12, 3)])
def test_intervals_of_samples_of_unequal_variance_miss_five_percent(n, m, ratio):
    """Welch's degrees of freedom are an approximation."""
    rng = np.random.default_rng(5)
    a, b = rng.normal(2.4, RUN_SD, (COUNT, n)).tolist(), rng.normal(2.4, ratio * RUN_SD, (COUNT, m)).tolist()
    found = [unpaired(dict(enumerate(x)), dict(enumerate(y))) for x, y in zip(a, b, strict=True)]
    assert abs(np.mean([misses(one, 0.0) for one in found]) - 0.05) <= BOUND


@pytest.mark.slow
@pytest.mark.parametrize("size", [0.5, 1.5])
def test_the_needed_seeds_detect_an_effect_in_eighty_percent(size):
    n = seeds_needed(size, lambda seeds: (seeds**0.5, seeds - 1))
    assert n is not None
    drawn = np.random.default_rng(6).normal(size, 1, (COUNT, n)).tolist()
    seen = np.mean([is_shown(paired(dict(enumerate(x)), dict.fromkeys(range(n), 0.0))) for x in drawn])
    assert 0.78 <= seen <= 0.78 + 0.08  # two standard errors below; above, as seeds come in whole numbers
