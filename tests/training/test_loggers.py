"""Loggers without the libraries: delivery, failures, and what a library receives."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microgpt.errors import UserError
from microgpt.installation import install_command
from microgpt.runs.history import HistoryLine
from microgpt.runs.record import RunRecord
from microgpt.runs.record_json import parse
from microgpt.training.loggers import (
    LOGGERS,
    LoggedRun,
    RunLogger,
    check_installed,
    delivery,
    is_installed,
    make_logger,
)
from microgpt.training.loggers.base import Point, dotted, final_figures, final_texts
from microgpt.training.loggers.delivery import Delivery, warn

CONFIG = {"seed": 1, "model": {"n_embd": 16, "tie_lm_head": True}, "style": {"documents": ["a b", "c"]}, "prompt": None}
LAST = 60


def record_of(**content: Any) -> RunRecord:
    record = parse(RunRecord, {"config": CONFIG, "status": "completed"} | content)
    assert record is not None
    return record


def logged_run(library: str, folder: Path, **content: Any) -> LoggedRun:
    return LoggedRun(library, None, folder / "outputs", folder, record_of(**content))


class FakeLibrary:
    """A library that keeps what `flush` writes, and fails while `broken`."""

    def __init__(self) -> None:
        self.kept: list[Point] = []
        self.buffer: list[Point] = []
        self.broken = False
        self.ended: list[str] = []
        self.calls = 0

    def connect(self) -> "FakeLibrary":
        self.call()
        return self

    def call(self) -> None:
        self.calls += 1
        if self.broken:
            raise OSError("no space left\non device")

    @property
    def last_step(self) -> int:  # as if all that waits in the buffer were kept
        return max((point.step for point in [*self.kept, *self.buffer]), default=-1)

    def write(self, points: Sequence[Point]) -> None:
        self.call()
        self.buffer += points

    def flush(self, count: int) -> None:
        """Keep `count` points of the buffer and lose the others, as if the process were killed."""
        self.kept += self.buffer[:count]
        self.buffer = []

    def close(self, record: RunRecord) -> None:
        self.call()
        self.flush(len(self.buffer))
        self.ended.append(record.status)

    def steps(self) -> list[int]:
        return [point.step for point in self.kept]


def line(step: int, run: int = 0) -> HistoryLine:
    """Return a history line as the loop writes it: no loss at step 0, val_loss at evaluated steps."""
    made: HistoryLine = {"step": step}
    if step > 0:
        made |= {"loss": 3.3 / (1 + step) + run / 7, "lr": 0.01 * (1 - step / LAST)}
    made["tokens"] = step * 7
    if step % 20 == 0:
        made["val_loss"] = 3.1 / (1 + step) + run / 7
    return made


@pytest.fixture(autouse=True)
def _each_line_is_delivered_at_once_and_warnings_are_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "DELIVERY_SECONDS", 0.0)
    monkeypatch.setattr(delivery, "TIME_SHARE", float("inf"))
    monkeypatch.setattr(Delivery, "open_count", 0)
    warn.cache_clear()


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30)), max_size=6))
def test_library_receives_each_line_once_and_in_order_whenever_the_run_is_killed(
    kills: list[tuple[int, int, int]],
) -> None:
    """A kill is (steps of the process, lines of them that the library kept, steps since the last checkpoint)."""
    library, history, start = FakeLibrary(), [], 0
    for done, kept, back in kills:
        history = [made for made in history if made["step"] < start]
        logger = Delivery("fake", library.connect, history)
        for step in range(start, start + done):
            history.append(line(step))
            logger.log([line(step)])
        library.flush(kept)
        start = max(0, start + done - back)
    history = [made for made in history if made["step"] < start]
    logger = Delivery("fake", library.connect, history)
    logger.log([line(start), line(start + 1)])
    logger.finish(record_of(status="completed"))
    reached = max(start + 1, *(library.steps() or [0]))
    assert library.steps() == list(range(reached + 1))
    assert all(point.values == {k: v for k, v in line(point.step).items() if k != "step"} for point in library.kept)


def test_library_failure_is_reported_once_and_its_lines_follow_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    library = FakeLibrary()
    logger = Delivery("fake", library.connect)
    logger.log([line(0)])
    library.broken = True
    logger.log([line(1)])
    calls = library.calls
    logger.log([line(2)])
    assert library.calls == calls, "after a failure nothing is delivered until the run ends"
    library.broken = False
    logger.finish(record_of(status="completed"))
    assert library.steps() == [0, 1, 2]
    assert library.ended == ["completed"]
    printed = capsys.readouterr().err
    assert printed == "warning: logger=fake: no space left; the run goes on, and history.jsonl has every line\n"


def test_failure_of_many_runs_is_reported_once(capsys: pytest.CaptureFixture[str]) -> None:
    library = FakeLibrary()
    library.broken = True
    for _ in range(5):
        logger = Delivery("fake", library.connect)
        logger.log([line(0)])
        logger.finish(record_of(status="failed"))
    assert capsys.readouterr().err.count("\n") == 1
    assert library.ended == []


def test_slow_library_takes_at_most_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "TIME_SHARE", 0.05)
    now = 0.0

    class Slow(FakeLibrary):
        def write(self, points: Sequence[Point]) -> None:
            nonlocal now
            now += 1.0
            super().write(points)

    libraries = [Slow(), Slow()]
    loggers = [Delivery("fake", library.connect, clock=lambda: now) for library in libraries]
    for step in range(1000):
        now += 1.0
        for logger in loggers:
            logger.log([line(step)])
    writes = sum(library.calls - 1 for library in libraries)
    assert 0.03 < writes / now <= 0.05
    assert abs(libraries[0].calls - libraries[1].calls) <= 1, "all runs are served equally"
    for library, logger in zip(libraries, loggers, strict=True):
        logger.finish(record_of(status="completed"))
        assert library.steps() == list(range(1000))


def test_interrupt_is_not_a_library_failure() -> None:
    def interrupted() -> FakeLibrary:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Delivery("fake", interrupted)


def test_no_logger_writes_nothing(tmp_path: Path) -> None:
    logger = make_logger(logged_run("none", tmp_path))
    assert type(logger) is RunLogger
    logger.log([line(0)])
    logger.finish(record_of(status="completed"))
    assert list(tmp_path.iterdir()) == []


def test_absent_library_is_an_error_with_the_install_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("microgpt.training.loggers.is_installed", lambda name: False)
    for name in LOGGERS:
        with pytest.raises(UserError) as refused:
            check_installed(name)
        assert str(refused.value) == f"logger={name} needs {name}: {install_command(name)}"
        with pytest.raises(UserError):
            make_logger(logged_run(name, tmp_path))
    check_installed("none")
    assert list(tmp_path.iterdir()) == []


def test_mlflow_with_a_server_needs_no_database_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microgpt.training.loggers.is_installed", lambda name: name == "mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError):
        check_installed("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    check_installed("mlflow")


def test_folder_with_the_name_of_a_library_is_not_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "not_a_library").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_installed("not_a_library")
    assert is_installed("numpy")


def test_no_library_is_imported_before_a_run_selects_it() -> None:
    code = """
