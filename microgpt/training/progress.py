"""What a user sees while a run trains: a bar with rate and time left on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any

QUIET_SECONDS = 2.0  # the longest silence between plain lines


def duration(seconds: float) -> str:
    """1:02:03"""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


class Progress:
    """Shows the way from `first` to `total` steps. Use it as a context."""

    def __init__(self, total: int, first: int = 0):
        self.total = total
        self.first = first
        self.bar: Any = None
        self.last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        self.last_line = time.monotonic()
        if sys.stdout.isatty() and self.total > self.first:
            self.bar = terminal_bar()
            self.task = self.bar.add_task("training", total=self.total, completed=self.first, loss="", rate="")
            self.bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.stop()

    def line(self, step: int, loss: float | None, val_loss: float | None, rate: float) -> str:
        parts = [f"step {step:4d} / {self.total:4d}"]
        if loss is not None:
            parts.append(f"loss {loss:.4f}")
        if val_loss is not None:
            parts.append(f"val_loss {val_loss:.4f}")
        if rate > 0:
            parts.append(f"{rate:.1f} steps/s")
            if step < self.total:
                parts.append(f"eta {duration((self.total - step) / rate)}")
        return " | ".join(parts)

    def update(self, step: int, loss: float | None, rate: float) -> None:
        """The run got on, and nothing is logged. `rate` is in steps a second of training proper."""
        if self.bar is not None:
            shown = "" if loss is None else f"loss {loss:.4f}"
            self.bar.update(self.task, completed=step, loss=shown, rate=f"{rate:.1f} steps/s")
        elif time.monotonic() - self.last_line > QUIET_SECONDS:
            self.print(self.line(step, loss, None, rate))

    def evaluating(self, done: int, total: int, seconds: float) -> None:
        """An evaluation got on: `done` of `total` examples in so many seconds."""
        left = duration((total - done) * seconds / done)
        line = f"evaluated {done} / {total} | {done / max(seconds, 1e-9):.0f} examples/s | eta {left}"
        if self.bar is not None:
            self.bar.update(self.task, description=line if done < total else "training")
        elif time.monotonic() - self.last_line > QUIET_SECONDS and done < total:
            self.print(line)

    def log(self, step: int, loss: float | None, val_loss: float | None, rate: float) -> None:
        """A logged step: a line of its own, except that a terminal's bar shows a bare loss already."""
        if self.bar is None:
            self.print(self.line(step, loss, val_loss, rate))
            return
        self.update(step, loss, rate)
        if val_loss is not None:
            self.bar.console.print(self.line(step, loss, val_loss, rate), highlight=False)

    def print(self, line: str) -> None:
        print(line, flush=True)
        self.last_line = time.monotonic()


def terminal_bar() -> Any:
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[loss]}"),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TextColumn("eta"),
        progress.TimeRemainingColumn(),
    )
