"""The analyses of a ladder, of learning rates and of scaling, on runs whose losses are made for the purpose."""

import math
from pathlib import Path

import numpy as np
import pytest
from support.report_rows import Sweep, design, read

from microgpt.reports.analyses import analysed
from microgpt.reports.experiments import learning_rates, power_laws
from microgpt.reports.experiments.learning_rates import lowest
from microgpt.reports.experiments.power_laws import fit
from microgpt.reports.factor_effects import effects_of
from microgpt.reports.report import Analysis, Cells, Table
from microgpt.reports.run_families import Family, family_of
from microgpt.sweeps.two_level_designs import choose

SEEDS = 6


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning_rates, "RESAMPLES", 200)
    monkeypatch.setattr(power_laws, "RESAMPLES", 20)


def noise(seed: int, model: int = 0) -> float:
    """Return what a seed adds to the loss of all models, and to that of one."""
    return float(0.01 * np.random.default_rng(seed).normal() + 0.001 * np.random.default_rng([seed, model]).normal())


def analysis(family: Family, name: str) -> Analysis:
    return analysed(family, None)[name]


def tables(found: Analysis) -> dict[str, list[Cells]]:
    return {block.title: list(block.rows) for block in found.blocks if isinstance(block, Table)}


def ladder(folder: Path) -> Family:
    """A first model, a change that lowers the loss by 0.1, one that does nothing, and one that raises it by 0.2.

    The first change adds parameters, without which it does nothing.
    """
    sweep = Sweep(folder)
    rungs = [
        (2.5, 4000, {}),
        (2.4, 4500, {"model__gated_mlp": True}),
        (2.4, 4500, {"model__gated_mlp": True, "model__norm_gain": True}),
        (2.6, 4500, {"model__gated_mlp": True, "model__norm_gain": True, "model__position": "rope",
                     "model__name": "llama"}),
    ]  # fmt: skip
    for resized in (False, True):
        for rung, (loss, parameters, keys) in enumerate(rungs):
            if resized and rung == 0:
                continue
            own = {**keys, "model__mlp_width": 40} if resized else keys
            for seed in range(SEEDS):
                sweep.add(
                    seed, (loss + 0.1 if resized else loss) + noise(seed, rung), ladder__rung=rung,
                    ladder__resized=resized, parameters=4010 if resized else parameters, steps_per_sec=100 / (1 + rung),
                    **own,
                )  # fmt: skip
    return family_of(sweep.rows)


def test_a_ladder_compares_each_model_with_the_one_before_and_the_first(tmp_path: Path) -> None:
    found = analysis(ladder(tmp_path), "ladder")
    own, resized = tables(found).values()
    assert [row["change"] for row in own] == ["gpt", "gated_mlp=true", "norm_gain=true", "position=rope (llama)"]
    assert [row["parameters"] for row in own] == ["4,000", "4,500", "4,500", "4,500"]
    assert [row["time"] for row in own] == ["1.00", "2.00", "3.00", "4.00"]
    steps = found.data["ladder"][1:]
    assert [step["from_before"]["estimate"] for step in steps] == pytest.approx([-0.1, 0.0, 0.2], abs=0.005)
    assert [step["from_first"]["estimate"] for step in steps] == pytest.approx([-0.1, -0.1, 0.1], abs=0.005)
    assert [row["from the model before"].endswith("*") for row in own] == [False, True, False, True]
    assert [row["parameters"] for row in resized] == ["4,000", "4,010", "4,010", "4,010"]
    assert [row["from the first"].endswith("*") for row in resized] == [False, False, False, True]


def test_a_ladder_says_what_matters(tmp_path: Path) -> None:
    family = ladder(tmp_path)
    found = analysed(family, read)
    assert list(found) == ["ladder"]  # not the effects of its keys, which a ladder cannot separate
    text = " ".join(found["ladder"].findings)
    assert "Of the 3 changes in the ladder, 2 are shown to change the validation loss." in text
    assert "In the ladder it is lowered most by gated_mlp=true -0.1" in text
    assert "In the ladder it is raised most by position=rope (llama) +" in text
    assert "In the ladder, the loss of llama is higher than that of gpt: +" in text
    assert [plot.name for plot in found["ladder"].plots] == ["ladder"]


def of_rates(folder: Path, best: dict[int, float], rates: list[float]) -> Family:
    """Losses that are quadratic in log(lr), lowest at `best` for each width."""
    sweep = Sweep(folder)
    for number, (width, at) in enumerate(best.items()):
        for place, rate in enumerate(rates):
            for seed in range(SEEDS):
                loss = 2.2 + 0.1 * math.log(rate / at) ** 2 + noise(seed, 100 * number + place)
                sweep.add(seed, loss, model__n_embd=width, optim__lr=rate)
    return family_of(sweep.rows)


def test_the_best_learning_rate_is_found_with_its_change_with_width(tmp_path: Path) -> None:
    family = of_rates(tmp_path, {16: 0.012, 32: 0.006, 64: 0.003}, [0.001, 0.002, 0.004, 0.008, 0.016, 0.032])
    found = analysed(family, read)["learning_rate"]
    (rows,) = tables(found).values()
    assert [row["optimum"] for row in rows] == ["0.012", "0.006", "0.003"]
    assert [row["best rate run"] for row in rows] == ["0.016", "0.008", "0.004"]
    assert all(one["low"] <= one["lr"] <= one["high"] for one in found.data["optima"])
    (trend,) = found.data["trends"]
    assert trend["factor"] == pytest.approx(0.5, abs=0.01)
    assert trend["low"] < 0.5 < trend["high"]
    assert found.findings[-1].startswith("When model.n_embd doubles, the best learning rate is multiplied by 0.5")
    assert [plot.name for plot in found.plots] == ["learning-rates"]


