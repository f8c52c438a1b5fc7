"""Provides the folder of a run: a new folder, or that of an interrupted run. One process uses a folder at a time.

    outputs/<date>/<time>_<first 8 digits of the configuration's hash>/    or the folder set by hydra.run.dir

A run holds a lock on its folder until its process ends; the operating system releases the lock if the process dies. A
record with the status "running" in an unlocked folder therefore belongs to a killed run. sweeps/folder.py manages the
folders and locks of a sweep's jobs.
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
    earlier: RunRecord | None = None  # record of an earlier attempt in this folder
    checkpoint: Checkpoint | None = None  # checkpoint to resume from

    @property
    def run_id(self) -> str:
        return run_id_of(self.path, self.outputs)

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    def release(self) -> None:
        """Release the lock. Its file is kept: another process may already have locked it."""
        self.lock.release()


def claim(outputs: Path, identity: RunIdentity, resume: bool, keep_checkpoints: int) -> RunFolder:
    """Return the folder of the newest interrupted run with this identity, or a new folder. Raises UserError."""
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
        raise UserError(f"outputs_dir={outputs} cannot be written: {path} cannot be locked")
    return RunFolder(path, outputs, lock)


def claim_named(path: Path, outputs: Path, identity: RunIdentity, resume: bool, keep_checkpoints: int) -> RunFolder:
    """Return the folder set by hydra.run.dir. It may be empty, or contain a run to resume or a failed run to repeat.

    Raises UserError if it contains any other run, is in use, or cannot be written.
    """
    key = f"hydra.run.dir={path} is not allowed"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{key}: it cannot be written: {error.strerror}") from error
    lock = try_lock(path)
    if lock is None:
        raise UserError(f"{key}: another process is using it, or it cannot be locked")
    try:
        earlier = RunRecord.read(path)
        if earlier is None and (path / RECORD).exists():
            raise UserError(f"{key}: it contains a {RECORD} that cannot be read")
        if earlier is None:
            return RunFolder(path, outputs, lock)
        if earlier.identity != identity:
            raise UserError(f"{key}: it contains a run with another configuration or other data")
        if resume and (found := interrupted(path, outputs, lock, keep_checkpoints)) is not None:
            return found
        if earlier.status != "failed":
            raise UserError(f"{key}: it contains a run with this configuration, which is {earlier.status}")
        remove_results(path)
        return RunFolder(path, outputs, lock, earlier)
    except UserError:
        lock.release()
        raise


def find_interrupted(outputs: Path, identity: RunIdentity, keep_checkpoints: int) -> RunFolder | None:
    """Lock and return the newest folder of a run that was interrupted or killed; None if there is none."""
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
    """Return the folder of an interrupted run with its newest checkpoint. The caller holds the lock.

    The record is read under the lock; None if the run has ended in the meantime.
    """
    record = RunRecord.read(path)
    if record is None or record.status not in STOPPED:
        return None
    checkpoint = CheckpointStore(path / CHECKPOINTS, keep_checkpoints).newest()
    return RunFolder(path, outputs, lock, record, checkpoint)


def run_id_of(path: Path, outputs: Path) -> str:
    """Return the path relative to the outputs, or the whole path of a folder elsewhere."""
    return (path.relative_to(outputs) if path.is_relative_to(outputs) else path).as_posix()


def run_folders(parent: Path, known: Collection[Path] = ()) -> Iterator[Path]:
    """Yield the folders of runs in `parent`, at any depth, without searching the folders of runs.

    `known` folders of runs are yielded without looking for their records again.
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


def claimable_path(parent: Path, name: str) -> Path:
    """Return the first of `attempt_paths` that a new attempt may use."""
    return next(path for path in attempt_paths(parent, name) if is_free(path) or has_failed_before_start(path))


def make_unique(parent: Path, name: str) -> Path:
    """Create the first of `attempt_paths` that does not exist. `mkdir` is atomic between processes."""
    for path in attempt_paths(parent, name):
        with suppress(FileExistsError):
            path.mkdir()
            return path
    raise AssertionError


def try_lock(path: Path) -> FileLock | None:
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):  # another process holds the lock, or the disk cannot be written
        return None
    return lock


def record_failed_job(config: Any, invocation: Invocation, error: Exception) -> Path:
    """Record a job of a sweep that failed before its folder was created. Returns the new folder.

    `config` is the composed configuration, which may be invalid.
    """
    assert invocation.job is not None
    sweep = invocation.job.sweep
    record = RunRecord.new(config, None, invocation)
    record.status, record.finished_at, record.error = "failed", timestamp(), str(error)
    folder = claimable_path(sweep, invocation.job.name)
    folder.mkdir(parents=True, exist_ok=True)
    record.run_id = run_id_of(folder, outputs_of(sweep))
    record.write(folder)
    return folder


def outputs_of(sweep: Path) -> Path:
    """Return the folder to which a sweep's run ids are relative: outputs_dir, or the parent of hydra.sweep.dir."""
    return sweep.parents[1] if sweep.parent.name == "sweeps" else sweep.parent


def key_of_sweep(sweep: Path) -> str:
    """Return the key=value that determines the folder of a sweep, for messages."""
    is_default = sweep.parent.name == "sweeps" and re.fullmatch(r".+_[0-9a-f]{8}", sweep.name)  # lifecycle.sweep_id
    return f"outputs_dir={outputs_of(sweep)}" if is_default else f"hydra.sweep.dir={sweep}"


def is_free(path: Path) -> bool:
    """Return whether a folder has no files of a run. Files of Hydra and its callbacks do not count."""
    return not any((path / name).exists() for name in (RECORD, HISTORY, SAMPLES, CHECKPOINTS))


def remove_temporary_files(path: Path) -> None:
    """Remove the temporary files of a killed process, which it would have renamed to files or links of the run."""
    for name in (f".{RECORD}", f".{HISTORY}", f".{SAMPLES}", f"{CHECKPOINTS}/.latest", f"{CHECKPOINTS}/.best"):
        for left in path.glob(f"{name}.*"):
            left.unlink(missing_ok=True)


def remove_results(path: Path) -> None:
    """Remove the files of a failed attempt except its record: the run starts again in the same folder."""
    remove_temporary_files(path)
    for name in (HISTORY, SAMPLES):
        (path / name).unlink(missing_ok=True)
    discard(path / CHECKPOINTS)


def has_failed_before_start(folder: Path) -> bool:
    """Return whether a folder's record is of a job that failed before it started. The next attempt may replace it."""
    record = RunRecord.read(folder)
    return record is not None and record.status == "failed" and record.config_hash is None
