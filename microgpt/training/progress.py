"""The progress of training: a bar with rate and remaining time on a terminal, plain lines otherwise."""

import sys
import time
from typing import Any

LINE_SECONDS = 2.0  # plain lines between logged steps are at least this far apart


def duration(seconds: float) -> str:
    """Format seconds as h:mm:ss, for example 1:02:03."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


class ProgressDisplay:
    """A progress bar once started, plain lines otherwise."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.last_line = time.monotonic()

    def start_bar(self, description: str, total: int, completed: int) -> None:
        """Start a bar if standard output is a terminal."""
        if not sys.stdout.isatty():
            return
        from rich import progress

        self.bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[loss]}"),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TextColumn("eta"),
            progress.TimeRemainingColumn(),
        )
        self.task = self.bar.add_task(description, total=total, completed=completed, loss="", rate="")
        self.bar.start()

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def is_line_due(self) -> bool:
        return self.bar is None and time.monotonic() - self.last_line > LINE_SECONDS

    def print(self, line: str) -> None:
        print(line, flush=True)
        self.last_line = time.monotonic()


class RunProgressDisplay(ProgressDisplay):
    """The progress of one run from step `first` to `total`."""

    def __init__(self, total: int, first: int = 0):
        super().__init__()
        self.total = total
        self.first = first

    def start(self) -> None:
        self.last_line = time.monotonic()
        if self.total > self.first:
            self.start_bar("training", self.total, self.first)

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
        """Show progress between logged steps. `rate` is in steps per second, counting only training time."""
        if self.bar is not None:
            shown = "" if loss is None else f"loss {loss:.4f}"
            self.bar.update(self.task, completed=step, loss=shown, rate=f"{rate:.1f} steps/s")
        elif self.is_line_due():
            self.print(self.line(step, loss, None, rate))

    def evaluating(self, done: int, total: int, seconds: float) -> None:
        """Show the progress of an evaluation: `done` of `total` examples in `seconds`."""
        left = duration((total - done) * seconds / done)
        line = f"evaluated {done} / {total} | {done / max(seconds, 1e-9):.0f} examples/s | eta {left}"
        if self.bar is not None:
            self.bar.update(self.task, description=line if done < total else "training")
        elif self.is_line_due() and done < total:
            self.print(line)

    def log(self, step: int, loss: float | None, val_loss: float | None, rate: float) -> None:
        """Print a logged step. If there is a bar, which already shows the loss, print only steps with a val_loss."""
        if self.bar is None:
            self.print(self.line(step, loss, val_loss, rate))
            return
        self.update(step, loss, rate)
        if val_loss is not None:
            self.bar.console.print(self.line(step, loss, val_loss, rate), highlight=False)


class SweepProgressDisplay(ProgressDisplay):
    """The progress of a sweep, which trains one group of jobs at a time. Steps are summed over the jobs."""

    def __init__(self, jobs: int, steps: int):
        super().__init__()
        self.jobs, self.steps = jobs, max(steps, 1)  # totals of the jobs that this process runs
        self.jobs_done, self.steps_done = 0, 0
        self.models, self.first, self.last, self.step = 0, 0, 0, 0  # of the current group
        self.first_shown: tuple[float, int] | None = None  # time and steps when first shown, after compilation

    def start(self, models: int, first: int, last: int) -> None:
        """Start a group of `models` jobs that train from step `first` to `last`."""
        self.models, self.first, self.last, self.step = models, first, last, first
        self.start_bar("", self.steps, 0)
        if self.bar is not None:
            self.show(None, None, 0.0)

    def done(self, jobs: int, steps: int) -> None:
        """Count `jobs` finished jobs with `steps` steps in total."""
        self.jobs_done, self.steps_done = self.jobs_done + jobs, self.steps_done + steps
        self.models = 0

    def update(self, step: int, loss: float | None, rate: float) -> None:
        self.log(step, loss, None, rate)

    def evaluating(self, done: int, total: int, seconds: float) -> None:
        if self.is_line_due() and done < total:
            self.print(f"{self.position()} | evaluated {done} / {total} examples | eta {self.eta()}")

    def log(self, step: int, loss: float | None, val_loss: float | None, rate: float) -> None:
        self.step = step
        self.show(loss, val_loss, rate)

    def position(self) -> str:
        return f"jobs {self.jobs_done} / {self.jobs} | {self.models} models at step {self.step} / {self.last}"

    def completed(self) -> int:
        return self.steps_done + self.models * (self.step - self.first)

    def eta(self) -> str:
        now, done = time.monotonic(), self.completed()
        if self.first_shown is None and done:
            self.first_shown = now, done
        if self.first_shown is None or done == self.first_shown[1]:
            return "-:--:--"
        begun, before = self.first_shown
        return duration((now - begun) * (self.steps - done) / (done - before))

    def show(self, loss: float | None, val_loss: float | None, rate: float) -> None:
        mean = "" if loss is None else f"mean loss {loss:.4f}"
        speed = f"{rate * self.models:.0f} steps/s" if rate else ""
        eta = self.eta()
        if self.bar is not None:
            self.bar.update(self.task, description=self.position(), completed=self.completed(), loss=mean, rate=speed)
        elif self.is_line_due():
            validated = "" if val_loss is None else f"mean val_loss {val_loss:.4f}"
            parts = [self.position(), mean, validated, speed, f"eta {eta}"]
            self.print(" | ".join(filter(None, parts)))
