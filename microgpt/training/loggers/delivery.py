"""Between a run and a library: what goes wrong there is said once on stderr, and never reaches the run."""

import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import ClassVar

from microgpt.training.loggers.base import Destination, Line, Point, Record

QUIET_SECONDS = 2.0  # a run's lines are handed over no more often
SHARE = 0.05  # of a training's time that handing over may take, all runs of the process together


class Delivery:
    """A RunLogger that hands lines on: from time to time, and whatever is left when the run ends.

    After a failure lines wait, and are tried once more when the run ends: a library that waits for a lost network
    should not make each line wait.
    """

    under_way: ClassVar[int] = 0  # deliveries of this process that have not been finished

    def __init__(
        self,
        name: str,
        connect: Callable[[], Destination],
        earlier: Sequence[Line] = (),
        forget: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`forget` parts the run from what the library calls it: one that failed is not resumed, but done anew."""
        self.name = name
        self.connect = connect
        self.forget = forget
        self.clock = clock
        self.destination: Destination | None = None
        self.last_step = -1  # that the library has
        self.waiting: list[Point] = []
        self.in_trouble = False
        Delivery.under_way += 1
        self.take(earlier)
        self.attempt(self.deliver)
        self.next_time = clock() + QUIET_SECONDS

    def log(self, lines: Sequence[Line]) -> None:
        self.take(lines)
        start = self.clock()
        if self.waiting and not self.in_trouble and start >= self.next_time:
            self.attempt(self.deliver)
            end = self.clock()
            self.next_time = end + max(QUIET_SECONDS, (end - start) * Delivery.under_way / SHARE)

    def finish(self, record: Record) -> None:
        self.attempt(self.deliver)
        if self.destination is not None:
            self.attempt(lambda: self.close(record))
        if record.get("status") == "failed":
            self.attempt(self.forget)
        Delivery.under_way -= 1

    def take(self, lines: Sequence[Line]) -> None:
        now = time.time()
        for line in lines:
            if line["step"] > self.last_step:
                values = {key: value for key, value in line.items() if key != "step"}
                self.waiting.append(Point(int(line["step"]), now, values))

    def deliver(self) -> None:
        if self.destination is None:
            self.destination = self.connect()
            self.last_step = self.destination.last_step()
            self.waiting = [point for point in self.waiting if point.step > self.last_step]
        if self.waiting:
            self.destination.write(self.waiting)
            self.last_step = self.waiting[-1].step
            self.waiting = []

    def close(self, record: Record) -> None:
        assert self.destination is not None
        self.destination.close(record)

    def attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever a library raises: none of it is the run's own failure
            if not self.in_trouble:
                warn(f"warning: logger={self.name}: {reason(error)}; the run goes on, and history.jsonl has every line")
            self.in_trouble = True


def reason(error: Exception) -> str:
    """An error's first line, and the first cause where that does not name it."""
    first, root = str(error).strip().split("\n")[0] or type(error).__name__, error
    while root.__cause__ is not None:
        root = root.__cause__
    cause = str(root).strip().split("\n")[0]
    return first if cause in first else f"{first}: {cause}"


@cache
def warn(sentence: str) -> None:
    """Once for all runs of a process: they share the disk and the network."""
    print(sentence, file=sys.stderr, flush=True)
