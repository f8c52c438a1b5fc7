"""Watching a run from inside: memory, signals, and the history that a resumed run takes up."""

import contextlib
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microgpt.errors import MemoryDriftError
from microgpt.runs.history import History
from microgpt.training.guards import MemoryDriftGuard, StopRequest, resident_memory, stop_on_signals

property_test = settings(deadline=None, database=None, max_examples=60)


# Memory


def test_memory_drift_is_told_in_these_words():
    guard = MemoryDriftGuard(max_growth_ratio=1.2)
    guard.observe(90)
    guard.observe(100)
    with pytest.raises(MemoryDriftError) as caught:
        guard.observe(150)
    assert str(caught.value) == (
        "eval memory drift detected: baseline=100B current=150B growth_ratio=1.500 max_growth_ratio=1.200"
    )


def test_growth_up_to_the_ratio_is_allowed():
    guard = MemoryDriftGuard(max_growth_ratio=1.25)
    for observed in (100, 100, 125, 1, 125):
        guard.observe(observed)
    with pytest.raises(MemoryDriftError, match=r"current=126B growth_ratio=1\.260 max_growth_ratio=1\.250"):
        guard.observe(126)


def test_the_baseline_is_the_largest_observation_of_the_warm_up():
    guard = MemoryDriftGuard(max_growth_ratio=1.2)
    for observed in (200, 100, 240):
        guard.observe(observed)
    assert guard.baseline == 200


def test_growth_within_the_warm_up_is_no_drift():
    guard = MemoryDriftGuard(max_growth_ratio=1.0, warmup_observations=3)
    for observed in (1, 1000, 5, 1000):
        guard.observe(observed)
    with pytest.raises(MemoryDriftError):
        guard.observe(1001)


def test_later_observations_do_not_move_the_baseline():
    guard = MemoryDriftGuard(max_growth_ratio=1.2)
    for observed in (100, 100, 119, 120):
        guard.observe(observed)
    with pytest.raises(MemoryDriftError, match="baseline=100B current=130B"):
        guard.observe(130)


@property_test
@given(st.lists(st.integers(1, 10**12), min_size=3, max_size=8), st.floats(1, 3))
def test_the_guard_raises_exactly_beyond_the_ratio(observed, ratio):
    guard = MemoryDriftGuard(ratio)
    baseline = max(observed[:2])
    for i, size in enumerate(observed):
        if i >= 2 and size / baseline > ratio:
            with pytest.raises(MemoryDriftError):
                guard.observe(size)
            return
        guard.observe(size)


def test_resident_memory_is_in_bytes():
    assert 10**6 < resident_memory() < 10**11


# Signals


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_becomes_a_request_to_stop(number):
    with stop_on_signals() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
        assert stop.signal_number == number


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once(first, second):
    with stop_on_signals() as stop:
        os.kill(os.getpid(), first)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), second)
        assert stop.signal_number == first


def test_the_handlers_are_put_back():
    before = handlers()
    with stop_on_signals():
        assert handlers() != before
    assert handlers() == before


def test_the_handlers_are_put_back_after_an_error():
    before = handlers()
    with pytest.raises(ZeroDivisionError), stop_on_signals():
        raise ZeroDivisionError
    assert handlers() == before


def test_after_the_context_a_signal_is_handled_as_before():
    with stop_on_signals() as stop:
        pass
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert not stop


def test_outside_the_main_thread_no_handler_is_touched():
    before, found = handlers(), []

    def work() -> None:
        with stop_on_signals() as stop:
            found.append((handlers() == before, bool(stop)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(True, False)]


def test_a_fresh_request_is_false():
    assert not StopRequest()


# History


def history_of(folder, steps) -> History:
    history = History(folder / "history.jsonl")
    history.write([{"step": step, "loss": 1 / 3 + step} for step in steps])
    return history


def test_what_is_written_is_read_with_full_precision(tmp_path):
    history = history_of(tmp_path, [0, 1])
    history.write([{"step": 2, "loss": 0.1 + 0.2, "val_loss": 1e-300}])
    assert history.lines() == [
        {"step": 0, "loss": 1 / 3},
        {"step": 1, "loss": 1 / 3 + 1},
        {"step": 2, "loss": 0.1 + 0.2, "val_loss": 1e-300},
    ]


def test_a_history_that_does_not_exist_yet_is_empty(tmp_path):
    history = History(tmp_path / "history.jsonl")
    assert history.lines() == []
    history.rewind(0)
    assert history.lines() == []


@pytest.mark.parametrize(("step", "kept"), [(0, []), (5, [0, 1]), (10, [0, 1, 5]), (11, [0, 1, 5, 10])])
def test_rewinding_drops_the_lines_from_a_step_on(tmp_path, step, kept):
    history = history_of(tmp_path, [0, 1, 5, 10])
    history.rewind(step)
    assert [line["step"] for line in history.lines()] == kept
    assert history.path.read_text().count("\n") == len(kept)


def test_rewinding_changes_nothing_of_what_it_keeps(tmp_path):
    history = history_of(tmp_path, [0, 1, 5])
    before = history.path.read_bytes()
    history.rewind(6)
    assert history.path.read_bytes() == before


@pytest.mark.parametrize("cut", range(1, 20))
def test_rewinding_drops_a_line_that_a_crash_left_unfinished(tmp_path, cut):
    history = history_of(tmp_path, [0, 1])
    whole = history.path.read_text()
    last = json.dumps({"step": 2, "loss": 12.5})
    history.path.write_text(whole + last[: min(cut, len(last) - 1)])
    history.rewind(50)
    assert history.path.read_text() == whole


def test_a_rewound_history_goes_on_with_whole_lines(tmp_path):
    history = history_of(tmp_path, [0, 1, 2])
    with history.path.open("a") as file:
        file.write('{"step": 3, "lo')
    history.rewind(2)
    history.write([{"step": 2, "loss": 0.5}])
    assert [json.loads(line)["step"] for line in history.path.read_text().splitlines()] == [0, 1, 2]


def test_a_crash_while_rewinding_loses_no_earlier_line(tmp_path, monkeypatch):
    history = history_of(tmp_path, [0, 1, 2])
    real_open = Path.open

    def open_and_crash(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        file = real_open(path, mode, *arguments, **options)
        if "w" in mode:  # emptied, and not written yet
            file.close()
            raise KeyboardInterrupt
        return file

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(Path, "open", open_and_crash)
        history.rewind(2)
    assert [line["step"] for line in history.lines()][:2] == [0, 1]
