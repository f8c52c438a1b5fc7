"""Collecting runs: rows, the tables of each style, the ablation, and the program."""

import csv
import itertools
import json
import os
import re
import subprocess
import sys
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pandas as pd
import pytest
from support.program import mostly_slow

from microgpt.config.schema import Config, DataConfig, ModelConfig, StyleConfig, TrainConfig
from microgpt.errors import UserError
from microgpt.reports.collect import collect, collect_and_print
from microgpt.reports.sections import family_reports

SCRIPT = Path(__file__).parents[2] / "scripts" / "collect.py"
FIRST = [
    "variant", "tie_lm_head", "input_rmsnorm", "style", "parameter_count", "steps", "seed", "final_loss",
    "mean_loss_last_n", "last_n", "steps_per_sec", "tokens_per_sec", "vocab_size", "train_tokens",
]  # fmt: skip
VARIANTS = ["tied_no_input_rmsnorm", "tied_input_rmsnorm", "untied_no_input_rmsnorm", "untied_input_rmsnorm"]
TOGGLES = [(True, False), (True, True), (False, False), (False, True)]
TABLES = (".csv", ".jsonl", ".md")
Record = dict[str, Any]


def record(
    tied: bool = False,
    normed: bool = True,
    *,
    seed: int = 42,
    style: str = "classic",
    steps: int = 1000,
    val_loss: float | None = 2.25,
    started: str = "2026-01-01T10:00:00.000+00:00",
    **changes: Any,
) -> Record:
    config = Config(
        model=ModelConfig(name="gpt", n_embd=16, n_head=4, n_layer=1, tie_lm_head=tied, input_rmsnorm=normed),
        style=StyleConfig(name=style),
        data=DataConfig(),
        train=TrainConfig(steps=steps),
        seed=seed,
    )
    return {
        "schema_version": 1,
        "run_id": "2026-01-01/10-00-00_01234567",
        "status": "completed",
        "task": "train",
        "started_at": started,
        "finished_at": "2026-01-01T10:01:00.000+00:00",
        "config": asdict(config),
        "config_hash": "c" * 64,
        "seed": seed,
        "git": {"commit": "a" * 40, "dirty": False},
        "data": {"name": "names", "sha256": "d" * 64},
        "mode": "scalar",
        "style": style,
        "backend": "python",
        "device": "cpu",
        "using_gpu": False,
        "dtype": "float64",
        "metrics": {
            "parameter_count": 3760 if tied else 4192,
            "steps": steps,
            "final_loss": 0.1 + 0.2,
            "mean_loss_last_n": 2.5,
            "last_n": 50,
            "val_loss": val_loss,
            "best_val_loss": val_loss,
            "best_step": steps,
            "first_val_loss": 3.3,
            "bits_per_character": 3.2,
            "perplexity": 9.5,
            "steps_per_sec": 1 / 3,
            "tokens_per_sec": 200.0,
            "tokens_seen": 7000,
            "train_tokens": 190000,
            "vocab_size": 27,
        },
        "error": None,
        **changes,
    }


class Tree:
    """A folder of runs, and the results of collecting it."""

    def __init__(self, folder: Path):
        self.outputs, self.results = folder / "outputs", folder / "results"
        self.outputs.mkdir()
        self.names = (f"2026-01-01/run_{i:05d}" for i in itertools.count())

    def add(self, content: Record | bytes, name: str | None = None) -> Path:
        file = self.outputs / (name or next(self.names)) / "run.json"
        file.parent.mkdir(parents=True)
        file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return file

    def add_variants(self, **options: Any) -> None:
        for tied, normed in TOGGLES:
            self.add(record(tied, normed, **options))

    def collect(self):
        return collect([self.outputs], self.results).collected

    def files(self) -> dict[str, bytes]:
        """Return the tables; other tests cover the page and the plots."""
        return {
            name: content
            for name, content in self.everything().items()
            if name.endswith(TABLES) and not name.startswith("report.")
        }

    def everything(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.results.iterdir())}

    def csv(self, name: str = "runs_style-classic") -> list[dict[str, str]]:
        with (self.results / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file, strict=True))

    def jsonl(self, name: str = "runs_style-classic") -> list[Record]:
        return [json.loads(line) for line in (self.results / f"{name}.jsonl").read_bytes().split(b"\n")[:-1]]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """Without plots, which other tests cover."""
    monkeypatch.setattr("microgpt.reports.collect.family_reports", partial(family_reports, most_drawn=0))
    return Tree(tmp_path)


