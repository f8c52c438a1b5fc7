"""The training loop, the same for every engine and model: save, evaluate, log, advance. Knows no configuration.

It trains R runs side by side, which one engine holds; a single run is R = 1. What a run computes and writes does not
depend on the others, and a run whose numbers are spoilt fails alone.
"""

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Protocol, TypeVar

import numpy as np

from microgpt.data.examples import Examples
from microgpt.engines.base import Engine, EngineState, Workload
from microgpt.errors import NonFiniteError
from microgpt.runs.checkpoint import CheckpointStore
from microgpt.runs.checkpoint_format import Meta, Progress
from microgpt.runs.history import History
from microgpt.training.guards import MemoryDriftGuard, StopRequest, resident_memory
from microgpt.training.schedules import Schedule

Result = TypeVar("Result")
EVALUATION_SLICE = 250  # examples that are evaluated in one call; fixed, so that sums do not depend on speed
PIECE_SECONDS = 0.25  # how long the engine is left alone: progress, signals and checkpoints wait that long at most
WRITERS = 16  # checkpoints that are written at a time: a disk flushes many files in little more time than one

Line = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What a training is to do, and when."""

    steps: int
    first_step: int  # steps done in earlier legs; batches and optimizer count from there
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


def is_due(step: int, every: int | None) -> bool:
    return every is not None and step > 0 and step % every == 0


class Observer(Protocol):
    """Who is told how a training gets on. Losses are means over its runs, rates in steps a second of all of them."""

    def update(self, step: int, loss: float | None, rate: float) -> None: ...
    def evaluating(self, done: int, total: int, seconds: float) -> None: ...
    def log(self, step: int, loss: float | None, val_loss: float | None, rate: float) -> None: ...


@dataclass
class Run:
    """One model of a training: what changes as it trains, apart from the engine's own, and where that is written."""

    lr: float
    schedule: Schedule
    state: Progress
    meta: Meta
    checkpoints: CheckpointStore
    history: History
    also_log: Callable[[list[Line]], None] = lambda lines: None  # a logger beside the history
    failure: NonFiniteError | None = None

    def learning_rate(self, step: int) -> float:
        """Of the step that is counted from 0 in this leg."""
        return self.lr * self.schedule.factor(step)

    def write(self, lines: list[Line]) -> None:
        self.history.write(lines)
        self.also_log(lines)

    def fail(self, what: str) -> None:
        self.failure = NonFiniteError(f"{what}; {self.checkpoints.where_newest()}")

    def take(self, begin: int, losses: list[float], targets: list[int], plan: Plan, seconds: float) -> None:
        """Note the steps from `begin` on: the loss and the number of targets of each. Fails at one without a loss."""
        state, lines = self.state, []
        state.train_seconds += seconds
        for step, (loss, tokens) in enumerate(zip(losses, targets, strict=True), begin + 1):
            if not math.isfinite(loss):
                lr = self.learning_rate(step - 1)
                self.fail(f"the loss of step {step} is {loss} (lr {lr:.6g})")
                break
            state.step = step
            state.tokens += tokens
            state.recent_losses.append(loss)
            if plan.logs_at(step) and step < begin + len(losses):  # the last one's line waits for its evaluation
                lines.append({"step": step, "loss": loss, "lr": self.learning_rate(step - 1), "tokens": state.tokens})
        del state.recent_losses[: -plan.last_n]
        self.write(lines)

    def take_evaluation(self, val_loss: float, seconds: float) -> None:
        """Note the validation loss of the step, and whether it is the best. Fails where there is none."""
        state = self.state
        if not math.isfinite(val_loss):
            self.fail(f"the validation loss after step {state.step} is {val_loss}")
            return
        state.evaluate_seconds += seconds
        state.val_loss = val_loss
        if state.step == 0:
            state.first_val_loss = val_loss
        if state.best_val_loss is None or val_loss < state.best_val_loss:
            state.best_val_loss, state.best_step = val_loss, state.step
            self.checkpoints.mark_best(state.step)

    def log(self, is_evaluated: bool) -> None:
        """Write the line of the step at which the run stands."""
        state = self.state
        line: Line = {"step": state.step}
        if state.recent_losses:
            line |= {"loss": state.recent_losses[-1], "lr": self.learning_rate(state.step - 1)}
        line["tokens"] = state.tokens
        if is_evaluated:
            line["val_loss"] = state.val_loss
        self.write([line])


