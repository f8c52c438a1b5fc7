"""Guards of a running process: a request to stop by signal, and a limit on the growth of its memory."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from microgpt.errors import MemoryDriftError

WARMUP_OBSERVATIONS = 2


class StopRequest:
    """True once a signal has requested a stop. A second signal raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None:
            raise KeyboardInterrupt
        self.signal_number = number


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request that the training loop reads between steps."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield stop
        return
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class MemoryDriftGuard:
    """Raise MemoryDriftError if memory grows beyond the baseline, which is the largest warm-up observation."""

    def __init__(self, max_growth_ratio: float, warmup_observations: int = WARMUP_OBSERVATIONS):
        self.max_growth_ratio = max_growth_ratio
        self.remaining_warmup = warmup_observations
        self.baseline = 0

    def observe(self, observed: int) -> None:
        """Check the resident memory `observed`, in bytes."""
        if self.remaining_warmup > 0:
            self.remaining_warmup -= 1
            self.baseline = max(self.baseline, observed)
            return
        ratio = observed / max(self.baseline, 1)
        if ratio > self.max_growth_ratio:
            raise MemoryDriftError(
                f"eval memory drift detected: baseline={self.baseline}B current={observed}B "
                f"growth_ratio={ratio:.3f} max_growth_ratio={self.max_growth_ratio:.3f}"
            )


def resident_memory() -> int:
    """Return the resident memory of this process in bytes."""
    import psutil

    return psutil.Process().memory_info().rss
