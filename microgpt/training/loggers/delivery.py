"""Delivery of a run's history lines to a library. A failure of the library is reported once and never stops the run."""

import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import ClassVar

from microgpt.runs.history import HistoryLine
from microgpt.runs.record import RunRecord
from microgpt.training.loggers.base import LibraryRun, Point, RunLogger

DELIVERY_SECONDS = 2.0  # a run's lines are delivered at most this often
TIME_SHARE = 0.05  # share of the training time that the deliveries of all runs of the process may take together


class Delivery(RunLogger):
    """A RunLogger that delivers lines from time to time, and the remaining lines when the run ends.

    After a failure, lines are kept until the run ends, so that a library that waits for a lost network delays the run
    at most twice.
    """

    open_count: ClassVar[int] = 0  # number of unfinished deliveries in this process

    def __init__(
        self,
        name: str,
        connect: Callable[[], LibraryRun],
        earlier: Sequence[HistoryLine] = (),
        forget_id: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Connect, and deliver the lines of `earlier` that the library lacks.

        `forget_id` is called if the run fails, because its next attempt is a new run.
        """
        self.name = name
        self.connect = connect
        self.forget_id = forget_id
        self.clock = clock
        self.library: LibraryRun | None = None
        self.waiting: list[Point] = []
        self.failed = False
        Delivery.open_count += 1
        self.add(earlier)
        self.attempt(self.deliver)
        self.next_time = clock() + DELIVERY_SECONDS

    def log(self, lines: Sequence[HistoryLine]) -> None:
        self.add(lines)
        start = self.clock()
        if self.waiting and not self.failed and start >= self.next_time:
            self.attempt(self.deliver)
            end = self.clock()
            self.next_time = end + max(DELIVERY_SECONDS, (end - start) * Delivery.open_count / TIME_SHARE)

    def finish(self, record: RunRecord) -> None:
        self.attempt(self.deliver)
        if (library := self.library) is not None:
            self.attempt(lambda: library.close(record))
        if record.status == "failed":
            self.attempt(self.forget_id)
        Delivery.open_count -= 1

    def add(self, lines: Sequence[HistoryLine]) -> None:
        now = time.time()
        for line in lines:
            values = {key: value for key, value in line.items() if key != "step"}
            self.waiting.append(Point(int(line["step"]), now, values))

    def deliver(self) -> None:
        if self.library is None:
            self.library = self.connect()
        missing = [point for point in self.waiting if point.step > self.library.last_step]
        if missing:
            self.library.write(missing)
        self.waiting = []

    def attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # libraries may raise anything
            if not self.failed:
                warn(f"warning: logger={self.name}: {reason(error)}; the run goes on, and history.jsonl has every line")
            self.failed = True


def reason(error: Exception) -> str:
    """Return the first line of an error, followed by the first line of its root cause unless already included."""
    first, root = str(error).strip().split("\n")[0] or type(error).__name__, error
    while root.__cause__ is not None:
        root = root.__cause__
    cause = str(root).strip().split("\n")[0]
    return first if cause in first else f"{first}: {cause}"


@cache
def warn(sentence: str) -> None:
    """Print a warning once for all runs of a process, because they share the disk and the network."""
    print(sentence, file=sys.stderr, flush=True)
