"""The application: Hydra composes the configuration, config/validation.py checks it, a task runs.

Exit codes: 0 on success, 1 for a failure, 2 for a user error, 128 + n after signal n.
"""

import contextlib
import io
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import hydra
from hydra.errors import HydraException

from microgpt import __version__
from microgpt.config.hydra_compat import own_hydra, register_plugins, register_resolver, run_hydra, share_config_store
from microgpt.config.hydra_errors import added_option, explain, report
from microgpt.config.hydra_optuna import use_our_option
from microgpt.config.hydra_schema import keys_with_help, register_schema
from microgpt.distributed import this_process
from microgpt.errors import Interrupted, UserError
from microgpt.job import Application
from microgpt.sweeps.checked_job import RUN_NAME, run_job
from microgpt.sweeps.lifecycle import Sweep, current_sweep, new_sweep, start_sweep, sweep_names


def main() -> int:
    """Run the program on sys.argv and return its exit code. Under torchrun, rank 0 runs it and other ranks assist."""
    prepare_streams()
    process = this_process()
    if process.world_size == 1:
        return run()
    try:
        from microgpt.engines.torch.worker import run_rank_zero, run_worker

        return run_worker() if process.rank else run_rank_zero(run)
    except Exception as error:
        return report(error, prefix=f"process {process.rank}: ")


def run() -> int:
    """Run the program on sys.argv in this process: one job or a sweep. Returns the exit code."""
    with new_sweep() as sweep:
        try:
            execute(sys.argv[1:])
            return finish(sweep)
        except KeyboardInterrupt as stop:
            finish(sweep)
            return stop.exit_code if isinstance(stop, Interrupted) else 128 + signal.SIGINT
        except BrokenPipeError:
            return close_output()
        except Exception as error:
            if error in sweep.errors:  # raised again by Hydra's own sweepers after the job's error was reported
                return finish(sweep)
            sweep.remove_if_empty()  # the error occurred while composing: no job ran
            return report(sweep.named(error))


def execute(arguments: Sequence[str], application: Application | None = None) -> None:
    """Run the program on these arguments, within `new_sweep`. Raises the errors of a single run and of composition.

    Errors of a sweep's jobs are reported and recorded in the sweep. Hydra's state is restored afterwards.
    """
    if "--version" in arguments:
        print(f"microgpt {__version__} (Hydra {hydra.__version__})")
        return
    with own_hydra(), arguments_of_program(arguments):
        register_schema()
        register_plugins("microgpt.sweeps.plugins")
        use_our_option()
        share_config_store()
        sweep = current_sweep()
        sweep.name = sweep_names(arguments)[0]
        register_resolver("sweep_id", lambda: sweep.name, use_cache=True)
        register_resolver("run_name", lambda: RUN_NAME)
        register_resolver("keys_with_help", keys_with_help)
        try:
            run_hydra(arguments, application or Application(), run_job, start_sweep, config_directory())
        except HydraException as error:
            if (known := added_option(error, arguments)) is not None:
                raise known from error
            raise


@contextlib.contextmanager
def arguments_of_program(arguments: Sequence[str]) -> Iterator[None]:
    """Replace the arguments in sys.argv, which records contain as the command, within the block."""
    before = sys.argv
    sys.argv = [*before[:1], *arguments]
    try:
        yield
    finally:
        sys.argv = before


def finish(sweep: Sweep) -> int:
    """Finish the sweep after its jobs. Returns the exit code of the first failure, or 0."""
    try:
        if any(isinstance(error, BrokenPipeError) for error in sweep.errors):
            return close_output()
        sweep.finish()
        sys.stdout.flush()
    except BrokenPipeError:
        return close_output()
    except UserError as error:
        sweep.errors.append(error)
        report(error)
    return explain(sweep.errors[0])[1] if sweep.errors else 0


def config_directory() -> str:
    """Return the conf/ folder, which is inside the package or next to it.

    Raises UserError for a package in a zip file, such as a wheel in PYTHONPATH: Hydra can only read folders.
    """
    package = Path(__file__).resolve().parent
    folder = next(filter(Path.is_dir, (package / "conf", package.parent / "conf")), None)
    if folder is not None:
        return str(folder)
    if archive := next(filter(Path.is_file, package.parents), None):
        raise UserError(f'microgpt does not run from a zip file: pip install "{archive}"')
    raise UserError(f"{package} is incomplete: the conf folder is missing")


def prepare_streams() -> None:
    """Open missing streams on os.devnull, and make output streams accept any character in any locale."""
    logging.raiseExceptions = False  # Hydra may log to a closed pipe
    sys.stdin = sys.stdin or Path(os.devnull).open()  # noqa: SIM115 (open until the program ends)
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def close_output() -> int:
    """Send further output to os.devnull after a reader such as `head` closed the pipe. Returns the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE
