"""Loggers: the lines of history.jsonl, as they come, handed to a library in which runs are looked at and compared.

A library is imported when a run asks for it by name, and is an extra of the package. Nothing here knows the
configuration's schema, engines or the training loop: a run is its folder, its record and its lines.
"""

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from microgpt.config import choices
from microgpt.errors import UserError
from microgpt.training.loggers.base import (
    DEFAULT_PROJECT,
    Destination,
    Line,
    LoggedRun,
    LoggerOptions,
    Record,
    RunLogger,
)
from microgpt.training.loggers.delivery import Delivery

__all__ = ["LOGGERS", "LoggerOptions", "NoLogger", "RunLogger", "check_installed", "make_logger", "where_to_look"]

# Each is a module of this package with a function `connect(LoggedRun) -> Destination`.
LOGGERS = {name: modules for name, modules in choices.LOGGERS.items() if name != "none"}
LOOK = {  # the command that shows what was logged, and the variables by which a user sends it elsewhere
    "tensorboard": ("tensorboard --logdir {store}", ()),
    "wandb": ("wandb leet {store}/wandb", ("WANDB_MODE", "WANDB_DIR")),
    "mlflow": ("mlflow server --backend-store-uri sqlite:///{store}/mlflow/mlflow.db", ("MLFLOW_TRACKING_URI",)),
    "trackio": (
        "TRACKIO_DIR={store}/trackio trackio show --project {project}",
        ("TRACKIO_DIR", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"),
    ),
}


class NoLogger:
    """logger=none: history.jsonl is enough."""

    def log(self, lines: Sequence[Line]) -> None:
        pass

    def finish(self, record: Record) -> None:
        pass


def check_installed(name: str) -> None:
    """Raises UserError where the library is absent. Imports nothing, so that it can be asked before a run begins."""
    needed = LOGGERS.get(name, ())
    if name == "mlflow" and os.environ.get("MLFLOW_TRACKING_URI"):
        needed = needed[:1]  # the rest is for the database of the local store
    if not all(map(is_installed, needed)):
        raise UserError(f"logger={name} needs {name}: pip install 'microgpt[{name}]'")


def is_installed(module: str) -> bool:
    """Whether there is a package of that name; a mere folder, such as wandb makes where it works, is none."""
    spec = find_spec(module)
    return spec is not None and spec.origin is not None


def make_logger(options: LoggerOptions, folder: Path, record: Record, earlier: Sequence[Line] = ()) -> RunLogger:
    """The logger of one run; there may be many at a time.

    `folder` is the run's, where the logger keeps what it must remember should the run be stopped and resumed. `record`
    is run.json's content so far. `earlier` are the lines that history.jsonl keeps from before a stop: those that the
    library has not got are handed over first, and lines that it has got are not logged twice. Raises UserError where
    the library is absent; whatever fails after that is said once, and the run goes on.
    """
    if options.name == "none":
        return NoLogger()
    check_installed(options.name)
    run = LoggedRun(options, folder, record)

    def connect() -> Destination:
        opened: Callable[[LoggedRun], Destination] = import_module(f"microgpt.training.loggers.{options.name}").connect
        return opened(run)

    return Delivery(options.name, connect, earlier, run.forget)


def where_to_look(options: LoggerOptions) -> str | None:
    """The command that shows what a run has logged; None where nothing was, or the environment sent it elsewhere."""
    command, variables = LOOK.get(options.name, (None, ()))
    if command is None or any(map(os.environ.get, variables)):
        return None
    return command.format(store=options.store, project=options.project or DEFAULT_PROJECT)
