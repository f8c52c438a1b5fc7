"""Folders of runs: a new one for a new run, the earlier one for an interrupted run, each used by one process at a time.

    outputs/<date>/<time>_<first 8 digits of the configuration's hash>/

A run holds a lock on its folder as long as it lives; the operating system releases the lock when the process dies. So a
record that says "running" in a folder without a lock belongs to a run that was killed. The folders and locks of a
sweep's jobs are in sweeps/folder.py.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from microgpt.errors import UserError
from microgpt.runs.checkpoint import Checkpoint, CheckpointStore
from microgpt.runs.record import STOPPED, Invocation, RunIdentity, RunRecord, timestamp

HISTORY = "history.jsonl"
SAMPLES = "samples.txt"


@dataclass
class RunFolder:
    """A run's folder, locked by this process."""

    path: Path
    run_id: str  # the path below the outputs
    lock: FileLock
    earlier: RunRecord | None = None  # of an earlier attempt in this folder
    checkpoint: Checkpoint | None = None  # to resume from

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoint"

    def release(self) -> None:
        """Release the lock. Its file stays: the next owner may hold it already."""
        self.lock.release()


def claim(outputs: Path, identity: RunIdentity, resume: bool, keep_checkpoints: int) -> RunFolder:
    """Return the folder of the newest interrupted run of this identity, else a new one. Raises UserError."""
    if resume and (found := find_interrupted(outputs, identity, keep_checkpoints)) is not None:
        return found
    now = datetime.now(UTC).astimezone()
    parent = outputs / f"{now:%Y-%m-%d}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        path = make_unique(parent, f"{now:%H-%M-%S}_{identity.config_hash[:8]}")
    except OSError as error:
        raise UserError(f"outputs_dir={outputs} cannot be written: {error.strerror}") from error
    lock = try_lock(path)
    if lock is None:
        raise UserError(f"outputs_dir={outputs} cannot be written: {path} takes no lock")
    return RunFolder(path, run_id_of(path, outputs), lock)


def find_interrupted(outputs: Path, identity: RunIdentity, keep_checkpoints: int) -> RunFolder | None:
    """Return the newest folder of a run that was interrupted or killed, locked; None if there is none."""
    candidates = outputs.glob(f"????-??-??/*_{identity.config_hash[:8]}*")
    for path in sorted(candidates, key=attempt_order, reverse=True):
        record = RunRecord.read(path)
        if record is None or record.status not in STOPPED or record.identity != identity:
            continue
        lock = try_lock(path)
        if lock is None:
            continue  # in use by another process
        found = interrupted(path, outputs, lock, keep_checkpoints)
        if found is not None:
            return found
        lock.release()
    return None


def interrupted(path: Path, outputs: Path, lock: FileLock, keep_checkpoints: int) -> RunFolder | None:
    """Return the folder of an interrupted run, for the holder of its lock, with the newest checkpoint.

    The record is read under the lock; None if it says that the run ended in the meantime.
    """
    record = RunRecord.read(path)
    if record is None or record.status not in STOPPED:
        return None
    checkpoint = CheckpointStore(path / "checkpoint", keep_checkpoints).newest()
    return RunFolder(path, run_id_of(path, outputs), lock, record, checkpoint)


def run_id_of(path: Path, outputs: Path) -> str:
    return path.relative_to(outputs).as_posix()


def attempt_order(path: Path) -> tuple[str, str, int]:
    """Return a key that sorts attempts by age: "1-2" before "1-10"."""
    found = re.fullmatch(r"(.+?)(?:-(\d+))?", path.name)
    assert found
    return path.parent.name, found.group(1), int(found.group(2) or 1)


def attempt_paths(parent: Path, name: str) -> Iterator[Path]:
    """Yield parent/name, parent/name-2, parent/name-3, ..."""
    yield parent / name
    yield from (parent / f"{name}-{number}" for number in count(2))


def make_unique(parent: Path, name: str) -> Path:
    """Make the first of `attempt_paths` that does not exist; `mkdir` decides between processes."""
    for path in attempt_paths(parent, name):
        with suppress(FileExistsError):
            path.mkdir()
            return path
    raise AssertionError


def try_lock(path: Path) -> FileLock | None:
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):  # another process holds it, or the disk cannot be written
        return None
    return lock


def record_failed_job(config: Any, invocation: Invocation, error: Exception) -> None:
    """Record a job of a sweep that failed before it made a folder. `config` is as composed, and may be invalid."""
    assert invocation.job is not None
    sweep, number = Path(invocation.job[0]), str(invocation.job[1])
    record = RunRecord.new(config, None, invocation)
    record.status, record.finished_at, record.error = "failed", timestamp(), str(error)
    folder = sweep / number
    if not has_failed_before_start(folder):
        sweep.mkdir(parents=True, exist_ok=True)
        folder = make_unique(sweep, number)
    record.run_id = f"{sweep.parent.name}/{sweep.name}/{folder.name}"
    record.write(folder)


def has_failed_before_start(folder: Path) -> bool:
    """Return whether a folder has the record of such a failure, which the next attempt may replace."""
    record = RunRecord.read(folder)
    return record is not None and record.status == "failed" and record.config_hash is None