# Rows and columns


def test_the_fixed_columns_come_first_and_the_configuration_last(tree):
    tree.add(record())
    tree.collect()
    columns = list(tree.csv()[0])
    assert columns[: len(FIRST)] == FIRST
    assert columns[-1] == "config"
    assert list(tree.jsonl()[0]) == columns
    assert {"val_loss", "best_step", "status", "run_id", "config_hash", "data_sha256", "git_commit"} <= set(columns)


def test_every_run_is_one_row(tree):
    tree.add(record(seed=1))
    tree.add(record(seed=2), "sweeps/it_abc/0")
    tree.add(record(seed=3), "sweeps/it_abc/10-2")
    assert len(tree.collect().rows) == 3
    assert sorted(row["seed"] for row in tree.csv()) == ["1", "2", "3"]
    assert sorted(row["seed"] for row in tree.jsonl()) == [1, 2, 3]


def test_a_row_has_the_values_of_its_record(tree):
    file = tree.add(record(tied=True, normed=False, seed=7, steps=500))
    tree.collect()
    (row,) = tree.jsonl()
    expected = {
        "variant": "tied_no_input_rmsnorm", "tie_lm_head": True, "input_rmsnorm": False, "style": "classic",
        "parameter_count": 3760, "steps": 500, "seed": 7, "final_loss": 0.1 + 0.2, "mean_loss_last_n": 2.5,
        "last_n": 50, "steps_per_sec": 1 / 3, "tokens_per_sec": 200.0, "vocab_size": 27, "train_tokens": 190000,
        "val_loss": 2.25, "status": "completed", "model": "gpt", "data": "names", "data_sha256": "d" * 64,
        "git_dirty": False, "path": str(file.parent),
    }  # fmt: skip
    assert {key: row[key] for key in expected} == expected
    assert row["config"] == record(tied=True, normed=False, seed=7, steps=500)["config"]


@pytest.mark.parametrize(("toggles", "variant"), list(zip(TOGGLES, VARIANTS, strict=True)))
def test_variants_have_their_fixed_names(tree, toggles, variant):
    tree.add(record(*toggles))
    assert tree.collect().rows[0].variant == variant


def test_rows_are_in_the_order_in_which_the_runs_started(tree):
    for seed, day in ((1, 3), (2, 1), (3, 2)):
        tree.add(record(seed=seed, started=f"2026-01-0{day}T10:00:00.000+00:00"))
    tree.collect()
    assert [row["seed"] for row in tree.jsonl()] == [2, 3, 1]


def test_the_jobs_of_a_sweep_are_in_the_order_of_their_numbers(tree):
    for number, name, day in ((1, "10", 3), (2, "9", 4), (3, "9-2", 5), (4, "0", 9)):
        started, run_id = f"2026-01-0{day}T10:00:00.000+00:00", f"sweeps/one_01234567/{name}"
        tree.add(record(seed=number, started=started, run_id=run_id), run_id)
    tree.add(record(seed=5, started="2026-01-04T10:00:00.000+00:00"))
    tree.add(record(seed=6, started="2026-01-02T10:00:00.000+00:00"))
    tree.collect()
    assert [row["seed"] for row in tree.jsonl()] == [6, 4, 2, 3, 1, 5]


def test_the_csv_and_the_jsonl_agree_in_every_cell(tree):
    awkward = 'Traceback, "quoted"\n  File x; é\u2028💥\n\nEnd,'
    tree.add(record(seed=1))
    tree.add(record(seed=2, val_loss=None, status="failed", error=awkward))
    tree.add(record(seed=3, status="running", metrics=None, data=None, git=None, device=None))
    tree.collect()
    table, lines = tree.csv(), tree.jsonl()
    assert len(table) == len(lines) == 3
    for cells, line in zip(table, lines, strict=True):
        assert list(cells) == list(line)
        for key, value in line.items():
            assert_same_cell(cells[key], value)
    assert table[1]["error"] == awkward


