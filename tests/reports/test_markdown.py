"""The ablation as Markdown and in the terminal: every statistic, in tables and in sentences."""

import re
from dataclasses import replace

import pytest
from matplotlib.figure import Figure
from support.report_rows import Sweep, only_family, read

from microgpt.reports.budgets import at_equal_time
from microgpt.reports.factor_effects import effects_of
from microgpt.reports.factors import design_of
from microgpt.reports.markdown import markdown
from microgpt.reports.report import Plot, Plots, Report, Section
from microgpt.reports.sections import family_reports
from microgpt.reports.tables import budget_rows, p_cell, signed, variant_rows
from microgpt.reports.terminal import ablations_text
from microgpt.reports.variant_comparisons import comparisons

TOGGLES = [(True, False), (True, True), (False, False), (False, True)]
NOISE = [0.003, -0.001, 0.002, -0.004, 0.0, 0.001, -0.002]


def add_ablation(sweep: Sweep, seeds: int) -> None:
    """Add an ablation in which a tied head adds 0.1 to the loss and the norm only noise."""
    for seed in range(seeds):
        for number, (tied, normed) in enumerate(TOGGLES):
            loss = 2.3 + 0.1 * tied + 0.02 * seed + NOISE[(seed + 3 * number) % 7]
            curve = [(0, 3.3), (500, loss + 0.2), (1000, loss)]
            sweep.add(
                seed, loss, model__tie_lm_head=tied, model__input_rmsnorm=normed, evaluations=curve,
                parameters=3760 if tied else 4192, steps_per_sec=1000.0 + 100 * tied + seed,
            )  # fmt: skip


def section_of(sweep: Sweep) -> Section:
    (report,) = family_reports(sweep.rows, most_drawn=0)
    assert report.ablation is not None
    return report.ablation


def page_of(*sections: Section) -> str:
    return markdown(Report("Ablation", "", sections), "ablation")


def table(page: str, heading: str) -> list[dict[str, str]]:
    """Return the table below a heading; the first one for an empty heading."""
    below = page.partition(f"### {heading}\n")[2] if heading else page
    text = "|" + below.partition("\n|")[2].partition("\n\n")[0]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_each_variant_has_its_summary(sweep):
    add_ablation(sweep, 8)
    lines = table(page_of(section_of(sweep)), "")
    assert all(line["variant"].startswith("tied") for line in lines[2:])
    family = only_family(sweep)
    for line, (variant, found) in zip(lines, family.ranked, strict=True):
        assert found.interval is not None
        assert line["variant"] == variant.name
        assert (line["seeds"], line["failed"], line["parameters"]) == ("8", "0", str(variant.parameters))
        assert (line["val_loss mean"], line["median"]) == (f"{found.mean:.4f}", f"{found.median:.4f}")
        assert line["95 % interval"] == f"[{found.interval.low:.4f}, {found.interval.high:.4f}]"


def test_effects_and_differences_have_their_verdicts(sweep):
    add_ablation(sweep, 8)
    page = page_of(section_of(sweep))
    tied, normed, interaction = table(page, "Main effects and interaction")
    assert tied["effect"] == "tie_lm_head=true against false"
    assert (tied["p (adjusted)"], tied["verdict"]) == ("<0.0001", "higher (n = 8)")
    for line in (normed, interaction):
        assert line["verdict"].startswith("no difference shown (n = 8; one of 0.0")
    family = only_family(sweep)
    design = design_of(family)
    assert design is not None
    found = effects_of(design).averaged[1].difference
    assert found.mean is not None
    assert normed["difference"] == f"{found.mean:+.4f}"
    assert (found.seeds_needed or 0) > 1000
    assert normed["seeds needed"] == "> 1000"
    assert normed["effect size"] == f"d_z {found.effect_size:+.2f}"
    lines = table(page, "Differences between variants")
    assert [(line["a"], line["b"]) for line in lines] == [(one.a.name, one.b.name) for one in comparisons(family)]
    assert "The 95 % intervals are simultaneous for all 9 comparisons of this report" in page


