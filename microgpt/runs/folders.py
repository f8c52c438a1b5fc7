"""Folders of runs: a new one for a new run, the earlier one for an interrupted run, each used by one process at a time.

    outputs/<date>/<time>_<first 8 digits of the configuration's hash>/    or the folder that hydra.run.dir names

A run holds a lock on its folder as long as it lives; the operating system releases the lock when the process dies. So a
record that says "running" in a folder without a lock belongs to a run that was killed. The folders and locks of a
sweep's jobs are in sweeps/folder.py.
"""

import os
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from microgpt.errors import UserError
from microgpt.runs.checkpoint import Checkpoint
from microgpt.runs.checkpoint_store import CheckpointStore, discard
from microgpt.runs.invocation import Invocation
from microgpt.runs.record import RECORD, STOPPED, RunIdentity, RunRecord, timestamp

HISTORY = "history.jsonl"
SAMPLES = "samples.txt"
CHECKPOINTS = "checkpoint"


@dataclass
class RunFolder:
    """A run's folder, locked by this process."""

    path: Path
    outputs: Path  # the folder of all runs (outputs_dir)
    lock: FileLock
    earlier: RunRecord | None = None  # of an earlier attempt in this folder
    checkpoint: Checkpoint | None = None  # to resume from

    @property
    def run_id(self) -> str:
        return run_id_of(self.path, self.outputs)

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

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
    return RunFolder(path, outputs, lock)


def claim_named(path: Path, outputs: Path, identity: RunIdentity, resume: bool, keep_checkpoints: int) -> RunFolder:
    """Return the folder that hydra.run.dir names: empty, or with a run of this identity to resume or start again.

    Raises UserError for any other run in it, and for a folder that is in use or cannot be written.
    """
    key = f"hydra.run.dir={path} is not allowed"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{key}: it cannot be written: {error.strerror}") from error
    lock = try_lock(path)
    if lock is None:
        raise UserError(f"{key}: another process uses it, or it takes no lock")
    try:
        earlier = RunRecord.read(path)
        if earlier is None and (path / RECORD).exists():
            raise UserError(f"{key}: it holds a {RECORD} that cannot be read")
        if earlier is None:
            return RunFolder(path, outputs, lock)
        if earlier.identity != identity:
            raise UserError(f"{key}: it holds a run of another configuration or of other data")
        if resume and (found := interrupted(path, outputs, lock, keep_checkpoints)) is not None:
            return found
        if earlier.status != "failed":
            raise UserError(f"{key}: it holds a run of this configuration, which is {earlier.status}")
        remove_results(path)
        return RunFolder(path, outputs, lock, earlier)
    except UserError:
        lock.release()
        raise


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
    checkpoint = CheckpointStore(path / CHECKPOINTS, keep_checkpoints).newest()
    return RunFolder(path, outputs, lock, record, checkpoint)


def run_id_of(path: Path, outputs: Path) -> str:
    """Return the path below the outputs; of a folder elsewhere, the path."""
    return (path.relative_to(outputs) if path.is_relative_to(outputs) else path).as_posix()


def run_folders(parent: Path, known: Collection[Path] = ()) -> Iterator[Path]:
    """Yield the folders of runs below `parent`, at any depth; a run's own folder is not searched.

    Those that are `known` are not looked at again.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        for entry in sorted(os.scandir(parent), key=lambda entry: entry.name):
            if entry.name.startswith(".") or not entry.is_dir():
                continue
            path = Path(entry.path)
            if path in known or (path / RECORD).exists():
                yield path
            else:
                yield from run_folders(path, known)


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


def record_failed_job(config: Any, invocation: Invocation, error: Exception) -> Path:
    """Record a job of a sweep that failed before it made a folder; returns the folder.

    `config` is as composed, and may be invalid.
    """
    assert invocation.job is not None
    sweep = invocation.job.sweep
    record = RunRecord.new(config, None, invocation)
    record.status, record.finished_at, record.error = "failed", timestamp(), str(error)
    attempts = attempt_paths(sweep, invocation.job.name)
    folder = next(path for path in attempts if is_free(path) or has_failed_before_start(path))
    folder.mkdir(parents=True, exist_ok=True)
    record.run_id = run_id_of(folder, outputs_of(sweep))
    record.write(folder)
    return folder


def outputs_of(sweep: Path) -> Path:
    """Return the folder that the ids of a sweep's runs are relative to: outputs_dir, or that of hydra.sweep.dir."""
    return sweep.parents[1] if sweep.parent.name == "sweeps" else sweep.parent


def is_free(path: Path) -> bool:
    """Return whether a folder has no file of a run. What Hydra and its callbacks write into it does not count."""
    return not any((path / name).exists() for name in (RECORD, HISTORY, SAMPLES, CHECKPOINTS))


def remove_temporary_files(path: Path) -> None:
    """Remove what a killed process was about to rename to one of a run's files or links."""
    for name in (f".{RECORD}", f".{HISTORY}", f".{SAMPLES}", f"{CHECKPOINTS}/.latest", f"{CHECKPOINTS}/.best"):
        for left in path.glob(f"{name}.*"):
            left.unlink(missing_ok=True)


def remove_results(path: Path) -> None:
    """Remove the files of a failed attempt, except its record: the run starts again in its folder."""
    remove_temporary_files(path)
    for name in (HISTORY, SAMPLES):
        (path / name).unlink(missing_ok=True)
    discard(path / CHECKPOINTS)


def has_failed_before_start(folder: Path) -> bool:
    """Return whether a folder has the record of such a failure, which the next attempt may replace."""
    record = RunRecord.read(folder)
    return record is not None and record.status == "failed" and record.config_hash is None
