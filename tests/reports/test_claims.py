"""What a report claims of sweeps with known effects: measured cells only, no contradictions, limits in words."""

import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.report_rows import Sweep, design, read

from microgpt.reports.analyses import analysed
from microgpt.reports.charts import Strip, curves, strips
from microgpt.reports.curves import Band
from microgpt.reports.descriptions import also_different
from microgpt.reports.document import json_text
from microgpt.reports.factor_effects import compare
from microgpt.reports.factors import VARIANT
from microgpt.reports.html import left_columns
from microgpt.reports.paired_statistics import Interval
from microgpt.reports.plots import clipped, select
from microgpt.reports.provenance import failures
from microgpt.reports.records import Collected
from microgpt.reports.report import Table
from microgpt.reports.run_families import Family, baseline_words, family_of
from microgpt.reports.sections import family_reports, page_report
from microgpt.reports.tables import variant_rows

SEEDS = 8
REFERENCES = {"uniform": 3.2958, "unigram": 2.8142, "bigram": 2.4545}
DIVERGED = "the validation loss after step {} is inf; lower optim.lr (now 0.01)"
MEANS = {  # of nine settings; lion is better at the low rate and diverges at the high one
    ("adam", 0.001): 2.46, ("adam", 0.003): 2.39, ("adam", 0.01): 2.36,
    ("lion", 0.001): 2.38, ("lion", 0.003): 2.41, ("lion", 0.01): 2.60,
    ("muon", 0.001): 2.58, ("muon", 0.003): 2.41, ("muon", 0.01): 2.35,
}  # fmt: skip


def noise(seed: int, number: int) -> float:
    return 0.002 * float(np.random.default_rng([seed, number]).normal()) + 0.02 * seed


def add(sweep: Sweep, mean: float, failing: Sequence[int] = (), **keys: Any) -> None:
    """Add a setting's runs, of which some seeds diverge."""
    number = len(sweep.rows)
    for seed in range(SEEDS):
        failed = seed in failing
        row = sweep.add(
            seed, None if failed else mean + noise(seed, number), status="failed" if failed else "completed",
            data={"baselines": REFERENCES}, **keys,
        )  # fmt: skip
        if failed:
            sweep.change(row, error=DIVERGED.format(100 + seed))


def of_optimizers(folder: Path) -> Family:
    sweep = Sweep(folder)
    for (name, lr), mean in MEANS.items():
        failing = range(5) if (name, lr) == ("lion", 0.01) else ()
        add(sweep, mean - 0.07, failing, optim__name=name, optim__lr=lr)
    return family_of(sweep.rows)


