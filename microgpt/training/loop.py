"""The training loop, the same for every engine and model: save, evaluate, log, advance. Knows no configuration."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from microgpt.checkpoint import CheckpointStore
from microgpt.checkpoint_format import Meta, TrainState
from microgpt.data.examples import Examples
from microgpt.engines.base import Engine, Workload
from microgpt.errors import NonFiniteError
from microgpt.training.guards import MemoryDriftGuard, StopRequest, resident_memory
from microgpt.training.history import History
from microgpt.training.progress import Progress
from microgpt.training.schedules import Schedule

Result = TypeVar("Result")
EVALUATION_SLICE = 250  # examples that are evaluated in one call; fixed, so that sums do not depend on speed
PIECE_SECONDS = 0.25  # how long the engine is left alone: progress, signals and checkpoints wait that long at most


@dataclass(frozen=True)
class Plan:
    """What a training is to do, and when."""

    steps: int
    first_step: int  # steps done in earlier legs; batches and optimizer count from there
    lr: float
    schedule: Schedule
    val_examples: Examples
    log_every: int
    eval_every: int | None
    checkpoint_every: int | None
    last_n: int

    def logs_at(self, step: int) -> bool:
        return step > 0 and (step % self.log_every == 0 or step in (1, self.steps))

    def evaluates_at(self, step: int) -> bool:
        return bool(self.val_examples) and (step in (0, self.steps) or is_due(step, self.eval_every))

    def saves_at(self, step: int) -> bool:
        """At its own times, and before every evaluation, so that the best checkpoint exists once it is known to be."""
        return step == self.steps or is_due(step, self.checkpoint_every) or self.evaluates_at(step)

    def next_stop(self, step: int) -> int:
        """The next step after `step` at which the state is saved or evaluated; what is logged needs no stop."""
        return next(s for s in range(step + 1, self.steps + 1) if self.saves_at(s))

    def learning_rate(self, step: int) -> float:
        """Of the step that is counted from 0 in this leg."""
        return self.lr * self.schedule.factor(step)


def is_due(step: int, every: int | None) -> bool:
    return every is not None and step > 0 and step % every == 0


@dataclass
class Training:
    """A training under way: what it works with. `state` is all that changes, apart from the engine's own."""

    engine: Engine
    plan: Plan
    workload: Workload
    state: TrainState
    meta: Meta
    checkpoints: CheckpointStore
    history: History
    progress: Progress
    stop: StopRequest
    memory: MemoryDriftGuard | None

    def run(self) -> None:
        """Train to the plan's end, or until a stop is asked for.

        Everything at the top of the loop is a function of the state: a run that resumes from the checkpoint of a step
        does again what the stopped one may not have done there.
        """
        plan, state = self.plan, self.state
        while True:
            stop = bool(self.stop)  # asked once: the signal may come at any moment
            if plan.saves_at(state.step) or stop:
                self.save()
            if stop:
                return
            val_loss = None
            if plan.evaluates_at(state.step):
                val_loss = self.evaluate()
                if val_loss is None:
                    return
            if plan.logs_at(state.step) or val_loss is not None:
                self.log(val_loss)
            if state.step == plan.steps:
                return
            self.advance()

    def advance(self) -> None:
        """Train up to the next event, or a part of the way if that would take too long."""
        plan, state = self.plan, self.state
        begin, end = state.step, plan.next_stop(state.step)
        patience = max(1, int(PIECE_SECONDS * self.rate()))  # in steps; the first step alone tells how long one takes
        end = min(end, begin + patience)
        lrs = [plan.learning_rate(step) for step in range(begin, end)]
        compiling = self.engine.compile_seconds
        losses, seconds = timed(lambda: self.engine.advance(plan.first_step + begin, np.array(lrs)[:, np.newaxis]))
        seconds -= self.engine.compile_seconds - compiling
        tokens = self.workload.target_tokens(plan.first_step + begin, plan.first_step + end, replica=0)
        lines = []
        for step, lr, loss, targets in zip(
            range(begin + 1, end + 1), lrs, losses[:, 0].tolist(), tokens.tolist(), strict=True
        ):
            if not math.isfinite(loss):
                raise NonFiniteError(
                    f"the loss of step {step} is {loss} (lr {lr:.6g}); {self.checkpoints.where_newest()}"
                )
            state.tokens += targets
            state.recent_losses.append(loss)
            if plan.logs_at(step) and step < end:  # the last one's line waits for its evaluation
                lines.append({"step": step, "loss": loss, "lr": lr, "tokens": state.tokens})
                self.progress.log(step, loss, None, self.rate())
        del state.recent_losses[: -plan.last_n]
        self.history.write(lines)
        state.step = end
        state.train_seconds += seconds
        self.progress.update(state.step, state.recent_losses[-1], self.rate())

    def rate(self) -> float:
        """Steps a second of training proper; 0 before the first."""
        return self.state.step / self.state.train_seconds if self.state.train_seconds else 0.0

    def save(self) -> None:
        """Persist everything, unless the weights are spoilt already."""
        engine_state = self.engine.state()
        if not engine_state.is_finite():
            raise NonFiniteError(
                f"after step {self.state.step} a weight is not finite; {self.checkpoints.where_newest()}"
            )
        self.history.sync()
        _, seconds = timed(lambda: self.checkpoints.save(self.meta, engine_state, self.state))
        self.state.checkpoint_seconds += seconds

    def evaluate(self) -> float | None:
        """Mean loss per target token on the validation examples; notes the best.

        None if a stop is asked for on the way: the state is saved, and the run that resumes evaluates this step again.
        """
        state, examples = self.state, self.plan.val_examples
        seconds, total, tokens = 0.0, 0.0, 0
        for start in range(0, len(examples), EVALUATION_SLICE):
            if self.stop:
                return None
            part = examples[start : start + EVALUATION_SLICE]
            losses, took = timed(lambda part=part: self.engine.evaluate(part))
            targets = int(part.targets.sum())
            seconds, total, tokens = seconds + took, total + float(losses[0]) * targets, tokens + targets
            self.progress.evaluating(start + len(part), len(examples), seconds)
        val_loss = total / tokens
        if not math.isfinite(val_loss):
            raise NonFiniteError(
                f"the validation loss after step {state.step} is {val_loss}; {self.checkpoints.where_newest()}"
            )
        state.evaluate_seconds += seconds
        state.val_loss = val_loss
        if state.step == 0:
            state.first_val_loss = val_loss
        if state.best_val_loss is None or val_loss < state.best_val_loss:
            state.best_val_loss, state.best_step = val_loss, state.step
            self.checkpoints.mark_best(state.step)
        if self.memory is not None:
            self.memory.observe(resident_memory())
        return val_loss

    def log(self, val_loss: float | None) -> None:
        state = self.state
        loss = state.recent_losses[-1] if state.recent_losses else None
        line: dict[str, float] = {"step": state.step}
        if loss is not None:
            line |= {"loss": loss, "lr": self.plan.learning_rate(state.step - 1)}
        line["tokens"] = state.tokens
        if val_loss is not None:
            line["val_loss"] = val_loss
        self.history.write([line])
        self.progress.log(state.step, loss, val_loss, self.rate())


def timed(call: Callable[[], Result]) -> tuple[Result, float]:
    """What a call returns, and how many seconds it took."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start
