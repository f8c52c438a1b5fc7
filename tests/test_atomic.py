"""Atomic writes leave the old or the new content and no other file."""

import errno
import json
import math
import os
from pathlib import Path

import pytest
from support.checkpoints import saved

from microgpt.atomic import write_atomically, write_json
from microgpt.config.hydra_errors import explain
from microgpt.runs.checkpoint_store import CheckpointStore
from microgpt.runs.history import History


@pytest.mark.parametrize("content", ["zoë\n", b"\x00\xff", "", "\r\n"])
def test_content_is_written_unchanged(tmp_path, content):
    write_atomically(tmp_path / "new" / "folder" / "file", content)
    expected = content.encode() if isinstance(content, str) else content
    assert (tmp_path / "new" / "folder" / "file").read_bytes() == expected


def test_writing_replaces_the_file_and_leaves_no_other(tmp_path):
    for content in ("old", "new"):
        write_atomically(tmp_path / "file", content)
    assert (tmp_path / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("failing", [(os, "fsync"), (Path, "replace"), (os, "write")])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_keeps_the_old_content_and_leaves_no_other_file(tmp_path, monkeypatch, failing, error):
    write_atomically(tmp_path / "file", "old")

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(*failing, fail)
        with pytest.raises(type(error)):
            write_atomically(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is of Linux")
def test_full_disk_names_the_path_that_is_written(tmp_path, monkeypatch):
    with pytest.raises(OSError, match="No space left") as full:
        History(Path("/dev/full")).write([{"step": 1}])
    assert explain(full.value) == ("/dev/full: No space left on device", 1)
    with pytest.raises(OSError, match="No space left") as full, open("/dev/full", "w") as output:  # noqa: PTH123
        output.write("a line")
    assert explain(full.value) == ("standard output: No space left on device", 1), "every file of a run is named"

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    for path, write in (
        (tmp_path / "run" / "run.json", lambda: write_json(tmp_path / "run" / "run.json", {})),
        (tmp_path / "step_00000001", lambda: saved(CheckpointStore(tmp_path, 1), 1)),
    ):
        with pytest.raises(OSError, match="No space left") as full:
            write()
        assert explain(full.value) == (f"{path}: No space left on device", 1)


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", "text")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_numbers_are_an_error_and_keep_the_old_file(tmp_path, value):
    write_json(tmp_path / "it.json", {"loss": 1.0})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "it.json", {"loss": value})
    assert json.loads((tmp_path / "it.json").read_text()) == {"loss": 1.0}


def test_json_keeps_floats_and_characters(tmp_path):
    document = {"loss": 0.1 + 0.2, "text": "zoë\u2028💥", "none": None, "list": [1, True]}
    write_json(tmp_path / "it.json", document)
    assert json.loads((tmp_path / "it.json").read_text("utf-8")) == document
    assert "zoë" in (tmp_path / "it.json").read_text("utf-8")


def test_json_holds_file_names_that_are_not_utf8(tmp_path):
    # As data.path and the command line come from the operating system.
    name = os.fsdecode(b"caf\xe9.txt")
    write_json(tmp_path / "it.json", {"command": name})
    assert json.loads((tmp_path / "it.json").read_bytes()) == {"command": name}
