"""Calls the program from Python, with the checks, files and error messages of the command line."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from microgpt.app import execute
from microgpt.config.hydra_errors import explain
from microgpt.config.schema import Config
from microgpt.distributed import this_process
from microgpt.errors import RECORDED_IN, MicrogptError, UserError
from microgpt.job import Application
from microgpt.runs.invocation import Invocation
from microgpt.sweeps.checked_job import StartedJob
from microgpt.sweeps.lifecycle import Sweep, new_sweep

LOCK = threading.RLock()  # Hydra's state is global, so calls from several threads run one after the other


class NoSweep(Sweep):
    """The sweep of a call that trains a single run: it does not start."""

    def start(self, config: Any) -> None:
        experiment = config.hydra.runtime.choices.get("experiment")
        cause = "hydra.mode=MULTIRUN" if experiment is None else f"experiment={experiment}"
        how = "use microgpt.sweep, or add hydra.mode=RUN to train one of its jobs"
        raise UserError(f"{cause} starts a sweep, but microgpt.train trains a single run: {how}")


class OneJob(Application):
    """An application that keeps the job that it starts."""

    job: StartedJob

    def begin(self, config: Config, invocation: Invocation) -> StartedJob:
        self.job = super().begin(config, invocation)
        return self.job


class Composition(Application):
    """An application that only keeps the checked configuration."""

    config: Config
    invocation: Invocation

    def begin(self, config: Config, invocation: Invocation) -> StartedJob:
        self.config, self.invocation = config, invocation
        return StartedJob(lambda: None)


def compose(overrides: Sequence[str]) -> tuple[Config, Invocation]:
    """Return the checked configuration that the program would run with these overrides."""
    composition = Composition()
    call(lambda: execute(overrides, composition), NoSweep())
    return composition.config, composition.invocation


def train_run(overrides: Sequence[str]) -> Path:
    """Train a run and return its folder."""
    one = OneJob()
    call(lambda: execute(overrides, one), NoSweep())
    assert one.job.folder is not None
    return one.job.folder


def train_sweep(overrides: Sequence[str]) -> tuple[Path, list[Exception]]:
    """Train the jobs of a sweep and write the tables. Returns the sweep's folder and the errors of failed jobs."""
    sweep = Sweep()

    def run() -> None:
        try:
            execute(["--multirun", *overrides])
        except KeyboardInterrupt:
            sweep.finish(print_tables=False)
            raise
        sweep.finish(print_tables=False)

    call(run, sweep)
    assert sweep.folder is not None
    return sweep.folder, sweep.errors


def call(run: Callable[[], None], sweep: Sweep) -> None:
    """Run a function as a call of the program. Errors are raised as UserError or MicrogptError with its messages.

    They have no cause and no traceback inside the program, which would add nothing to the message.
    """
    if (processes := this_process().world_size) > 1:
        raise UserError(f"{processes} processes of torchrun can only use the command line: -m microgpt")
    with LOCK, new_sweep(sweep):
        try:
            run()
        except SystemExit as end:  # for an Exception in a callback, Hydra would only log a warning
            if isinstance(end.__cause__, MicrogptError):
                raise end.__cause__.with_traceback(None) from None
            raise
        except Exception as error:
            if error not in sweep.errors:
                sweep.remove_if_empty()  # no job ran
            known = known_error(error, sweep)
            if known is None:
                raise
            raise known.with_traceback(None) from None


def known_error(error: Exception, sweep: Sweep) -> MicrogptError | None:
    """Return the error with its sentence, as an instance of the class with its exit code; None for a bug."""
    error = sweep.named(error)
    if isinstance(error, MicrogptError):
        return with_first_reason(error)
    sentence, code = explain(error)
    if sentence is None:
        return None
    return UserError(sentence) if code == UserError.exit_code else MicrogptError(sentence)


def with_first_reason(error: MicrogptError) -> MicrogptError:
    """Return the error; if its notes are the reasons of several jobs, with the first one in its message."""
    first, *more = [note for note in getattr(error, "__notes__", ()) if not note.startswith(RECORDED_IN)] or [None]
    if first is None:
        return error
    several = type(error)(f"{error}: {first}")
    for note in more:
        several.add_note(note)
    return several
