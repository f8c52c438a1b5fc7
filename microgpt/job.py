"""Turns a configuration composed by Hydra into a task that is ready to run."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from microgpt import tasks
from microgpt.config.hydra_errors import report
from microgpt.config.hydra_settings import check_hydra, check_output_subdir, check_removals, checked_by_rules
from microgpt.config.schema import Config
from microgpt.config.usage import refuse_unused_keys
from microgpt.config.validation import check_processes
from microgpt.distributed import this_process
from microgpt.errors import UserError, is_recorded
from microgpt.runs.invocation import Invocation, SweepJob
from microgpt.sweeps.checked_job import StartedJob
from microgpt.sweeps.hydra_job import job_name, without_hydra
from microgpt.sweeps.lifecycle import current_sweep


class Application:
    """Hydra's task function."""

    def __call__(self, composed: DictConfig) -> float | None:
        """Run a job that Hydra started without `run_job`: in a process of a third-party launcher."""
        started = self.start(composed)
        try:
            copy_hydra_files(HydraConfig.get(), started.folder)
            return started.run()
        finally:
            started.release()

    def start(self, composed: DictConfig) -> StartedJob:
        """Check a job and lock its folder. HydraConfig holds the `hydra` node of the composed configuration.

        The error of a single run is raised. The error of a sweep's job is reported and recorded, and raised when the
        job runs.
        """
        hydra_config: Any = HydraConfig.get()
        own = without_hydra(composed)
        invocation = invocation_of(hydra_config)
        try:
            started = self.begin(checked(own, hydra_config, invocation), invocation)
        except Exception as error:
            if invocation.job is None:
                raise
            return StartedJob(raising(error), fail(error, own, invocation))
        if invocation.job is None:
            return started
        return replace(started, run=lambda: run_in_sweep(started, own, invocation))

    def begin(self, config: Config, invocation: Invocation) -> StartedJob:
        """Lock the folder of a job whose configuration has been checked."""
        return tasks.start(config, invocation)


def copy_hydra_files(hydra_config: HydraConf, folder: Path | None) -> None:
    """Copy the files that Hydra wrote to the planned folder of the job, if the actual folder differs."""
    planned, subdir = Path(hydra_config.runtime.output_dir), hydra_config.output_subdir
    if folder is not None and subdir is not None and folder.absolute() != planned and (planned / subdir).is_dir():
        shutil.copytree(planned / subdir, folder / subdir, dirs_exist_ok=True)


def checked(own: DictConfig, hydra_config: HydraConf, invocation: Invocation) -> Config:
    check_hydra(hydra_config)
    check_output_subdir(hydra_config.output_subdir)
    if invocation.job is None and invocation.folder is None:
        refuse_unknown_folder(own)
    check_removals(invocation.overrides)
    config = checked_by_rules(OmegaConf.to_container(own, resolve=True), dict(hydra_config.runtime.choices))
    refuse_unused_keys(config, invocation)
    check_processes(config, this_process().world_size)
    return config


def refuse_unknown_folder(own: DictConfig) -> None:
    """Raise UserError for a value that depends on the run's folder: the folder's name depends on all values."""
    text = str(OmegaConf.to_container(own))
    for reference in ("hydra:runtime.output_dir", "hydra:run.dir"):
        if reference in text:
            raise UserError(f"${{{reference}}} is not allowed in a value unless hydra.run.dir sets the folder")


def invocation_of(hydra_config: HydraConf) -> Invocation:
    """Return the overrides, the folder and the sweep job with which Hydra calls the job."""
    overrides = OmegaConf.to_container(hydra_config.overrides.task, resolve=False) or []  # pyright: ignore[reportArgumentType]
    assert isinstance(overrides, list)
    directory = Path.cwd() if hydra_config.job.chdir else Path()
    invocation = Invocation(tuple(map(str, overrides)), directory=directory)
    if hydra_config.mode == RunMode.MULTIRUN:
        sweep = directory / hydra_config.sweep.dir
        number = hydra_config.job.num
        trial = number if current_sweep().has_trials else None
        return replace(invocation, job=SweepJob(sweep, number, job_name(hydra_config.sweep.subdir), trial))
    is_named = not OmegaConf.is_missing(hydra_config.runtime, "output_dir")
    return replace(invocation, folder=directory / hydra_config.run.dir) if is_named else invocation


def run_in_sweep(started: StartedJob, own: DictConfig, invocation: Invocation) -> float | None:
    """Run a job of a sweep. An error is reported and recorded unless this has already been done."""
    try:
        return started.run()
    except Exception as error:
        fail(error, own, invocation)
        raise


def fail(error: Exception, own: DictConfig, invocation: Invocation) -> Path | None:
    """Report and record the error of a job of a sweep. Returns the folder of the record if one was written."""
    assert invocation.job is not None
    current_sweep().errors.append(error)
    if is_recorded(error) or isinstance(error, BrokenPipeError):  # the sweep runner has reported and recorded it
        return None
    report(error, prefix=f"job {invocation.job.number}: ")
    if own.task.name != "train":
        return None
    from microgpt.runs.folders import record_failed_job  # imports numpy, which --help does not need

    return record_failed_job(OmegaConf.to_container(own), invocation, error)


def raising(error: Exception) -> Any:
    def run() -> NoReturn:
        raise error

    return run
