"""Folders of a sweep's jobs: what earlier attempts left, and locks, so that no job is run twice at a time.

    outputs/sweeps/<name>_<hash of the command>/<job>/      a job
    outputs/sweeps/<name>_<hash of the command>/.locks/     a lock for each job that has been run, for each process that
                                                            works on the sweep, and for the making of folders

A job is known by what it computes (the hashes of its configuration and its data), under whatever number it ran: the
same overrides in another order are the same sweep. Who holds a job's lock is alone in deciding what becomes of the job.
"""

import contextlib
import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from microgpt.errors import UserError
from microgpt.runs.checkpoint import CheckpointStore, discard
from microgpt.runs.folders import HISTORY, SAMPLES, RunFolder, attempt, has_failed_before_start, run_id_of
from microgpt.runs.record import RECORD, STOPPED, Metrics, RunRecord

SPARE_FILES = 200  # that a process may have open beside the locks that it holds
HOW_TO_BEGIN = ("train.resume=", "sweep.fresh=")  # overrides that do not make it another job

Overrides = tuple[str, ...]


@dataclass(frozen=True)
class JobIdentity:
    """What a job computes."""

    config_hash: str
    data_sha256: str | None

    @property
    def lock_name(self) -> str:
        return f"{self.config_hash[:24]}_{(self.data_sha256 or '')[:8]}.lock"


@dataclass(frozen=True)
class Attempt:
    """A folder of a sweep, and what its record says."""

    path: Path
    stamp: tuple[int, int]  # of the record's file: another one means that it was written again
    identity: JobIdentity | None  # None where it failed before its data was read
    overrides: Overrides
    status: str | None
    finished_at: str
    metrics: Metrics | None


class SweepFolder:
    """What there is of a sweep on disk. `refresh` looks; everything else goes by what was seen then."""

    def __init__(self, path: Path):
        self.path = path
        self.locks = path / ".locks"
        self.attempts: dict[Path, Attempt] = {}
        self.by_identity: dict[JobIdentity, list[Attempt]] = {}
        self.never_began: dict[Overrides, list[Path]] = {}  # folders of jobs that failed before they began
        self.refresh()

    def refresh(self) -> None:
        """Read the records that are new or have changed: a look at a thousand others takes milliseconds."""
        found = {}
        for record in self.path.glob(f"*/{RECORD}"):
            with contextlib.suppress(FileNotFoundError):
                status = record.stat()
                stamp = status.st_mtime_ns, status.st_ino
                known = self.attempts.get(record.parent)
                found[record.parent] = known if known and known.stamp == stamp else read_attempt(record.parent, stamp)
        self.attempts, self.by_identity, self.never_began = found, {}, {}
        for one in sorted(found.values(), key=lambda one: attempt(one.path)):
            if one.identity is not None:
                self.by_identity.setdefault(one.identity, []).append(one)
            elif one.status == "failed":
                self.never_began.setdefault(one.overrides, []).append(one.path)

    def of(self, identity: JobIdentity) -> list[Attempt]:
        """A job's attempts, oldest first."""
        return self.by_identity.get(identity, [])

    def completed(self, identity: JobIdentity) -> Attempt | None:
        return next((one for one in self.of(identity) if one.status == "completed"), None)

    def state(self, identity: JobIdentity, overrides: Sequence[str] = ()) -> str:
        """What there is of a job: completed, running in another process, stopped, failed or new."""
        statuses = {one.status for one in self.of(identity)}
        if "completed" in statuses:
            return "completed"
        if self.is_run_elsewhere(identity):
            return "running"
        if statuses & set(STOPPED):
            return "stopped"
        return "failed" if "failed" in statuses or self.has_never_begun(overrides) else "new"

    def has_never_begun(self, overrides: Sequence[str]) -> bool:
        """Whether there are records of attempts at a job that failed before they began."""
        return own(overrides) in self.never_began

    def is_run_elsewhere(self, identity: JobIdentity) -> bool:
        if not (self.locks / identity.lock_name).exists():
            return False
        lock = self.lock(identity)
        if lock is not None:
            lock.release()
        return lock is None

    def lock(self, identity: JobIdentity) -> FileLock | None:
        """The job's lock, or None while another process holds it. Raises UserError where nothing can be locked."""
        return self.locked(identity.lock_name, wait=False)

    def locked(self, name: str, wait: bool) -> FileLock | None:
        lock = FileLock(self.locks / name)
        try:
            self.locks.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            return None
        except OSError as error:
            reason = error.strerror or "it takes no locks"
            raise UserError(f"outputs_dir={self.path.parent.parent} cannot be written: {reason}") from error
        return lock

    @contextlib.contextmanager
    def attended(self) -> Iterator[None]:
        """While it lasts, others see that this process works on the sweep, also between two jobs."""
        lock = next(lock for number in count() if (lock := self.locked(f"process_{number}.lock", wait=False)))
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def making_folders(self) -> Iterator[None]:
        """While it lasts, no other process makes a folder of the sweep.

        A folder is made and gets its first record under this lock: one without a record is what a killed process left.
        """
        lock = self.locked("folders.lock", wait=True)
        assert lock is not None
        try:
            yield
        finally:
            lock.release()

    def is_held(self) -> bool:
        """Whether any process works on this sweep."""
        for path in self.locks.glob("*.lock"):
            lock = FileLock(path)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return True
            lock.release()
        return False

    def claim(
        self, identity: JobIdentity, number: int, lock: FileLock, resume: bool, keep_checkpoints: int
    ) -> RunFolder:
        """The job's folder, for the holder of its lock: a stopped attempt's, a failed one's emptied, or a new one.

        To be called while `making_folders`, under which a new one must get its record.
        """
        outputs = self.path.parent.parent
        for one in reversed(self.of(identity) if resume else []):
            record, run_id = RunRecord.read(one.path), run_id_of(one.path, outputs)
            if one.status in STOPPED:
                clear_half_written(one.path)
                checkpoint = CheckpointStore(one.path / "checkpoint", keep_checkpoints).newest()
                return RunFolder(one.path, run_id, lock, record, checkpoint)
            if one.status == "failed":
                empty(one.path)
                return RunFolder(one.path, run_id, lock, record)
        path = self.free_folder(number)
        return RunFolder(path, run_id_of(path, outputs), lock)

    def free_folder(self, number: int) -> Path:
        """An empty folder <number>, or <number>-2, ... where that is taken by a run. Others may be making none."""
        for attempt_number in count(1):
            path = self.path / (str(number) if attempt_number == 1 else f"{number}-{attempt_number}")
            path.mkdir(parents=True, exist_ok=True)
            if has_failed_before_start(path):
                (path / RECORD).unlink()
            clear_half_written(path)
            if not any(path.iterdir()):
                return path
        raise AssertionError

    def forget_failures(self, overrides: Sequence[str]) -> None:
        """Remove what is left of a job's attempts that failed before they began: it begins now, or has been completed.

        To be called while `making_folders`.
        """
        for path in self.never_began.pop(own(overrides), []):
            if has_failed_before_start(path):
                (path / RECORD).unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # something of the user's is in it
                    path.rmdir()


