"""The page of the report: its tables and plots against the records, escaping, and incomplete input."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from support.program import ROOT, Program, make_program, read_history

from microgpt.reports.collect import collect, collect_and_print
from microgpt.reports.html import html
from microgpt.reports.paired_statistics import paired, summary
from microgpt.reports.records import read_rows
from microgpt.reports.report import Block, Samples, Section, Table
from microgpt.reports.sections import family_reports, page_report

SEEDS = 3
SWEEP = (
    "-m", "mode=tensor", "backend=native", "seed=0,1,2", "model.tie_lm_head=true,false",
    "model.input_rmsnorm=true,false", "experiment=debug", "train.steps=10",
    "train.eval_every=2", "train.log_every=1", "train.eval_documents=5", "sample.num_samples=2",
    "style=classic",
)  # fmt: skip
HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"
VOID = {"wbr", "meta", "img", "br", "link", "input", "hr", "base"}
Record = dict[str, Any]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Twelve real runs, an ablation of three seeds, and the report that was written at the end of the sweep."""
    for program in make_program(tmp_path_factory.mktemp("swept")):
        program(*SWEEP)
        yield program


@pytest.fixture
def outputs(swept: Program, tmp_path: Path) -> Path:
    """A copy of the real runs that a test may change."""
    shutil.copytree(
        swept.folder / "outputs", tmp_path / "outputs", ignore=shutil.ignore_patterns("checkpoint", ".lock")
    )
    return tmp_path / "outputs"


def runs(outputs: Path) -> list[Path]:
    return sorted(path.parent for path in outputs.glob("sweeps/*/*/run.json"))


def change(run: Path, edit: Callable[[Record], None]) -> None:
    record = json.loads((run / "run.json").read_text())
    edit(record)
    (run / "run.json").write_text(json.dumps(record))


def as_another(outputs: Path, name: str, *numbers: int) -> list[Path]:
    """Copy some of the runs as another sweep, with another learning rate."""
    found = []
    for job, number in enumerate(numbers):
        new = outputs / "sweeps" / name / str(job)
        shutil.copytree(sorted_jobs(outputs)[number], new)
        change(new, lambda record, job=job: record.update(run_id=f"{name}/{job}"))
        change(new, lambda record: record["config"]["optim"].update(lr=0.5))
        found.append(new)
    return found


def sorted_jobs(outputs: Path) -> list[Path]:
    return sorted(
        (path for path in runs(outputs) if path.parent.name.startswith("debug")), key=lambda path: int(path.name)
    )


