"""Logging with Trackio, to the outputs folder unless TRACKIO_DIR, TRACKIO_SPACE_ID or TRACKIO_SERVER_URL is set.

Trackio has only one open run at a time: opening a run closes the previous one. If runs train side by side, each run is
reopened whenever it has lines to write. Trackio writes in a thread and reports errors of that thread itself.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from typing import Any, ClassVar

from microgpt.runs.record import RunRecord
from microgpt.training.loggers.base import DEFAULT_PROJECT, LoggedRun, Point, final_figures, final_texts


def connect(run: LoggedRun) -> "TrackioRun":
    os.environ.setdefault("TRACKIO_DIR", str(run.store))
    remote = os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL")
    if not remote:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # otherwise trackio requests the user's name from the hub
    return TrackioRun(import_module("trackio"), run, remote)


class TrackioRun:
    """A run identified by its name, which is unique in an outputs folder."""

    opened: ClassVar["TrackioRun | None"] = None  # the run whose handle is valid

    def __init__(self, trackio: Any, run: LoggedRun, remote: str | None):
        self.trackio = trackio
        self.run = run
        self.project = run.project or DEFAULT_PROJECT
        self.exists = run.known_id() is not None
        self.handle: Any = None
        self.last_step = last_step_of(self.project, run.name, remote) if self.exists else -1

    def open(self) -> Any:
        """Return the handle of this run."""
        if TrackioRun.opened is not self:
            TrackioRun.opened = None
            with redirect_stdout(StringIO()):  # suppresses the banner of every run
                self.handle = self.trackio.init(
                    project=self.project,
                    name=self.run.name,
                    group=self.run.group,
                    config=self.run.settings(),
                    resume="allow" if self.exists else "never",
                    embed=False,
                    auto_log_cpu=False,
                    auto_log_gpu=False,
                )
            TrackioRun.opened = self
            if not self.exists:
                self.run.save_id(self.run.name)
                self.exists = True
        return self.handle

    def write(self, points: Sequence[Point]) -> None:
        handle = self.open()
        for point in points:
            handle.log(point.values, step=point.step)
        self.last_step = points[-1].step

    def close(self, record: RunRecord) -> None:
        last: dict[str, Any] = {
            tag: self.trackio.Table(columns=[tag], data=[[line] for line in text.split("\n")])
            for tag, text in final_texts(record).items()
        }
        last |= final_figures(record)
        if last:
            self.open().log(last, step=max(self.last_step, 0))
        if TrackioRun.opened is self:
            with redirect_stdout(StringIO()):
                self.trackio.finish()
            TrackioRun.opened = None


def last_step_of(project: str, name: str, remote: str | None) -> int:
    """Return the last step of a run in trackio, or -1 if there is no such run or step."""
    where = ["--space", remote] if remote else []
    command = [sys.executable, "-m", "trackio.cli", *where, "get", "run", "--project", project, "--run", name, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    last_step = json.loads(done.stdout)["last_step"] if done.returncode == 0 else None
    return -1 if last_step is None else last_step
