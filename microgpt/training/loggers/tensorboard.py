"""TensorBoard: event files in the run's folder, written record by record with tensorboard's own writer.

Scalars are float32, as TensorBoard keeps them. A file is open only while something is written, so that thousands of
runs may be logged at a time. A run that is resumed begins another file, which says from which step on it counts.
"""

import time
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from microgpt.training.loggers.base import LoggedRun, Point, Record, final_figures, final_texts

PATTERN = "events.out.tfevents.*.microgpt"


def connect(run: LoggedRun) -> "EventFiles":
    return EventFiles(run)


@cache
def library() -> Any:
    """The parts of tensorboard that writing needs; none of them imports TensorFlow."""
    return SimpleNamespace(
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
        self.file: Path | None = None  # none yet, or a failure left the last one in the middle of a record
        self.introduced = False  # whether the settings have been written
        self.last = -1
        if run.remembered() is None:
            for file in run.folder.glob(PATTERN):
                file.unlink()  # of a run that failed and is done anew in its folder
            run.remember(run.name)
        for event in self.earlier_events():
            tags = [value.tag for value in event.summary.value]
            self.introduced |= library().hparams.SESSION_START_INFO_TAG in tags
            if "tokens" in tags:  # as every line has
                self.last = max(self.last, event.step)

    def earlier_events(self) -> Iterator[Any]:
        """All whole records of this run's files."""
        files = sorted(self.run.folder.glob(PATTERN))
        if files:
            loader: Any = import_module("tensorboard.backend.event_processing.event_file_loader")
            for file in files:
                yield from loader.LegacyEventFileLoader(str(file)).Load()

    def last_step(self) -> int:
        return self.last

    def write(self, points: Sequence[Point]) -> None:
        events = []
        for point in points:
            values = [scalar(tag, value) for tag, value in point.values.items()]
            events.append(event(point.step, values, point.time))
        self.append(points[0].step, events)
        self.last = points[-1].step

    def close(self, record: Record) -> None:
        if record["status"] == "interrupted":
            return  # TensorBoard would show the first end of a session that it reads
        values = [scalar(tag, value) for tag, value in final_figures(record).items()]
        values += [text(tag, content) for tag, content in final_texts(record).items()]
        step = max(self.last, 0)
        self.append(step + 1, [event(step, [*values, session_end(record["status"])], time.time())])

    def append(self, first_step: int, events: Sequence[Any]) -> None:
        """Write events. A new file begins with the word that whatever else there is from `first_step` on is void."""
        file, self.file = self.file, None  # until all is written
        with (file or self.new_file()).open("ab") as stream:
            records = library().writer.RecordWriter(stream)
            for entry in [*([] if file else self.opening(first_step)), *events]:
                records.write(entry.SerializeToString())
        self.file, self.introduced = Path(stream.name), True

    def new_file(self) -> Path:
        return self.run.folder / PATTERN.replace("*", str(time.time_ns()))

    def opening(self, first_step: int) -> list[Any]:
        now, types = time.time(), library().events
        log = types.SessionLog(status=types.SessionLog.START)
        head = [types.Event(wall_time=now, file_version="brain.Event:2")]
        head.append(types.Event(wall_time=now, step=first_step, session_log=log))
        return head if self.introduced else [*head, event(0, [session_start(self.run)], now)]


def event(step: int, values: Sequence[Any], wall_time: float) -> Any:
    return library().events.Event(step=step, wall_time=wall_time, summary=library().summaries.Summary(value=values))


def scalar(tag: str, value: float) -> Any:
    return library().summaries.Summary.Value(tag=tag, simple_value=value)


def text(tag: str, content: str) -> Any:
    """A text is shown as Markdown, in which indented lines stay as they are."""
    indented = "\n".join(f"    {line}" for line in content.split("\n"))
    return library().summaries.Summary.Value(
        tag=tag,
        metadata=library().text.create_summary_metadata(display_name="", description=""),
        tensor=library().tensors.make_tensor_proto([indented.encode(errors="replace")]),
    )


def session_start(run: LoggedRun) -> Any:
    """What the HParams page lists of a run: its settings."""
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