class Page(HTMLParser):
    """The page as a browser parses it."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []  # the innermost element, its text
        self.tables: list[list[list[str]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.append((self.open[-1], data))
            if "td" in self.open or "th" in self.open:
                self.tables[-1][-1][-1] += data

    def all_of(self, *tags: str) -> list[str]:
        return [text.strip() for tag, text in self.texts if tag in tags and text.strip()]

    def table(self, *columns: str) -> list[dict[str, str]]:
        """Return the only table that has these columns."""
        (found,) = [table for table in self.tables if set(columns) <= set(table[0])]
        return [dict(zip(found[0], row, strict=True)) for row in found[1:]]

    @property
    def text(self) -> str:
        return " ".join(text for tag, text in self.texts if tag != "style")


def read(outputs: Path, drawn: int = 0) -> Page:
    """Return the page, with the plots of `drawn` families."""
    return Page(page_text(outputs, drawn))


def page_text(outputs: Path, drawn: int) -> str:
    collected = read_rows([outputs])
    return html(page_report(collected, family_reports(collected.rows, drawn)))


def sections_of(outputs: Path, drawn: int = 8) -> list[Section]:
    return [one.page for one in family_reports(read_rows([outputs]).rows, drawn)]


def block_of(section: Section, kind: type[Block]) -> Any:
    """Return the first block of a kind."""
    return next(block for block in section.blocks if isinstance(block, kind))


def losses(outputs: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for row in read_rows([outputs]).rows:
        assert row.val_loss is not None
        found.setdefault(row.variant, {})[row.seed] = row.val_loss
    return found


# Contents


@pytest.mark.slow
def test_the_end_of_a_sweep_and_collect_write_the_same_page(swept: Program) -> None:
    results = swept.folder / "results"
    before = {path.name: path.read_bytes() for path in results.iterdir()}
    assert "report.html" in before
    script = ROOT / "scripts" / "collect.py"
    done = subprocess.run([sys.executable, str(script)], cwd=swept.folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "wrote results/report.html\n" in done.stdout
    assert {path.name: path.read_bytes() for path in results.iterdir()} == before


@pytest.mark.slow
def test_the_table_of_variants_has_the_figures_of_the_runs(outputs: Path) -> None:
    rows = read(outputs).table("variant", "sd", "median")
    known = losses(outputs)
    assert {row["variant"] for row in rows[:4]} == set(known)
    for row in rows[:4]:
        values = [known[row["variant"]][seed] for seed in range(SEEDS)]
        interval = summary(values).interval
        assert interval is not None
        assert row["seeds"] == "3"
        assert row["val_loss mean"] == f"{mean(values):.4f}"
        assert row["sd"] == f"{stdev(values):.4f}"
        assert row["median"] == f"{sorted(values)[1]:.4f}"
        assert row["95 % interval"] == f"[{interval.low:.4f}, {interval.high:.4f}]"
    means = [float(row["val_loss mean"]) for row in rows[:4]]
    assert means == sorted(means)


@pytest.mark.slow
def test_the_table_of_pairs_has_the_differences_of_the_statistics(outputs: Path) -> None:
    found, known = read(outputs), losses(outputs)
    rows = found.table("a", "b", "p (adjusted)")
    assert len(rows) == 6
    for row in rows:
        expected = paired(known[row["a"]], known[row["b"]])
        assert expected.mean is not None
        assert expected.p is not None
        assert float(row["difference"]) == pytest.approx(expected.mean, abs=5e-5)
        assert float(row["p"].lstrip("<")) == pytest.approx(expected.p, abs=1e-4)


@pytest.mark.slow
def test_the_page_has_main_effects_and_interaction(outputs: Path) -> None:
    found, known = read(outputs), losses(outputs)
    rows = found.table("effect", "difference")
    of = {name: np.array([known[name][seed] for seed in range(SEEDS)]) for name in known}
    tied = (of["tied_input_rmsnorm"] + of["tied_no_input_rmsnorm"]) / 2
    untied = (of["untied_input_rmsnorm"] + of["untied_no_input_rmsnorm"]) / 2
    assert rows[0]["effect"] == "tie_lm_head=true against false"
    digits = len(rows[0]["difference"].partition(".")[2])  # as many as the interval justifies
    assert float(rows[0]["difference"]) == pytest.approx(float((tied - untied).mean()), abs=0.51 * 10**-digits)
    assert rows[2]["effect"] == "tie_lm_head × input_rmsnorm"
    assert len([text for text in found.all_of("li") if text.startswith(("tie_lm_head=true", "input_rms"))]) == 2
    assert len([text for text in found.all_of("li") if text.startswith("Interactions not shown")]) == 1


@pytest.mark.slow
def test_references_are_in_the_table_and_in_the_captions(outputs: Path) -> None:
    baselines = json.loads((runs(outputs)[0] / "run.json").read_text())["data"]["baselines"]
    found = read(outputs, drawn=1)
    rows = {row["variant"]: row["val_loss mean"] for row in found.table("variant", "sd", "median")}
    assert {f"reference: {name}": f"{loss:.4f}" for name, loss in baselines.items()}.items() <= rows.items()
    assert any(f"bigram {baselines['bigram']:.4f}" in caption for caption in found.all_of("p"))


@pytest.mark.slow
@pytest.mark.parametrize("baselines", [None, "absent", {"uniform": 3.3, "unigram": None, "bigram": None}, [3.3], "3.3"])
def test_records_without_references_have_a_page(outputs: Path, baselines: Any) -> None:
    for run in runs(outputs):
        change(run, lambda record: record["data"].update(baselines=baselines))
        if baselines == "absent":
            change(run, lambda record: record["data"].pop("baselines"))
    names = [row["variant"] for row in read(outputs).table("variant", "sd", "median")][4:]
    assert names == (["reference: uniform"] if isinstance(baselines, dict) else [])


@pytest.mark.slow
def test_runs_of_different_data_have_no_common_reference(outputs: Path) -> None:
    change(runs(outputs)[0], lambda record: record["data"]["baselines"].update(bigram=1.0))
    assert len(read(outputs).table("variant", "sd", "median")) == 4


@pytest.mark.slow
def test_samples_of_the_first_seeds_are_side_by_side(outputs: Path) -> None:
    found = read(outputs)
    assert sorted(found.all_of("h4")) == sorted(losses(outputs))
    told = found.all_of("li")
    for run in runs(outputs):
        for sample in json.loads((run / "run.json").read_text())["samples"]:
            assert (sample.strip() or "(empty)") in told


@pytest.mark.slow
def test_the_common_command_is_shown_once(outputs: Path) -> None:
    (command,) = read(outputs).all_of("pre")
    assert command.startswith(f"python -m microgpt {' '.join(SWEEP[:5])}")


@pytest.mark.slow
def test_common_settings_are_shown_unless_they_are_defaults(outputs: Path) -> None:
    settings = read(outputs).all_of("code")
    assert {"train.steps=10", "train.eval_documents=5", "model=gpt", "model.n_embd=16"} <= set(settings)
    assert not [setting for setting in settings if setting.startswith(("model.init_std", "tie_lm_head", "seed"))]


@pytest.mark.slow
def test_the_page_has_environment_and_code(outputs: Path) -> None:
    def of_commit(commit: str | None, dirty: bool | None) -> Callable[[Record], None]:
        return lambda record: record.update(git={"commit": commit, "dirty": dirty})

    for run in runs(outputs):
        change(run, of_commit("a" * 40, False))
    found = read(outputs)
    assert found.table("runs", "commit") == [{"runs": "12", "commit": "a" * 40}]
    (environment,) = found.table("runs", "environment")
    assert f"python {sys.version.split()[0]}" in environment["environment"]
    assert "backend native" in environment["environment"]
    assert "versions of the code" not in found.text.partition("What the data show")[0]
    change(runs(outputs)[0], of_commit("b" * 40, True))
    change(runs(outputs)[1], of_commit(None, None))
    found = read(outputs)
    assert len(found.table("runs", "commit")) == 3
    assert "The runs were made with 3 different versions of the code." in found.all_of("strong")
    assert any("1 of 12 runs were made with uncommitted changes" in note for note in found.all_of("strong"))


@pytest.mark.slow
def test_failed_and_interrupted_runs_are_counted_with_their_reasons(outputs: Path) -> None:
    first, second, third, *_ = runs(outputs)
    for run in (first, second):
        change(run, lambda record: record.update(
            status="failed", error=f"the loss of step 5 is nan; the last checkpoint is kept in o/{record['run_id']}/c"
        ))  # fmt: skip
    change(third, lambda record: record.update(status="interrupted", error="Traceback\n  File x\nstopped by signal 15"))
    found = read(outputs)
    assert any(
        "12 runs: 9 completed, 2 failed, 1 interrupted; 4 variants, 3 seeds" in text for text in found.all_of("p")
    )
    assert sorted((row["status"], row["runs"], row["reason"]) for row in found.table("status", "reason")) == [
        ("failed", "1", "the loss of step 5 is nan"),
        ("failed", "1", "the loss of step 5 is nan"),
        ("interrupted", "1", "stopped by signal 15"),
    ]


@pytest.mark.slow
def test_a_failure_that_a_later_run_completed_is_left_out(outputs: Path) -> None:
    run = runs(outputs)[0]
    again = run.with_name("0-2")
    shutil.copytree(run, again)
    change(run, lambda record: record.update(status="failed", error="a full disk"))
    change(again, lambda record: record.update(run_id=f"{record['run_id']}-2"))
    assert "a full disk" not in read(outputs).text


# Escaping and links


@pytest.fixture
def hostile(outputs: Path) -> Path:
    """Records in which every text is an attack."""

    def edit(record: Record) -> None:
        record["samples"] = [HOSTILE] * 3
        record["command"] = f"python {HOSTILE}"
        record["overrides"] = [HOSTILE]
        record["error"] = f"{HOSTILE}\r{HOSTILE}"
        record["environment"]["cpu"] = HOSTILE
        record["environment"]["versions"]["numpy"] = HOSTILE
        record["backend"] = HOSTILE
        record["git"]["commit"] = HOSTILE
        record["config"]["model"]["name"] = record["config"]["data"]["name"] = HOSTILE
        record["config"]["data"]["path"] = HOSTILE
        record["config"]["optim"]["name"] = HOSTILE + str(record["config"]["model"]["tie_lm_head"])
        record["data"]["name"] = HOSTILE

    for run in runs(outputs):
        change(run, edit)
    change(runs(outputs)[0], lambda record: record.update(status="failed"))
    single = outputs / "2026-01-01" / "x"
    shutil.copytree(runs(outputs)[1], single)
    change(single, lambda record: record.update(run_id=f"2026-01-01/{HOSTILE}", status=HOSTILE))
    return outputs


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_nothing_of_a_record_becomes_markup(hostile: Path) -> None:
    found = read(hostile, drawn=1)
    assert not {tag for tag, _ in found.tags} & {"script", "img", "iframe", "object", "link", "base", "form"}
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert found.text.count("<script>alert(1)</script>") > 20


@pytest.mark.slow
def test_the_page_loads_nothing(outputs: Path) -> None:
    text = page_text(outputs, drawn=1)
    found = Page(text)
    references = [
        value for _, attributes in found.tags for name, value in attributes.items() if name in ("src", "href", "srcset")
    ]
    assert references
    assert all(value is not None and value.startswith("#") for value in references)
    assert not re.search(r"@import|https?:|url\((?!#)|expression\(", text)
    policy = next(a["content"] for tag, a in found.tags if tag == "meta" and "http-equiv" in a)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


@pytest.mark.slow
def test_ids_are_unique_and_every_link_has_a_target(outputs: Path) -> None:
    as_another(outputs, "second", 0, 1)
    found = read(outputs, drawn=2)
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [str(a["href"])[1:] for tag, a in found.tags if tag in ("a", "use") and "href" in a]
    assert set(links) <= set(ids)


# Plots


def plots_of(outputs: Path) -> dict[str, Any]:
    (section,) = sections_of(outputs)
    return {plot.name: plot.figure for plot in section.plots}


def lines(figure: Any) -> dict[str, np.ndarray]:
    return {str(line.get_label()): np.array(line.get_xydata()) for line in figure.axes[0].get_lines()}


def dots(figure: Any) -> list[list[float]]:
    drawn = [item for item in figure.axes[0].collections if isinstance(item, PathCollection)]
    return [np.asarray(item.get_offsets())[:, 0].tolist() for item in drawn]


def labels(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.slow
def test_the_curves_are_the_means_of_the_histories(outputs: Path) -> None:
    by_variant: dict[str, list[list[Record]]] = {}
    for row in read_rows([outputs]).rows:
        by_variant.setdefault(row.variant, []).append(read_history(row.folder))
    plots = plots_of(outputs)
    for name, histories in by_variant.items():
        for plot, column in (("curves", "val_loss"), ("training", "loss")):
            drawn = lines(plots[plot])[name]
            points = [[(line["step"], line[column]) for line in history if column in line] for history in histories]
            assert drawn[:, 0].tolist() == [step for step, _ in points[0]]
            means = [mean(loss for _, loss in at) for at in zip(*points, strict=True)]
            np.testing.assert_allclose(drawn[:, 1], means, rtol=1e-12)
        np.testing.assert_array_equal(lines(plots["late"])[name], lines(plots["curves"])[name][-3:])


@pytest.mark.slow
def test_loss_against_compute_is_over_the_training_time(outputs: Path) -> None:
    for run in runs(outputs):
        change(run, lambda record: record["metrics"].update(steps_per_sec=2.0))
    figure = plots_of(outputs)["seconds"]
    assert figure.axes[0].get_xlabel() == "seconds of training"
    assert lines(figure)["tied_input_rmsnorm"][:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    for run in runs(outputs):
        change(run, lambda record: record["metrics"].update(steps_per_sec=2000.0))
    assert "seconds" not in plots_of(outputs)  # too short for a measurement of speed


@pytest.mark.slow
def test_loss_against_tokens_is_drawn_if_variants_differ_in_tokens(outputs: Path) -> None:
    assert "tokens" not in plots_of(outputs)
    for run in runs(outputs):
        record = json.loads((run / "run.json").read_text())
        if record["config"]["model"]["tie_lm_head"]:
            history = [line | {"tokens": 4 * line["tokens"]} for line in read_history(run)]
            (run / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
    drawn = lines(plots_of(outputs)["tokens"])
    assert drawn["tied_input_rmsnorm"][-1, 0] == pytest.approx(4 * drawn["untied_input_rmsnorm"][-1, 0])


@pytest.mark.slow
def test_a_dot_is_a_run_in_the_distribution_and_a_seed_in_the_differences(outputs: Path) -> None:
    plots, known = plots_of(outputs), losses(outputs)
    names = [name for name in labels(plots["seeds"]) if name in known]
    assert dots(plots["seeds"]) == [[known[name][seed] for seed in range(SEEDS)] for name in names]
    pairs = [label.split(" − ") for label in labels(plots["differences"])]
    assert len(pairs) == 6
    for drawn, (a, b) in zip(dots(plots["differences"]), pairs, strict=True):
        assert drawn == pytest.approx([known[a][seed] - known[b][seed] for seed in range(SEEDS)])
    assert len(dots(plots["effects"])) == 3


@pytest.mark.slow
def test_the_markdown_links_the_plots_beside_it(swept: Program) -> None:
    results = swept.folder / "results"
    markdown = (results / "ablation_style-classic.md").read_text()
    linked = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", markdown)
    assert set(linked) == {path.name for path in results.glob("*.png")}
    assert {re.sub(r"ablation_style-classic_[0-9a-f]{8}_|\.png", "", name) for name in linked} == {
        "curves", "late", "seeds", "effects", "differences", "training",
    }  # fmt: skip


@pytest.mark.slow
def test_only_plots_of_an_ablation_that_is_gone_are_removed(outputs: Path) -> None:
    results = outputs.parent / "results"
    results.mkdir()
    others = ["ablation_style-classic_2_01234567_curves.png", "ablation_style-classic_notes.png", "mine.png"]
    for name in (*others, "ablation_style-classic_01234567_curves.png"):
        (results / name).touch()
    collect([outputs], results)
    found = {path.name for path in results.glob("*.png")}
    assert set(others) < found
    assert "ablation_style-classic_01234567_curves.png" not in found
    change(runs(outputs)[0], lambda record: record["config"]["train"].update(steps=9))
    for run in runs(outputs)[1:]:
        if json.loads((run / "run.json").read_text())["config"]["model"]["tie_lm_head"]:
            shutil.rmtree(run)
    collect([outputs], results)
    assert {path.name for path in results.glob("*.png")} == set(others)


# Incomplete and malformed input


@pytest.mark.slow
def test_some_of_many_variants_are_drawn_and_all_are_in_the_table(outputs: Path) -> None:
    for number, (lr, seed) in enumerate(itertools.product(range(1, 13), range(2))):
        (new,) = as_another(outputs, f"many{number}", 0)
        folder = outputs / "sweeps" / "many" / str(number)
        folder.parent.mkdir(exist_ok=True)
        new.rename(folder)
        new.parent.rmdir()

        def edit(record: Record, number: int = number, lr: int = lr, seed: int = seed) -> None:
            record["run_id"] = f"many/{number}"
            record["seed"] = record["config"]["seed"] = seed
            record["config"]["optim"]["lr"] = lr / 100
            record["metrics"]["val_loss"] = 2.5 + abs(lr - 6) / 10 + seed / 1000

        change(folder, edit)
    section = next(one for one in sections_of(outputs) if one.title == "sweeps/many")
    assert len(block_of(section, Table).rows) == 12
    drawn = {plot.name: plot for plot in section.plots}
    shown = [name for name in lines(drawn["curves"].figure) if "lr" in name]
    assert len(shown) == 8
    assert {"lr=0.01", "lr=0.06", "lr=0.12"} <= set(shown)
    assert "8 of 12 variants are drawn: the 6 best, the baseline (with the default values: " in drawn["curves"].caption
    assert len(dots(drawn["seeds"].figure)) == 12
    assert len(dots(drawn["effects"].figure)) == 16  # of the levels off the line and the steps
    assert {name.removeprefix("optim.") for name in block_of(section, Samples).variants} == set(shown)


@pytest.mark.slow
def test_without_validation_the_page_has_the_training_loss(outputs: Path) -> None:
    for run in runs(outputs):
        change(run, lambda record: record["metrics"].update(val_loss=None))
        history = [{k: v for k, v in line.items() if k != "val_loss"} for line in read_history(run)]
        (run / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
    found = read(outputs)
    assert len(found.table("variant", "mean_loss_last_n mean")) == 4
    assert set(plots_of(outputs)) == {"seeds", "effects", "differences", "training"}


@pytest.mark.slow
def test_runs_without_histories_have_a_page(outputs: Path) -> None:
    for run in runs(outputs):
        (run / "history.jsonl").unlink()
    assert set(plots_of(outputs)) == {"seeds", "effects", "differences"}
    assert len(read(outputs).table("variant", "sd", "median")) >= 4


@pytest.mark.slow
def test_one_seed_has_a_page_without_intervals(outputs: Path) -> None:
    for run in runs(outputs):
        if json.loads((run / "run.json").read_text())["seed"] != 0:
            shutil.rmtree(run)
    found = read(outputs, drawn=1)
    assert [row["95 % interval"] for row in found.table("variant", "sd", "median")[:4]] == ["-"] * 4
    assert any("One seed of each: no effect can be told from chance." in text for text in found.all_of("li"))
    assert "One run per variant, so there is no band." in " ".join(found.all_of("p"))


@pytest.mark.slow
def test_single_runs_are_in_a_table_and_load_no_plotting_library(outputs: Path, tmp_path: Path) -> None:
    for number, run in enumerate(runs(outputs)[:2]):
        single = tmp_path / "single" / "2026-01-01" / str(number)
        shutil.copytree(run, single)
        change(single, lambda record, number=number: record.update(run_id=f"2026-01-01/10-00-0{number}_01234567"))
    code = (
        "import sys; from pathlib import Path; from microgpt.reports.collect import collect;"
        "collect([Path('single')], Path('results'));"
        "print([name for name in ('matplotlib', 'scipy', 'torch', 'numba') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
    found = Page((tmp_path / "results" / "report.html").read_text())
    rows = found.table("run", "status")
    assert [row["run"] for row in rows] == ["single/2026-01-01/1", "single/2026-01-01/0"]
    assert [row["status"] for row in rows] == ["completed"] * 2
    assert not [tag for tag, _ in found.tags if tag == "svg"]


@pytest.mark.parametrize("content", [None, "{", "[]", '{"run_id": "x", "result": 3}'])
def test_without_a_run_no_page_is_written_and_an_old_one_is_kept(
    tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "outputs" / "x").mkdir(parents=True)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "report.html").write_text("old")
    if content is not None:
        (tmp_path / "outputs" / "x" / "run.json").write_text(content)
    collect_and_print([tmp_path / "outputs"], tmp_path / "results")
    assert "collected 0 runs" in capsys.readouterr().out
    assert (tmp_path / "results" / "report.html").read_text() == "old"


@pytest.mark.slow
def test_the_newest_families_are_drawn_and_the_others_say_so(outputs: Path) -> None:
    for run in as_another(outputs, "newer", 0, 1):
        change(run, lambda record: record.update(started_at="2099-01-01T00:00:00.000+00:00"))
    older, newest = sections_of(outputs, drawn=1)
    assert newest.title == "sweeps/newer"
    assert newest.plots
    assert not older.plots
    assert read(outputs, drawn=1).text.count("Only the newest families have plots") == 1


@pytest.mark.slow
def test_a_job_with_malformed_provenance_is_in_the_report(outputs: Path) -> None:
    strange = {"samples": "text", "overrides": 3, "environment": [1], "command": None, "git": None, "error": 5}
    for run in runs(outputs):
        change(run, lambda record: record.update(strange))
    found = read(outputs)
    assert found.all_of("pre") == []
    assert found.table("runs", "commit") == [{"runs": "12", "commit": "unknown commit"}]
