"""A share of a sweep's jobs in another process: how it is done there, and how its words and its end come back.

What a worker says goes into two files of the sweep's folder, which the process that started it reads as they grow: the
same way for a process beside it and for one on another machine that shares the file system.
"""

import contextlib
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from microgpt.errors import Interrupted, MicrogptError, UserError
from microgpt.sweeps.runner import Job, Outcome, Work
from microgpt.training.guards import StopRequest

LISTENING_SECONDS = 0.1  # between looks at what workers have said
STARTER_SECONDS = 1.0  # between looks whether the process that started a worker still lives


@dataclass(frozen=True)
class Done:
    """What a worker hands back: what became of its jobs, and what stopped it before their end."""

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    signal_number: int | None = None
    error: MicrogptError | None = None  # nothing could be written any more, or the worker itself ended


@dataclass(frozen=True)
class Share:
    """The jobs of one worker; a call trains them, as `work.Work` does in the process that was started by the user."""

    number: int  # the worker's, from 1
    folder: Path  # the sweep's
    jobs: list[Job]
    most: int | None
    threads: int | None  # for each engine that is not told otherwise
    said: Path  # the folder of what the workers say
    directory: Path = field(default_factory=Path.cwd)  # what relative paths begin at
    arguments: list[str] = field(default_factory=lambda: sys.argv[1:])  # of the command, for the records
    starter: int | None = None  # the process on this machine without which the worker is to stop; None: it stays

    def __call__(self) -> Done:
        sys.argv[1:] = self.arguments
        with self.output(), contextlib.ExitStack() as after:
            try:
                os.chdir(self.directory)
            except OSError as error:
                return Done(error=MicrogptError(f"worker {self.number} cannot see {self.directory}: {error.strerror}"))
            if self.starter is not None:
                leave_terminal()
                # A process without work that a request to stop would end: joblib would kill the others with it.
                after.callback(signal.signal, signal.SIGTERM, signal.SIG_IGN)
                after.callback(watch(self.starter))
            after.enter_context(also_stopping_on(signal.SIGUSR2))
            return self.work()

    def work(self) -> Done:
        work, stopped_by, ending = Work(self.folder, self.jobs, self.most, self.threads), None, None
        try:
            work.run()
        except Interrupted as stop:
            stopped_by = stop.exit_code - 128
        except MicrogptError as error:
            ending = portable(error)
        except Exception as error:
            traceback.print_exc()
            ending = MicrogptError(f"worker {self.number} failed: {type(error).__name__}: {error}")
        outcomes = {n: Outcome(o.objective, o.error and portable(o.error)) for n, o in work.outcomes.items()}
        return Done(outcomes, stopped_by, ending)

    @contextlib.contextmanager
    def output(self) -> Iterator[None]:
        """Standard output and errors go into files; added to, where a worker is started again."""
        with (
            self.file("out").open("a", encoding="utf-8", errors="backslashreplace", buffering=1) as out,
            self.file("err").open("a", encoding="utf-8", errors="backslashreplace", buffering=1) as err,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            yield

    def file(self, stream: str) -> Path:
        return self.said / f"worker_{self.number}.{stream}"


def portable(error: Exception) -> MicrogptError:
    """An error that any process can unpickle; a bug has shown its traceback where it happened."""
    kind = UserError if isinstance(error, UserError) else MicrogptError
    return kind(str(error))


def leave_terminal() -> None:
    """Ctrl-C reaches the process that was started by the user alone, which passes it on as one request to stop."""
    with contextlib.suppress(PermissionError):  # has a session of its own already
        os.setsid()


@contextlib.contextmanager
def also_stopping_on(number: signal.Signals) -> Iterator[None]:
    """A signal (of Slurm, before a job's time is over) asks to stop as SIGTERM does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(number, before)


def watch(starter: int) -> Callable[[], None]:
    """Stop this process as SIGTERM would, once the starter is gone; returns a call that ends the watch."""
    import psutil

    ended = threading.Event()

    def look() -> None:
        try:
            process = psutil.Process(starter)
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                if ended.wait(STARTER_SECONDS):
                    return
        except psutil.NoSuchProcess:
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, daemon=True).start()
    return ended.set


@contextlib.contextmanager
def attending(shares: list[Share], stop: StopRequest, ask_to_stop: Callable[[], None]) -> Iterator[None]:
    """While it lasts, what the workers say is printed here, and a request to stop is passed on to them.

    Raises BrokenPipeError at its end if nobody reads what is printed any more; then the workers were asked to stop.
    """
    ended, closed = threading.Event(), threading.Event()
    ears = [Ear(share.file(s), f"worker {share.number}: ", s) for share in shares for s in ("out", "err")]

    def attend() -> None:
        while True:
            is_last = ended.wait(LISTENING_SECONDS)
            try:
                for ear in ears if not closed.is_set() else []:
                    ear.listen(is_last)
            except BrokenPipeError:
                closed.set()
            if stop or closed.is_set():
                ask_to_stop()
            if is_last:
                return

    thread = threading.Thread(target=attend, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if closed.is_set():
        raise BrokenPipeError


class Ear:
    """A file that grows: its new lines are printed, each after a prefix."""

    def __init__(self, path: Path, prefix: str, stream: str):
        self.path = path
        self.prefix = prefix
        self.stream = stream  # out | err
        self.heard = 0  # in bytes

    def listen(self, is_last: bool) -> None:
        try:
            with self.path.open("rb") as file:
                file.seek(self.heard)
                new = file.read()
        except FileNotFoundError:
            return
        whole = len(new) if is_last else new.rfind(b"\n") + 1
        self.heard += whole
        target: IO[str] = sys.stdout if self.stream == "out" else sys.stderr
        for line in new[:whole].decode(errors="backslashreplace").splitlines():
            print(f"{self.prefix}{line}", file=target, flush=True)


def new_folder(sweep: Path) -> Path:
    """Where the workers of this process say what they do; others may work on the same sweep."""
    parent = sweep.absolute() / ".workers"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{os.getpid()}_", dir=parent))
    except OSError as error:
        raise UserError(f"outputs_dir={sweep.parent.parent} cannot be written: {error.strerror}") from error