def assert_same_cell(cell: str, value: Any) -> None:
    if isinstance(value, dict):
        assert json.loads(cell) == value
    elif isinstance(value, float):
        assert float(cell) == value
    else:
        assert cell == ("" if value is None else str(value))


@pytest.mark.parametrize("error", ["a\rb", "a\r\nb", "progress 1%\rprogress 2%"])
def test_a_carriage_return_in_an_error_breaks_no_row(tree, error):
    tree.add(record(status="failed", error=error))
    tree.collect()
    assert [row["error"] for row in tree.csv()] == [re.sub("\r\n?", "\n", error)]
    assert len(pd.read_csv(tree.results / "runs_style-classic.csv")) == 1


def test_pandas_reads_the_csv(tree):
    tree.add_variants()
    tree.collect()
    table = pd.read_csv(tree.results / "runs_style-classic.csv")
    assert list(table["tie_lm_head"]) == [True, True, False, False]
    assert table["final_loss"].tolist() == [0.1 + 0.2] * 4
    assert table["steps"].dtype.kind == "i"


def test_each_style_has_files_of_its_own(tree):
    tree.add(record(seed=1))
    tree.add(record(seed=2, style="futuristic"))
    tree.collect()
    assert set(tree.files()) == {f"runs_style-{s}.{e}" for s in ("classic", "futuristic") for e in ("csv", "jsonl")}
    assert [row["seed"] for row in tree.jsonl("runs_style-futuristic")] == [2]
    assert [row["seed"] for row in tree.jsonl("runs_style-classic")] == [1]


@pytest.mark.slow
def test_collecting_again_writes_the_same_bytes(tmp_path):
    tree = Tree(tmp_path)
    tree.add_variants(seed=1)
    tree.add_variants(seed=2)
    tree.add(record(style="futuristic"))
    tree.collect()
    before = tree.everything()
    assert len(tree.files()) == 7
    assert {"report.html", "ablation_style-classic_"} <= {re.split(r"(?<=classic_)", name)[0] for name in before}
    tree.collect()
    assert tree.everything() == before


def test_collecting_does_not_change_its_input(tree):
    files = [tree.add(record()), tree.add(b"{")]
    before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in files]
    tree.collect()
    assert [(file.read_bytes(), file.stat().st_mtime_ns) for file in files] == before
    assert sorted(path for path in tree.outputs.rglob("*") if path.is_file()) == sorted(files)


def test_a_run_below_several_folders_is_one_row(tree):
    tree.add(record(), "sweeps/it_abc/0")
    results = collect([tree.outputs, tree.outputs / "sweeps", tree.outputs], tree.results)
    assert len(results.collected.rows) == 1


@pytest.mark.parametrize("status", ["running", "interrupted", "failed", "completed"])
def test_a_run_of_any_status_is_a_row(tree, status):
    tree.add(record(status=status))
    assert [row.status for row in tree.collect().rows] == [status]


def test_a_run_that_failed_before_it_had_metrics_is_a_row_with_blanks(tree):
    failed = record(status="failed", error="the loss of step 3 is nan")
    for key in ("metrics", "data", "device", "using_gpu", "dtype"):
        del failed[key]
    tree.add(failed | {"config_hash": None})
    tree.collect()
    (row,) = tree.csv()
    assert (row["status"], row["error"]) == ("failed", "the loss of step 3 is nan")
    assert (row["final_loss"], row["steps"], row["data_sha256"]) == ("", "", "")


# Files that are not records