def own(overrides: Sequence[str]) -> Overrides:
    """What of a job's overrides tells it from others, in whatever order they came."""
    return tuple(sorted(override for override in overrides if not override.startswith(HOW_TO_BEGIN)))


def most_held(wanted: int) -> int:
    """How many of so many jobs a process can hold at a time: each lock is an open file. Asks the system for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or wanted + SPARE_FILES <= soft:
        return wanted
    enough = wanted + SPARE_FILES if hard == resource.RLIM_INFINITY else min(wanted + SPARE_FILES, hard)
    with contextlib.suppress(ValueError, OSError):  # some systems grant less than they say
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
        soft = enough
    return max(1, min(wanted, soft - SPARE_FILES))


def read_attempt(path: Path, stamp: tuple[int, int]) -> Attempt:
    record = RunRecord.read(path)
    if record is None:
        return Attempt(path, stamp, None, (), None, "", None)
    sha256 = record.data.sha256 if record.data else None
    return Attempt(
        path=path,
        stamp=stamp,
        identity=JobIdentity(record.config_hash, sha256) if isinstance(record.config_hash, str) else None,
        overrides=own(list(map(str, record.overrides))),
        status=record.status,
        finished_at=str(record.finished_at),
        metrics=record.metrics,
    )


def clear_half_written(path: Path) -> None:
    """Remove what a killed process was about to rename to one of a run's files or links."""
    for name in (f".{RECORD}", f".{HISTORY}", f".{SAMPLES}", "checkpoint/.latest", "checkpoint/.best"):
        for left in path.glob(f"{name}.*"):
            left.unlink(missing_ok=True)


def empty(path: Path) -> None:
    """Take away what a failed attempt left, but for its record: the next one begins anew in its folder."""
    clear_half_written(path)
    for name in (HISTORY, SAMPLES):
        (path / name).unlink(missing_ok=True)
    discard(path / "checkpoint")
