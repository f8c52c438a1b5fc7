"""Loggers: pass the lines of history.jsonl to a library for viewing and comparing runs.

Each library is an optional dependency, imported only if a run selects it. For each library, this package has a module
with a function `connect(LoggedRun) -> LibraryRun`.
"""

import os
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from microgpt.config import choices
from microgpt.errors import UserError
from microgpt.installation import install_command
from microgpt.runs.history import HistoryLine
from microgpt.training.loggers.base import LibraryRun, LoggedRun, RunLogger
from microgpt.training.loggers.delivery import Delivery

__all__ = ["LOGGERS", "LoggedRun", "RunLogger", "check_installed", "make_logger"]

LOGGERS = tuple(name for name in choices.LOGGERS if name != "none")


def check_installed(name: str) -> None:
    """Raise UserError if the library is not installed. Imports nothing, so the check is cheap before a run starts."""
    needed = choices.LOGGERS[name].modules
    if name == "mlflow" and os.environ.get("MLFLOW_TRACKING_URI"):
        needed = needed[:1]  # the other modules are needed only for the database of the local store
    if not all(map(is_installed, needed)):
        raise UserError(f"logger={name} needs {name}: {install_command(name)}")


def is_installed(module: str) -> bool:
    """Return whether the package is installed; a mere folder of this name, such as wandb creates, does not count."""
    spec = find_spec(module)
    return spec is not None and spec.origin is not None


def make_logger(run: LoggedRun, earlier: Sequence[HistoryLine] = ()) -> RunLogger:
    """Create the logger of one run; a process may have many loggers.

    `earlier` are the lines that history.jsonl keeps from before a resumption; those that the library lacks are
    delivered first. Raises UserError if the library is not installed; later failures are reported once, and the run
    continues.
    """
    if run.library == "none":
        return RunLogger()
    check_installed(run.library)

    def connect() -> LibraryRun:
        return import_module(f"microgpt.training.loggers.{run.library}").connect(run)

    return Delivery(run.library, connect, earlier, run.forget_id)