def not_records() -> dict[str, bytes]:
    def without(*path: str) -> bytes:
        content = record()
        node = content
        for key in path[:-1]:
            node = node[key]
        del node[path[-1]]
        return json.dumps(content).encode()

    def with_changes(**changes: Any) -> bytes:
        return json.dumps(record(**changes)).encode()

    return {
        "empty": b"",
        "half written": json.dumps(record()).encode()[:400],
        "all but the last byte": json.dumps(record()).encode()[:-1],
        "not UTF-8": b"\xff\xfe{}",
        "zeros": b"\0" * 100,
        "a list": b"[]",
        "a full list": b"[1, 2]",
        "an empty object": b"{}",
        "a number": b"3",
        "null": b"null",
        "a string": b'"run"',
        "another program's": b'{"run_id": "x", "result": 3}',
        "an older schema": with_changes(schema_version=0),
        "a newer schema": with_changes(schema_version=2),
        "a schema of another type": with_changes(schema_version="1"),
        "no config": without("config"),
        "no model": without("config", "model"),
        "no toggle": without("config", "model", "tie_lm_head"),
        "no style": without("style"),
        "no seed": without("seed"),
        "config null": with_changes(config=None),
        "config a string": with_changes(config="gpt"),
        "metrics a list": with_changes(metrics=[1]),
        "data a string": with_changes(data="names"),
        "git a string": with_changes(git="clean"),
    }


@pytest.mark.parametrize("content", not_records().values(), ids=not_records().keys())
def test_a_file_that_is_not_a_record_is_named_and_skipped(tree, capsys, content):
    tree.add(record())
    file = tree.add(content)
    collect_and_print([tree.outputs], tree.results)
    printed = capsys.readouterr().out
    assert f"skipped {file}: " in printed
    assert "collected 1 runs (0 not completed), skipped 1 files" in printed
    assert len(tree.csv()) == 1


@mostly_slow(3, "changes", [
    {"started_at": 5},
    {"started_at": ["2026"]},
    {"metrics": None},
    {"metrics": {"val_loss": "low", "mean_loss_last_n": None}},
    {"config": {"model": record()["config"]["model"], "data": {"name": "names"}}},
    {"seed": None},
    {"seed": [1]},
    {"status": 3},
    {"data": {"baselines": {"uniform": 10**400}}},
    {"run_id": None},
], ids=lambda changes: json.dumps(changes)[:40])  # fmt: skip
def test_a_malformed_record_does_not_stop_the_collection(tree, changes):
    tree.add_variants(seed=1)
    tree.add(record(seed=2, **changes) if "seed" not in changes else record() | changes)
    tree.collect()
    assert len(tree.csv()) >= 4
    assert "ablation_style-classic.csv" in tree.files()


def test_json_that_is_nested_too_deeply_is_skipped(tree):
    tree.add(record())
    tree.add(b"[" * 100_000)
    assert len(tree.collect().skipped) == 1


def test_a_style_that_is_not_a_file_name_writes_nothing_outside_the_results(tree, tmp_path):
    tree.add(record(style="../../../escaped"))
    tree.collect()
    written = {path for path in tmp_path.rglob("*") if path.is_file() and path.name != "run.json"}
    assert all(tree.results == path.parent for path in written)


def test_a_path_that_is_not_utf8_is_a_row(tree):
    folder = tree.outputs / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"this file system has no such names: {error}")
    (folder / "run.json").write_text(json.dumps(record()))
    assert len(tree.collect().rows) == 1
    assert len(tree.jsonl()) == 1


def test_records_inside_checkpoints_are_ignored(tree):
    tree.add(record(), "2026-01-01/it")
    tree.add(record(), "2026-01-01/it/checkpoint/step_00000001")
    assert len(tree.collect().rows) == 1


# The ablation


def summary_of(markdown: str) -> list[dict[str, str]]:
    """Return the rows of the first table of a page, that of the variants."""
    first = "|" + markdown.partition("\n|")[2].partition("\n\n")[0]
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in first.splitlines()]
    header, _, *rows = cells
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_four_comparable_variants_make_an_ablation(tree):
    tree.add_variants()
    tree.collect()
    assert set(tree.files()) == {
        "runs_style-classic.csv", "runs_style-classic.jsonl", "ablation_style-classic.csv",
        "ablation_style-classic.jsonl", "ablation_style-classic.md",
    }  # fmt: skip
    rows = tree.csv("ablation_style-classic")
    assert [row["variant"] for row in rows] == VARIANTS
    columns = list(rows[0])
    assert columns[: len(FIRST)] == FIRST
    assert columns[-1] == "config"
    assert len({row["comparison"] for row in rows}) == 1


