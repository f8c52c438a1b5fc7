"""The folder of a sweep, with earlier attempts at its jobs, and locks that let several processes run the sweep.

    outputs/sweeps/<name>_<hash of the command>/<job>/    a job
    outputs/sweeps/<name>_<hash of the command>/.locks/   a lock for each job that was run, for each process that runs
                                                          the sweep, and for creating folders

A job is identified by what it computes (the hashes of its configuration and its data) and by its label (tags, notes),
not by its number: the same overrides in another order are the same sweep. Only the holder of a job's lock may change
the job's folder.
"""

import contextlib
import hashlib
import json
import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from microgpt.atomic import make_new
from microgpt.config.identity import config_hash, label
from microgpt.config.keys import as_plain
from microgpt.config.schema import Config
from microgpt.errors import UserError
from microgpt.runs.folders import (
    RunFolder,
    attempt_order,
    claimable_path,
    has_failed_before_start,
    interrupted,
    key_of_sweep,
    outputs_of,
    remove_results,
    remove_temporary_files,
    run_folders,
)
from microgpt.runs.record import RECORD, STOPPED, Metrics, RunIdentity, RunRecord
from microgpt.runs.record_json import parse

OTHER_FILES = 200  # files that a process may have open in addition to its locks
WITHOUT_EFFECT = ("train.resume=", "sweep.fresh=", "results_dir=")  # overrides that do not change a job's identity

Overrides = tuple[str, ...]


@dataclass(frozen=True)
class JobIdentity(RunIdentity):
    """Identifies a job by what it computes and by the keys that only its record or log contains."""

    label: str = ""


def job_identity(config: Config, data_sha256: str | None) -> JobIdentity:
    return JobIdentity(config_hash(config), data_sha256, label(as_plain(config)))


@dataclass(frozen=True)
class Attempt:
    """A job's folder and the parts of its record that the sweep needs; None for an unreadable record."""

    path: Path
    stamp: tuple[int, int]  # time and inode of the record's file, which change when the record is written again
    identity: JobIdentity | None = None  # None for a job that failed before its data was read
    overrides: Overrides = ()
    status: str | None = None
    finished_at: str = ""
    metrics: Metrics | None = None


