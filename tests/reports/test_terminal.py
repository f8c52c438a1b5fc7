"""The tables of the terminal: one line for each setting of a sweep, the newest runs, and columns for what differs."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.report_rows import Sweep

from microgpt.config.identity import config_hash
from microgpt.config.schema import Config
from microgpt.reports.collect import collect, collect_and_print
from microgpt.reports.effect_report import comparisons_of
from microgpt.reports.experiment_plan import Plan
from microgpt.reports.paired_statistics import Verdict
from microgpt.reports.rows import swept_keys
from microgpt.reports.run_families import Family, family_of
from microgpt.reports.settings import column_names
from microgpt.reports.terminal import runs_text, settings_text

RATES = {0.01: 0.0, 0.02: 0.2, 0.03: 0.0001}  # learning rate: how much higher its loss is, with noise of 0.01


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Three learning rates and two optimizers, six seeds each; one run has failed, and one setting altogether."""
    jobs = Sweep(tmp_path / "outputs")
    for seed in range(6):
        for name, beta1, extra in (("adam", 0.9, 0.0), ("sgd", None, 0.5)):
            for lr, more in RATES.items():
                noise = 0.01 * (seed * round(lr * 100) % 5) + extra * 0.1 * (seed % 3)
                loss = 2 + extra + more + 0.1 * seed + noise
                status = "failed" if (seed, name, lr) == (5, "sgd", 0.02) else "completed"
                jobs.add(seed, loss, optim__name=name, optim__lr=lr, optim__beta1=beta1, status=status)
    jobs.add(0, None, optim__name="adam", optim__lr=9.0, optim__beta1=0.9, status="failed")
    return jobs


def settings_of(family: Family, width: int | None) -> str:
    return settings_text(family, comparisons_of(family, Plan())[0], width)


def test_a_sweep_has_one_line_for_each_setting_the_best_first(sweep: Sweep) -> None:
    family = family_of(sweep.rows, "it")
    text = settings_of(family, None)
    assert text.startswith("it: 35 completed runs of 7 settings; val_loss, best first\n")
    header, *lines = text.splitlines()[1:9]
    assert header.split()[:4] == ["optim", "lr", "seeds", "val_loss"]
    assert [line.split()[:3] for line in lines[:3]] == [
        ["adam", "0.01", "6"],
        ["adam", "0.03", "6"],
        ["adam", "0.02", "6"],
    ]
    assert lines[-1].split()[:4] == ["adam", "9", "0", "-"]
    means = [float(line.split()[3]) for line in lines[:6]]
    assert means == sorted(means) == [pytest.approx(found.mean, abs=1e-4) for _, found in family.ranked]
    assert [line.split()[-1] for line in lines] == ["0", "0", "0", "0", "0", "1", "1"]  # failed


def test_the_differences_from_the_best_are_those_of_the_report(sweep: Sweep, tmp_path: Path) -> None:
    """One family of comparisons: the same difference, interval and verdict on the terminal, in the page and in JSON."""
    family = family_of(sweep.rows, "it")
    compared, _ = comparisons_of(family, Plan())
    assert compared is not None
    lines = settings_of(family, None).splitlines()[3:8]
    collect([tmp_path / "outputs"], tmp_path / "results")
    data = json.loads((tmp_path / "results" / "report.json").read_text())["sections"][0]["data"]
    stored = {one["name"]: one["from_best"] for one in data["variants"]}
    page = (tmp_path / "results" / "report.md").read_text()
    for (variant, _), line in zip(family.ranked[1:], lines, strict=True):
        found = compared.from_best[variant.name]
        assert found.interval is not None
        interval = f"[{found.interval.low:+.4f}, {found.interval.high:+.4f}]"
        shown = "yes" if found.interval.low > 0 else "no"
        some = " (5 seeds)" if found.left_out else ""
        assert re.search(rf" \{found.mean:+.4f} {re.escape(interval)} +{shown}{re.escape(some)} ", line)
        assert f"| {found.mean:+.4f} | {interval} | {shown}{some} |" in page
        assert (stored[variant.name]["low"], stored[variant.name]["high"]) == (found.interval.low, found.interval.high)
        assert stored[variant.name]["verdict"] == found.verdict.name.lower()
    assert {found.verdict for found in compared.from_best.values()} == {Verdict.SHOWN, Verdict.NOT_SHOWN}