def test_the_loss_at_equal_time_is_the_last_table(sweep):
    add_ablation(sweep, 8)
    page = page_of(section_of(sweep))
    lines = table(page, "At equal time, steps and parameters")
    assert {line["variant"] for line in lines} == {variant.name for variant in only_family(sweep).variants}
    at = 1000 / 1107  # seconds of the fastest run
    assert f"val_loss after {at:.3g} s of training" in page
    untied = next(line for line in lines if line["variant"] == "untied_input_rmsnorm")
    losses = [row.val_loss for row in sweep.rows if row.variant == "untied_input_rmsnorm"]
    steps = [at * (1000 + seed) for seed in range(8)]
    expected = [loss + 0.2 * (1000 - step) / 500 for loss, step in zip(losses, steps, strict=True)]
    assert untied["mean"] == f"{sum(expected) / 8:.4f}"
    assert "Every run has 1000 steps." in page
    assert "tied_no_input_rmsnorm and tied_input_rmsnorm (3760)" in page


def test_the_terminal_has_the_cells_of_the_markdown(sweep):
    add_ablation(sweep, 4)
    section = section_of(sweep)
    page, text = page_of(section), ablations_text([section], None)
    for heading in ("", "Main effects and interaction", "Differences between variants"):
        for line in table(page, heading):
            assert all(cell in text for cell in line.values())
    assert text.startswith("ablation: model gpt (n_embd 16")
    for width in (80, 120):
        narrow = ablations_text([section], width)
        assert max(map(len, narrow.splitlines())) <= width
        assert "p (adj" in narrow


def test_one_seed_has_a_note_and_no_tests(sweep):
    add_ablation(sweep, 1)
    page = page_of(section_of(sweep))
    assert "One seed: a difference between variants cannot be distinguished from chance. Add seeds" in page
    assert "###" not in page
    assert {line["95 % interval"] for line in table(page, "")} == {"-"}


def test_failed_runs_are_counted_and_left_out(sweep):
    add_ablation(sweep, 5)
    sweep.change(sweep.rows[4], status="failed")  # tied_no_input_rmsnorm, the second seed
    sweep.change(sweep.rows[9], status="interrupted")  # tied_input_rmsnorm, the third
    page = page_of(section_of(sweep))
    counts = {line["variant"]: (line["seeds"], line["failed"]) for line in table(page, "")}
    assert counts["tied_no_input_rmsnorm"] == ("4", "1")
    assert counts["tied_input_rmsnorm"] == ("4", "0")
    assert "Unfinished runs: 1." in page
    assert "not run with the same seeds" in page
    tied, _, _ = table(page, "Main effects and interaction")
    assert tied["verdict"] == "higher (n = 3); 2 seeds without a partner left out"


def test_plots_are_linked_below_their_own_comparison(sweep):
    add_ablation(sweep, 2)
    section = replace(section_of(sweep), comparison="01234567")
    drawn = replace(section, blocks=[*section.blocks, Plots([Plot("curves", "Loss by step", "", Figure())])])
    page = page_of(drawn, replace(section, comparison="ffffffff"))
    assert re.findall(r"## .*\(comparison (.*)\)|(!\[.*)", page) == [
        ("01234567", ""), ("", "![Loss by step](ablation_01234567_curves.png)"), ("ffffffff", ""),
    ]  # fmt: skip


def test_a_variant_without_a_completed_run_is_the_last_row(sweep):
    for seed in range(2):
        sweep.add(seed, 2.0 + seed)
        sweep.add(seed, None, status="failed", optim__lr=1000.0)

    family = only_family(sweep)
    last = variant_rows(family)[-1]
    assert (last["variant"], last["seeds"], last["failed"]) == ("optim.lr=1000", "0", "2")
    assert last["val_loss mean"] == "-"


def test_a_budget_without_losses_has_no_rows(sweep):

    add_ablation(sweep, 2)
    for row in list(sweep.rows):
        sweep.change(row, val_loss=None)
    assert budget_rows(at_equal_time(only_family(sweep), read)) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "+0.0000"),
        (0.01234, "+0.0123"),
        (-0.5, "-0.5000"),
        (-0.000123, "-0.00012"),
        (1.5e-9, "+1.5e-09"),
    ],
)
def test_a_small_difference_is_not_rounded_away(value, text):
    assert signed(value) == text


def test_a_small_p_is_given_as_a_bound():
    assert [p_cell(p) for p in (None, 1e-30, 0.0001, 0.04996, 1.0)] == ["-", "<0.0001", "0.0001", "0.0500", "1.0000"]