@pytest.mark.parametrize("missing", range(4))
def test_three_variants_make_no_ablation(tree, missing):
    for i, toggles in enumerate(TOGGLES):
        if i != missing:
            tree.add(record(*toggles))
    tree.collect()
    assert set(tree.files()) == {"runs_style-classic.csv", "runs_style-classic.jsonl"}


def changed(path: str, value: Any) -> Record:
    """Return the fourth variant, with one more difference from the other three."""
    other = record(False, True)
    node = other
    *groups, key = path.split(".")
    for group in groups:
        node = node[group]
    assert node[key] != value
    node[key] = value
    return other


@pytest.mark.parametrize(("path", "value"), [
    ("config.train.steps", 500),
    ("config.train.batch_size", 8),
    ("config.train.eval_documents", 10),
    ("config.model.n_embd", 32),
    ("config.model.kind", "bigram"),
    ("config.model.init_std", 0.02),
    ("config.optim.lr", 0.02),
    ("config.schedule.name", "cosine"),
    ("config.data.split_seed", 1),
    ("config.data.val_fraction", 0.2),
    ("config.mode.name", "tensor"),
    ("config.backend.name", "torch"),
    ("config.style.bias", 1.0),
    ("config.train.resume", "outputs/2026-01-01/10-00-00_01234567"),
    ("data.sha256", "e" * 64),
    ("style", "futuristic"),
    ("status", "failed"),
    ("status", "interrupted"),
    ("status", "running"),
])  # fmt: skip
def test_a_run_that_differs_in_more_than_the_toggles_is_not_compared(tree, path, value):
    for toggles in TOGGLES[:3]:
        tree.add(record(*toggles))
    tree.add(changed(path, value))
    tree.collect()
    assert not [name for name in tree.files() if name.startswith("ablation")]


@mostly_slow(2, ("path", "value"), [
    ("config.train.log_every", 10),
    ("config.train.resume", "never"),
    ("config.outputs_dir", "elsewhere"),
    ("config.results_dir", "elsewhere"),
    ("config.sample.temperature", 1.0),
    ("seed", 43),
])  # fmt: skip
def test_settings_without_effect_on_training_keep_runs_comparable(tree, path, value):
    for toggles in TOGGLES[:3]:
        tree.add(record(*toggles))
    tree.add(changed(path, value))
    tree.collect()
    assert len(tree.csv("ablation_style-classic")) == 4


def test_a_run_continued_from_a_checkpoint_does_not_replace_one_from_the_start(tree):
    tree.add_variants(val_loss=2.5)
    leg = record(False, True, val_loss=1.5, started="2026-02-01T10:00:00.000+00:00")
    leg["config"]["train"]["resume"] = "outputs/2026-01-01/run_00003"
    tree.add(leg)
    tree.collect()
    assert {row["val_loss"] for row in tree.csv("ablation_style-classic")} == {"2.5"}


def test_runs_of_different_lengths_are_different_ablations(tree):
    tree.add_variants(steps=1000)
    tree.add_variants(steps=500)
    tree.add(record(True, True, steps=2000))
    tree.collect()
    rows = tree.csv("ablation_style-classic")
    by_comparison = {key: {row["steps"] for row in rows if row["comparison"] == key} for key in
                     {row["comparison"] for row in rows}}  # fmt: skip
    assert sorted(map(sorted, by_comparison.values())) == [["1000"], ["500"]]
    assert len(rows) == 8


def test_the_newest_run_of_a_repeated_seed_counts(tree):
    tree.add_variants(val_loss=2.0)
    for day, val_loss in ((3, 1.25), (2, 9.0)):
        tree.add(record(True, True, val_loss=val_loss, started=f"2026-01-0{day}T10:00:00.000+00:00"))
    tree.collect()
    rows = [row for row in tree.jsonl("ablation_style-classic") if row["variant"] == "tied_input_rmsnorm"]
    assert [row["val_loss"] for row in rows] == [1.25]
    assert len(tree.csv("runs_style-classic")) == 6


def test_a_newer_run_that_failed_does_not_replace_the_completed_one(tree):
    tree.add_variants(val_loss=2.0)
    tree.add(record(True, True, val_loss=None, status="failed", started="2026-02-01T10:00:00.000+00:00"))
    tree.collect()
    assert len(tree.csv("ablation_style-classic")) == 4
    assert {row["status"] for row in tree.csv("ablation_style-classic")} == {"completed"}


