"""How often intervals and verdicts are wrong in simulated experiments with a known effect.

The share of misses among 2000 simulated experiments has a standard error of sqrt(0.05 0.95 / 2000), half a percent: the
bounds of one percent are two of these. With five seeds an interval by the normal distribution in place of Student's t
would miss in 12 %, and one that did not pair the seeds in hardly any.
"""

import itertools

import numpy as np
import pytest
from scipy.special import stdtr
from support.report_rows import design

from microgpt.reports.contrasts import averaged_contrasts
from microgpt.reports.factor_effects import all_simple_contrasts, compare, different, effects_of, family_of
from microgpt.reports.factors import Design
from microgpt.reports.paired_statistics import Difference, Verdict, corrected, difference, paired, unpaired_contrast
from microgpt.reports.simultaneous import joint
from microgpt.reports.statistical_power import critical_t, seeds_needed

COUNT = 2000
BOUND = 0.01  # of a share of misses
SEED_SD, RUN_SD = 0.05, 0.01  # of val_loss: shared by the runs of a seed, and of each run
DESIGNS = {
    "four levels": {"optim.name": ("adam", "lion", "muon", "sgd")},
    "2^3": {"model.tie_lm_head": (False, True), "model.bias": (False, True), "model.qk_norm": (False, True)},
    "3x2": {"optim.name": ("adam", "lion", "muon"), "model.bias": (False, True)},
    "eight levels": {"style.name": tuple("abcdefgh")},  # of which the effects are comparisons with the first
    "3x2x2": {"optim.name": ("adam", "lion", "muon"), "model.bias": (False, True), "model.qk_norm": (False, True)},
}


def simulated(
    cells: int, seeds: int, generator: int, cell_sd: np.ndarray | float = RUN_SD, count: int = COUNT
) -> np.ndarray:
    """Return losses of experiments without an effect: (count, cells, seeds)."""
    rng = np.random.default_rng(generator)
    own = rng.normal(0, 1, (count, cells, seeds)) * np.reshape(cell_sd, (1, -1, 1))
    return rng.normal(2.4, SEED_SD, (count, 1, seeds)) + own


def of_levels(levels: dict[str, tuple], losses: np.ndarray) -> Design:
    return design(list(levels), {
        values: dict(enumerate(sample))
        for values, sample in zip(itertools.product(*levels.values()), losses.tolist(), strict=True)
    })  # fmt: skip


