"""A job that has been checked, and how Hydra runs it: nothing is written before the checks have passed."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, env_override
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from microgpt.config.hydra_compat import hydra_run_job
from microgpt.errors import UserError

RUN_NAME = "<time>_<hash>"  # what the resolver run_name returns
CHOSEN = "${run_name:"  # in the default of hydra.run.dir (conf/config.yaml): runs/folders.py chooses the folder


@dataclass(frozen=True)
class StartedJob:
    """A checked job: the folder that it writes to, which it holds, and the function that runs it."""

    run: Callable[[], float | None]
    folder: Path | None = None  # None: it has none
    release: Callable[[], None] = lambda: None  # the folder


class Starter(Protocol):
    """The application as Hydra's task function."""

    def __call__(self, composed: DictConfig) -> float | None: ...
    def start(self, composed: DictConfig) -> StartedJob:
        """Check a job and take its folder. `composed` has the node `hydra`."""
        ...


@dataclass
class JobResult(JobReturn):
    """A job's result. The error of a failed one is raised as it is: Hydra's class prints a line about it first."""

    @property
    def return_value(self) -> Any:
        if self.status == JobStatus.FAILED:
            raise self._return_value
        return self._return_value

    @return_value.setter
    def return_value(self, value: Any) -> None:
        self._return_value = value


def run_job(
    task_function: TaskFunction,
    config: DictConfig,
    job_dir_key: str,
    job_subdir_key: str | None,
    hydra_context: HydraContext,
    configure_logging: bool = True,
) -> JobReturn:
    """Run a job as Hydra's function of this name does, in the folder that `task_function.start` returns.

    The job is checked before Hydra makes the folder, writes its files there, calls callbacks and configures logging.
    """
    before = HydraConfig.instance().cfg
    HydraConfig.instance().cfg = config  # pyright: ignore[reportAttributeAccessIssue] (set_config would copy it)
    try:
        if (folder := folder_named(config, job_dir_key, job_subdir_key)) is not None:
            set_hydra(config, "runtime", "output_dir", os.path.abspath(folder))  # noqa: PTH100 (as Hydra does)
        with env_override(dict(config.hydra.job.env_set)):
            started: StartedJob = task_function.start(config)  # pyright: ignore[reportFunctionMemberAccess]
        try:
            if started.folder is None:  # no folder to write to
                if config.hydra.job.chdir:
                    raise UserError(
                        "hydra.job.chdir=true is not allowed for a job without a folder: name one with hydra.run.dir"
                    )
                set_hydra(config, "", "output_subdir", None)
            set_hydra(config, "runtime", "output_dir", str((started.folder or Path()).absolute()))
            result = hydra_run_job(
                lambda composed: started.run(), config, "hydra.runtime.output_dir", None, hydra_context,
                configure_logging,
            )  # fmt: skip
        except OSError as error:  # of Hydra's files: a full disk names none
            error.filename = error.filename or str(started.folder)
            raise
        finally:
            started.release()
    finally:
        HydraConfig.instance().cfg = before
    return JobResult(**vars(result))


def folder_named(config: DictConfig, dir_key: str, subdir_key: str | None) -> str | None:
    """Return the folder that hydra.run.dir, or hydra.sweep.dir and hydra.sweep.subdir, name; None: they name none."""
    if subdir_key is None:
        as_written: Any = OmegaConf.to_container(config.hydra.run, resolve=False)
        return None if CHOSEN in as_written["dir"] else config.hydra.run.dir
    return os.path.join(*(str(OmegaConf.select(config, key)) for key in (dir_key, subdir_key)))  # noqa: PTH118


def set_hydra(config: DictConfig, node: str, key: str, value: Any) -> None:
    """Set a key of the node `hydra`."""
    parent = OmegaConf.select(config, f"hydra.{node}".rstrip("."))
    with read_write(parent), open_dict(parent):
        parent[key] = value
