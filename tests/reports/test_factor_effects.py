"""Effects of the factors of a design, against published results and statsmodels."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, studentized_range
from statsmodels.formula.api import ols
from statsmodels.stats.anova import AnovaRM
from support.report_rows import Sweep, design

from microgpt.reports.factor_effects import Effects, compare, effects_of
from microgpt.reports.factors import design_of
from microgpt.reports.paired_statistics import Verdict
from microgpt.reports.run_families import family_of
from microgpt.reports.simultaneous import joint

# Yates's split-plot experiment (The design and analysis of factorial experiments, 1937; `oats` of R's package MASS):
# yields of three varieties with 0, 0.2, 0.4 and 0.6 cwt of nitrogen in six blocks.
NITROGEN = (0.0, 0.2, 0.4, 0.6)
OATS = {
    "Golden.rain": (
        (117, 114, 161, 141), (70, 108, 126, 149), (60, 102, 89, 96), (64, 103, 132, 133), (80, 82, 94, 126),
        (89, 82, 86, 104),
    ),
    "Marvellous": (
        (105, 140, 118, 156), (96, 124, 121, 144), (89, 129, 132, 124), (70, 89, 104, 117), (63, 70, 109, 99),
        (97, 99, 119, 121),
    ),
    "Victory": (
        (111, 130, 157, 174), (61, 91, 97, 100), (68, 64, 112, 86), (74, 89, 81, 122), (62, 90, 100, 116),
        (53, 74, 118, 113),
    ),
}  # fmt: skip
# `ToothGrowth` of R: length of odontoblasts of guinea pigs, ten for each supplement and dose (Crampton, 1947).
TEETH = {
    ("VC", 0.5): (4.2, 11.5, 7.3, 5.8, 6.4, 10.0, 11.2, 11.2, 5.2, 7.0),
    ("VC", 1.0): (16.5, 16.5, 15.2, 17.3, 22.5, 17.3, 13.6, 14.5, 18.8, 15.5),
    ("VC", 2.0): (23.6, 18.5, 33.9, 25.5, 26.4, 32.5, 26.7, 21.5, 23.3, 29.5),
    ("OJ", 0.5): (15.2, 21.5, 17.6, 9.7, 14.5, 10.0, 8.2, 9.4, 16.5, 9.7),
    ("OJ", 1.0): (19.7, 23.3, 23.6, 26.4, 20.0, 25.2, 25.8, 21.2, 14.5, 27.3),
    ("OJ", 2.0): (25.5, 26.4, 22.4, 24.5, 24.8, 30.9, 26.4, 27.3, 29.4, 23.0),
}


def of_oats() -> Effects:
    return effects_of(design(("variety", "nitrogen"), {
        (variety, NITROGEN[level]): {number: float(block[level]) for number, block in enumerate(blocks)}
        for variety, blocks in OATS.items() for level in range(4)
    }))  # fmt: skip


def labelled(found: Effects) -> dict[str, Any]:
    return {one.contrast.label: one.difference for one in (*found.averaged, *found.simple)}


def two_level(count: int, effect: Any = lambda *levels: 0.0, seeds: int = 6, generator: int = 7) -> dict:
    """Return cells of `count` factors at 0 and 1, with shared seed effects."""
    rng = np.random.default_rng(generator)
    shared = rng.normal(2.4, 0.05, seeds)
    return {
        levels: dict(enumerate((shared + rng.normal(effect(*levels), 0.01, seeds)).tolist()))
        for levels in itertools.product((0, 1), repeat=count)
    }


# Published results


def test_the_effects_of_the_oats_have_the_published_means():
    """Means from Venables and Ripley, Modern Applied Statistics with S, section 10.2."""
    found = labelled(of_oats())
    assert found["variety=Marvellous against Golden.rain"].mean == pytest.approx(109.7917 - 104.5, abs=1e-4)
    assert found["variety=Victory against Golden.rain"].mean == pytest.approx(97.625 - 104.5, abs=1e-4)
    # 73.67 per cwt in Pinheiro and Bates, Mixed-Effects Models in S and S-PLUS, section 1.6
    assert found["nitrogen from 0 to 0.6, by a straight line"].mean == pytest.approx(0.6 * 73.6667, abs=1e-3)
    assert found["nitrogen from 0 to 0.6, by a straight line"].verdict is Verdict.SHOWN
    assert {one.verdict for label, one in found.items() if "off the line" in label} == {Verdict.NOT_SHOWN}


def test_independent_samples_are_compared_by_welch():
    """As `t.test(len ~ supp, ToothGrowth)` of R's documentation, whose samples share no block."""
    samples = {
        (supp,): dict(enumerate(itertools.chain(*(TEETH[supp, dose] for dose in (0.5, 1.0, 2.0))), start=100 * number))
        for number, supp in enumerate(("VC", "OJ"))
    }
    (found,) = effects_of(design(("supp",), samples)).stated
    one = found.difference
    assert (one.t, one.df, one.p) == pytest.approx((1.9153, 55.309, 0.06063), rel=1e-4)
    assert one.interval is not None
    assert (one.interval.low, one.interval.high) == pytest.approx((-0.1710156, 7.5710156), abs=1e-6)


