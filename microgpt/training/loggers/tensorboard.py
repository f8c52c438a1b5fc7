"""Logging to TensorBoard event files in the run's folder.

Scalars are float32, as in TensorBoard. A file is open only during a write, so that thousands of runs can be logged at
the same time. Every process that works on a run starts a new file.
"""

import logging
import time
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from microgpt.runs.record import RunRecord
from microgpt.training.loggers.base import LoggedRun, Point, final_figures, final_texts

PATTERN = "events.out.tfevents.*.microgpt"


def connect(run: LoggedRun) -> "EventFiles":
    return EventFiles(run)


@cache
def library() -> Any:
    """Return the required modules of tensorboard; none of them imports TensorFlow."""
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # no warning for each event that a later file replaces
    return SimpleNamespace(
        accumulator=import_module("tensorboard.backend.event_processing.event_accumulator"),
        events=import_module("tensorboard.compat.proto.event_pb2"),
        summaries=import_module("tensorboard.compat.proto.summary_pb2"),
        writer=import_module("tensorboard.summary.writer.record_writer"),
        tensors=import_module("tensorboard.util.tensor_util"),
        text=import_module("tensorboard.plugins.text.metadata"),
        hparams=import_module("tensorboard.plugins.hparams.metadata"),
        sessions=import_module("tensorboard.plugins.hparams.plugin_data_pb2"),
        status=import_module("tensorboard.plugins.hparams.api_pb2"),
    )


class EventFiles:
    """The events of one run."""

    def __init__(self, run: LoggedRun):
        self.run = run
        self.file: Path | None = None  # this process's file; None again after a write failed in the middle of a record
        self.has_settings = False
        self.last_step = -1
        if run.known_id() is None:
            for file in run.folder.glob(PATTERN):
                file.unlink()  # left by a failed attempt
            run.save_id(run.name)
        if any(run.folder.glob(PATTERN)):
            earlier = library().accumulator.EventAccumulator(str(run.folder), size_guidance={"scalars": 0})
            tags = earlier.Reload().Tags()
            self.has_settings = library().hparams.SESSION_START_INFO_TAG in tags["tensors"]
            if "tokens" in tags["scalars"]:  # every line has this key
                self.last_step = max(event.step for event in earlier.Scalars("tokens"))

    def write(self, points: Sequence[Point]) -> None:
        events = []
        for point in points:
            values = [scalar(tag, value) for tag, value in point.values.items()]
            events.append(event(point.step, values, point.time))
        self.append(points[0].step, events)
        self.last_step = points[-1].step

    def close(self, record: RunRecord) -> None:
        if record.status == "interrupted":
            return  # TensorBoard shows only the first session end that it reads, and the run may be resumed
        values = [scalar(tag, value) for tag, value in final_figures(record).items()]
        values += [text(tag, content) for tag, content in final_texts(record).items()]
        step = max(self.last_step, 0)
        self.append(step + 1, [event(step, [*values, session_end(record.status)], time.time())])

    def append(self, first_step: int, events: Sequence[Any]) -> None:
        """Write events. A new file begins with an event that voids earlier files' events from `first_step` on."""
        file, self.file = self.file, None  # None until everything is written
        with (file or self.new_file()).open("ab") as stream:
            records = library().writer.RecordWriter(stream)
            for entry in [*([] if file else self.opening(first_step)), *events]:
                records.write(entry.SerializeToString())
        self.file, self.has_settings = Path(stream.name), True

    def new_file(self) -> Path:
        return self.run.folder / PATTERN.replace("*", str(time.time_ns()))

    def opening(self, first_step: int) -> list[Any]:
        now, types = time.time(), library().events
        start = types.SessionLog(status=types.SessionLog.START)
        version = types.Event(wall_time=now, file_version="brain.Event:2")
        head = [version, types.Event(wall_time=now, step=first_step, session_log=start)]
        return head if self.has_settings else [*head, event(0, [session_start(self.run)], now)]


def event(step: int, values: Sequence[Any], wall_time: float) -> Any:
    return library().events.Event(step=step, wall_time=wall_time, summary=library().summaries.Summary(value=values))


def scalar(tag: str, value: float) -> Any:
    return library().summaries.Summary.Value(tag=tag, simple_value=value)


def text(tag: str, content: str) -> Any:
    """Return a text for TensorBoard, indented because TensorBoard renders Markdown and keeps indented lines."""
    indented = "\n".join(f"    {line}" for line in content.split("\n"))
    return library().summaries.Summary.Value(
        tag=tag,
        metadata=library().text.create_summary_metadata(display_name="", description=""),
        tensor=library().tensors.make_tensor_proto([indented.encode(errors="replace")]),
    )


def session_start(run: LoggedRun) -> Any:
    """Return the run's settings for the HParams page."""
    start = library().sessions.SessionStartInfo(group_name=run.name, start_time_secs=time.time())
    for key, value in run.settings().items():
        if isinstance(value, bool):
            start.hparams[key].bool_value = value
        elif isinstance(value, int | float):
            start.hparams[key].number_value = value
        else:
            start.hparams[key].string_value = "null" if value is None else str(value)
    content = library().sessions.HParamsPluginData(session_start_info=start)
    return hparams_value(library().hparams.SESSION_START_INFO_TAG, content)


def session_end(status: str) -> Any:
    succeeded = library().status.STATUS_SUCCESS if status == "completed" else library().status.STATUS_FAILURE
    end = library().sessions.SessionEndInfo(status=succeeded, end_time_secs=time.time())
    content = library().sessions.HParamsPluginData(session_end_info=end)
    return hparams_value(library().hparams.SESSION_END_INFO_TAG, content)


def hparams_value(tag: str, content: Any) -> Any:
    metadata = library().hparams.create_summary_metadata(content)
    return library().summaries.Summary.Value(tag=tag, metadata=metadata, tensor=library().hparams.NULL_TENSOR)
