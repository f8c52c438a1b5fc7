"""Trackio, in a folder below the outputs unless TRACKIO_DIR, or a space or server of the user's, says otherwise.

Trackio speaks for one run at a time: opening one closes the one before. Where runs are trained side by side each is
opened again whenever it has lines to hand over. Trackio writes in a thread, and says what fails there by itself.
"""

import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from typing import Any, ClassVar

from microgpt.training.loggers.base import DEFAULT_PROJECT, LoggedRun, Point, Record, final_figures, final_texts

REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")


def connect(run: LoggedRun) -> "TrackioRun":
    os.environ.setdefault("TRACKIO_DIR", str(run.store))
    if not any(map(os.environ.get, REMOTE)):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # else it would ask the hub for the user's name
    return TrackioRun(import_module("trackio"), run)


class TrackioRun:
    """A run by its name, which is unique below one outputs folder."""

    opened: ClassVar["TrackioRun | None"] = None  # the one whose handle is good

    def __init__(self, trackio: Any, run: LoggedRun):
        self.trackio = trackio
        self.run = run
        self.begun = run.remembered() is not None
        self.handle: Any = None
        # Of a resumed run; what trackio shows in public does not tell.
        self.last: int = self.open()._next_step - 1 if self.begun else -1

    def open(self) -> Any:
        """The handle of this run."""
        if TrackioRun.opened is not self:
            TrackioRun.opened = None
            with redirect_stdout(StringIO()):  # a banner for every run
                self.handle = self.trackio.init(
                    project=self.run.options.project or DEFAULT_PROJECT,
                    name=self.run.name,
                    group=self.run.group,
                    config=self.run.settings(),
                    resume="allow" if self.begun else "never",
                    embed=False,
                    auto_log_cpu=False,
                    auto_log_gpu=False,
                )
            TrackioRun.opened = self
            if not self.begun:
                self.run.remember(self.run.name)
                self.begun = True
        return self.handle

    def last_step(self) -> int:
        return self.last

    def write(self, points: Sequence[Point]) -> None:
        handle = self.open()
        for point in points:
            handle.log(point.values, step=point.step)
        self.last = points[-1].step

    def close(self, record: Record) -> None:
        last: dict[str, Any] = {
            tag: self.trackio.Table(columns=[tag], data=[[line] for line in text.split("\n")])
            for tag, text in final_texts(record).items()
        }
        last |= final_figures(record)
        if last:
            self.open().log(last, step=max(self.last, 0))
        if TrackioRun.opened is self:
            with redirect_stdout(StringIO()):
                self.trackio.finish()
            TrackioRun.opened = None