def test_many_settings_have_a_table_instead_of_sentences(tmp_path: Path) -> None:
    best = {width: 0.1 if width > 60 else 0.004 for width in range(16, 68, 4)}
    found = analysis(of_rates(tmp_path, best, [0.001, 0.002, 0.004, 0.008]), "learning_rate")
    assert found.findings[0] == "The best learning rates of 13 settings are in their table; 1 are at an edge."
    assert len(tables(found)["Learning rates"]) == 13


def test_an_optimum_at_the_edge_is_said_to_be_there(tmp_path: Path) -> None:
    found = analysis(of_rates(tmp_path, {16: 0.1}, [0.001, 0.002, 0.004, 0.008]), "learning_rate")
    assert found.findings == [
        "The best learning rate is the highest one that was run, 0.008, so that the optimum may lie beyond it."
    ]
    assert not found.data["trends"]


def test_a_parabola_that_is_not_convex_has_no_optimum_of_its_own() -> None:
    x = np.log([0.001, 0.002, 0.004, 0.008])
    assert lowest(x, np.array([3.0, 2.0, 2.0, 3.0]))[1] < 2.0
    assert lowest(x, np.array([1.0, 2.0, 3.0, 4.0])) == (x[0], 1.0)


def of_sizes(folder: Path, law: tuple[float, float, float, float, float], lrs: tuple[float, ...] = (0.01,)) -> Family:
    """Losses that follow E + A N^-a + B D^-b; each learning rate but the first adds 0.3."""
    level, a, alpha, b, beta = law
    sweep = Sweep(folder)
    for width in (8, 16, 32, 64):
        for steps in (100, 200, 400, 800):
            for lr in lrs:
                n, d = 12 * width**2, 7 * steps
                loss = level + a * n**-alpha + b * d**-beta + 0.3 * (lr != lrs[0])
                for seed in range(SEEDS):
                    own = loss + noise(seed, n + d)
                    sweep.add(seed, own, parameters=n, model__n_embd=width, train__steps=steps, optim__lr=lr)
    return family_of(sweep.rows)


@pytest.mark.slow
def test_power_laws_are_found(tmp_path: Path) -> None:
    found = analysed(of_sizes(tmp_path, (1.8, 10.0, 0.5, 20.0, 0.6), (0.01, 0.02)), read)["scaling"]
    *_, both = found.data["laws"]
    assert both["law"] == "L = E + A N^-a + B D^-b"
    assert both["exponents"]["N"]["estimate"] == pytest.approx(0.5, abs=0.05)
    assert both["exponents"]["D"]["estimate"] == pytest.approx(0.6, abs=0.05)
    assert both["E"]["estimate"] == pytest.approx(1.8, abs=0.03)
    assert len(both["points"]) == 16
    assert both["remarks"] == []
    assert [law["of"] for law in found.data["laws"]] == [
        "at 5,600 tokens (mean over seeds)",
        "with 49,152 parameters",
        "",
    ]
    assert found.last[-1] == (
        "For each combination of sizes, the learning rate with the lowest mean loss counts. For 16 of 16 combinations "
        "it is the lowest or the highest rate that was run."
    )
    assert [plot.name for plot in found.plots] == ["scaling", "residuals"]


@pytest.mark.slow
def test_a_size_without_effect_has_no_exponent(tmp_path: Path) -> None:
    found = analysis(of_sizes(tmp_path, (1.8, 0.0, 1.0, 20.0, 0.6)), "scaling")
    assert "the fit ends at a bound (exponent 0." in found.last[0]  # of N alone, at the most tokens
    assert not any("exponent of D" in remark for remark in found.data["laws"][1]["remarks"])


def test_losses_that_follow_no_power_law_are_said_to_follow_none() -> None:
    sizes = np.geomspace(1e3, 1e5, 8)
    wave = 2.5 + 0.1 * np.sin(np.arange(8) * 2.0)
    losses = wave[:, None] + np.array([[noise(seed, point) for seed in range(SEEDS)] for point in range(8)])
    (remark,) = [remark for remark in fit(["N"], [sizes], losses).remarks() if "residuals" in remark]
    assert "a power law describes these losses only roughly" in remark


def test_a_sweep_over_other_keys_has_no_power_law(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    for width in (8, 16, 32, 64):
        for bias in (False, True):
            for seed in range(3):
                sweep.add(seed, 2.0 + noise(seed), parameters=width, model__n_embd=width, model__bias=bias)
    assert "scaling" not in analysed(family_of(sweep.rows), None)


def test_a_screening_by_a_fraction_names_exactly_what_was_planted() -> None:
    """Two main effects and an interaction of 8 factors in 64 of 256 combinations: 36 effects, 3 of which are there."""
    rng, fraction = np.random.default_rng(3), choose(8, 64, 5)
    assert fraction is not None
    seeds = rng.normal(0, 0.05, 12)
    samples = {
        levels: {
            seed: 2.4 + 0.02 * levels[0] - 0.03 * levels[7] + 0.02 * (levels[2] == levels[5]) + shared
            + float(rng.normal(0, 0.01))
            for seed, shared in enumerate(seeds)
        }
        for levels in fraction.rows
    }  # fmt: skip
    found = effects_of(design([f"factor{number}" for number in range(8)], samples))
    named = {tuple(factor.key for factor in one.contrast.factors): one for one in found.stated}
    assert len(named) == 36
    shown = {keys: one.difference.mean for keys, one in named.items() if one.is_shown}
    assert shown == {
        ("factor0",): pytest.approx(0.02, abs=0.003),
        ("factor7",): pytest.approx(-0.03, abs=0.003),
        ("factor2", "factor5"): pytest.approx(0.04, abs=0.006),
    }