@pytest.mark.parametrize("width", [70, 80, 120])
def test_no_line_is_wider_than_the_terminal(sweep: Sweep, width: int) -> None:
    for seed in range(2):
        sweep.add(seed, 3.0, optim__name="adamw", schedule__warmup_steps=10, model__n_embd=32, train__batch_size=4)
    for text in (settings_of(family_of(sweep.rows, "it"), width), runs_text(sweep.rows, width)):
        assert max(map(len, text.splitlines())) <= width
    if width < 120:
        assert "best: n_embd=16 optim=adam lr=0.01" in settings_of(family_of(sweep.rows, "it"), width)


def test_one_seed_of_each_shows_no_difference(tmp_path: Path) -> None:
    jobs = Sweep(tmp_path)
    for number in range(60):
        jobs.add(1, 2 + number / 100, optim__lr=0.01 + number / 1000)
    text = settings_of(family_of(jobs.rows, "it"), None)
    assert "60 settings; val_loss, best first, the first 40 of which are listed" in text
    assert "One seed of each: a difference cannot be told from chance." in text
    assert text.count("one seed") == 39


def test_the_newest_runs_have_columns_for_what_differs_and_a_line_for_what_does_not(sweep: Sweep) -> None:
    heading, header, *lines = runs_text(sweep.rows[:12], None).splitlines()
    assert heading.startswith("12 runs, all with variant untied_input_rmsnorm, model gpt, style classic, steps 1000")
    assert header.split() == ["optim", "lr", "seed", "val_loss", "mean_loss_last_n", "steps_per_sec"]
    assert len(lines) == 12


def test_names_of_columns_are_short_and_different() -> None:
    assert column_names(["optim.name", "optim.lr", "sample.seed", "data.split_seed", "model.seed"]) == {
        "optim.name": "optim", "optim.lr": "lr", "sample.seed": "sample.seed", "data.split_seed": "split_seed",
        "model.seed": "model.seed",
    }  # fmt: skip


def test_tables_have_a_column_for_each_key_that_differs(sweep: Sweep, tmp_path: Path) -> None:
    """Behind the columns of every table, in CSV and JSON Lines; an optimizer's own keys follow from its name."""
    sweep.add(9, 2.0, sample__temperature=0.9, tags=["a", "b c"], notes="first\rsecond", optim__beta1=0.9)
    assert swept_keys(sweep.rows) == ["optim.name", "optim.lr", "sample.temperature"]
    results = collect([tmp_path / "outputs"], tmp_path / "results")
    assert results.written
    with (tmp_path / "results" / "runs_style-classic.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "results" / "runs_style-classic.jsonl").read_text().splitlines()]
    assert list(table[0])[-4:] == list(lines[0])[-4:] == ["optim.name", "optim.lr", "sample.temperature", "config"]
    assert {line["optim.lr"] for line in lines} == {*RATES, 9.0}
    assert [float(row["optim.lr"]) for row in table] == [line["optim.lr"] for line in lines]
    assert (
        (table[-1]["tags"], table[-1]["notes"])
        == (lines[-1]["tags"], lines[-1]["notes"])
        == ("a, b c", "first\nsecond")
    )
    page = (tmp_path / "results" / "report.html").read_text()
    assert "Tags: a, b c" in page
    assert "Notes: first\nsecond" in page


def test_a_sweep_ends_with_its_own_settings(sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Sweep(tmp_path / "outputs", "other_01234567")
    other.add(1, 1.0, model__n_layer=3)
    first = sweep.folder / "0" / "run.json"
    first.write_text(json.dumps({**json.loads(first.read_text()), "trial": 7}))
    sweep.add(0, 9.0, optim__lr=9.5, optim__beta1=0.9, notes="mi\x1bne")
    collect_and_print([tmp_path / "outputs"], tmp_path / "results", sweep.folder)
    printed = capsys.readouterr().out
    assert printed.startswith("sweep_01234567: 36 completed runs of 8 settings")
    assert printed.splitlines()[1].split()[:3] == ["optim", "lr", "trial"]
    assert printed.splitlines()[2].split()[:4] == ["adam", "0.01", "7", "6"]
    assert "\nNotes: mi\\x1bne\n" in printed
    assert "n_layer" not in printed
    assert printed.index("\n- Lowest mean val_loss: ") < printed.index("\n- optim=sgd is worse than adam: val_loss is ")
    assert "collected 39 runs (2 not completed)" in printed


def test_tags_and_notes_change_no_hash() -> None:
    remarks: Any = {"tags": ["a"], "notes": "b"}
    assert config_hash(Config(**remarks)) == config_hash(Config())
