"""What a logger's library receives: a run, its history lines, and its final figures."""

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
FINAL = "whole_run/"  # prefix of the final figures; pages sorted by name show them after the curves


class RunLogger:
    """The logger of one run. This one, of logger=none, does nothing."""

    def log(self, lines: Sequence[HistoryLine]) -> None: ...
    def finish(self, record: RunRecord) -> None:
        """End the log of a run that completed, failed or was interrupted."""


@dataclass(frozen=True)
class Point:
    """A history line on its way to a library."""

    step: int
    time: float  # seconds since 1970 when the line was logged
    values: dict[str, float]  # the line without its step


class LibraryRun(Protocol):
    """One run in one library. Raises whatever the library raises."""

    @property
    def last_step(self) -> int:
        """The library has every line up to this step; -1: none."""
        ...

    def write(self, points: Sequence[Point]) -> None: ...
    def close(self, record: RunRecord) -> None: ...


@dataclass(frozen=True)
class LoggedRun:
    """A run when its logger starts."""

    library: str
    project: str | None  # wandb, trackio: the project; mlflow: the experiment; None: as the environment says
    outputs: Path
    folder: Path
    record: RunRecord

    @property
    def name(self) -> str:
        return self.record.run_id or self.folder.name

    @property
    def group(self) -> str | None:
        """The sweep that the run is a job of."""
        parent, _, _ = self.name.rpartition("/")
        return parent if parent.startswith("sweeps/") else None

    @property
    def store(self) -> Path:
        """The folder below the outputs in which the library keeps all runs. It may not exist yet."""
        return (self.outputs / self.library).absolute()

    def settings(self) -> dict[str, Any]:
        """Return the configuration with dotted keys, and what else distinguishes one run from another."""
        git = self.record.git
        return {
            **dotted(self.record.config),
            "config_hash": self.record.config_hash,
            "git_commit": git.commit if git else None,
            "git_dirty": git.dirty if git else None,
            "overrides": " ".join(self.record.overrides),
        }

    def known_id(self) -> str | None:
        """Return the run's id in the library, if an earlier process started it there."""
        return self.read_ids().get(self.library)

    def save_id(self, identity: str) -> None:
        write_json(self.folder / IDS, {**self.read_ids(), self.library: identity})

    def forget_id(self) -> None:
        """Make the next attempt in this folder another run of the library."""
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
    """Return {"model": {"n_embd": 16}} as {"model.n_embd": 16}; lists stay as they are."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= dotted(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def final_figures(record: RunRecord) -> dict[str, float]:
    """Return the numbers among a run's metrics; none of an interrupted run, which may be resumed."""
    metrics = record.document()["metrics"]
    if metrics is None or record.status == "interrupted":
        return {}
    return {
        f"{FINAL}{key}": value
        for key, value in dotted(metrics).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def final_texts(record: RunRecord) -> dict[str, str]:
    """Return the samples as samples.txt has them, and the error of a failed run; nothing of an interrupted run."""
    if record.status == "interrupted":
        return {}
    texts = {"samples": samples_file(record.samples).removesuffix("\n"), "error": record.error or ""}
    return {key: text for key, text in texts.items() if text}