class SweepFolder:
    """The attempts in a sweep's folder as of the last `refresh`, and the locks of its jobs."""

    def __init__(self, path: Path):
        self.path = path
        self.locks = path / ".locks"
        self.has_locks = False  # whether the folder of the locks exists
        self.attempts: dict[Path, Attempt] = {}
        self.by_identity: dict[JobIdentity, list[Attempt]] = {}
        self.failed_before_start: dict[Overrides, list[Path]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read new and changed records. The record of a completed job does not change."""
        found = {}
        for path in run_folders(self.path, self.attempts):
            known = self.attempts.get(path)
            if known is not None and known.status == "completed":
                found[path] = known
                continue
            with contextlib.suppress(FileNotFoundError):
                status = (path / RECORD).stat()
                stamp = status.st_mtime_ns, status.st_ino
                found[path] = known if known and known.stamp == stamp else read_attempt(path, stamp)
        self.attempts, self.by_identity, self.failed_before_start = found, {}, {}
        for one in sorted(found.values(), key=lambda one: attempt_order(one.path)):
            if one.identity is not None:
                self.by_identity.setdefault(one.identity, []).append(one)
            elif one.status == "failed":
                self.failed_before_start.setdefault(one.overrides, []).append(one.path)

    def attempts_at(self, identity: JobIdentity) -> list[Attempt]:
        """Return a job's attempts, oldest first."""
        return self.by_identity.get(identity, [])

    def completed(self, identity: JobIdentity) -> Attempt | None:
        return next((one for one in self.attempts_at(identity) if one.status == "completed"), None)

    def state(self, identity: JobIdentity, overrides: Sequence[str] = ()) -> str:
        """Return completed, running (in another process), interrupted, failed or new."""
        statuses = {one.status for one in self.attempts_at(identity)}
        if "completed" in statuses:
            return "completed"
        if (self.locks / lock_name(identity)).exists() and self.is_locked(lock_name(identity)):
            return "running"
        if statuses & set(STOPPED):
            return "interrupted"
        return "failed" if "failed" in statuses or self.has_failed_before_start(overrides) else "new"

    def has_failed_before_start(self, overrides: Sequence[str]) -> bool:
        return own(overrides) in self.failed_before_start

    def lock(self, identity: JobIdentity) -> FileLock | None:
        """Return the job's lock, or None if another process holds it. Raises UserError if files cannot be locked."""
        return self.acquire(lock_name(identity), wait=False)

    def acquire(self, name: str, wait: bool) -> FileLock | None:
        lock = FileLock(self.locks / name)
        try:
            if not self.has_locks:
                self.locks.mkdir(parents=True, exist_ok=True)
                self.has_locks = True
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            return None
        except OSError as error:
            reason = error.strerror or "the file system does not support locks"
            raise UserError(f"{key_of_sweep(self.path)} cannot be written: {reason}") from error
        return lock

    def is_locked(self, name: str) -> bool:
        lock = self.acquire(name, wait=False)
        if lock is not None:
            lock.release()
        return lock is None

    def is_held(self) -> bool:
        """Return whether any process is running this sweep."""
        return any(self.is_locked(path.name) for path in self.locks.glob("*.lock"))

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Hold a lock in the block that shows other processes, even between jobs, that this process runs the sweep."""
        return released(next(lock for n in count() if (lock := self.acquire(process_lock(n), wait=False))))

    def is_shared(self) -> bool:
        """Return whether another process may have run this sweep while this process held it.

        That process would have found the first lock taken and created the second.
        """
        return (self.locks / process_lock(1)).exists()

    def creating_folders(self) -> contextlib.AbstractContextManager[None]:
        """Prevent other processes from creating folders of the sweep during the block.

        A folder gets its first record in the same block: a folder without a record was left by a killed process.
        """
        lock = self.acquire("folders.lock", wait=True)
        assert lock is not None
        return released(lock)

    def folder_for(self, identity: JobIdentity, name: str, resume: bool) -> Path:
        """Return the job's folder, or the folder that `claim` would return if no other process runs the job."""
        completed = self.completed(identity)
        if resume and completed is not None:
            return completed.path
        attempts = reversed(self.attempts_at(identity) if resume else [])
        found = next((one.path for one in attempts if one.status in (*STOPPED, "failed")), None)
        return found or claimable_path(self.path, name)

    def claim(self, identity: JobIdentity, name: str, lock: FileLock, resume: bool, keep_checkpoints: int) -> RunFolder:
        """Return the folder for the holder of a job's lock.

        This is the folder of an interrupted attempt, the emptied folder of a failed attempt, or a new folder called
        `name`. Must be called within `creating_folders`.
        """
        outputs = outputs_of(self.path)
        for one in reversed(self.attempts_at(identity) if resume else []):
            if one.status in STOPPED and (found := interrupted(one.path, outputs, lock, keep_checkpoints)) is not None:
                remove_temporary_files(one.path)
                return found
            if one.status == "failed":
                remove_results(one.path)
                return RunFolder(one.path, outputs, lock, RunRecord.read(one.path))
        return RunFolder(self.free_folder(name), outputs, lock)

    def free_folder(self, name: str) -> Path:
        """Create and return <name> or, if a run uses it, <name>-2, ... Must be called within `creating_folders`."""
        if make_new(self.path / name):
            return self.path / name
        path = claimable_path(self.path, name)
        path.mkdir(parents=True, exist_ok=True)
        (path / RECORD).unlink(missing_ok=True)
        remove_temporary_files(path)
        return path

    def forget_failures(self, overrides: Sequence[str]) -> None:
        """Remove the records of a job's attempts that failed before they started, once it has started or completed.

        Must be called within `creating_folders`.
        """
        for path in self.failed_before_start.pop(own(overrides), []):
            if has_failed_before_start(path):
                (path / RECORD).unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # the user may have put files in the folder
                    path.rmdir()


@contextlib.contextmanager
def released(lock: FileLock) -> Iterator[None]:
    """Release the lock at the end of the block."""
    try:
        yield
    finally:
        lock.release()


def process_lock(number: int) -> str:
    return f"process_{number}.lock"


def lock_name(identity: JobIdentity) -> str:
    labelled = f"_{hashlib.sha256(identity.label.encode()).hexdigest()[:8]}" if identity.label else ""
    return f"{identity.config_hash[:24]}_{(identity.data_sha256 or '')[:8]}{labelled}.lock"


def own(overrides: Sequence[str]) -> Overrides:
    """Return the overrides that identify a job, sorted."""
    return tuple(sorted(override for override in overrides if not override.lstrip("+").startswith(WITHOUT_EFFECT)))


def read_attempt(path: Path, stamp: tuple[int, int]) -> Attempt:
    try:
        found = json.loads((path / RECORD).read_bytes())
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return Attempt(path, stamp)
    data, overrides, hash_ = found.get("data"), found.get("overrides"), found.get("config_hash")
    sha256, config = data.get("sha256") if isinstance(data, dict) else None, found.get("config")
    labelled = label(config) if isinstance(config, dict) else ""
    return Attempt(
        path=path,
        stamp=stamp,
        identity=JobIdentity(hash_, sha256, labelled) if isinstance(hash_, str) else None,
        overrides=own(list(map(str, overrides if isinstance(overrides, list) else ()))),
        status=found.get("status"),
        finished_at=str(found.get("finished_at")),
        metrics=parse(Metrics, found.get("metrics")),
    )


def failed_since(sweep: Path, time: str) -> list[Path]:
    """Return the folders of the sweep's jobs that have failed since `time`, in any process."""
    failed = []
    for path in run_folders(sweep):
        with contextlib.suppress(FileNotFoundError):
            if b'"failed"' in (path / RECORD).read_bytes():  # most records do not contain this and need not be parsed
                attempt = read_attempt(path, (0, 0))
                if attempt.status == "failed" and attempt.finished_at >= time:
                    failed.append(path)
    return failed


def lockable(wanted: int) -> int:
    """Return how many of `wanted` jobs a process can lock at once, each with an open file. Increases the file limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + OTHER_FILES
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return wanted
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with contextlib.suppress(ValueError, OSError):  # some systems allow less than they report
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    return max(1, min(wanted, soft - OTHER_FILES))