def test_styles_have_ablations_of_their_own(tree):
    tree.add_variants()
    tree.add_variants(style="futuristic")
    tree.collect()
    for style in ("classic", "futuristic"):
        assert {row["style"] for row in tree.csv(f"ablation_style-{style}")} == {style}


def test_the_page_and_the_tables_of_the_ablation_agree(tree):
    losses = {"tied_no_input_rmsnorm": (2.5, 2.75), "tied_input_rmsnorm": (2.0, 2.25),
              "untied_no_input_rmsnorm": (3.0, 3.5), "untied_input_rmsnorm": (1.0, 1.75)}  # fmt: skip
    for variant, toggles in zip(VARIANTS, TOGGLES, strict=True):
        for seed in (0, 1):
            tree.add(record(*toggles, seed=seed, val_loss=losses[variant][seed]))
    tree.collect()
    table, lines = tree.csv("ablation_style-classic"), tree.jsonl("ablation_style-classic")
    assert len(table) == len(lines) == 8
    for cells, line in zip(table, lines, strict=True):
        assert list(cells) == list(line)
        for key, value in line.items():
            assert_same_cell(cells[key], value)
    page = summary_of((tree.results / "ablation_style-classic.md").read_text())
    assert {row["variant"] for row in page} == set(VARIANTS)
    for row in page:
        values = [float(cells["val_loss"]) for cells in table if cells["variant"] == row["variant"]]
        assert values == list(losses[row["variant"]])
        assert row["val_loss mean"] == f"{mean(values):.4f}"
        assert row["sd"] == f"{stdev(values):.4f}"
        assert row["seeds"] == "2"


def test_variants_are_ranked_by_val_loss(tree):
    for i, toggles in enumerate(TOGGLES):
        ranked = record(*toggles, val_loss=2.0 + i)
        ranked["metrics"] |= {"final_loss": 9.0 - i, "mean_loss_last_n": 9.0 - i}
        tree.add(ranked)
    tree.collect()
    page = (tree.results / "ablation_style-classic.md").read_text()
    assert [row["variant"] for row in summary_of(page)] == VARIANTS
    assert "Ranked by val_loss" in page


def test_without_validation_variants_are_ranked_by_the_mean_of_the_last_losses(tree):
    for i, toggles in enumerate(TOGGLES):
        ranked = record(*toggles, val_loss=None)
        ranked["metrics"] |= {"final_loss": i, "mean_loss_last_n": 9.0 - i}
        tree.add(ranked)
    tree.collect()
    page = (tree.results / "ablation_style-classic.md").read_text()
    assert [row["variant"] for row in summary_of(page)] == VARIANTS[::-1]
    assert "Ranked by mean_loss_last_n" in page


def test_the_page_warns_of_one_seed_and_of_unequal_seeds(tree):
    tree.add_variants(seed=1)
    tree.collect()
    page = tree.results / "ablation_style-classic.md"
    assert "One seed" in page.read_text()
    tree.add(record(True, True, seed=2))
    tree.collect()
    assert "not run with the same seeds" in page.read_text()


# The program


def run_script(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], cwd=cwd, capture_output=True, text=True)


