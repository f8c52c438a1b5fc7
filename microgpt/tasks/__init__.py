"""The tasks, one module each. A module is imported when its task runs, so that sampling does not load training code."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

from microgpt.config.choices import TASKS
from microgpt.config.keys import with_absolute_paths
from microgpt.config.schema import Config
from microgpt.errors import UserError
from microgpt.runs.invocation import Invocation
from microgpt.sweeps.checked_job import StartedJob

Task = Callable[[Config, Invocation], float | None]


def start(config: Config, invocation: Invocation) -> StartedJob:
    """Return the task of a checked configuration, ready to run. Raises UserError."""
    if TASKS[config.task.name].makes_folder:
        return module_of(config.task.name).start(config, invocation)
    if invocation.directory != Path():
        config = with_absolute_paths(config, invocation.directory)
    task = task_named(config.task.name)
    folder = invocation.job.folder if invocation.job is not None else invocation.folder
    if folder is not None:
        refuse_folder_of_run(folder, "hydra.run.dir" if invocation.job is None else "hydra.sweep.subdir", config)
    return StartedJob(lambda: task(config, invocation), folder)


def refuse_folder_of_run(folder: Path, key: str, config: Config) -> None:
    """Raise UserError if a task that is not training would write Hydra's files to the folder of a run."""
    from microgpt.runs.folders import has_failed_before_start, is_free  # imports numpy, which --help does not need

    if not is_free(folder) and not has_failed_before_start(folder):
        raise UserError(f"{key} is not allowed with task={config.task.name}: {folder} contains a run")


def task_named(name: str) -> Task:
    """Return the function of a task, which has the same name as its module microgpt/tasks/<name>.py."""
    return getattr(module_of(name), name)


def module_of(name: str) -> ModuleType:
    return import_module(f"microgpt.tasks.{name}")