def test_the_dose_of_toothgrowth_has_a_trend_on_the_scale_of_its_levels():
    found = effects_of(design(("supp", "dose"), {
        levels: dict(enumerate(sample, start=100 * number)) for number, (levels, sample) in enumerate(TEETH.items())
    }))  # fmt: skip
    effects, factor = labelled(found), found.design.factors[1]
    assert (factor.scale, factor.positions) == ("log", [-1.0, 0.0, 1.0])
    table = pd.DataFrame([
        {"supp": supp, "x": np.log2(dose), "len": value} for (supp, dose), sample in TEETH.items() for value in sample
    ])  # fmt: skip
    slope = ols("len ~ supp * x", table.assign(supp=np.where(table.supp == "OJ", 0.5, -0.5))).fit().params
    assert effects["dose from 0.5 to 2, by a straight line"].mean == pytest.approx(2 * slope["x"])
    assert effects["supp=OJ against VC"].mean == pytest.approx(slope["supp"])
    assert effects["supp × dose"].mean == pytest.approx(2 * slope["supp:x"])
    assert effects["dose=1 off the line"].mean is not None


# Against statsmodels


def test_the_contrasts_of_two_factors_are_those_of_a_repeated_measures_anova():
    cells = two_level(2, lambda a, b: 0.02 * a)
    found = [one.difference for one in effects_of(design("ab", cells)).averaged]
    rows = [{"seed": seed, "a": a, "b": b, "y": y} for (a, b), one in cells.items() for seed, y in one.items()]
    table = AnovaRM(pd.DataFrame(rows), "y", "seed", within=["a", "b"]).fit().anova_table
    for contrast, name in zip(found, ("a", "b", "a:b"), strict=True):
        assert contrast.t is not None
        assert contrast.t**2 == pytest.approx(table.loc[name, "F Value"], rel=1e-8)
        assert contrast.p == pytest.approx(table.loc[name, "Pr > F"], rel=1e-8)