@pytest.mark.slow
def test_the_program_collects_outputs_into_results_and_prints(tree, tmp_path):
    tree.add_variants()
    tree.add(record(status="failed", val_loss=None))
    tree.add(b"{")
    done = run_script(cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "collected 5 runs (1 not completed), skipped 1 files" in done.stdout
    for words in ("tied_no_input_rmsnorm", "ablation: model gpt", "wrote results/runs_style-classic.csv", "val_loss"):
        assert words in done.stdout
    assert len(tree.csv()) == 5


def test_a_folder_without_runs_is_collected(tree, tmp_path):
    done = run_script(tree.outputs, "--results-dir", tree.results, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "collected 0 runs (0 not completed), skipped 0 files\n"


def test_a_missing_folder_is_a_user_error(tmp_path):
    done = run_script("nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: nowhere is not a folder: collect takes folders with runs below them\n"
    assert list(tmp_path.iterdir()) == []


def test_results_that_cannot_be_written_are_a_user_error(tree, tmp_path):
    tree.add(record())
    tree.results.write_text("a file where the folder should be")
    done = run_script(tree.outputs, "--results-dir", tree.results, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"error: results_dir={tree.results} cannot be written: File exists\n"


def test_a_full_disk_leaves_no_partial_file(tree, monkeypatch):
    tree.add(record())

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match=r"results_dir=.* cannot be written: No space left on device"):
        tree.collect()
    assert list(tree.results.iterdir()) == []


COLLECTOR = """
import sys
from pathlib import Path
from microgpt.reports.collect import collect
print("ready", flush=True)
sys.stdin.readline()
for _ in range(4):
    collect([Path(sys.argv[1])], Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_two_collectors_at_a_time_leave_whole_files(tmp_path):
    tree = Tree(tmp_path)
    for seed in range(5):
        tree.add_variants(seed=seed)
    tree.collect()
    expected = tree.everything()
    collectors = [
        subprocess.Popen(
            [sys.executable, "-c", COLLECTOR, str(tree.outputs), str(tree.results)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for collector in collectors:
        assert collector.stdout is not None
        assert collector.stdout.readline() == "ready\n"
    for collector in collectors:
        assert collector.stdin is not None
        collector.stdin.write("\n")
        collector.stdin.flush()
    while any(collector.poll() is None for collector in collectors):
        for name, content in expected.items():
            assert (tree.results / name).read_bytes() == content
    for collector in collectors:
        collector.communicate()
    assert [collector.returncode for collector in collectors] == [0, 0]
    assert tree.everything() == expected


@pytest.mark.slow
def test_two_thousand_records_are_two_thousand_rows(tree):
    base = record()
    for seed in range(2000):
        one = deepcopy(base)
        one["seed"] = one["config"]["seed"] = seed
        tree.add(one)
    assert len(tree.collect().rows) == 2000
    assert {int(row["seed"]) for row in tree.csv()} == set(range(2000))
    assert len(tree.jsonl()) == 2000


# Plots that cannot be drawn


@pytest.fixture
def plotted(tmp_path: Path) -> Tree:
    """Two seeds of each variant, with plots."""
    tree = Tree(tmp_path)
    for seed in (1, 2):
        tree.add_variants(seed=seed, val_loss=2.0 + seed / 10)
    return tree


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["nonsense", "module://matplotlib_inline.backend_inline", "TkAgg"])
def test_plots_do_not_depend_on_mplbackend_or_a_display(plotted, tmp_path, backend, monkeypatch):
    environment = {key: value for key, value in os.environ.items() if key != "DISPLAY"} | {"MPLBACKEND": backend}
    command = [sys.executable, str(SCRIPT), str(plotted.outputs), "--results-dir", str(plotted.results)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert [name for name in plotted.everything() if name.endswith("_seeds.png")]


def test_a_plot_that_fails_costs_that_plot_and_one_sentence(plotted, monkeypatch, capsys):
    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("no font\nat all")

    monkeypatch.setattr("microgpt.reports.effect_plots.effect_strips", broken)
    plotted.collect()
    assert re.fullmatch(r"left out the plot effects of .*: ValueError: no font\n", capsys.readouterr().err)
    images = [name for name in plotted.everything() if name.endswith(".png")]
    assert [name for name in images if name.endswith("_seeds.png")]
    assert not [name for name in images if name.endswith("_effects.png")]
    assert "<svg" in plotted.everything()["report.html"].decode()


@pytest.mark.parametrize("function", ["collect.png", "html.svg"])
def test_figures_that_cannot_be_rendered_leave_the_tables_and_the_page(plotted, monkeypatch, capsys, function):
    def broken(*_: Any) -> None:
        raise RuntimeError("no renderer")

    monkeypatch.setattr(f"microgpt.reports.{function}", broken)
    plotted.collect()
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert all(line.endswith(": RuntimeError: no renderer") for line in lines)
    assert {"ablation_style-classic.md", "runs_style-classic.csv", "report.html"} <= set(plotted.everything())
    assert len(plotted.csv()) == 8
