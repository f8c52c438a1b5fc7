"""Folders of runs: one for each run, the old one for a run that was stopped, never one for two runs at a time."""

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
from microgpt.runs.checkpoint import CheckpointStore
from microgpt.runs.checkpoint_format import Meta, Progress
from microgpt.runs.folders import (
    Place,
    RunFolder,
    claim,
    find_stopped,
    make_unique,
    place_of_run,
    try_lock,
)
from microgpt.runs.record import RunRecord

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


def single(outputs: Path, **changes: str | None) -> Place:
    return replace(place_of_run(str(outputs), HASH, DATA), **changes)


def earlier_run(
    path: Path, status: str = "running", config_hash: str = HASH, data: str | None = DATA, run_id: str = ""
) -> Path:
    path.mkdir(parents=True)
    record = {"status": status, "config_hash": config_hash, "data": data and {"sha256": data}, "run_id": run_id}
    (path / "run.json").write_text(json.dumps(record))
    return path


@contextmanager
def held_elsewhere(path: Path) -> Iterator[subprocess.Popen]:
    """The lock of a folder in the hands of another process."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def stopped(place: Place) -> Path | None:
    """The folder that would be resumed, given back at once."""
    found = find_stopped(place, 2)
    if found is None:
        return None
    found.release()
    return found.path


# New folders


def test_a_run_has_a_folder_by_date_time_and_hash(tmp_path):
    folder = claim(place_of_run(str(tmp_path), HASH, DATA), resume=True, keep_checkpoints=2)
    date, name = folder.path.relative_to(tmp_path).parts
    assert name.endswith("_01234567")
    assert len(date.split("-")) == 3
    assert folder.earlier is None
    assert folder.checkpoint is None
    folder.release()


def test_twenty_threads_that_ask_for_one_name_get_twenty_folders(tmp_path):
    place, start, claimed = single(tmp_path), threading.Barrier(20), []

    def work() -> None:
        start.wait()
        claimed.append(claim(place, False, 2))

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({folder.path for folder in claimed}) == 20
    assert all(try_lock(folder.path) is None for folder in claimed)
    for folder in claimed:
        folder.release()


def claim_five(place, start, results) -> None:
    start.wait()
    held = [claim(place, False, 2) for _ in range(5)]
    results.put([str(folder.path) for folder in held])


def test_processes_that_ask_for_one_name_get_a_folder_each(tmp_path):
    context = multiprocessing.get_context("spawn")
    start, results, place = context.Barrier(4), context.Queue(), single(tmp_path)
    workers = [context.Process(target=claim_five, args=(place, start, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    paths = [path for _ in workers for path in results.get(timeout=60)]
    for worker in workers:
        worker.join()
    assert len(set(paths)) == len(paths) == 20
    assert {Path(path).name for path in paths} == {place.name, *(f"{place.name}-{i}" for i in range(2, 21))}


def test_a_name_that_is_taken_gets_a_number(tmp_path):
    assert [make_unique(tmp_path, "a").name for _ in range(3)] == ["a", "a-2", "a-3"]
    (tmp_path / "b").write_text("a file")
    assert make_unique(tmp_path, "b").name == "b-2"


def test_outputs_that_cannot_be_written_are_a_sentence(tmp_path):
    (tmp_path / "outputs").write_text("a file")
    with pytest.raises(UserError, match=r"outputs_dir=.*outputs cannot be written: "):
        claim(single(tmp_path / "outputs"), resume=True, keep_checkpoints=2)


# The lock


def test_a_claimed_folder_is_locked_until_it_is_released(tmp_path):
    folder = claim(single(tmp_path), False, 2)
    assert try_lock(folder.path) is None
    folder.release()
    again = try_lock(folder.path)
    assert again is not None
    again.release()


def test_a_process_that_was_killed_gives_its_lock_back(tmp_path):
    path = earlier_run(tmp_path / "2026-01-01" / "10-00-00_01234567")
    with held_elsewhere(path) as process:
        assert stopped(single(tmp_path)) is None
        process.kill()
        process.wait()
        assert stopped(single(tmp_path)) == path


def test_releasing_a_folder_never_undoes_the_lock_of_its_next_owner(tmp_path):
    folder = claim(single(tmp_path), False, 2)
    next_owner: list[FileLock | None] = []
    give_back = folder.lock.release

    class Released:
        """The next owner comes right after the lock is free."""

        lock_file = folder.lock.lock_file

        def release(self) -> None:
            give_back()
            next_owner.append(try_lock(folder.path))

    RunFolder(folder.path, "id", Released()).release()  # type: ignore[arg-type]
    assert next_owner[0] is not None
    assert try_lock(folder.path) is None
    next_owner[0].release()


# A run to go on with


@pytest.mark.parametrize("status", ["running", "interrupted"])
def test_a_stopped_run_is_found_and_held(tmp_path, status):
    path = earlier_run(tmp_path / "2026-01-01" / "10-00-00_01234567", status, run_id="first")
    found = find_stopped(single(tmp_path), 2)
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
def test_what_is_another_run_or_has_ended_is_not_resumed(tmp_path, changes):
    earlier_run(tmp_path / "2026-01-01" / "10-00-00_01234567", **changes)
    assert find_stopped(single(tmp_path), 2) is None


@pytest.mark.parametrize("content", [b"", b'{"status": "running", "conf', b"[]", b"null", b"\xff\xfe", None])
def test_a_folder_without_a_readable_record_is_passed_over(tmp_path, content):
    older = earlier_run(tmp_path / "2026-01-01" / "10-00-00_01234567")
    broken = tmp_path / "2026-01-02" / "10-00-00_01234567"
    broken.mkdir(parents=True)
    if content is not None:
        (broken / "run.json").write_bytes(content)
    assert RunRecord.read(broken) is None
    assert stopped(single(tmp_path)) == older


def test_the_newest_stopped_run_is_preferred(tmp_path):
    for name in ("2026-01-01/23-59-59_01234567", "2026-01-02/00-00-01_01234567", "2025-12-31/12-00-00_01234567"):
        earlier_run(tmp_path / name)
    assert stopped(single(tmp_path)) == tmp_path / "2026-01-02" / "00-00-01_01234567"


def test_the_second_attempt_of_a_second_is_newer_than_the_first(tmp_path):
    for name in ("10-00-00_01234567", "10-00-00_01234567-2"):
        earlier_run(tmp_path / "2026-01-01" / name)
    assert stopped(single(tmp_path)) == tmp_path / "2026-01-01" / "10-00-00_01234567-2"


def test_the_tenth_attempt_is_newer_than_the_second(tmp_path):
    day = tmp_path / "2026-01-01"
    names = [f"10-00-00_01234567{attempt}" for attempt in ("", "-2", "-9", "-10")]
    for name in names:
        earlier_run(day / name)
    assert stopped(single(tmp_path)) == day / names[-1]


def test_a_run_that_lives_in_another_process_is_passed_over(tmp_path):
    older = earlier_run(tmp_path / "2026-01-01" / "10-00-00_01234567")
    newer = earlier_run(tmp_path / "2026-01-02" / "10-00-00_01234567")
    with held_elsewhere(newer):
        assert stopped(single(tmp_path)) == older
        with held_elsewhere(older):
            assert stopped(single(tmp_path)) is None
    assert stopped(single(tmp_path)) == newer


def test_two_claims_never_resume_one_run(tmp_path):
    path = earlier_run(tmp_path / "2026-01-01" / "10-00-00_01234567")
    first, second = (claim(single(tmp_path), True, 2) for _ in range(2))
    assert first.path == path
    assert second.path != path
    first.release()
    second.release()


def test_without_resume_a_stopped_run_is_left_alone(tmp_path):
    path = earlier_run(tmp_path / "2026-01-01" / "10-00-00_01234567")
    folder = claim(single(tmp_path), False, 2)
    assert folder.path != path
    assert folder.earlier is None
    folder.release()


def test_a_hash_that_only_begins_alike_is_another_run(tmp_path):
    earlier_run(tmp_path / "2026-01-01" / "10-00-00_01234567", config_hash=OTHER_HASH)
    assert OTHER_HASH[:8] == HASH[:8]
    assert find_stopped(single(tmp_path), 2) is None


def test_a_run_that_ends_while_it_is_being_claimed_is_not_resumed(tmp_path, monkeypatch):
    path = earlier_run(tmp_path / "2026-01-01" / "10-00-00_01234567")
    found = RunRecord.read(path)
    assert found is not None
    records = iter([found, replace(found, status="completed")])
    monkeypatch.setattr(RunRecord, "read", lambda folder: next(records))
    assert find_stopped(single(tmp_path), 2) is None
    lock = try_lock(path)
    assert lock is not None  # it was given back
    lock.release()


def test_a_resumed_run_goes_on_from_its_newest_whole_checkpoint(tmp_path):
    path = earlier_run(tmp_path / "2026-01-01" / "10-00-00_01234567")
    spec = ModelSpec("bigram", vocab_size=3, n_embd=3, n_head=1, n_layer=0, block_size=4)
    state = EngineState({name: np.zeros((1, *shape)) for name, shape in spec.shapes().items()})
    store = CheckpointStore(path / "checkpoint", keep=3)
    for step in (5, 10):
        store.save(Meta(spec, ["a", "b"]), state, Progress(step=step))
    (path / "checkpoint" / "step_00000010" / "weights.safetensors").write_bytes(b"torn")
    found = find_stopped(single(tmp_path), 3)
    assert found is not None
    assert found.checkpoint is not None
    assert found.checkpoint.progress.step == 5
    found.release()
