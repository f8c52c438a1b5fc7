"""Guards of a running process: stopping on signals, a limit on memory growth, and advice after divergence."""

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from microgpt.errors import MemoryDriftError
from microgpt.model.spec import ModelSpec
from microgpt.training.schedules import Schedule

WARMUP_OBSERVATIONS = 2
EARLY_STEPS = 100  # up to this step, divergence is due to the first updates, which a warm-up makes smaller


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
    """Convert the first SIGINT or SIGTERM to a request that the training loop reads between steps."""
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
    """Raise MemoryDriftError if memory grows too far beyond the baseline, which is the largest warm-up observation."""

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


def remedy(spec: ModelSpec, lr: float, schedule: Schedule, untrained_loss: float | None, step: int) -> str:
    """Return advice on which keys to change after a non-finite loss or weight.

    Args:
        untrained_loss: the loss before the first update, in nats per target token; None if it is unknown or if training
            started from trained weights. Equal probabilities give the loss ln V.
        step: number of updates before the loss was computed.
    """
    equal = math.log(spec.vocab_size)
    was_normal = untrained_loss is not None and untrained_loss < 1.5 * equal
    if untrained_loss is not None and not was_normal and spec.init == "normal":
        keys = f"lower model.init_std (now {spec.init_std:g}) and, if necessary, optim.lr (now {lr:g})"
        return (
            f"{keys}: the loss before the first update was {untrained_loss:.3g}, but equal probabilities give "
            f"{equal:.3g}, so the initial weights are too large for model.n_embd={spec.n_embd}"
        )
    if step > max(EARLY_STEPS, schedule.warmup_steps):
        return f"lower optim.lr (now {lr:g})"
    why = "" if not was_normal else f": the loss before the first update was normal ({untrained_loss:.3g})"
    return f"lower optim.lr (now {lr:g}) or raise schedule.warmup_steps (now {schedule.warmup_steps}){why}"


def resident_memory() -> int:
    """Return the resident memory of this process in bytes."""
    import psutil

    return psutil.Process().memory_info().rss
