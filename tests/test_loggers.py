"""Loggers: what history.jsonl has, each library has too, once, with the same values, however the run was stopped.

The libraries are extras: what needs one is skipped where it is absent. Each is asked with its own reader.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microgpt.errors import UserError
from microgpt.loggers import (
    LOGGERS,
    LoggerOptions,
    NoLogger,
    check_installed,
    delivery,
    is_installed,
    make_logger,
    where_to_look,
)
from microgpt.loggers.base import LoggedRun, Point, dotted, final_figures, final_texts
from microgpt.loggers.delivery import Delivery, warn

Lines = list[dict[str, float]]
CONFIG = {"seed": 1, "model": {"n_embd": 16, "tie_lm_head": True}, "style": {"documents": ["a b", "c"]}, "prompt": None}
LAST = 60

# Without a library


class Shelf:
    """A library that keeps what `flush` has brought it, and fails when told to."""

    def __init__(self) -> None:
        self.kept: list[Point] = []
        self.buffer: list[Point] = []
        self.broken = False
        self.ended: list[str] = []
        self.calls = 0

    def connect(self) -> "Shelf":
        self.call()
        return self

    def call(self) -> None:
        self.calls += 1
        if self.broken:
            raise OSError("no space left\non device")

    def last_step(self) -> int:
        return max((point.step for point in self.kept), default=-1)

    def write(self, points: Sequence[Point]) -> None:
        self.call()
        self.buffer += points

    def flush(self, count: int) -> None:
        """The process is killed: of what waits to be kept only so many points are."""
        self.kept += self.buffer[:count]
        self.buffer = []

    def close(self, record: Any) -> None:
        self.call()
        self.flush(len(self.buffer))
        self.ended.append(record["status"])

    def steps(self) -> list[int]:
        return [point.step for point in self.kept]


def line(step: int, run: int = 0) -> dict[str, float]:
    """As the loop writes them: no loss before the first step, val_loss where it evaluated."""
    made: dict[str, float] = {"step": step}
    if step > 0:
        made |= {"loss": 3.3 / (1 + step) + run / 7, "lr": 0.01 * (1 - step / LAST)}
    made["tokens"] = step * 7
    if step % 20 == 0:
        made["val_loss"] = 3.1 / (1 + step) + run / 7
    return made


@pytest.fixture(autouse=True)
def _each_line_at_once_and_no_warning_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(delivery, "SHARE", float("inf"))
    monkeypatch.setattr(Delivery, "under_way", 0)
    warn.cache_clear()


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30)), max_size=6))
def test_a_library_gets_each_line_once_and_in_order_wherever_the_run_is_killed(
    kills: list[tuple[int, int, int]],
) -> None:
    """A kill is (steps that the process did, lines of them that the library kept, how far back its checkpoint lies)."""
    shelf, history, start = Shelf(), [], 0
    for done, kept, back in kills:
        history = [made for made in history if made["step"] < start]
        logger = Delivery("shelf", shelf.connect, history)
        for step in range(start, start + done):
            history.append(line(step))
            logger.log([line(step)])
        shelf.flush(kept)
        start = max(0, start + done - back)
    history = [made for made in history if made["step"] < start]
    logger = Delivery("shelf", shelf.connect, history)
    logger.log([line(start), line(start + 1)])
    logger.finish({"status": "completed"})
    reached = max(start + 1, *(shelf.steps() or [0]))
    assert shelf.steps() == list(range(reached + 1))
    assert all(point.values == {k: v for k, v in line(point.step).items() if k != "step"} for point in shelf.kept)


def test_a_library_that_fails_is_warned_about_once_and_gets_the_lines_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shelf = Shelf()
    logger = Delivery("shelf", shelf.connect)
    logger.log([line(0)])
    shelf.broken = True
    logger.log([line(1)])
    calls = shelf.calls
    logger.log([line(2)])
    assert shelf.calls == calls, "a library in trouble is left alone until the run ends"
    shelf.broken = False
    logger.finish({"status": "completed"})
    assert shelf.steps() == [0, 1, 2]
    assert shelf.ended == ["completed"]
    said = capsys.readouterr().err
    assert said == "warning: logger=shelf: no space left; the run goes on, and history.jsonl has every line\n"


def test_many_runs_on_one_full_disk_make_one_warning(capsys: pytest.CaptureFixture[str]) -> None:
    shelf = Shelf()
    shelf.broken = True
    for _ in range(5):
        logger = Delivery("shelf", shelf.connect)
        logger.log([line(0)])
        logger.finish({"status": "failed"})
    assert capsys.readouterr().err.count("\n") == 1
    assert shelf.ended == []


def test_lines_wait_while_a_slow_library_would_take_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "SHARE", 0.05)
    now = 0.0

    class Slow(Shelf):
        def write(self, points: Sequence[Point]) -> None:
            nonlocal now
            now += 1.0
            super().write(points)

    shelves = [Slow(), Slow()]
    loggers = [Delivery("shelf", shelf.connect, (), lambda: now) for shelf in shelves]
    for step in range(1000):
        now += 1.0
        for logger in loggers:
            logger.log([line(step)])
    handed_over = sum(shelf.calls - 1 for shelf in shelves)
    assert 0.03 < handed_over / now <= 0.05
    assert abs(shelves[0].calls - shelves[1].calls) <= 1, "all runs have their turn"
    for shelf, logger in zip(shelves, loggers, strict=True):
        logger.finish({"status": "completed"})
        assert shelf.steps() == list(range(1000))


def test_an_interrupt_is_not_taken_for_a_library_s_failure() -> None:
    def interrupted() -> Shelf:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Delivery("shelf", interrupted)


def test_without_a_logger_nothing_is_written(tmp_path: Path) -> None:
    logger = make_logger(LoggerOptions(store=tmp_path / "outputs"), tmp_path, {"config": CONFIG})
    assert isinstance(logger, NoLogger)
    logger.log([line(0)])
    logger.finish({"status": "completed"})
    assert list(tmp_path.iterdir()) == []


def test_an_absent_library_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("microgpt.loggers.is_installed", lambda name: False)
    for name in LOGGERS:
        with pytest.raises(UserError) as refused:
            check_installed(name)
        assert str(refused.value) == f"logger={name} needs {name}: pip install 'microgpt[{name}]'"
        with pytest.raises(UserError):
            make_logger(LoggerOptions(name, store=tmp_path), tmp_path, {"config": CONFIG})
    check_installed("none")
    assert list(tmp_path.iterdir()) == []


def test_the_database_s_libraries_are_not_asked_for_where_mlflow_has_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microgpt.loggers.is_installed", lambda name: name == "mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError):
        check_installed("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    check_installed("mlflow")


def test_a_folder_of_a_library_s_name_is_not_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "not_a_library").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_installed("not_a_library")
    assert is_installed("numpy")


def test_nothing_is_imported_before_a_logger_is_asked_for() -> None:
    code = "import sys, microgpt.loggers as loggers; print(*[name for name in loggers.LOGGERS if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_a_run_is_described_by_its_flat_configuration_and_its_sweep(tmp_path: Path) -> None:
    record = {"run_id": "sweeps/ab_12/3", "config": CONFIG, "config_hash": "f00", "overrides": ["seed=1", "style=x"]}
    run = LoggedRun(LoggerOptions("wandb"), tmp_path, record)
    assert run.settings()["model.n_embd"] == 16
    assert run.settings()["overrides"] == "seed=1 style=x"
    assert (run.name, run.group) == ("sweeps/ab_12/3", "sweeps/ab_12")
    assert LoggedRun(LoggerOptions("wandb"), tmp_path, {**record, "run_id": "2026-01-01/12-00-00_ab"}).group is None


def test_each_library_remembers_its_own_name_of_a_run(tmp_path: Path) -> None:
    one, two = (LoggedRun(LoggerOptions(name), tmp_path, {}) for name in ("wandb", "mlflow"))
    assert one.remembered() is None
    one.remember("abc")
    two.remember("def")
    assert (one.remembered(), two.remembered()) == ("abc", "def")
    (tmp_path / "logger.json").write_text("{")
    assert one.remembered() is None


def test_only_a_run_that_ended_has_final_figures() -> None:
    record = {
        "metrics": {"val_loss": 2.0, "best_step": None, "ok": True, "style_effect": {"bias": 3.0}},
        "samples": ["x"],
    }
    assert final_figures({**record, "status": "completed"}) == {"final/val_loss": 2.0, "final/style_effect.bias": 3.0}
    assert final_texts({**record, "status": "failed", "error": "why"}) == {"samples": "x", "error": "why"}
    assert final_figures({**record, "status": "interrupted"}) == {}
    assert final_texts({**record, "status": "interrupted", "error": "stopped"}) == {}
    assert final_figures({"status": "failed", "metrics": None}) == {}


@given(st.recursive(st.integers(), lambda inner: st.dictionaries(st.text("ab", min_size=1), inner, max_size=3)))
def test_dotted_keys_lead_to_the_values_they_came_from(tree: Any) -> None:
    for path, value in dotted({"root": tree}).items():
        found: Any = {"root": tree}
        for key in path.split("."):
            found = found[key]
        assert found == value


@pytest.mark.parametrize("name", LOGGERS)
def test_a_user_is_told_where_to_look_unless_the_environment_has_said(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"wandb": "WANDB_MODE", "mlflow": "MLFLOW_TRACKING_URI", "trackio": "TRACKIO_DIR"}
    for variable in variables.values():
        monkeypatch.delenv(variable, raising=False)
    assert str(tmp_path) in (where_to_look(LoggerOptions(name, store=tmp_path)) or "")
    if name in variables:
        monkeypatch.setenv(variables[name], "elsewhere")
        assert where_to_look(LoggerOptions(name, store=tmp_path)) is None
    assert where_to_look(LoggerOptions()) is None


# With the libraries themselves


def log_as_a_training_would(name: str, begin: int, end: int, ending: str, count: int) -> None:
    """Log runs side by side, in ./outputs, from step `begin` to `end`, and end them by `ending`, or by SIGKILL."""
    delivery.QUIET_SECONDS, delivery.SHARE = 0.0, float("inf")  # each line at once
    runs = []
    for number in range(count):
        folder = Path("outputs", "sweeps", "demo", str(number))
        folder.mkdir(parents=True, exist_ok=True)
        history = folder / "history.jsonl"
        earlier = [made for made in map(json.loads, history.open()) if made["step"] < begin] if begin else []
        history.write_text("".join(json.dumps(made) + "\n" for made in earlier))
        record = {"run_id": f"sweeps/demo/{number}", "config": CONFIG, "config_hash": "f00", "overrides": ["seed=1"]}
        runs.append((number, history, record, make_logger(LoggerOptions(name), folder, record, earlier)))
    for step in range(begin, end + 1):
        for number, history, _, logger in runs:
            with history.open("a") as file:
                file.write(json.dumps(line(step, number)) + "\n")
            logger.log([line(step, number)])
    if ending == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    for number, _, record, logger in runs:
        metrics = {"val_loss": line(end, number)["loss"], "best_step": None, "style_effect": {"bias": 3.0}}
        record |= {"status": ending, "metrics": metrics, "samples": ["anna", "b<b", ""], "error": None}
        logger.finish(record)


def log_runs(folder: Path, name: str, begin: int, end: int, ending: str, count: int = 1) -> None:
    """Log in a process of its own. It must not say a word: the libraries' banners are silenced."""
    said = {
        key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "MLFLOW", "TRACKIO", "HF_"))
    }
    done = subprocess.run(
        [sys.executable, __file__, name, str(begin), str(end), ending, str(count)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**said, "WANDB_CACHE_DIR": str(folder / "cache")},
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert done.returncode == (-signal.SIGKILL if ending == "killed" else 0)


def histories(folder: Path) -> dict[str, Lines]:
    """Run name -> lines of history.jsonl."""
    files = (folder / "outputs").glob("sweeps/*/*/history.jsonl")
    return {f"sweeps/demo/{file.parent.name}": [json.loads(text) for text in file.open()] for file in files}


def ask(*command: str, folder: Path, **environment: str) -> str:
    """What a library's own command prints."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder, capture_output=True, text=True, check=True, env={**os.environ, **environment},
    ).stdout  # fmt: skip


def gathered(points: list[tuple[int, str, float]]) -> Lines:
    """Lines from (step, key, value); a second value for a step and key is an error."""
    lines: dict[int, dict[str, float]] = {}
    for step, key, value in points:
        if not key.startswith("final/"):
            found = lines.setdefault(step, {"step": step})
            assert key not in found, f"{key} of step {step} was logged twice"
            found[key] = value
    return [lines[step] for step in sorted(lines)]


def read_tensorboard(folder: Path) -> dict[str, Any]:
    from tensorboard.backend.event_processing.event_accumulator import (  # pyright: ignore[reportMissingImports]
        EventAccumulator,
    )

    runs = {}
    for run in (folder / "outputs" / "sweeps" / "demo").iterdir():
        events = EventAccumulator(str(run), size_guidance={"scalars": 0})
        events.Reload()
        scalars = [(e.step, tag, e.value) for tag in events.Tags()["scalars"] for e in events.Scalars(tag)]
        texts = [e.tensor_proto.string_val[0].decode() for e in events.Tensors("samples")]
        runs[f"sweeps/demo/{run.name}"] = {
            "lines": gathered(scalars),
            "final": {key: value for _, key, value in scalars if key.startswith("final/")},
            "samples": [[sample[4:] for sample in text.split("\n")] for text in texts],
            "n_embd": hparam(events, "model.n_embd"),
        }
    return runs


def hparam(events: Any, key: str) -> float:
    from tensorboard.plugins.hparams import metadata  # pyright: ignore[reportMissingImports]

    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    return metadata.parse_session_start_info_plugin_data(content).hparams[key].number_value


def read_wandb(folder: Path) -> dict[str, Any]:
    """What the parts of each run say together, as `wandb sync` would send them one after the other."""
    records: dict[str, list[dict[str, Any]]] = {}
    for file in sorted((folder / "outputs" / "wandb").glob("offline-run-*/*.wandb")):
        printed = ask("wandb", "leet", "inspect", "--json", str(file), folder=folder, WANDB_MODE="offline")
        part = [json.loads(text) for text in printed.splitlines()]
        begun = next((record["run"] for record in part if record["type"] == "run"), None)
        if begun is not None:  # a process that was killed may have left an empty file
            records.setdefault(begun["display_name"], []).extend(part)
    runs = {}
    for name, parts in records.items():
        items = [record["history"]["item"] for record in parts if record["type"] == "history"]
        summary: dict[str, Any] = {}
        for record in parts:
            summary |= record["summary"]["update"] if record["type"] == "summary" else {}
        page = next(folder.rglob(Path(summary["samples"]["path"]).name)).read_text()
        begun = [record["run"] for record in parts if record["type"] == "run"]
        assert len({run["run_id"] for run in begun}) == 1, "one id for all parts"
        runs[name] = {
            "lines": gathered([
                (item["_step"], key, value) for item in items for key, value in item.items()
                if not key.startswith("_")
            ]),
            "final": {key: summary[key] for key in summary if key.startswith("final/") and key != "final/status"},
            "samples": [unescape(page[5:-6]).split("\n")],
            "n_embd": begun[-1]["config"]["update"]["model"]["n_embd"],
        }  # fmt: skip
    return runs


def read_mlflow(folder: Path) -> dict[str, Any]:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]

    client = MlflowClient(f"sqlite:///{folder / 'outputs' / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("microgpt")
    assert experiment is not None
    runs = {}
    for run in client.search_runs([experiment.experiment_id]):
        metrics = [m for key in run.data.metrics for m in client.get_metric_history(run.info.run_id, key)]
        artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
        assert run.info.status == "FINISHED"
        assert run.info.run_name not in runs
        runs[run.info.run_name] = {
            "lines": gathered([(m.step, m.key, m.value) for m in metrics]),
            "final": {key: value for key, value in run.data.metrics.items() if key.startswith("final/")},
            "samples": [(artifacts / "samples.txt").read_text()[:-1].split("\n")],
            "n_embd": float(run.data.params["model.n_embd"]),
        }
    return runs


def read_trackio(folder: Path) -> dict[str, Any]:
    def query(sql: str) -> list[dict[str, Any]]:
        store = {"TRACKIO_DIR": str(folder / "outputs" / "trackio")}
        printed = ask(
            "trackio.cli", "query", "project", "--project=microgpt", "--sql", sql, "--json", folder=folder, **store
        )
        return json.loads(printed)["rows"]

    configs = {row["run_id"]: json.loads(row["config"]) for row in query("select run_id, config from configs")}
    runs: dict[str, Any] = {}
    for row in query("select run_id, run_name, step, metrics from metrics order by id"):
        run = runs.setdefault(row["run_name"], {"ids": set(), "points": [], "final": {}, "samples": []})
        run["ids"].add(row["run_id"])
        for key, value in json.loads(row["metrics"]).items():
            if key == "samples":
                run["samples"].append([cells["samples"] for cells in value["_value"]])
            elif key.startswith("final/"):
                run["final"][key] = value
            else:
                run["points"].append((row["step"], key, value))
    for run in runs.values():
        assert len(run["ids"]) == 1, "a resumed run keeps its id"
        run |= {"lines": gathered(run.pop("points")), "n_embd": configs[run["ids"].pop()]["model.n_embd"]}
    return runs


READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "tensorboard": read_tensorboard, "wandb": read_wandb, "mlflow": read_mlflow, "trackio": read_trackio,
}  # fmt: skip


def skip_without(name: str) -> None:
    try:
        check_installed(name)
    except UserError as absent:
        pytest.skip(str(absent))


def assert_library_has_the_histories(folder: Path, name: str, count: int = 1) -> None:
    expected, found = histories(folder), READERS[name](folder)
    assert set(found) == set(expected)
    assert len(found) == count
    kept: Callable[[float], float] = (lambda x: float(np.float32(x))) if name == "tensorboard" else float
    for run, lines in expected.items():
        assert [made["step"] for made in lines] == list(range(LAST + 1)), "history.jsonl itself is whole"
        assert found[run]["lines"] == [{key: kept(value) for key, value in made.items()} for made in lines]
        assert found[run]["final"] == {"final/val_loss": kept(lines[-1]["loss"]), "final/style_effect.bias": 3.0}
        assert found[run]["samples"] == [["anna", "b<b", ""]]
        assert found[run]["n_embd"] == 16


with_each_library = pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in LOGGERS])


@with_each_library
def test_several_runs_of_one_process_are_logged_apart(name: str, tmp_path: Path) -> None:
    skip_without(name)
    log_runs(tmp_path, name, 0, LAST, "completed", count=3)
    assert_library_has_the_histories(tmp_path, name, count=3)


@with_each_library
def test_a_run_that_was_stopped_twice_is_one_run_without_a_step_twice(name: str, tmp_path: Path) -> None:
    skip_without(name)
    log_runs(tmp_path, name, 0, 30, "interrupted")
    log_runs(tmp_path, name, 30, 45, "killed")
    log_runs(tmp_path, name, 40, LAST, "completed")
    assert_library_has_the_histories(tmp_path, name)


@with_each_library
def test_a_run_that_was_killed_before_its_first_checkpoint_and_after_its_last_line_is_whole_in_the_end(
    name: str, tmp_path: Path
) -> None:
    skip_without(name)
    log_runs(tmp_path, name, 0, 5, "killed")
    log_runs(tmp_path, name, 0, LAST, "killed")
    log_runs(tmp_path, name, LAST, LAST, "completed")
    assert_library_has_the_histories(tmp_path, name)


@with_each_library
def test_a_run_may_be_resumed_with_another_logger(name: str, tmp_path: Path) -> None:
    skip_without(name)
    log_runs(tmp_path, "none", 0, 30, "interrupted")
    log_runs(tmp_path, name, 20, LAST, "completed")
    assert_library_has_the_histories(tmp_path, name)


if __name__ == "__main__":
    log_as_a_training_would(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