@dataclass
class Training:
    """A training under way: what it works with, and its runs, which all stand at the same step."""

    engine: Engine
    plan: Plan
    workload: Workload
    runs: list[Run]  # in the order of the engine's models
    progress: Observer
    stop: StopRequest
    memory: MemoryDriftGuard | None
    step: int = field(init=False)
    seconds: float = field(init=False)  # of training proper, in earlier processes too

    def __post_init__(self) -> None:
        self.step = self.runs[0].state.step
        assert all(run.state.step == self.step for run in self.runs)
        self.seconds = sum(run.state.train_seconds for run in self.runs)

    @property
    def alive(self) -> list[tuple[int, Run]]:
        """The runs that have not failed, each with its number in the engine."""
        return [(number, run) for number, run in enumerate(self.runs) if run.failure is None]

    def run(self) -> None:
        """Train to the plan's end, or until a stop is asked for, or until no run is left.

        Everything at the top of the loop is a function of the state: a run that resumes from the checkpoint of a step
        does again what the stopped one may not have done there.
        """
        plan = self.plan
        while self.alive:
            stop = bool(self.stop)  # asked once: the signal may come at any moment
            if plan.saves_at(self.step) or stop:
                self.save()
            if stop:
                return
            is_evaluated = plan.evaluates_at(self.step)
            if is_evaluated and not self.evaluate():
                return
            if plan.logs_at(self.step) or is_evaluated:
                self.log(is_evaluated)
            if self.step == plan.steps:
                return
            self.advance()

    def advance(self) -> None:
        """Train up to the next event, or a part of the way if that would take too long."""
        plan, alive, begin = self.plan, self.alive, self.step
        if not alive:
            return
        patience = max(1, int(PIECE_SECONDS * self.rate()))  # in steps; the first step alone tells how long one takes
        end = min(plan.next_stop(begin), begin + patience)
        compiling = self.engine.compile_seconds
        rates = self.learning_rates(begin, end)
        losses, seconds = timed(lambda: self.engine.advance(plan.first_step + begin, rates))
        seconds -= self.engine.compile_seconds - compiling
        self.step, self.seconds = end, self.seconds + seconds
        for number, run in alive:
            targets = self.workload.target_tokens(plan.first_step + begin, plan.first_step + end, number)
            run.take(begin, losses[:, number].tolist(), targets.tolist(), plan, seconds / len(alive))
        for step in filter(plan.logs_at, range(begin + 1, end)):
            finite = [loss for loss in losses[step - begin - 1].tolist() if math.isfinite(loss)]
            if finite:
                self.progress.log(step, fmean(finite), None, self.rate())
        if self.alive:
            self.progress.update(end, self.mean_loss(), self.rate())

    def learning_rates(self, begin: int, end: int) -> np.ndarray:
        """Of each step and run: (end - begin, R)."""
        factors = {run.schedule: np.array([run.schedule.factor(s) for s in range(begin, end)]) for run in self.runs}
        return np.stack([run.lr * factors[run.schedule] for run in self.runs], axis=1)

    def rate(self) -> float:
        """Steps a second of training proper, which all runs make together; 0 before the first."""
        return self.step / self.seconds if self.seconds else 0.0

    def mean_loss(self) -> float | None:
        losses = [run.state.recent_losses[-1] for _, run in self.alive if run.state.recent_losses]
        return fmean(losses) if losses else None

    def save(self) -> None:
        """Persist everything, but for runs whose weights are spoilt already: those fail."""
        engine_state = self.engine.state()
        parts = {number: engine_state.of(number) for number, _ in self.alive}
        for number, run in self.alive:
            if not parts[number].is_finite():
                run.fail(f"after step {self.step} a weight is not finite")

        def write(run: Run, part: EngineState) -> None:
            run.history.sync()
            run.checkpoints.save(run.meta, part, run.state)

        def write_all() -> None:
            if len(alive) == 1:
                write(alive[0][1], parts[alive[0][0]])
                return
            with ThreadPoolExecutor(WRITERS) as writers:
                list(writers.map(lambda one: write(one[1], parts[one[0]]), alive))

        alive = self.alive
        _, seconds = timed(write_all)
        for _, run in alive:
            run.state.checkpoint_seconds += seconds / len(alive)

    def evaluate(self) -> bool:
        """Mean loss per target token of each run on the validation examples.

        False if a stop is asked for on the way: the state is saved, and the run that resumes evaluates this step again.
        """
        examples, alive = self.plan.val_examples, self.alive
        seconds, tokens, totals = 0.0, 0, np.zeros(len(self.runs))
        for start in range(0, len(examples) if alive else 0, EVALUATION_SLICE):
            if self.stop:
                return False
            part = examples[start : start + EVALUATION_SLICE]
            losses, took = timed(lambda part=part: self.engine.evaluate(part))
            targets = int(part.targets.sum())
            seconds, totals, tokens = seconds + took, totals + losses * targets, tokens + targets
            self.progress.evaluating(start + len(part), len(examples), seconds)
        for number, run in alive:
            run.take_evaluation(float(totals[number]) / tokens, seconds / len(alive))
        if self.memory is not None:
            self.memory.observe(resident_memory())
        return True

    def log(self, is_evaluated: bool) -> None:
        for _, run in self.alive:
            run.log(is_evaluated)
        val_losses = [run.state.val_loss for _, run in self.alive if run.state.val_loss is not None]
        if self.alive:
            val_loss = fmean(val_losses) if is_evaluated else None
            self.progress.log(self.step, self.mean_loss(), val_loss, self.rate())


def timed(call: Callable[[], Result]) -> tuple[Result, float]:
    """What a call returns, and how many seconds it took."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start