import sys, microgpt.training.loggers as loggers
print(*[name for name in loggers.LOGGERS if name in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_run_is_described_by_its_flat_configuration_and_its_sweep(tmp_path: Path) -> None:
    content = {"config_hash": "f00", "overrides": ["seed=1", "style=x"]}
    run = logged_run("wandb", tmp_path, run_id="sweeps/ab_12/3", **content)
    assert run.settings()["model.n_embd"] == 16
    assert run.settings()["overrides"] == "seed=1 style=x"
    assert (run.name, run.group) == ("sweeps/ab_12/3", "sweeps/ab_12")
    assert logged_run("wandb", tmp_path, run_id="2026-01-01/12-00-00_ab").group is None


def test_each_library_has_its_own_id_of_a_run(tmp_path: Path) -> None:
    one, two = (logged_run(name, tmp_path) for name in ("wandb", "mlflow"))
    assert one.known_id() is None
    one.save_id("abc")
    two.save_id("def")
    assert (one.known_id(), two.known_id()) == ("abc", "def")
    one.forget_id()
    assert (one.known_id(), two.known_id()) == (None, "def")
    (tmp_path / "logger.json").write_text("{")
    assert two.known_id() is None


def test_interrupted_run_has_no_final_figures() -> None:
    content = {
        "metrics": {"val_loss": 2.0, "best_step": None, "style_effect": {"bias": 3.0}},
        "samples": ["x"],
    }
    assert final_figures(record_of(**content)) == {"whole_run/val_loss": 2.0, "whole_run/style_effect.bias": 3.0}
    assert final_texts(record_of(**content, status="failed", error="why")) == {"samples": "x", "error": "why"}
    assert final_figures(record_of(**content, status="interrupted")) == {}
    assert final_texts(record_of(**content, status="interrupted", error="stopped")) == {}
    assert final_figures(record_of(status="failed")) == {}


@given(st.recursive(st.integers(), lambda inner: st.dictionaries(st.text("ab", min_size=1), inner, max_size=3)))
def test_dotted_keys_lead_to_the_values_they_came_from(tree: Any) -> None:
    for path, value in dotted({"root": tree}).items():
        found: Any = {"root": tree}
        for key in path.split("."):
            found = found[key]
        assert found == value
