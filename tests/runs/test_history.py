"""history.jsonl: full precision, and the lines that a resumed run keeps."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from microgpt.runs.history import History


def history_of(folder, steps) -> History:
    history = History(folder / "history.jsonl")
    history.write([{"step": step, "loss": 1 / 3 + step} for step in steps])
    return history


def test_lines_are_read_as_written_in_full_precision(tmp_path):
    history = history_of(tmp_path, [0, 1])
    history.write([{"step": 2, "loss": 0.1 + 0.2, "val_loss": 1e-300}])
    assert history.lines() == [
        {"step": 0, "loss": 1 / 3},
        {"step": 1, "loss": 1 / 3 + 1},
        {"step": 2, "loss": 0.1 + 0.2, "val_loss": 1e-300},
    ]


def test_missing_history_is_empty(tmp_path):
    history = History(tmp_path / "history.jsonl")
    assert history.lines() == []
    history.rewind(0)
    assert history.lines() == []


@pytest.mark.parametrize(("step", "kept"), [(0, []), (5, [0, 1]), (10, [0, 1, 5]), (11, [0, 1, 5, 10])])
def test_rewind_drops_the_lines_from_the_step_on(tmp_path, step, kept):
    history = history_of(tmp_path, [0, 1, 5, 10])
    history.rewind(step)
    assert [line["step"] for line in history.lines()] == kept
    assert history.path.read_text().count("\n") == len(kept)


def test_rewind_does_not_change_the_lines_it_keeps(tmp_path):
    history = history_of(tmp_path, [0, 1, 5])
    before = history.path.read_bytes()
    history.rewind(6)
    assert history.path.read_bytes() == before


@pytest.mark.parametrize("cut", range(1, 20))
def test_rewind_drops_a_line_that_a_crash_left_unfinished(tmp_path, cut):
    history = history_of(tmp_path, [0, 1])
    whole = history.path.read_text()
    last = json.dumps({"step": 2, "loss": 12.5})
    history.path.write_text(whole + last[: min(cut, len(last) - 1)])
    history.rewind(50)
    assert history.path.read_text() == whole


def test_rewound_history_continues_with_whole_lines(tmp_path):
    history = history_of(tmp_path, [0, 1, 2])
    with history.path.open("a") as file:
        file.write('{"step": 3, "lo')
    history.rewind(2)
    history.write([{"step": 2, "loss": 0.5}])
    assert [json.loads(line)["step"] for line in history.path.read_text().splitlines()] == [0, 1, 2]


def test_crash_during_rewind_loses_no_earlier_line(tmp_path, monkeypatch):
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


def test_rewind_replaces_the_file(tmp_path: Path) -> None:
    """If the file were rewritten in place, a crash could lose all lines."""
    history = History(tmp_path / "history.jsonl")
    history.write([{"step": step} for step in range(5)])
    before = tmp_path / "as_it_was.jsonl"
    before.hardlink_to(history.path)
    history.rewind(3)
    assert [line["step"] for line in history.lines()] == [0, 1, 2]
    assert len(before.read_text().splitlines()) == 5
