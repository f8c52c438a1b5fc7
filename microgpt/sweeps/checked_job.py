"""Checks a job, then lets Hydra run it: nothing is written before the checks have passed."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, env_override
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from microgpt.config.hydra_compat import hydra_run_job, replaced
from microgpt.config.hydra_settings import has_job_logging
from microgpt.errors import UserError, describe

RUN_NAME = "<time>_<hash>"  # value of the resolver run_name
CHOSEN = "${run_name:"  # in the default of hydra.run.dir (conf/config.yaml): runs/folders.py chooses the folder


@dataclass(frozen=True)
class StartedJob:
    """A checked job: its locked output folder and the function that runs it."""

    run: Callable[[], float | None]
    folder: Path | None = None  # None: the job has no folder
    release: Callable[[], None] = lambda: None  # releases the lock of the folder


@dataclass
class JobResult(JobReturn):
    """A job's result. The error of a failed job is raised without the line that Hydra's class would print first."""

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
    """Run a job like Hydra's function of the same name, but in the folder that `task_function.start` returns.

    The job is checked before Hydra creates the folder, writes its files, calls callbacks and configures logging.
    """
    with replaced(HydraConfig.instance(), "cfg", config):  # set_config would copy it
        if (folder := folder_named(config, job_dir_key, job_subdir_key)) is not None:
            set_hydra(config, "runtime", "output_dir", os.path.abspath(folder))  # noqa: PTH100 (as Hydra does)
        environment = dict(config.hydra.job.env_set)
        with env_override(environment):
            started: StartedJob = task_function.start(config)  # pyright: ignore[reportFunctionMemberAccess]
        try:
            if started.folder is None:
                if config.hydra.job.chdir:
                    raise UserError(
                        "hydra.job.chdir=true is not allowed for a job without a folder: set one with hydra.run.dir"
                    )
                set_hydra(config, "", "output_subdir", None)
            set_hydra(config, "runtime", "output_dir", str((started.folder or Path()).absolute()))
            run = partial(logged, started.run) if has_job_logging(config.hydra) else started.run
            result = hydra_run_job(
                lambda composed: run(), config, "hydra.runtime.output_dir", None, hydra_context,
                configure_logging, environment=environment,
            )  # fmt: skip
        except OSError as error:  # raised for Hydra's files: the error for a full disk has no path
            error.filename = error.filename or str(started.folder)
            if job_subdir_key is None and not Path(config.hydra.runtime.output_dir).is_dir():
                key = f"{job_dir_key}={started.folder}"
                raise UserError(f"{key} is not allowed: it cannot be written: {error.strerror}") from error
            raise
        finally:
            started.release()
    return JobResult(**vars(result))


class CopiedOutput(io.TextIOBase):
    """Standard output, copied to the files of logging handlers."""

    def __init__(self, output: TextIO, files: Sequence[TextIO]):
        self.output = output
        self.files = files

    def write(self, text: str) -> int:
        for file in self.files:
            file.write(text)
        return self.output.write(text)

    def flush(self) -> None:
        for stream in (*self.files, self.output):
            stream.flush()

    def isatty(self) -> bool:
        return self.output.isatty()

    def fileno(self) -> int:
        return self.output.fileno()


def logged(run: Callable[[], float | None]) -> float | None:
    """Run a job. The files of hydra.job_logging receive what the job prints, and its error."""
    files = [one.stream for one in logging.root.handlers if isinstance(one, logging.FileHandler) and one.stream]
    output = CopiedOutput(sys.stdout, files)
    try:
        with contextlib.redirect_stdout(output):
            return run()
    except Exception as error:
        for file in files:
            print(f"error: {describe(error)}", file=file)
        raise
    finally:
        output.flush()


def folder_named(config: DictConfig, dir_key: str, subdir_key: str | None) -> str | None:
    """Return the folder set by hydra.run.dir, or by hydra.sweep.dir and hydra.sweep.subdir; None for the default."""
    if subdir_key is None:
        as_written: Any = OmegaConf.to_container(config.hydra.run, resolve=False)
        return None if CHOSEN in as_written["dir"] else config.hydra.run.dir
    return os.path.join(*(str(OmegaConf.select(config, key)) for key in (dir_key, subdir_key)))  # noqa: PTH118


def set_hydra(config: DictConfig, node: str, key: str, value: Any) -> None:
    """Set a key in the `hydra` node."""
    parent = OmegaConf.select(config, f"hydra.{node}".rstrip("."))
    with read_write(parent), open_dict(parent):
        parent[key] = value
