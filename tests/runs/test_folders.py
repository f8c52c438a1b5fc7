"""Folders of runs: new folders, interrupted runs, and the lock that prevents two runs from using one folder."""

import json
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from microgpt.engines.base import EngineState
from microgpt.errors import UserError
from microgpt.model.spec import ModelSpec
from microgpt.runs.checkpoint_format import Meta, Progress
from microgpt.runs.checkpoint_store import CheckpointStore
from microgpt.runs.folders import (
    RunFolder,
    claim,
    find_interrupted,
    make_unique,
    try_lock,
)
from microgpt.runs.record import RunIdentity, RunRecord

HASH, OTHER_HASH = "0123456789abcdef", "0123456799999999"
DATA, OTHER_DATA = "d" * 64, "e" * 64
# Holds the lock of argv[1] until its standard input closes.
HOLDER = """
import sys
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire(timeout=0)
print("held", flush=True)
sys.stdin.read()
"""


def claimed(outputs: Path, resume: bool = False) -> RunFolder:
    return claim(outputs, RunIdentity(HASH, DATA), resume, keep_checkpoints=2)


def interrupted(outputs: Path, keep_checkpoints: int = 2) -> RunFolder | None:
    return find_interrupted(outputs, RunIdentity(HASH, DATA), keep_checkpoints)


def earlier_run(
    path: Path, status: str = "running", config_hash: str = HASH, data: str | None = DATA, run_id: str = ""
) -> Path:
    path.mkdir(parents=True)
    record = {"status": status, "config_hash": config_hash, "data": data and {"sha256": data}, "run_id": run_id}
    (path / "run.json").write_text(json.dumps(record))
    return path


