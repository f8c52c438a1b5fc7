"""Loggers: what history.jsonl has, each library has too, once, with the same values, however the run was stopped.

The libraries are extras: what needs one is skipped where it is absent. Each is asked with its own reader.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microgpt.errors import UserError
from microgpt.training.loggers import (
    LOGGERS,
    LoggerOptions,
    NoLogger,
    check_installed,
    delivery,
    is_installed,
    make_logger,
    where_to_look,
)
from microgpt.training.loggers.base import LoggedRun, Point, dotted, final_figures, final_texts
from microgpt.training.loggers.delivery import Delivery, warn

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
    loggers = [Delivery("shelf", shelf.connect, clock=lambda: now) for shelf in shelves]
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
    monkeypatch.setattr("microgpt.training.loggers.is_installed", lambda name: False)
    for name in LOGGERS:
        with pytest.raises(UserError) as refused:
            check_installed(name)
        assert str(refused.value) == f"logger={name} needs {name}: pip install 'microgpt[{name}]'"
        with pytest.raises(UserError):
            make_logger(LoggerOptions(name, store=tmp_path), tmp_path, {"config": CONFIG})
    check_installed("none")
    assert list(tmp_path.iterdir()) == []


def test_the_database_s_libraries_are_not_asked_for_where_mlflow_has_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microgpt.training.loggers.is_installed", lambda name: name == "mlflow")
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
    code = """
import sys, microgpt.training.loggers as loggers
print(*[name for name in loggers.LOGGERS if name in sys.modules])
"""
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
    assert final_figures({**record, "status": "completed"}) == {
        "whole_run/val_loss": 2.0,
        "whole_run/style_effect.bias": 3.0,
    }
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
