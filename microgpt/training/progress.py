"""What a user sees while a run trains: a bar with rate and time left on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any

QUIET_SECONDS = 2.0  # the longest silence between plain lines


def duration(seconds: float) -> str:
    """1:02:03"""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


class Progress:
    """Shows the way of one run from `first` to `total` steps."""

    def __init__(self, total: int, first: int = 0):
        self.total = total
        self.first = first
        self.bar: Any = None
        self.last_line = time.monotonic()

    def start(self) -> None:
        self.last_line = time.monotonic()
        if sys.stdout.isatty() and self.total > self.first:
            self.bar = terminal_bar()
            self.task = self.bar.add_task("training", total=self.total, completed=self.first, loss="", rate="")
            self.bar.start()

    def stop(self) -> None:
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


class SweepProgress:
    """Shows the way of a sweep's jobs, many of which train at a time. Steps are counted over all models."""

    def __init__(self, jobs: int, steps: int):
        self.jobs, self.steps = jobs, max(steps, 1)  # in all, of those that this process is to run
        self.jobs_done, self.steps_done = 0, 0
        self.models, self.first, self.last, self.step = 0, 0, 0, 0  # of the group that trains now
        self.started = self.last_line = time.monotonic()
        self.bar: Any = None

    def start(self, models: int, first: int, last: int) -> None:
        """A group of so many models begins to train, from step `first` to `last`."""
        self.models, self.first, self.last, self.step = models, first, last, first
        if sys.stdout.isatty():
            self.bar = terminal_bar()
            self.task = self.bar.add_task("", total=self.steps, loss="", rate="")
            self.bar.start()
            self.show(None, None, 0.0)

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def done(self, jobs: int, steps: int) -> None:
        """So many jobs have ended, of so many steps together."""
        self.jobs_done, self.steps_done = self.jobs_done + jobs, self.steps_done + steps
        self.models = 0

    def update(self, step: int, loss: float | None, rate: float) -> None:
        self.step = step
        self.show(loss, None, rate)

    def evaluating(self, done: int, total: int, seconds: float) -> None:
        if self.bar is None and time.monotonic() - self.last_line > QUIET_SECONDS and done < total:
            self.print(f"{self.where()} | evaluated {done} / {total} examples | eta {self.eta()}")

    def log(self, step: int, loss: float | None, val_loss: float | None, rate: float) -> None:
        self.step = step
        self.show(loss, val_loss, rate)

    def where(self) -> str:
        return f"jobs {self.jobs_done} / {self.jobs} | {self.models} models at step {self.step} / {self.last}"

    def eta(self) -> str:
        done = self.steps_done + self.models * (self.step - self.first)
        elapsed = time.monotonic() - self.started
        return duration(elapsed * (self.steps - done) / done) if done else "-:--:--"

    def show(self, loss: float | None, val_loss: float | None, rate: float) -> None:
        mean = "" if loss is None else f"mean loss {loss:.4f}"
        speed = f"{rate * self.models:.0f} steps/s" if rate else ""
        if self.bar is not None:
            done = self.steps_done + self.models * (self.step - self.first)
            self.bar.update(self.task, description=self.where(), completed=done, loss=mean, rate=speed)
        elif time.monotonic() - self.last_line > QUIET_SECONDS:
            validated = "" if val_loss is None else f"mean val_loss {val_loss:.4f}"
            parts = [self.where(), mean, validated, speed, f"eta {self.eta()}"]
            self.print(" | ".join(filter(None, parts)))

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
