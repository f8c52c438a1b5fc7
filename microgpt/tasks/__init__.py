"""The tasks, one file each. A module is imported when its task is called: sampling need not load the training code."""

from collections.abc import Callable
from importlib import import_module

from microgpt.config.schema import Config
from microgpt.runs.record import Invocation

Task = Callable[[Config, Invocation], float | None]


def task_named(name: str) -> Task:
    """Return the function of a task in config/choices.py: `train` of microgpt/tasks/train.py for task=train."""
    return getattr(import_module(f"microgpt.tasks.{name}"), name)
