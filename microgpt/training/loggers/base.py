"""What a logger is, and what is said to every library alike. Knows no library."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from microgpt.atomic import write_json

MEMORY = "logger.json"  # in a run's folder: what each library calls this run
DEFAULT_PROJECT = "microgpt"
FINAL = "whole_run/"  # before the figures of a run as a whole; pages sorted by name show them after the curves

Line = Mapping[str, float]  # of history.jsonl: `step`, `tokens` and, where there are any, `loss`, `lr`, `val_loss`
Record = Mapping[str, Any]  # run.json


class RunLogger(Protocol):
    """What a training run talks to."""

    def log(self, lines: Sequence[Line]) -> None:
        """Lines of history.jsonl, in its order."""
        ...

    def finish(self, record: Record) -> None:
        """The run ended, one way or another: `record` has its status, figures and samples."""
        ...


@dataclass(frozen=True)
class LoggerOptions:
    name: str = "none"  # none | tensorboard | wandb | mlflow | trackio
    project: str | None = None  # wandb, trackio: the project; mlflow: the experiment; None: as the environment says
    store: Path = Path("outputs")  # for what a library keeps of all runs together: a folder of its name in here


@dataclass(frozen=True)
class Point:
    """A line on its way to a library."""

    step: int
    time: float  # seconds since 1970 when the line was logged
    values: dict[str, float]  # all of the line but its step


class Destination(Protocol):
    """One run in one library. Raises whatever the library raises."""

    def last_step(self) -> int:
        """The last step that the library has of this run, -1 if none. It has all lines up to there."""
        ...

    def write(self, points: Sequence[Point]) -> None: ...

    def close(self, record: Record) -> None: ...


@dataclass(frozen=True)
class LoggedRun:
    """A run as a library is told of it when it begins."""

    options: LoggerOptions
    folder: Path
    record: Record

    @property
    def name(self) -> str:
        """As in run.json: the run's folder below outputs."""
        return self.record.get("run_id") or self.folder.name

    @property
    def group(self) -> str | None:
        """What a job of a sweep shares with the sweep's other jobs."""
        parent, _, _ = self.name.rpartition("/")
        return parent if parent.startswith("sweeps/") else None

    @property
    def store(self) -> Path:
        """The library's own folder below outputs. Made by the library, or by who asks."""
        return (self.options.store / self.options.name).absolute()

    def settings(self) -> dict[str, Any]:
        """The configuration with dotted keys, and what else tells one run from another."""
        git = self.record.get("git") or {}
        extra = {
            "config_hash": self.record.get("config_hash"),
            "git_commit": git.get("commit"),
            "git_dirty": git.get("dirty"),
            "overrides": " ".join(self.record.get("overrides") or ()),
        }
        return {**dotted(self.record.get("config") or {}), **extra}

    def remembered(self) -> str | None:
        """What this library calls this run, if an earlier process began it."""
        return read_memory(self.folder / MEMORY).get(self.options.name)

    def remember(self, identity: str) -> None:
        path = self.folder / MEMORY
        write_json(path, {**read_memory(path), self.options.name: identity})

    def forget(self) -> None:
        """What is done in this folder from now on is another run."""
        path = self.folder / MEMORY
        kept = read_memory(path)
        if kept.pop(self.options.name, None) is not None:
            write_json(path, kept)


def read_memory(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def dotted(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"model": {"n_embd": 16}} as {"model.n_embd": 16}; lists stay as they are."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= dotted(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def final_figures(record: Record) -> dict[str, float]:
    """The numbers among a run's metrics; none of a run that was stopped, since it may go on."""
    if record.get("status") == "interrupted":
        return {}
    return {
        f"{FINAL}{key}": value
        for key, value in dotted(record.get("metrics") or {}).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def final_texts(record: Record) -> dict[str, str]:
    """Samples, a line each, and the error of a run that failed."""
    if record.get("status") == "interrupted":
        return {}
    texts = {"samples": "\n".join(record.get("samples") or ()), "error": record.get("error") or ""}
    return {key: text for key, text in texts.items() if text}