@pytest.fixture(scope="module")
def optimizers(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return of_optimizers(tmp_path_factory.mktemp("optimizers"))


def findings(family: Family) -> list[str]:
    return [line for one in analysed(family, None).values() for line in (*one.findings, *one.last)]


def starting(lines: Sequence[str], text: str) -> str:
    (line,) = [line for line in lines if line.startswith(text)]
    return line


# Effects


def test_no_effect_is_estimated_from_a_cell_that_was_not_measured(optimizers: Family) -> None:
    effects = analysed(optimizers, None)["effects"].data["effects"]
    own = {(one["label"].partition(" with")[0], one["at"].get("optim.lr")): one for one in effects}
    expected = {("optim=lion against adam", 0.001): -0.08, ("optim=lion against adam", 0.003): 0.02,
                ("optim=muon against adam", 0.01): -0.01}  # fmt: skip
    for key, difference in expected.items():
        assert own[key]["estimate"] == pytest.approx(difference, abs=0.004)
    assert ("optim=lion against adam", 0.01) not in own
    assert ("optim=lion against adam", None) not in own  # the average over the rates
    assert not [one for one in effects if one["kind"] == "trend"]
    line = starting(findings(optimizers), "The effect of optim depends on optim.lr. optim=lion against adam: -0.08")
    assert "with 0.003 (without optim=lion optim.lr=0.01); optim=muon against adam: +0.1" in line
    assert "on average" not in line


def test_an_effect_that_interacts_has_no_average_and_another_one_has(tmp_path: Path) -> None:
    """Of three factors, two interact: the effect of each is given at the levels of the other, not of the third."""
    sweep = Sweep(tmp_path)
    for name, bias, tied in itertools.product(("relu", "gelu"), (False, True), (False, True)):
        mean = 2.3 + 0.02 * bias + 0.03 * (bias and name == "gelu") + 0.01 * tied
        add(sweep, mean, model__activation=name, model__bias=bias, model__tie_lm_head=tied)
    family = family_of(sweep.rows)
    lines = findings(family)
    line = starting(
        lines, "model.bias=true is worse than false with every model.activation (averaged over tie_lm_head): "
    )
    assert re.search(
        r": by 0\.02\S* \[.*\] with relu and 0\.0\S* \[.*\] with gelu\. The difference is shown to be larger", line
    )
    assert "larger with gelu than with relu (by 0.0" in line
    assert lines.index(line) < lines.index(starting(lines, "The effect of model.activation depends on model.bias"))
    assert "tie_lm_head × model.activation (between " in starting(lines, "Interactions not shown: ")
    assert starting(lines, "tie_lm_head=true hurts: val_loss is higher by 0.0").endswith(
        ", on average over model.activation and model.bias."
    )
    labels = [one["label"] for one in analysed(family, None)["effects"].data["effects"]]
    assert "model.bias=true against false" not in labels
    assert "tie_lm_head=true against false" in labels
    assert "Interactions of three or more factors were not examined." in lines


def test_a_numeric_factor_is_a_line_or_its_steps_and_not_both(tmp_path: Path) -> None:
    straight, bent = Sweep(tmp_path / "straight"), Sweep(tmp_path / "bent")
    for number, width in enumerate((8, 16, 32, 64)):
        add(straight, 2.6 - 0.05 * number, model__n_embd=width, model__n_head=4)
        add(bent, 2.6 - 0.05 * min(number, 2), model__n_embd=width, model__n_head=4)
    line = starting(findings(family_of(straight.rows)), "val_loss falls by 0.15")
    assert "from model.n_embd=8 to 64, along a straight line in the logarithm of model.n_embd, 0.05 for each" in line
    lines = findings(family_of(bent.rows))
    assert not [one for one in lines if one.startswith("val_loss falls by")]
    step = starting(lines, "Each step of model.n_embd: from 8 to 16 it falls by 0.05")
    assert "from 32 to 64 no difference is shown (" in step
    kinds = {one["kind"] for one in analysed(family_of(bent.rows), None)["effects"].data["effects"]}
    assert kinds == {"difference", "departure"}


def test_a_contrast_of_two_sides_compares_means_over_the_same_settings(tmp_path: Path) -> None:
    """A planned contrast of optimizers leaves out the rate at which one of them has no results."""
    sweep = Sweep(tmp_path / "outputs")
    for (name, lr), mean in MEANS.items():
        failing = range(SEEDS) if (name, lr) == ("lion", 0.01) else ()
        report = {"question": None, "contrasts": ["optim=lion - optim=adam"], "control": None, "nuisance": []}
        add(sweep, mean, failing, optim__name=name, optim__lr=lr, report=report)
    (one,) = analysed(family_of(sweep.rows), None)["planned"].data["contrasts"]
    assert one["estimate"] == pytest.approx((2.38 + 2.41 - 2.46 - 2.39) / 2, abs=0.004)


# One family of comparisons


def test_sentences_tables_and_json_have_the_same_difference(optimizers: Family) -> None:
    report = page_report(Collected(list(optimizers.members)), family_reports(optimizers.members, most_drawn=0))
    data = json.loads(json_text(report))["sections"][0]
    stored = {one["name"]: one["from_best"] for one in data["data"]["variants"]}
    (table,) = [one for one in data["blocks"] if one["type"] == "table" and "from best" in one["columns"]]
    rows = {row["variant"]: row for row in table["rows"]}
    near, gap = stored["optim=adam optim.lr=0.01"], "0.01"
    assert stored["optim=muon optim.lr=0.01"] is None
    assert rows["optim=muon optim.lr=0.01"]["from best"] == "best"
    interval = rows["optim=adam optim.lr=0.01"]["95 % interval of the difference"]
    assert interval == f"[{near['low']:+.4f}, {near['high']:+.4f}]"
    lines = [item for block in data["blocks"] for item in block.get("items", [])]
    assert f"the nearest, optim=adam optim.lr=0.01, by {gap}" in lines[0]
    effects = data["data"]["analyses"]["effects"]["effects"]
    (same,) = [one for one in effects if one["label"] == "optim=muon against adam with optim.lr=0.01"]
    assert (same["low"], same["high"], same["p_adjusted"]) == (-near["high"], -near["low"], near["p_adjusted"])
    assert rows["optim=lion optim.lr=0.01"]["differs"] == "yes (3 seeds)"


# Context


def test_diverged_runs_are_one_cause_of_their_variant(optimizers: Family) -> None:
    (table,) = failures(optimizers)
    (row,) = table.rows
    assert (row["variant"], row["runs"]) == ("optim=lion optim.lr=0.01", "5")
    assert row["reason"] == "loss inf between steps 100 and 104; lower optim.lr (now 0.01)"
    line = starting(findings(optimizers), "optim=lion optim.lr=0.01 diverged in 5 of 8 seeds; no other variant failed.")
    assert line.endswith("is that of the 3 survivors and probably too low.")


def test_each_optimizer_is_compared_at_its_best_rate_with_a_warning_at_the_edge(optimizers: Family) -> None:
    lines = findings(optimizers)
    line = starting(lines, "Each setting at its best of the 3 values of optim.lr tried: optim=muon 2.3")
    assert "(lr 0.01), optim=adam 2.3" in line
    assert "(lr 0.001). optim=muon is lower than optim=adam by 0.01" in line
    assert " optim=muon is lower than optim=lion by 0.0" in line
    assert " optim=adam is lower than optim=lion by 0.0" in line
    assert "The rates were chosen on the same seeds" in line
    starting(lines, "A value of optim.lr is not the same step size for different optimizers: ")
    starting(lines, "The best optim.lr of optim=adam, optim=lion and optim=muon is at the edge of those tried: ")


def test_variants_are_placed_among_the_references(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    for lr, mean in ((0.1, 2.35), (1.0, 2.40), (3.0, 2.6), (30.0, 3.8)):
        add(sweep, mean, optim__lr=lr)
    lines = findings(family_of(sweep.rows))
    assert starting(
        lines, "optim.lr=30 diverged without becoming infinite: it ends above the uniform reference (3.2958) in all "
    )
    assert "optim.lr=1 and optim.lr=3 end above the bigram reference (2.4545)." in lines
    assert not [line for line in lines if "unigram" in line]


def test_a_rate_that_diverged_has_no_line_and_the_best_rate_is_not_located(tmp_path: Path) -> None:
    """A level above the uniform reference would bend any line; an untrained level did not diverge."""
    sweep = Sweep(tmp_path)
    for lr, mean in ((0.1, 2.301), (1.0, 2.3), (30.0, 3.8)):
        add(sweep, mean, optim__lr=lr)
    family = family_of(sweep.rows)
    lines = findings(family)
    assert "No line in optim.lr is fitted: optim.lr=30 did not learn." in lines
    assert not [line for line in lines if "straight line" in line]
    kinds = {one["kind"] for one in analysed(family, None)["effects"].data["effects"]}
    assert kinds == {"difference"}
    assert starting(lines, "The best optim.lr is not located: 0.1, at the edge of those tried, ").endswith(
        "is not shown to be worse than 1, and nothing was tried between 1 and 30."
    )
    rows = [sweep.change(row, first_val_loss=5.0) for row in list(sweep.rows)]
    line = starting(
        findings(family_of(rows)), "optim.lr=30 did not learn: it ends above the uniform reference (3.2958)"
    )
    assert line.endswith("in all 8 seeds (3.8702 on average).")


def test_a_variant_with_failed_seeds_is_compared_with_the_best_on_its_own_seeds(tmp_path: Path) -> None:
    """The seeds differ by 0.02 each, which a difference of means over different seeds would contain."""
    sweep = Sweep(tmp_path)
    add(sweep, 2.3, optim__lr=0.01)
    add(sweep, 2.4, range(3), optim__lr=0.1)
    report = page_report(Collected(sweep.rows), family_reports(sweep.rows, most_drawn=0))
    (table,) = [one for one in report.sections[0].blocks if isinstance(one, Table) and "from best" in one.rows[0]]
    row = {one["variant"]: one for one in table.rows}["optim.lr=0.1"]
    assert float(row["from best"]) == pytest.approx(0.1, abs=0.003)
    assert float(row["val_loss mean"]) - float(table.rows[0]["val_loss mean"]) == pytest.approx(0.13, abs=0.004)


def test_one_seed_far_from_the_others_is_named(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    for lr in (0.01, 0.02, 0.03):
        add(sweep, 2.3, optim__lr=lr)
    last = sweep.rows[-1]
    assert last.val_loss is not None
    sweep.change(last, val_loss=2.9)
    line = starting(findings(family_of(sweep.rows)), "One seed of optim.lr=0.03 ends at 2.90, the others near 2.3")
    assert line.endswith("; intervals with this variant are wide because of it.")


def test_keys_that_change_with_a_group_are_named(optimizers: Family) -> None:
    assert also_different(optimizers) == ""
    values = {"adam": 0.85, "lion": 0.9, "muon": 0.85}
    rows = [replace(row, config=with_beta1(row.config, values)) for row in optimizers.members]
    assert also_different(family_of(rows)) == (
        "Also different between the levels of optim: optim.beta1 (adam 0.85, lion 0.9, muon 0.85)."
    )


def with_beta1(config: dict[str, Any], values: dict[str, float]) -> dict[str, Any]:
    return {**config, "optim": {**config["optim"], "beta1": values[config["optim"]["name"]]}}


def test_the_baseline_has_the_default_values_also_of_new_keys(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    for norm in (True, False):
        add(sweep, 2.3, model__final_norm=norm)
    assert baseline_words(family_of(sweep.rows)) == "the baseline (with the default values: model.final_norm=false)"


def test_the_comparisons_are_counted_by_kind_and_short_runs_have_no_speed(optimizers: Family) -> None:
    report = page_report(Collected(list(optimizers.members)), family_reports(optimizers.members, most_drawn=0))
    (table, *_) = [one for one in report.sections[0].blocks if isinstance(one, Table) and "from best" in one.rows[0]]
    assert re.search(
        r"all \d+ comparisons of this report \(all 36 pairs of variants and \d+ further contrast", table.note
    )
    assert "The intervals cover seeds only, not the choice of the 100 validation documents." in table.note
    assert "steps_per_sec" in table.rows[0]
    fast = family_of([replace(row, steps_per_sec=1e5) for row in optimizers.members])
    assert "steps_per_sec" not in variant_rows(fast)[0]


def test_a_rate_that_was_not_varied_is_said_not_to_be_tuned(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    for bias in (False, True):
        add(sweep, 2.3, model__bias=bias)
    assert (
        "lr 0.01 was used for all variants and was not tuned for each: the order may change with tuned rates."
        in findings(family_of(sweep.rows))
    )


# Tables and plots


def test_seeds_needed_are_those_of_the_corrected_test_and_only_where_nothing_is_shown(optimizers: Family) -> None:
    effects = analysed(optimizers, read)["effects"]
    (table,) = [block for block in effects.blocks if isinstance(block, Table)]
    for row in table.rows:
        assert (row["seeds needed"] == "") == row["verdict"].startswith(("lower", "higher", "above", "below"))
    assert {row["verdict"].split()[0] for row in table.rows if "×" in row["effect"]} <= {"below", "above", "no"}


def drawn(draw: Callable[[float | None], Any], highest: float | None, limits: str) -> tuple[float, float]:
    return getattr(draw(highest).axes[0], limits)()


def test_a_diverged_variant_does_not_set_the_range_of_a_plot() -> None:
    x = np.array([0.0, 1.0, 2.0])
    low, high = (
        Band(x, np.array(y), np.array(y) - 0.01, np.array(y) + 0.01, 4) for y in ([3.3, 2.6, 2.5], [3.3, 40, 50])
    )
    bands = {"good": low, "bad": high}
    assert drawn(lambda limit: curves(bands, x_label="", highest=limit), 3.29, "get_ylim")[1] < 4
    assert drawn(lambda limit: curves(bands, x_label="", highest=limit), None, "get_ylim")[1] > 40
    assert drawn(lambda limit: curves({"bad": high}, x_label="", highest=limit), 3.29, "get_ylim")[1] > 40
    legend = curves(bands, x_label="", highest=3.29).legends[0].get_texts()
    assert [text.get_text() for text in legend] == ["good", "bad is outside this plot (final mean 50.0000)"]
    assert clipped(bands, 3.29) == "The y-axis does not span curves that rise above uniform (bad)."
    rows = [Strip("good", [2.4, 2.5], 2.45, Interval(2.4, 2.5)), Strip("bad", [9.0], 9.0, None)]
    assert drawn(lambda limit: strips(rows, x_label="", highest=limit), 3.29, "get_xlim")[1] < 3
    texts = [text.get_text() for text in strips(rows, x_label="", highest=3.29).axes[0].texts]
    assert "mean 9.000 →" in texts


def test_the_caption_says_how_many_variants_are_drawn_and_which_are_not(optimizers: Family) -> None:
    assert select(optimizers, 9).note == ""
    assert select(optimizers, 8).note == (
        "8 of 9 variants are drawn: the 7 best, among them the baseline (with the default values: optim=adam "
        "optim.lr=0.01), and the worst. Not drawn: optim=muon optim.lr=0.001."
    )


def test_a_column_of_numbers_with_one_word_is_aligned_at_the_right() -> None:
    rows = [{"variant": "a", "from best": "best"}, *({"variant": "b", "from best": "+0.1"} for _ in range(2))]
    assert left_columns(Table("", rows)) == {"variant"}


def test_the_family_of_many_cells_counts_each_pair_once() -> None:
    """Comparisons with the first of 20 levels are among the 190 pairs."""
    rng = np.random.default_rng(0)
    cells = {(f"level{number:02d}",): dict(enumerate(rng.normal(2.4, 0.01, 4).tolist())) for number in range(20)}
    assert compare(design(("key",), cells)).pairs.count == 190


def test_a_sweep_of_many_keys_that_change_one_at_a_time_is_a_list_of_variants() -> None:
    """With a key of three values it is no screening; the places at which to look for effects would be a trillion."""
    rng = np.random.default_rng(0)
    rungs = [(min(changed, 2), *(key < changed for key in range(2, 25))) for changed in range(26)]
    cells = {rung: dict(enumerate(rng.normal(2.4, 0.01, 4).tolist())) for rung in rungs}
    found = compare(design([f"key{number}" for number in range(24)], cells))
    assert [factor.name for factor in found.effects.design.factors] == [VARIANT]
    assert len(found.from_best) == 25