@contextmanager
def held_elsewhere(path: Path) -> Iterator[subprocess.Popen]:
    """Hold the lock of a folder in another process."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def resumable(outputs: Path) -> Path | None:
    """Return the folder that would be resumed, without keeping its lock."""
    found = interrupted(outputs)
    if found is None:
        return None
    found.release()
    return found.path


# New folders


def test_a_run_has_a_folder_by_date_time_and_hash(tmp_path):
    folder = claimed(tmp_path, resume=True)
    date, name = folder.path.relative_to(tmp_path).parts
    assert name.endswith("_01234567")
    assert len(date.split("-")) == 3
    assert folder.earlier is None
    assert folder.checkpoint is None
    folder.release()


def test_twenty_threads_get_twenty_locked_folders(tmp_path):
    start, folders = threading.Barrier(20), []

    def work() -> None:
        start.wait()
        folders.append(claimed(tmp_path))

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({folder.path for folder in folders}) == 20
    assert all(try_lock(folder.path) is None for folder in folders)
    for folder in folders:
        folder.release()


def make_five(parent, start, results) -> None:
    start.wait()
    results.put([make_unique(parent, "run").name for _ in range(5)])


def test_processes_that_ask_for_one_name_get_a_folder_each(tmp_path):
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(4), context.Queue()
    workers = [context.Process(target=make_five, args=(tmp_path, start, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    names = [name for _ in workers for name in results.get(timeout=60)]
    for worker in workers:
        worker.join()
    assert sorted(names) == sorted(["run", *(f"run-{number}" for number in range(2, 21))])


def test_a_name_that_is_taken_gets_a_number(tmp_path):
    assert [make_unique(tmp_path, "a").name for _ in range(3)] == ["a", "a-2", "a-3"]
    (tmp_path / "b").write_text("a file")
    assert make_unique(tmp_path, "b").name == "b-2"


def test_outputs_that_cannot_be_written_are_a_user_error(tmp_path):
    (tmp_path / "outputs").write_text("a file")
    with pytest.raises(UserError, match=r"outputs_dir=.*outputs cannot be written: "):
        claimed(tmp_path / "outputs", resume=True)


# The lock


def test_a_claimed_folder_is_locked_until_it_is_released(tmp_path):
    folder = claimed(tmp_path)
    assert try_lock(folder.path) is None
    folder.release()
    again = try_lock(folder.path)
    assert again is not None
    again.release()


def test_the_lock_of_a_killed_process_is_released(tmp_path):
    path = earlier_run(tmp_path / "2026-01-01" / "10-00-00_01234567")
    with held_elsewhere(path) as process:
        assert resumable(tmp_path) is None
        process.kill()
        process.wait()
        assert resumable(tmp_path) == path


def test_release_does_not_affect_the_lock_of_the_next_owner(tmp_path):
    folder = claimed(tmp_path)
    next_owner: list[FileLock | None] = []
    give_back = folder.lock.release

    class Released:
        """Another owner takes the lock as soon as it is free."""

        lock_file = folder.lock.lock_file

        def release(self) -> None:
            give_back()
            next_owner.append(try_lock(folder.path))

    RunFolder(folder.path, "id", Released()).release()  # type: ignore[arg-type]
    assert next_owner[0] is not None
    assert try_lock(folder.path) is None
    next_owner[0].release()


# Interrupted runs


@pytest.mark.parametrize("status", ["running", "interrupted"])
def test_an_interrupted_run_is_found_and_locked(tmp_path, status):
    path = earlier_run(tmp_path / "2026-01-01" / "10-00-00_01234567", status, run_id="first")
    found = interrupted(tmp_path)
    assert found is not None
    assert found.path == path
    assert found.earlier is not None
    assert found.earlier.run_id == "first"
    assert found.checkpoint is None
    assert try_lock(path) is None
    found.release()


@pytest.mark.parametrize("changes", [
    {"status": "completed"},
    {"status": "failed"},
    {"config_hash": OTHER_HASH},
    {"data": OTHER_DATA},
    {"data": None},
])  # fmt: skip
def test_another_run_and_one_that_has_ended_are_not_resumed(tmp_path, changes):
    earlier_run(tmp_path / "2026-01-01" / "10-00-00_01234567", **changes)
    assert interrupted(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b'{"status": "running", "conf', b"[]", b"null", b"\xff\xfe", None])
def test_a_folder_without_a_readable_record_is_skipped(tmp_path, content):
    older = earlier_run(tmp_path / "2026-01-01" / "10-00-00_01234567")
    broken = tmp_path / "2026-01-02" / "10-00-00_01234567"
    broken.mkdir(parents=True)
    if content is not None:
        (broken / "run.json").write_bytes(content)
    assert RunRecord.read(broken) is None
    assert resumable(tmp_path) == older


def test_the_newest_interrupted_run_is_resumed(tmp_path):
    for name in ("2026-01-01/23-59-59_01234567", "2026-01-02/00-00-01_01234567", "2025-12-31/12-00-00_01234567"):
        earlier_run(tmp_path / name)
    assert resumable(tmp_path) == tmp_path / "2026-01-02" / "00-00-01_01234567"


def test_the_second_attempt_of_a_second_is_newer_than_the_first(tmp_path):
    for name in ("10-00-00_01234567", "10-00-00_01234567-2"):
        earlier_run(tmp_path / "2026-01-01" / name)
    assert resumable(tmp_path) == tmp_path / "2026-01-01" / "10-00-00_01234567-2"


def test_the_tenth_attempt_is_newer_than_the_second(tmp_path):
    day = tmp_path / "2026-01-01"
    names = [f"10-00-00_01234567{attempt}" for attempt in ("", "-2", "-9", "-10")]
    for name in names:
        earlier_run(day / name)
    assert resumable(tmp_path) == day / names[-1]


def test_a_run_of_another_process_is_skipped(tmp_path):
    older = earlier_run(tmp_path / "2026-01-01" / "10-00-00_01234567")
    newer = earlier_run(tmp_path / "2026-01-02" / "10-00-00_01234567")
    with held_elsewhere(newer):
        assert resumable(tmp_path) == older
        with held_elsewhere(older):
            assert resumable(tmp_path) is None
    assert resumable(tmp_path) == newer


def test_two_claims_never_resume_one_run(tmp_path):
    path = earlier_run(tmp_path / "2026-01-01" / "10-00-00_01234567")
    first, second = (claimed(tmp_path, resume=True) for _ in range(2))
    assert first.path == path
    assert second.path != path
    first.release()
    second.release()


def test_without_resume_the_folder_is_new(tmp_path):
    path = earlier_run(tmp_path / "2026-01-01" / "10-00-00_01234567")
    folder = claimed(tmp_path)
    assert folder.path != path
    assert folder.earlier is None
    folder.release()


def test_a_hash_with_the_same_prefix_is_another_run(tmp_path):
    earlier_run(tmp_path / "2026-01-01" / "10-00-00_01234567", config_hash=OTHER_HASH)
    assert OTHER_HASH[:8] == HASH[:8]
    assert interrupted(tmp_path) is None


def test_a_run_that_ends_while_it_is_being_claimed_is_not_resumed(tmp_path, monkeypatch):
    path = earlier_run(tmp_path / "2026-01-01" / "10-00-00_01234567")
    found = RunRecord.read(path)
    assert found is not None
    records = iter([found, replace(found, status="completed")])
    monkeypatch.setattr(RunRecord, "read", lambda folder: next(records))
    assert interrupted(tmp_path) is None
    lock = try_lock(path)
    assert lock is not None  # it was released
    lock.release()


def test_a_run_is_resumed_from_its_newest_valid_checkpoint(tmp_path):
    path = earlier_run(tmp_path / "2026-01-01" / "10-00-00_01234567")
    spec = ModelSpec("bigram", vocab_size=3, n_embd=3, n_head=1, n_layer=0, block_size=4)
    state = EngineState({name: np.zeros((1, *shape)) for name, shape in spec.shapes().items()})
    store = CheckpointStore(path / "checkpoint", keep=3)
    for step in (5, 10):
        store.save(Meta(spec, ["a", "b"]), state, Progress(step=step))
    (path / "checkpoint" / "step_00000010" / "weights.safetensors").write_bytes(b"torn")
    found = interrupted(tmp_path, 3)
    assert found is not None
    assert found.checkpoint is not None
    assert found.checkpoint.progress.step == 5
    found.release()