def p_values(weights: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Return the p value of each contrast in each experiment: (COUNT, contrasts)."""
    values = np.einsum("kc,ecs->eks", weights, losses)
    n = values.shape[2]
    return 2 * stdtr(n - 1, -np.abs(values.mean(axis=2) / (values.std(axis=2, ddof=1) / np.sqrt(n))))


def misses(found: Difference, truth: float) -> bool:
    assert found.interval is not None
    return not found.interval.low <= truth <= found.interval.high


def is_shown(found: Difference) -> bool:
    return found.verdict is Verdict.SHOWN


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [4, 16])
@pytest.mark.parametrize("name", DESIGNS)
def test_one_experiment_in_twenty_claims_an_effect_that_does_not_exist(name, seeds):
    """Over all that a report may claim: averaged and simple effects, and the differences of all pairs.

    The verdicts of a few experiments are those of the p values compared here.
    """
    cells = int(np.prod([len(levels) for levels in DESIGNS[name].values()]))
    losses = simulated(cells, seeds, generator=seeds, count=4 * COUNT)
    first = of_levels(DESIGNS[name], losses[0])
    weights = family_weights(first)
    level = compare(first).effects.averaged[0].difference.level
    ps = p_values(weights, losses)
    for number in [0, *np.flatnonzero(ps.min(axis=1) < level)[:2]]:
        found = compare(of_levels(DESIGNS[name], losses[number]))
        averaged = [one.difference for one in found.effects.averaged]
        own = p_values(np.array([one.contrast.weights for one in found.effects.averaged]), losses[number : number + 1])
        assert [one.p for one in averaged] == pytest.approx(own[0].tolist(), rel=1e-6)
        differences = [*averaged, *(one.difference for one in found.effects.simple), *found.from_best.values()]
        assert all(is_shown(one) == (one.p is not None and one.p <= level) for one in differences)
    assert abs((ps.min(axis=1) < level).mean() - 0.05) <= BOUND


def family_weights(design: Design) -> np.ndarray:
    """Return the weights of all comparisons of a design: its contrasts, and all pairs of cells."""
    contrasts = [*averaged_contrasts(design), *all_simple_contrasts(design)]
    rows, pairs = family_of(design, contrasts, with_pairs=True)
    unit = np.eye(len(design.cells))
    return different(np.vstack([rows, *(unit[a : a + 1] - unit[b] for a, b in pairs)]))


@pytest.mark.slow
@pytest.mark.parametrize("sd", [(1, 1, 1, 50), (1, 1, 1, 0.02), (1, 2, 4, 8)])
def test_a_variant_of_another_variance_adds_no_false_claims(sd):
    """The correlation of the contrasts is then not the assumed one; the intervals of the others stay as narrow."""
    losses = simulated(4, 8, generator=3, cell_sd=RUN_SD * np.array(sd))
    effects = effects_of(of_levels(DESIGNS["four levels"], losses[0])).averaged
    weights = np.array([one.contrast.weights for one in effects])
    level = joint(weights, 7).level
    assert 0.02 <= (p_values(weights, losses).min(axis=1) < level).mean() <= 0.05 + 1.5 * BOUND
    if sd == (1, 1, 1, 50):
        own = next(one.difference for one in effects if one.contrast.label == "optim=lion against adam")
        assert own.interval is not None
        assert (own.interval.high - own.interval.low) / 2 == pytest.approx(
            critical_t(7, own.level) * np.std(losses[0, 1] - losses[0, 0], ddof=1) / np.sqrt(8)
        )


SEEDS = [pytest.param(seeds, marks=pytest.mark.slow) for seeds in (2, 5, 16, 64)]


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("effect", [0.0, 0.02])
def test_intervals_of_differences_miss_five_percent(seeds, effect):
    pairs = simulated(2, seeds, generator=1)
    pairs[:, 0] += effect
    found = [paired(dict(enumerate(a)), dict(enumerate(b))) for a, b in pairs.tolist()]
    assert abs(np.mean([misses(one, effect) for one in found]) - 0.05) <= BOUND


@pytest.mark.slow
def test_at_most_one_table_in_twenty_shows_a_difference_that_does_not_exist():
    """Holm's correction over six pairs."""
    tables = [
        [dict(enumerate(cell)) for cell in cells] for cells in simulated(4, 8, generator=2)[: COUNT // 2].tolist()
    ]
    pairs = [corrected([difference(cells[i], cells[j]) for i in range(4) for j in range(i)]) for cells in tables]
    assert 0.01 <= np.mean([any(map(is_shown, one)) for one in pairs]) <= 0.05 + BOUND


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m", "ratio"), [(8, 8, 1), (16, 8, 2), (6, 12, 3)])
def test_intervals_of_samples_of_unequal_variance_miss_five_percent(n, m, ratio):
    """Welch's degrees of freedom are an approximation."""
    rng = np.random.default_rng(5)
    a, b = rng.normal(2.4, RUN_SD, (COUNT, n)).tolist(), rng.normal(2.4, ratio * RUN_SD, (COUNT, m)).tolist()
    found = [
        unpaired_contrast([(1.0, dict(enumerate(x))), (-1.0, dict(enumerate(y)))]) for x, y in zip(a, b, strict=True)
    ]
    assert abs(np.mean([misses(one, 0.0) for one in found]) - 0.05) <= BOUND


@pytest.mark.slow
@pytest.mark.parametrize("size", [0.5, 1.5])
def test_the_needed_seeds_detect_an_effect_in_eighty_percent(size):
    n = seeds_needed(size, lambda seeds: (seeds**0.5, seeds - 1))
    assert n is not None
    drawn = np.random.default_rng(6).normal(size, 1, (COUNT, n)).tolist()
    seen = np.mean([is_shown(paired(dict(enumerate(x)), dict.fromkeys(range(n), 0.0))) for x in drawn])
    assert 0.78 <= seen <= 0.78 + 0.08  # two standard errors below; above, as seeds come in whole numbers
