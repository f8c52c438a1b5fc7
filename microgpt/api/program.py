"""Calls the program from Python, with the checks, files and error messages of the command line."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from microgpt.app import execute
from microgpt.config.hydra_errors import explain
from microgpt.config.schema import Config
from microgpt.distributed import this_process
from microgpt.errors import MicrogptError, UserError
from microgpt.job import Application
from microgpt.runs.invocation import Invocation
from microgpt.sweeps.checked_job import StartedJob
from microgpt.sweeps.lifecycle import Sweep, new_sweep

LOCK = threading.RLock()  # Hydra's state is global, so calls from several threads run one after the other


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
    with program():
        execute(overrides, composition)
    return composition.config, composition.invocation


def train_run(overrides: Sequence[str]) -> Path:
    """Train a run and return its folder."""
    call = OneJob()
    with program():
        execute(overrides, call)
    assert call.job.folder is not None
    return call.job.folder


def train_sweep(overrides: Sequence[str]) -> tuple[Path, list[Exception]]:
    """Train the jobs of a sweep and write the tables. Returns the sweep's folder and the errors of failed jobs."""
    with program() as sweep:
        try:
            execute(["--multirun", *overrides])
        except KeyboardInterrupt:
            sweep.finish(print_tables=False)
            raise
        sweep.finish(print_tables=False)
    assert sweep.folder is not None
    return sweep.folder, sweep.errors


@contextmanager
def program() -> Iterator[Sweep]:
    """Run the block as a call of the program. Errors are raised as UserError or MicrogptError with its messages."""
    if (processes := this_process().world_size) > 1:
        raise UserError(f"{processes} processes of torchrun can only use the command line: -m microgpt")
    with LOCK, new_sweep() as sweep:
        try:
            yield sweep
        except SystemExit as end:  # for an Exception in a callback, Hydra would only log a warning
            if isinstance(end.__cause__, MicrogptError):
                raise end.__cause__ from None
            raise
        except Exception as error:
            if error not in sweep.errors:
                sweep.remove_if_empty()  # no job ran
            raise with_sentence(error, sweep) from error


def with_sentence(error: Exception, sweep: Sweep) -> Exception:
    """Return the error as an instance of the class with its exit code. A bug is returned unchanged."""
    error = sweep.named(error)
    sentence, code = explain(error)
    if sentence is None or isinstance(error, MicrogptError):
        return error
    return UserError(sentence) if code == UserError.exit_code else MicrogptError(sentence)
