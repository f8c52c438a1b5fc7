"""A model in training, with its progress and output files, and the plan shared by all models that train together."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from microgpt.data.examples import Examples
from microgpt.engines.base import EngineState
from microgpt.errors import NonFiniteError
from microgpt.runs.checkpoint import Snapshot
from microgpt.runs.checkpoint_format import Meta, Progress
from microgpt.runs.checkpoint_store import CheckpointStore, write_held
from microgpt.runs.history import History, HistoryLine
from microgpt.training.guards import remedy
from microgpt.training.loggers import RunLogger
from microgpt.training.schedules import Schedule


@dataclass(frozen=True)
class Plan:
    """How long to train, and at which steps to log, evaluate and save."""

    steps: int
    first_step: int  # number of steps before this continuation; batches and the optimizer count from this step
    val_examples: Examples
    log_every: int
    eval_every: int | None
    checkpoint_every: int | None
    checkpoint_seconds: float  # minimum time between writing checkpoints; checkpoints in between stay in memory
    last_n: int

    def logs_at(self, step: int) -> bool:
        return step > 0 and (step % self.log_every == 0 or step in (1, self.steps))

    def evaluates_at(self, step: int) -> bool:
        return bool(self.val_examples) and (step in (0, self.steps) or is_due(step, self.eval_every))

    def saves_at(self, step: int) -> bool:
        """Return whether the step is saved. Every evaluated step is saved, because it may be the best step."""
        return step == self.steps or is_due(step, self.checkpoint_every) or self.evaluates_at(step)

    def next_stop(self, step: int) -> int:
        """Return the next step after `step` that is saved or evaluated."""
        return next(s for s in range(step + 1, self.steps + 1) if self.saves_at(s))


def is_due(step: int, every: int | None) -> bool:
    return every is not None and step > 0 and step % every == 0


@dataclass
class Replica:
    """One of the models that train side by side, with the progress and the output files of its run."""

    lr: float
    schedule: Schedule
    progress: Progress
    meta: Meta
    checkpoints: CheckpointStore
    history: History
    logger: RunLogger = field(default_factory=RunLogger)
    failure: NonFiniteError | None = None

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0 in this continuation."""
        return self.lr * self.schedule.factor(step)

    def add_steps(self, begin: int, losses: list[float], targets: list[int], plan: Plan, seconds: float) -> None:
        """Add the steps after `begin` to the progress, given the loss and the number of target tokens of each step.

        Marks the replica failed at the first non-finite loss.
        """
        progress, lines = self.progress, []
        progress.train_seconds += seconds
        for step, (loss, tokens) in enumerate(zip(losses, targets, strict=True), begin + 1):
            if not math.isfinite(loss):
                self.fail(f"the loss of step {step} is {loss} (lr {self.learning_rate(step - 1):.6g})", loss)
                break
            progress.step = step
            progress.tokens += tokens
            progress.recent_losses.append(loss)
            if plan.logs_at(step) and step < begin + len(losses):  # the last step's line is added after its evaluation
                lr = self.learning_rate(step - 1)
                lines.append({"step": step, "loss": loss, "lr": lr, "tokens": progress.tokens})
        del progress.recent_losses[: -plan.last_n]
        self.write(lines)

    def add_evaluation(self, val_loss: float, seconds: float) -> None:
        """Add the validation loss of the current step to the progress. Marks the replica failed if it is not finite."""
        progress = self.progress
        if not math.isfinite(val_loss):
            self.fail(f"the validation loss after step {progress.step} is {val_loss}", val_loss)
            return
        progress.evaluate_seconds += seconds
        progress.val_loss = val_loss
        if progress.step == 0:
            progress.first_val_loss = val_loss
        if progress.best_val_loss is None or val_loss < progress.best_val_loss:
            progress.best_val_loss, progress.best_step = val_loss, progress.step
            self.checkpoints.mark_best(progress.step)

    def log(self, evaluated: bool) -> None:
        """Write the history line of the current step."""
        progress = self.progress
        line: HistoryLine = {"step": progress.step}
        if progress.recent_losses:
            line |= {"loss": progress.recent_losses[-1], "lr": self.learning_rate(progress.step - 1)}
        line["tokens"] = progress.tokens
        if evaluated and progress.val_loss is not None:
            line["val_loss"] = progress.val_loss
        self.write([line])

    def write(self, lines: list[HistoryLine]) -> None:
        self.history.add(lines)
        self.logger.log(lines)

    def snapshot(self, state: EngineState) -> Snapshot:
        """Return the content of a checkpoint of the current step; `state` is not copied."""
        progress = replace(self.progress, recent_losses=list(self.progress.recent_losses))
        return Snapshot(self.meta, state, progress)

    def fail(self, reason: str, loss: float | None = None) -> None:
        """Mark the replica failed because of a non-finite `loss` or weight, and write its last checkpoint."""
        write_replicas([self])
        self.failure = NonFiniteError(f"{reason}; {self.remedy(loss)}; {self.checkpoints.where_newest()}")

    def remedy(self, loss: float | None = None) -> str:
        """Return advice on which keys to change. Before the first update, `loss` is the loss of the initial weights."""
        progress = self.progress
        untrained = progress.first_val_loss
        if untrained is None and progress.step == len(progress.recent_losses):
            untrained = next(iter(progress.recent_losses), loss)
        if progress.first_step > 0:  # a continuation starts from trained weights
            untrained = None
        return remedy(self.meta.spec, self.lr, self.schedule, untrained, progress.step)


def write_replicas(replicas: list[Replica]) -> None:
    """Write history lines, then checkpoints, and flush both: a run that resumes does not rewrite earlier lines."""
    for replica in replicas:
        replica.history.write()
    write_held([replica.checkpoints for replica in replicas], [replica.history.path for replica in replicas])
