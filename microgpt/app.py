"""The application: Hydra composes the configuration, config/validation.py checks it, a task runs.

Exit codes: 0 on success, 1 for a failure, 2 for a mistake of the user, 128 + n after signal n.
"""

import io
import logging
import os
import signal
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from microgpt.config.hydra_compat import register_plugins, share_config_store
from microgpt.config.hydra_errors import explain, report
from microgpt.config.hydra_schema import from_omegaconf, keys_with_help, register_schema
from microgpt.config.validation import check, check_overrides, check_processes
from microgpt.distributed import this_process
from microgpt.errors import Interrupted, UserError, is_recorded
from microgpt.runs.record import Invocation
from microgpt.sweeps.lifecycle import Sweep, current_sweep, new_sweep, sweep_id
from microgpt.tasks import task_named


def main() -> int:
    """Run the program on sys.argv and return its exit code. Under torchrun, rank 0 runs it and the others assist."""
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
    """Run the program in this process: one job, or a sweep of them."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises its errors instead of printing them
    register_schema()
    register_plugins("microgpt.sweeps.launcher", "VectorizedLauncher", "GridSweeper")
    share_config_store()
    name = sweep_id(sys.argv[1:])
    OmegaConf.register_new_resolver("sweep_id", lambda: name, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("keys_with_help", keys_with_help, replace=True)
    with new_sweep() as sweep:
        try:
            hydra.main(version_base="1.3", config_path=config_directory(), config_name="config")(run_job)()
            return finish(sweep)
        except KeyboardInterrupt as stop:
            finish(sweep)
            return stop.exit_code if isinstance(stop, Interrupted) else 128 + signal.SIGINT
        except BrokenPipeError:
            return close_output()
        except Exception as error:
            if error in sweep.errors:  # of a job, reported already: Hydra's own sweepers raise it
                return finish(sweep)
            sweep.remove_if_empty()  # while composing: no job ran
            if isinstance(error, OSError) and sweep.folder is not None:
                error = UserError(f"outputs_dir={sweep.outputs_dir} cannot be written: {error.strerror}")
            return report(error)


def run_job(composed: DictConfig) -> float | None:
    """Check a job's configuration and run its task.

    Returns what an optimizing sweeper minimises. An error is reported and kept in the sweep; that of a sweep's job is
    raised as well, so that Hydra knows that the job failed.
    """
    hydra_config = HydraConfig.get()
    in_sweep = hydra_config.mode == RunMode.MULTIRUN
    overrides = OmegaConf.to_container(hydra_config.overrides.task, resolve=False) or []
    assert isinstance(overrides, list)
    invocation = Invocation(
        tuple(map(str, overrides)), (hydra_config.sweep.dir, hydra_config.job.num) if in_sweep else None
    )
    try:
        config = from_omegaconf(composed, dict(hydra_config.runtime.choices))
        check(config)
        check_overrides(config.task.name, invocation)
        check_processes(config, this_process().world_size)
        return task_named(config.task.name)(config, invocation)
    except Exception as error:
        current_sweep().errors.append(error)
        if not in_sweep:
            if not isinstance(error, BrokenPipeError):
                report(error)
            return None
        is_reported = is_recorded(error) or isinstance(error, BrokenPipeError)  # by the runner of the sweep's jobs
        if not is_reported:
            report(error, prefix=f"job {hydra_config.job.num}: ")
            if composed.task.name == "train":
                from microgpt.runs.folders import record_failed_job  # imports numpy, which --help starts without

                record_failed_job(OmegaConf.to_container(composed), invocation, error)
        raise


def finish(sweep: Sweep) -> int:
    """Finish the sweep after its jobs. Returns the exit code, which is that of the first failure."""
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
    """Return the folder conf/: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return str(inside if inside.is_dir() else package.parent / "conf")


def prepare_streams() -> None:
    """Open missing streams on os.devnull, and let output streams print any character in any locale."""
    logging.raiseExceptions = False  # for log lines of Hydra into a closed pipe
    sys.stdin = sys.stdin or Path(os.devnull).open()  # noqa: SIM115 (open until the program ends)
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def close_output() -> int:
    """Send further output to os.devnull after its reader, such as `head`, closed the pipe. Returns the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE
