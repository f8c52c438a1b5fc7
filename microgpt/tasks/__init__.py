"""The tasks, a file for each, imported when called: sampling does not load what training needs."""

from collections.abc import Callable
from importlib import import_module

from microgpt.config.schema import Config
from microgpt.runs.record import Invocation

Task = Callable[[Config, Invocation], float | None]


def task_named(name: str) -> Task:
    """Return the function of a task: microgpt/tasks/<name>.py has a function of that name."""
    return getattr(import_module(f"microgpt.tasks.{name}"), name)
