"""Folders of runs: a new one for a new run, the old one for a run that was stopped, never one for two runs at a time.

    outputs/<date>/<time>_<first 8 digits of the configuration's hash>/

A run holds a lock on its folder while it lives. The operating system gives the lock back when a process dies, however
it dies: a record that says "running" without a lock belongs to a run that was killed. Jobs of a sweep have folders and
locks of another kind (sweep/jobs.py).
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from microgpt.errors import UserError
from microgpt.runs.checkpoint import Checkpoint, CheckpointStore
from microgpt.runs.record import STOPPED, Invocation, RunRecord, timestamp

HISTORY = "history.jsonl"
SAMPLES = "samples.txt"


@dataclass(frozen=True)
class Place:
    """Where a run belongs, and what it must match to be the same run."""

    parent: Path  # the folder in which the run's folder is made
    name: str  # the folder's name; "-2", "-3", ... where that is taken
    siblings: str  # pattern, below `outputs`, of the folders that may hold an earlier attempt at the same run
    outputs: Path
    config_hash: str
    data_sha256: str | None

    def earlier(self) -> list[Path]:
        """Folders whose names have this run's hash, oldest attempt first."""
        return sorted(self.outputs.glob(self.siblings), key=attempt)


@dataclass
class RunFolder:
    """A folder that this process holds."""

    path: Path
    run_id: str  # how records call it: the path below the outputs
    lock: FileLock
    earlier: RunRecord | None = None  # the record that an earlier attempt left here
    checkpoint: Checkpoint | None = None  # from which the run goes on

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoint"

    def release(self) -> None:
        """Give the lock back. Its file stays: to remove it could take it from under the next owner."""
        self.lock.release()


def place_of_run(outputs_dir: str, config_hash: str, data_sha256: str | None) -> Place:
    outputs = Path(outputs_dir)
    now = datetime.now(UTC).astimezone()
    name = f"{now:%H-%M-%S}_{config_hash[:8]}"
    siblings = f"????-??-??/*_{config_hash[:8]}*"
    return Place(outputs / f"{now:%Y-%m-%d}", name, siblings, outputs, config_hash, data_sha256)


def claim(place: Place, resume: bool, keep_checkpoints: int) -> RunFolder:
    """The stopped run's folder if there is one to resume, else a new folder. Raises UserError when none can be made."""
    if resume:
        stopped = find_stopped(place, keep_checkpoints)
        if stopped is not None:
            return stopped
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        path = make_unique(place.parent, place.name)
    except OSError as error:
        raise UserError(f"outputs_dir={place.outputs} cannot be written: {error.strerror}") from error
    lock = try_lock(path)
    if lock is None:
        raise UserError(f"outputs_dir={place.outputs} cannot be written: {path} takes no lock")
    return RunFolder(path, run_id_of(path, place.outputs), lock)


def run_id_of(path: Path, outputs: Path) -> str:
    return path.relative_to(outputs).as_posix()


def find_stopped(place: Place, keep_checkpoints: int) -> RunFolder | None:
    """The newest folder of the same run that was interrupted or killed, locked; None if there is none to go on with."""
    for path in reversed(place.earlier()):
        record = RunRecord.read(path)
        if record is None or record.status not in STOPPED or not is_same_run(record, place):
            continue
        lock = try_lock(path)
        if lock is None:
            continue  # alive in another process
        record = RunRecord.read(path)  # again: its owner may have ended it before it gave the lock back
        if record is None or record.status not in STOPPED:
            lock.release()
            continue
        checkpoint = CheckpointStore(path / "checkpoint", keep_checkpoints).newest()
        return RunFolder(path, run_id_of(path, place.outputs), lock, record, checkpoint)
    return None


def is_same_run(record: RunRecord, place: Place) -> bool:
    data_sha256 = record.data.sha256 if record.data else None
    return record.config_hash == place.config_hash and data_sha256 == place.data_sha256


def attempt(path: Path) -> tuple[str, str, int]:
    """Sorts "1-2" before "1-10"."""
    found = re.fullmatch(r"(.+?)(?:-(\d+))?", path.name)
    assert found
    return path.parent.name, found.group(1), int(found.group(2) or 1)


def try_lock(path: Path) -> FileLock | None:
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):  # held by another process, or on a disk that cannot be written
        return None
    return lock


def make_unique(parent: Path, name: str) -> Path:
    """Make parent/name, or parent/name-2, ...: `mkdir` decides between two processes that ask for one name."""
    attempt = 1
    while True:
        path = parent / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            path.mkdir()
            return path
        except FileExistsError:
            attempt += 1


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
    """Return whether a folder holds only the record of such a failure, which the next attempt may replace."""
    record = RunRecord.read(folder)
    return record is not None and record.status == "failed" and record.config_hash is None
