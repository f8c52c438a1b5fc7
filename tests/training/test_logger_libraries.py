"""Loggers with the libraries: each has the lines of history.jsonl once, however the run was stopped.

The libraries are extras: the tests of an absent one are skipped. Each is read with its own reader.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_loggers import LAST, line, record_of

from microgpt.errors import UserError
from microgpt.runs.history import HistoryLine
from microgpt.training.loggers import LOGGERS, LoggedRun, check_installed, delivery, make_logger

Lines = list[HistoryLine]


def log_like_a_training(name: str, begin: int, end: int, ending: str, count: int) -> None:
    """Log runs side by side, in ./outputs, from step `begin` to `end`, with the status `ending`, or until SIGKILL."""
    delivery.DELIVERY_SECONDS, delivery.TIME_SHARE = 0.0, float("inf")  # each line at once
    runs = []
    for number in range(count):
        folder = Path("outputs", "sweeps", "demo", str(number))
        folder.mkdir(parents=True, exist_ok=True)
        history = folder / "history.jsonl"
        earlier = [made for made in map(json.loads, history.open()) if made["step"] < begin] if begin else []
        history.write_text("".join(json.dumps(made) + "\n" for made in earlier))
        record = record_of(run_id=f"sweeps/demo/{number}", config_hash="f00", overrides=["seed=1"])
        run = LoggedRun(name, None, Path("outputs"), folder, record)
        runs.append((number, history, make_logger(run, earlier)))
    for step in range(begin, end + 1):
        for number, history, logger in runs:
            with history.open("a") as file:
                file.write(json.dumps(line(step, number)) + "\n")
            logger.log([line(step, number)])
    if ending == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    for number, _, logger in runs:
        metrics = {"val_loss": line(end, number)["loss"], "best_step": None, "style_effect": {"bias": 3.0}}
        logger.finish(record_of(status=ending, metrics=metrics, samples=["anna", "b<b", ""]))


def log_runs(folder: Path, name: str, begin: int, end: int, ending: str, count: int = 1) -> None:
    """Log in a process of its own, which must print nothing."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "MLFLOW", "TRACKIO", "HF_"))
    }
    done = subprocess.run(
        [sys.executable, __file__, name, str(begin), str(end), ending, str(count)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**environment, "WANDB_CACHE_DIR": str(folder / "cache")},
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert done.returncode == (-signal.SIGKILL if ending == "killed" else 0)


def histories(folder: Path) -> dict[str, Lines]:
    """Return the lines of history.jsonl by run name."""
    files = (folder / "outputs").glob("sweeps/*/*/history.jsonl")
    return {f"sweeps/demo/{file.parent.name}": [json.loads(text) for text in file.open()] for file in files}


def printed_by(*command: str, folder: Path, **environment: str) -> str:
    """Return what a library's own command prints."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder, capture_output=True, text=True, check=True, env={**os.environ, **environment},
    ).stdout  # fmt: skip


def gathered(points: list[tuple[int, str, float]]) -> Lines:
    """Return history lines from (step, key, value); a second value for a step and key is an error."""
    lines: dict[int, dict[str, float]] = {}
    for step, key, value in points:
        if not key.startswith("whole_run/"):
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
            "final": {key: value for _, key, value in scalars if key.startswith("whole_run/")},
            "samples": [[sample[4:] for sample in text.split("\n")] for text in texts],
            "n_embd": hparam(events, "model.n_embd"),
        }
    return runs


def hparam(events: Any, key: str) -> float:
    from tensorboard.plugins.hparams import metadata  # pyright: ignore[reportMissingImports]

    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    return metadata.parse_session_start_info_plugin_data(content).hparams[key].number_value


def read_wandb(folder: Path) -> dict[str, Any]:
    """Return the runs, each with its parts joined as `wandb sync` sends them one after the other."""
    records: dict[str, list[dict[str, Any]]] = {}
    for file in sorted((folder / "outputs" / "wandb").glob("offline-run-*/*.wandb")):
        printed = printed_by("wandb", "leet", "inspect", "--json", str(file), folder=folder, WANDB_MODE="offline")
        part = [json.loads(text) for text in printed.splitlines()]
        started = next((record["run"] for record in part if record["type"] == "run"), None)
        if started is not None:  # a killed process may have left an empty file
            records.setdefault(started["display_name"], []).extend(part)
    runs = {}
    for name, parts in records.items():
        items = [record["history"]["item"] for record in parts if record["type"] == "history"]
        summary: dict[str, Any] = {}
        for record in parts:
            summary |= record["summary"]["update"] if record["type"] == "summary" else {}
        page = next(folder.rglob(Path(summary["samples"]["path"]).name)).read_text()
        started = [record["run"] for record in parts if record["type"] == "run"]
        assert len({run["run_id"] for run in started}) == 1, "one id for all parts"
        runs[name] = {
            "lines": gathered([
                (item["_step"], key, value) for item in items for key, value in item.items()
                if not key.startswith("_")
            ]),
            "final": {
                key: summary[key] for key in summary if key.startswith("whole_run/") and not key.endswith("/status")
            },
            "samples": [unescape(page[5:-6]).split("\n")],
            "n_embd": started[-1]["config"]["update"]["model"]["n_embd"],
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
            "final": {key: value for key, value in run.data.metrics.items() if key.startswith("whole_run/")},
            "samples": [(artifacts / "samples.txt").read_text()[:-1].split("\n")],
            "n_embd": float(run.data.params["model.n_embd"]),
        }
    return runs


def read_trackio(folder: Path) -> dict[str, Any]:
    def query(sql: str) -> list[dict[str, Any]]:
        store = {"TRACKIO_DIR": str(folder / "outputs" / "trackio")}
        printed = printed_by(
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
            elif key.startswith("whole_run/"):
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
        assert [made["step"] for made in lines] == list(range(LAST + 1)), "history.jsonl itself is complete"
        assert found[run]["lines"] == [{key: kept(value) for key, value in made.items()} for made in lines]
        assert found[run]["final"] == {
            "whole_run/val_loss": kept(lines[-1]["loss"]),
            "whole_run/style_effect.bias": 3.0,
        }
        assert found[run]["samples"] == [["anna", "b<b", ""]]
        assert found[run]["n_embd"] == 16


with_each_library = pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in LOGGERS])


@with_each_library
def test_runs_of_one_process_are_logged_separately(name: str, tmp_path: Path) -> None:
    skip_without(name)
    log_runs(tmp_path, name, 0, LAST, "completed", count=3)
    assert_library_has_the_histories(tmp_path, name, count=3)


@with_each_library
def test_run_stopped_twice_is_one_run_with_each_step_once(name: str, tmp_path: Path) -> None:
    skip_without(name)
    log_runs(tmp_path, name, 0, 30, "interrupted")
    log_runs(tmp_path, name, 30, 45, "killed")
    log_runs(tmp_path, name, 40, LAST, "completed")
    assert_library_has_the_histories(tmp_path, name)


@with_each_library
def test_run_killed_before_its_first_checkpoint_and_after_its_last_line_is_complete(name: str, tmp_path: Path) -> None:
    skip_without(name)
    log_runs(tmp_path, name, 0, 5, "killed")
    log_runs(tmp_path, name, 0, LAST, "killed")
    log_runs(tmp_path, name, LAST, LAST, "completed")
    assert_library_has_the_histories(tmp_path, name)


@with_each_library
def test_run_can_be_resumed_with_another_logger(name: str, tmp_path: Path) -> None:
    skip_without(name)
    log_runs(tmp_path, "none", 0, 30, "interrupted")
    log_runs(tmp_path, name, 20, LAST, "completed")
    assert_library_has_the_histories(tmp_path, name)


if __name__ == "__main__":
    log_like_a_training(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
