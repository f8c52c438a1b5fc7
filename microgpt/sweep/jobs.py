"""Folders of a sweep's jobs: what earlier attempts left, and locks, so that no job is run twice at a time.

    outputs/sweeps/<name>_<hash of the command>/<job>/      a job
    outputs/sweeps/<name>_<hash of the command>/.locks/     a lock for each job that has been run

A job is known by what it computes (the hashes of its configuration and its data), under whatever number it ran: the same
overrides in another order are the same sweep. Who holds a job's lock is alone in deciding what becomes of the job.
"""

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from microgpt.checkpoint import CheckpointStore, discard
from microgpt.errors import UserError
from microgpt.record import RECORD, is_failed_before_it_began, make_unique
from microgpt.runs import HISTORY, SAMPLES, RunFolder, attempt, read_record, run_id_of

STOPPED = ("running", "interrupted")  # a record that says so, of a job that nobody holds


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
    identity: JobIdentity | None
    status: str | None
    finished_at: str
    metrics: dict[str, Any] | None


class SweepFolder:
    """What there is of a sweep on disk. `refresh` looks; everything else goes by what was seen then."""

    def __init__(self, path: Path):
        self.path = path
        self.attempts: dict[Path, Attempt] = {}
        self.by_identity: dict[JobIdentity, list[Attempt]] = {}
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
        self.attempts, self.by_identity = found, {}
        for one in sorted(found.values(), key=lambda one: attempt(one.path)):
            if one.identity is not None:
                self.by_identity.setdefault(one.identity, []).append(one)

    def of(self, identity: JobIdentity) -> list[Attempt]:
        """A job's attempts, oldest first."""
        return self.by_identity.get(identity, [])

    def completed(self, identity: JobIdentity) -> Attempt | None:
        return next((one for one in self.of(identity) if one.status == "completed"), None)

    def state(self, identity: JobIdentity) -> str:
        """What there is of a job: completed, stopped, failed or new."""
        statuses = {one.status for one in self.of(identity)}
        if "completed" in statuses:
            return "completed"
        return "stopped" if statuses & set(STOPPED) else "failed" if "failed" in statuses else "new"

    def lock(self, identity: JobIdentity) -> FileLock | None:
        """The job's lock, or None while another process holds it. Raises UserError where nothing can be locked."""
        lock = FileLock(self.path / ".locks" / identity.lock_name)
        try:
            Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            return None
        except OSError as error:
            reason = error.strerror or "it takes no locks"
            raise UserError(f"outputs_dir={self.path.parent.parent} cannot be written: {reason}") from error
        return lock

    def is_held(self) -> bool:
        """Whether any process runs a job of this sweep."""
        for path in (self.path / ".locks").glob("*.lock"):
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
        """The job's folder, for the holder of its lock: a stopped attempt's, a failed one's emptied, or a new one."""
        outputs = self.path.parent.parent
        for one in reversed(self.of(identity) if resume else []):
            record, run_id = read_record(one.path), run_id_of(one.path, outputs)
            if one.status in STOPPED:
                checkpoint = CheckpointStore(one.path / "checkpoint", keep_checkpoints).newest()
                return RunFolder(one.path, run_id, lock, record, checkpoint)
            if one.status == "failed":
                empty(one.path)
                return RunFolder(one.path, run_id, lock, record)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            put_away(self.path / str(number))
            path = make_unique(self.path, str(number))
        except OSError as error:
            raise UserError(f"outputs_dir={outputs} cannot be written: {error.strerror}") from error
        return RunFolder(path, run_id_of(path, outputs), lock)


def read_attempt(path: Path, stamp: tuple[int, int]) -> Attempt:
    record = read_record(path) or {}
    digest, data = record.get("config_hash"), record.get("data")
    sha256 = data.get("sha256") if isinstance(data, dict) else None
    identity = JobIdentity(digest, sha256) if isinstance(digest, str) else None
    return Attempt(path, stamp, identity, record.get("status"), str(record.get("finished_at")), record.get("metrics"))


def empty(path: Path) -> None:
    """Take away what a failed attempt left, but for its record: the next one begins anew in its folder."""
    for name in (HISTORY, SAMPLES):
        (path / name).unlink(missing_ok=True)
    discard(path / "checkpoint")


def put_away(path: Path) -> None:
    """Remove the record of a job that failed before it began, so that its number is free. One process succeeds."""
    if is_failed_before_it_began(path):
        hidden = path.with_name(f".{path.name}.old")
        with contextlib.suppress(OSError):
            path.rename(hidden)
            shutil.rmtree(hidden, ignore_errors=True)
