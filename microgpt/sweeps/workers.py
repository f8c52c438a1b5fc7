"""Worker processes: each trains a share of a sweep's jobs, and the process that started them prints their output.

The starting process holds a lock in the workers' folder, `<sweep>/.workers/<id>/`, as long as the workers should
continue. A worker that finds the lock free writes its checkpoints and stops: the starter has released the lock or has
died. The output of the workers is written to files in the same folder, so this works across machines that share a file
system.
"""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from microgpt.errors import Interrupted, MicrogptError, UserError
from microgpt.runs.folders import key_of_sweep
from microgpt.sweeps.groups import Job
from microgpt.sweeps.runner import Outcome, SweepRunner
from microgpt.training.guards import StopRequest, stop_on_signals
from microgpt.training.run_inputs import InputReader

PRINT_SECONDS = 0.1  # between checks of the workers' output
LOCK_SECONDS = 0.5  # between checks of the starter's lock
STARTER_LOCK = "starter.lock"


class LostWorkerError(MicrogptError):
    """A worker ended without a result. The files that it has saved are valid."""


@dataclass(frozen=True)
class ShareResult:
    """The outcomes of a share's jobs, keyed by number, and the signal or error that ended the worker early."""

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    signal_number: int | None = None
    error: MicrogptError | None = None


@dataclass(frozen=True)
class Share:
    """The jobs of one worker. Calling the share in the worker's process trains its jobs."""

    number: int  # of the worker, from 1
    sweep: Path
    jobs: list[Job]
    max_group: int | None
    threads: int | None  # threads of an engine if the configuration does not set them
    files: Path  # the folder of the workers' files
    stops_with_starter: bool
    directory: Path = field(default_factory=Path.cwd)  # base of relative paths
    arguments: list[str] = field(default_factory=lambda: sys.argv[1:])  # arguments of the command, for the records

    def __call__(self) -> ShareResult:
        os.chdir(self.directory)
        sys.argv[1:] = self.arguments
        with (
            self.open_output("out") as out,
            self.open_output("err") as err,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            stop_on_signals() as stop,
            contextlib.ExitStack() as at_end,
        ):
            signal.signal(signal.SIGUSR2, lambda *_: request_stop(stop))  # Slurm sends it before the time limit
            if self.stops_with_starter:
                with contextlib.suppress(PermissionError):  # the worker may already lead a process group
                    os.setsid()  # Ctrl-C in the terminal then reaches only the starter
                at_end.callback(watch(self.files / STARTER_LOCK, stop))
            return self.train(stop)

    def train(self, stop: StopRequest) -> ShareResult:
        runner, failure = SweepRunner(self.sweep, self.jobs, self.max_group, InputReader(self.threads)), None
        try:
            runner.run(stop)
        except Interrupted:
            pass
        except MicrogptError as error:
            failure = error
        except Exception as error:
            traceback.print_exc()
            failure = MicrogptError(f"worker {self.number} failed: {type(error).__name__}: {error}")
        outcomes = {n: Outcome(o.objective, o.error and portable(o.error)) for n, o in runner.outcomes.items()}
        return ShareResult(outcomes, stop.signal_number, failure)

    def open_output(self, stream: str) -> IO[str]:
        """Open an output file of the worker for appending: Ray restarts a lost worker."""
        return self.output(stream).open("a", encoding="utf-8", errors="backslashreplace", buffering=1)

    def output(self, stream: str) -> Path:
        return self.files / f"worker_{self.number}.{stream}"


def portable(error: Exception) -> MicrogptError:
    """Return an error that another process can unpickle. The traceback of a bug has already been printed."""
    return error if isinstance(error, MicrogptError) else MicrogptError(str(error))


def request_stop(stop: StopRequest) -> None:
    stop.signal_number = stop.signal_number or signal.SIGTERM


def watch(lock: Path, stop: StopRequest) -> Callable[[], None]:
    """Request a stop once the lock is free. Returns a function that ends the watch."""
    ended = threading.Event()

    def look() -> None:
        while True:
            with contextlib.suppress(Timeout), FileLock(lock).acquire(timeout=0):
                request_stop(stop)
            if stop or ended.wait(LOCK_SECONDS):
                return

    threading.Thread(target=look, daemon=True).start()
    return ended.set


@contextlib.contextmanager
def workers_folder(sweep: Path) -> Iterator[Path]:
    """Create a folder for the workers' files. It is kept if a worker was lost: some output may not be printed yet."""
    parent = sweep.absolute() / ".workers"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}_", dir=parent))
    except OSError as error:
        raise UserError(f"{key_of_sweep(sweep)} cannot be written: {error.strerror}") from error
    keep = False
    try:
        yield path
    except LostWorkerError:
        keep = True
        raise
    finally:
        if not keep:
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):  # another process may have workers for this sweep
                parent.rmdir()


@contextlib.contextmanager
def supervised(shares: list[Share], files: Path, stop: StopRequest, cancel: Callable[[], None]) -> Iterator[None]:
    """Print the workers' output during the block. To stop the workers on request, release their lock and call `cancel`.

    If standard output is closed, the workers are stopped, and the block ends with BrokenPipeError.
    """
    lock, ended = FileLock(files / STARTER_LOCK, thread_local=False), threading.Event()
    streams = [FollowedFile(share.output(s), f"worker {share.number}: ", s) for share in shares for s in ("out", "err")]

    def supervise() -> None:
        closed: BrokenPipeError | None = None
        while True:
            is_last = ended.wait(PRINT_SECONDS)
            try:
                for stream in streams if closed is None else []:
                    stream.print_new(is_last)
            except BrokenPipeError as error:
                closed = error
            if stop or closed:
                lock.release()
                cancel()
            if is_last:
                break
        if closed:
            raise closed

    with lock, ThreadPoolExecutor(1) as thread:
        supervision = thread.submit(supervise)
        try:
            yield
        finally:
            ended.set()
        supervision.result()


@dataclass
class FollowedFile:
    """A growing text file whose new lines are printed after a prefix."""

    path: Path
    prefix: str
    stream: str  # out | err
    printed: int = 0  # bytes

    def print_new(self, is_last: bool) -> None:
        """Print the new complete lines and, at the end, an incomplete last line."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.printed)
                new = file.read()
        except FileNotFoundError:
            return
        size = len(new) if is_last else new.rfind(b"\n") + 1
        self.printed += size
        target: Any = sys.stdout if self.stream == "out" else sys.stderr
        for line in new[:size].decode(errors="backslashreplace").splitlines():
            print(f"{self.prefix}{line}", file=target, flush=True)