@pytest.mark.parametrize("missing", [0, 1, 7])
def test_the_effects_of_an_incomplete_screening_are_those_of_least_squares(missing):
    cells = two_level(4, lambda a, b, c, d: 0.03 * a - 0.02 * b * c + 0.01 * d)
    cells = dict(list(cells.items())[: len(cells) - missing])
    found = effects_of(design("abcd", cells))
    rows = [
        {"seed": seed, "a": a - 0.5, "b": b - 0.5, "c": c - 0.5, "d": d - 0.5, "y": y}
        for (a, b, c, d), one in cells.items() for seed, y in one.items()
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    if missing == 7:  # the cells left cannot tell all interactions from each other
        assert found.remarks
        return
    expected = ols("y ~ C(seed) + (a + b + c + d) ** 2", table).fit().params
    for one in found.stated:
        name = ":".join(factor.key for factor in one.contrast.factors)
        assert one.difference.mean == pytest.approx(expected[name], rel=1e-9)


def test_tukey_and_dunnett_are_the_limits_of_many_degrees_of_freedom():
    unit = np.eye(4)
    pairs = np.array([unit[a] - unit[b] for a, b in itertools.combinations(range(4), 2)])
    assert norm.isf(joint(pairs, 10_000).level / 2) == pytest.approx(
        studentized_range.ppf(0.95, 4, 10_000) / np.sqrt(2), abs=0.02
    )
    # Dunnett (Biometrics 20, 1964), table II: four treatments, two-sided, infinitely many degrees of freedom
    unit = np.eye(5)
    assert norm.isf(joint(unit[1:] - unit[0], 10_000).level / 2) == pytest.approx(2.44, abs=0.02)


# Designs


def test_effects_that_the_cells_cannot_tell_apart_are_named():
    """A half of 2^4 with the generator d = abc: two-factor interactions are confounded in pairs."""
    cells = {levels: one for levels, one in two_level(4).items() if sum(levels) % 2 == 0}
    found = effects_of(design("abcd", cells))
    assert len(found.stated) == 4 + 3
    assert {one.contrast.label: one.contrast.aliases for one in found.stated if one.contrast.aliases} == {
        "a × b": ("c × d",), "a × c": ("b × d",), "a × d": ("b × c",),
    }  # fmt: skip
    assert any("a × b cannot be told from c × d in this design" in remark for remark in found.remarks)


def test_variants_that_are_no_design_are_compared_with_each_other():
    cells = {("a", 1): {0: 2.0, 1: 2.1}, ("b", 2): {0: 2.2, 1: 2.4}, ("c", 3): {0: 2.3, 1: 2.2}}
    found = effects_of(design(("x", "y"), cells))
    assert [one.contrast.label for one in found.stated] == [
        "x=b y=2 against x=a y=1", "x=c y=3 against x=a y=1", "x=c y=3 against x=b y=2",
    ]  # fmt: skip


def test_variants_that_are_not_comparable_are_not_subtracted():
    """Of a factor that changes the validation documents there is no effect, of the other one within each group."""
    cells = two_level(2, lambda a, b: 0.05 * b)
    found = effects_of(design("ab", cells, groups=[0, 0, 1, 1]))
    assert [one.contrast.label for one in found.stated] == ["b=1 against 0", "a × b"]
    assert found.stated[0].is_shown


def test_a_seed_missing_in_a_cell_is_left_out_of_all_effects():
    cells = two_level(2, seeds=8)
    del cells[1, 1][3]
    assert {(one.difference.n, one.difference.left_out) for one in effects_of(design("ab", cells)).averaged} == {(7, 1)}


def test_equal_cells_have_no_effect_and_do_not_count():
    cells = two_level(2)
    cells = {levels: cells[levels[0], 0] for levels in cells}  # b changes nothing
    a, b, both = (one.difference for one in effects_of(design("ab", cells)).averaged)
    assert (b.verdict, both.verdict) == (Verdict.ZERO, Verdict.ZERO)
    assert a.p_adjusted == a.p


def test_planted_effects_are_found_and_no_others():
    cells = two_level(4, lambda *on: 0.02 * on[0] - 0.015 * (on[1] - 0.5) * (on[2] - 0.5) * 2, seeds=32)
    found = effects_of(design("abcd", cells))
    assert [one.contrast.label for one in found.stated if one.is_shown] == ["a=1 against 0", "b × c"]


def test_the_best_variant_and_those_not_shown_to_be_worse():
    cells = two_level(2, lambda a, b: 0.1 * a, seeds=16)
    found = compare(design("ab", cells))
    assert found.best.levels[0] == 0
    assert {name[:3]: one.verdict for name, one in found.from_best.items()} == {
        "a=1": Verdict.SHOWN, "a=0": Verdict.NOT_SHOWN,
    }  # fmt: skip


# From records


def test_the_effects_of_an_ablation_are_those_of_its_toggles_switched_on(tmp_path: Path):
    sweep = Sweep(tmp_path)
    for seed, (tied, normed) in itertools.product(range(4), itertools.product((True, False), repeat=2)):
        noise = [0.001, 0.002, 0.0, 0.004][seed] * (1 + tied + 2 * normed + 3 * tied * normed)
        loss = 2.0 + 0.3 * tied - 0.1 * normed + 0.05 * tied * normed + noise
        sweep.add(seed, loss, model__tie_lm_head=tied, model__input_rmsnorm=normed)
    found = design_of(family_of(sweep.rows))
    assert found is not None
    effects = labelled(effects_of(found))
    noise = sum([0.001, 0.002, 0.0, 0.004]) / 4
    assert effects["tie_lm_head=true against false"].mean == pytest.approx(0.3 + 0.05 / 2 + noise * (1 + 3 / 2))
    assert effects["input_rmsnorm=true against false"].mean == pytest.approx(-0.1 + 0.05 / 2 + noise * (2 + 3 / 2))
    assert effects["tie_lm_head × input_rmsnorm"].mean == pytest.approx(0.05 + noise * 3)


def test_a_nuisance_is_no_factor_and_is_chosen_on_other_seeds(tmp_path: Path):
    """Each optimizer has the rate that is best on seeds that only it was run with, or on half of the seeds."""
    sweep = Sweep(tmp_path)
    best = {"adam": 0.01, "lion": 0.001}
    for name, lr, seed in itertools.product(("adam", "lion"), (0.01, 0.001), range(4)):
        sweep.add(seed, 2.0 + 0.3 * (lr != best[name]) + seed / 10, optim__name=name, optim__lr=lr)
    halves = design_of(family_of(sweep.rows), nuisance=["optim.lr"])
    for name, seed in itertools.product(("adam", "lion"), range(10, 13)):
        sweep.add(seed, 2.1 + seed / 10, optim__name=name, optim__lr=best[name])
    alone = design_of(family_of(sweep.rows), nuisance=["optim.lr"])
    for found, seeds in ((halves, [1, 3]), (alone, [10, 11, 12])):
        assert found is not None
        assert [factor.key for factor in found.factors] == ["optim.name"]
        assert [list(cell.sample) for cell in found.cells] == [seeds] * 2
        assert {cell.variant.settings["optim.lr"] for cell in found.cells} == {0.01, 0.001}
        assert any("best for it on other seeds" in remark for remark in found.remarks)


def test_a_nuisance_with_failed_runs_is_not_chosen(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    for bias in (False, True):
        for rate, loss in ((0.01, 2.0), (0.02, 2.1), (0.04, 1.9)):
            for seed in range(8):
                failed = rate == 0.04 and seed > 1
                status = "failed" if failed else "completed"
                value = None if failed else loss + 0.01 * seed
                sweep.add(seed, value, status=status, model__bias=bias, optim__lr=rate)
    found = design_of(family_of(sweep.rows), nuisance=["optim.lr"])
    assert found is not None
    assert [cell.variant.settings["optim.lr"] for cell in found.cells] == [0.01, 0.01]
    assert [sorted(cell.sample) for cell in found.cells] == [[1, 3, 5, 7]] * 2
