"""The application: Hydra composes, `rules.py` checks, a task runs; a user's mistake is one sentence and exit code 2.

Hydra is told to raise its errors instead of printing them, and to make no folders of its own: a run makes its folder
once nothing is wrong with what was asked for.
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

from microgpt.config.conversion import from_omegaconf, keys_with_help, register_schema
from microgpt.config.hydra_compat import register_plugins, share_config_store
from microgpt.config.hydra_errors import explain, report
from microgpt.config.validation import check, check_overrides, check_processes
from microgpt.distributed import processes
from microgpt.errors import RECORDED_IN, Interrupted, UserError
from microgpt.runs.record import Invocation
from microgpt.sweeps.lifecycle import Sweep, current_sweep, new_sweep, sweep_id
from microgpt.tasks import task_named


def config_directory() -> str:
    """The installed package carries conf/ inside itself; a checkout has it beside the package."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return str(inside if inside.is_dir() else package.parent / "conf")


@hydra.main(version_base="1.3", config_path=config_directory(), config_name="config")
def application(composed: DictConfig) -> float | None:
    """One job. Returns what an optimizing sweeper minimises; NaN for a job that failed, so that the others go on.

    Errors are kept, not raised: Hydra would add lines of its own to the sentence.
    """
    hydra_config = HydraConfig.get()
    in_sweep = hydra_config.mode == RunMode.MULTIRUN
    job = (hydra_config.sweep.dir, hydra_config.job.num) if in_sweep else None
    overrides = OmegaConf.to_container(hydra_config.overrides.task, resolve=False) or []  # as they were typed
    assert isinstance(overrides, list)
    invocation = Invocation(tuple(map(str, overrides)), job)
    try:
        config = from_omegaconf(composed, dict(hydra_config.runtime.choices))
        check(config)
        check_overrides(config.task.name, invocation)
        check_processes(config, processes().count)
        return task_named(config.task.name)(config, invocation)
    except Exception as error:
        current_sweep().errors.append(error)
        if not isinstance(error, BrokenPipeError):
            report(error, prefix=f"job {hydra_config.job.num}: " if in_sweep else "")
        recorded = any(note.startswith(RECORDED_IN) for note in getattr(error, "__notes__", []))
        if in_sweep and composed.task.name == "train" and not recorded:  # the records of a sweep tell of all its jobs
            from microgpt.runs.folders import record_failed_job  # numpy, which --help starts without

            record_failed_job(OmegaConf.to_container(composed), invocation, error)
        return float("nan")


def main() -> int:
    """Run the program on sys.argv; returns the exit code. Of several processes the first runs it, the others follow."""
    prepare_streams()
    here = processes()
    if here.count == 1:
        return run()
    try:
        from microgpt.engines.torch.worker import follow, lead

        return follow() if here.rank else lead(run)
    except Exception as error:
        return report(error, prefix=f"process {here.rank}: ")


def run() -> int:
    """The program in this process."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    register_schema()
    register_plugins("microgpt.sweeps.launcher", "VectorizedLauncher", "GridSweeper")
    share_config_store()
    OmegaConf.register_new_resolver("keys_with_help", keys_with_help, replace=True)
    name = sweep_id(sys.argv[1:])
    OmegaConf.register_new_resolver("sweep_id", lambda: name, use_cache=True, replace=True)
    with new_sweep() as sweep:
        try:
            application()
            return finish(sweep)
        except KeyboardInterrupt as stop:
            finish(sweep)
            return stop.exit_code if isinstance(stop, Interrupted) else 128 + signal.SIGINT
        except BrokenPipeError:
            return output_was_closed()
        except Exception as error:  # in composition: no job ran
            sweep.remove_if_empty()
            if isinstance(error, OSError) and sweep.folder is not None:
                error = UserError(f"outputs_dir={sweep.outputs_dir} cannot be written: {error.strerror}")
            return report(error)


def prepare_streams() -> None:
    """Run without output where there is none to write to, and print any character, whatever the locale is."""
    logging.raiseExceptions = False  # Hydra's log lines into a closed pipe
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 (open as long as the program runs)
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def output_was_closed() -> int:
    """Whoever read our output has closed it, as `| head` does: say nothing more, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def finish(sweep: Sweep) -> int:
    """After all jobs: the end of a sweep, and the exit code, which is that of the first failure."""
    try:
        if any(isinstance(error, BrokenPipeError) for error in sweep.errors):
            return output_was_closed()
        sweep.finish()
        sys.stdout.flush()
    except BrokenPipeError:
        return output_was_closed()
    except UserError as error:
        sweep.errors.append(error)
        report(error)
    return explain(sweep.errors[0])[1] if sweep.errors else 0
