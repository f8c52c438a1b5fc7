"""The data passed to a logging library: a run, its history lines, and its final results."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from microgpt.atomic import write_json
from microgpt.data.display import samples_file
from microgpt.runs.history import HistoryLine
from microgpt.runs.record import RunRecord

IDS = "logger.json"  # in a run's folder: the id of the run in each library
DEFAULT_PROJECT = "microgpt"
FINAL = "whole_run/"  # prefix of the final results, so that pages sorted by name show them after the curves


class RunLogger:
    """The logger of one run. This base class, used for logger=none, does nothing."""

    def log(self, lines: Sequence[HistoryLine]) -> None: ...
    def finish(self, record: RunRecord) -> None:
        """End the log of a run that completed, failed or was interrupted."""


@dataclass(frozen=True)
class Point:
    """A history line to be delivered to a library."""

    step: int
    time: float  # when the line was logged, in seconds since 1970
    values: dict[str, float]  # the line without its step


class LibraryRun(Protocol):
    """One run in one library. The methods raise the errors of the library."""

    @property
    def last_step(self) -> int:
        """The step up to which the library has every line; -1 if it has none."""
        ...

    def write(self, points: Sequence[Point]) -> None: ...
    def close(self, record: RunRecord) -> None: ...


@dataclass(frozen=True)
class LoggedRun:
    """A run at the time when its logger starts."""

    library: str
    project: str | None  # wandb, trackio: the project; mlflow: the experiment; None: set by environment variables
    outputs: Path
    folder: Path
    record: RunRecord

    @property
    def name(self) -> str:
        return self.record.run_id or self.folder.name

    @property
    def group(self) -> str | None:
        """The sweep that the run belongs to, if any."""
        parent, _, _ = self.name.rpartition("/")
        return parent if parent.startswith("sweeps/") else None

    @property
    def store(self) -> Path:
        """The folder inside the outputs folder in which the library keeps all runs. It may not exist yet."""
        return (self.outputs / self.library).absolute()

    def settings(self) -> dict[str, Any]:
        """Return the configuration with dotted keys, and other data that distinguish runs."""
        git = self.record.git
        return {
            **dotted(self.record.config),
            "config_hash": self.record.config_hash,
            "git_commit": git.commit if git else None,
            "git_dirty": git.dirty if git else None,
            "overrides": " ".join(self.record.overrides),
        }

    def known_id(self) -> str | None:
        """Return the run's id in the library, or None if no earlier process started the run there."""
        return self.read_ids().get(self.library)

    def save_id(self, identity: str) -> None:
        write_json(self.folder / IDS, {**self.read_ids(), self.library: identity})

    def forget_id(self) -> None:
        """Forget the run's id, so that the next attempt in this folder is a new run in the library."""
        ids = self.read_ids()
        if ids.pop(self.library, None) is not None:
            write_json(self.folder / IDS, ids)

    def read_ids(self) -> dict[str, str]:
        try:
            found = json.loads((self.folder / IDS).read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def dotted(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten {"model": {"n_embd": 16}} to {"model.n_embd": 16}; lists are kept."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= dotted(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def final_figures(record: RunRecord) -> dict[str, float]:
    """Return a run's numeric metrics. The result is empty for an interrupted run, which may be resumed."""
    metrics = record.document()["metrics"]
    if metrics is None or record.status == "interrupted":
        return {}
    return {
        f"{FINAL}{key}": value
        for key, value in dotted(metrics).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def final_texts(record: RunRecord) -> dict[str, str]:
    """Return the content of samples.txt, and the error of a failed run. The result is empty for an interrupted run."""
    if record.status == "interrupted":
        return {}
    texts = {"samples": samples_file(record.samples).removesuffix("\n"), "error": record.error or ""}
    return {key: text for key, text in texts.items() if text}
