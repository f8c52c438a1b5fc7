"""Folders of runs: a new one for a new run, the old one for a run that was stopped, never one for two runs at a time.

    outputs/<date>/<time>_<first 8 digits of the configuration's hash>/

A run holds a lock on its folder while it lives. The operating system gives the lock back when a process dies, however
it dies: a record that says "running" without a lock belongs to a run that was killed. Jobs of a sweep have folders and
locks of another kind (sweep/jobs.py).
"""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from microgpt.errors import UserError
from microgpt.runs.checkpoint import Checkpoint, CheckpointStore
from microgpt.runs.record import RECORD, make_unique

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
    earlier: dict[str, Any] | None = None  # the record that an earlier attempt left here
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
        record = read_record(path)
        if record is None or record.get("status") not in ("running", "interrupted") or not is_same_run(record, place):
            continue
        lock = try_lock(path)
        if lock is None:
            continue  # alive in another process
        record = read_record(path)  # again: its owner may have ended it before it gave the lock back
        if record is None or record.get("status") not in ("running", "interrupted"):
            lock.release()
            continue
        checkpoint = CheckpointStore(path / "checkpoint", keep_checkpoints).newest()
        return RunFolder(path, run_id_of(path, place.outputs), lock, record, checkpoint)
    return None


def is_same_run(record: dict[str, Any], place: Place) -> bool:
    data = record.get("data") or {}
    return record.get("config_hash") == place.config_hash and data.get("sha256") == place.data_sha256


def read_record(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((path / RECORD).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


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
