"""The training loop, the same for every engine and model: save, evaluate, log, advance.

One engine trains R replicas side by side; a single run has R = 1. The results and files of a replica do not depend on
the other replicas, and a replica with a non-finite loss or weight fails without affecting the others.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from statistics import fmean
from typing import Protocol

import numpy as np

from microgpt.engines.base import Engine, Workload
from microgpt.training.guards import MemoryDriftGuard, StopRequest, resident_memory
from microgpt.training.replica import Plan, Replica, write_replicas

EXAMPLES_PER_EVALUATION = 250  # per call of the engine; fixed, because the order of a sum changes its last bits
ADVANCE_SECONDS = 0.25  # the longest call of `advance`: progress, signals and checkpoints wait at most this long
HISTORY_SECONDS = 1.0  # lines of history.jsonl wait at most this long


@dataclass
class Training:
    """Training in progress: an engine, its replicas, and the step that all of them have reached."""

    engine: Engine
    plan: Plan
    workload: Workload
    replicas: list[Replica]  # in the engine's order
    observer: Observer
    stop: StopRequest
    memory: MemoryDriftGuard | None
    step: int = field(init=False)
    seconds: float = field(init=False)  # spent in the engine's `advance`, including earlier processes
    written_at: float = field(default_factory=time.perf_counter)  # when checkpoints were last written; at first: now
    logged_at: float = field(default_factory=time.perf_counter)  # when history.jsonl was last written

    def __post_init__(self) -> None:
        self.step = self.replicas[0].progress.step
        assert all(replica.progress.step == self.step for replica in self.replicas)
        self.seconds = sum(replica.progress.train_seconds for replica in self.replicas)

    def run(self) -> None:
        """Train until the last step, a stop request, or the failure of the last replica."""
        try:
            self.train()
        except OSError:  # after a write error, `write` would fail again
            raise
        except Exception:
            self.write()
            raise
        self.write()
        if self.step == self.plan.steps:
            for _, replica in self.active:
                replica.checkpoints.finish()

    def train(self) -> None:
        """Save, evaluate, log and advance.

        The actions before `advance` depend only on the training state: a run that resumes from the checkpoint of a step
        repeats the actions of that step, which the stopped process may not have finished.
        """
        plan = self.plan
        while self.active:
            stopping = bool(self.stop)  # read once: a signal may arrive at any moment
            if plan.saves_at(self.step) or stopping:
                self.save()
            if stopping:
                return
            evaluated = plan.evaluates_at(self.step)
            if evaluated and not self.evaluate():
                return
            if plan.logs_at(self.step) or evaluated:
                self.log(evaluated)
            if self.step == plan.steps:
                return
            self.advance()

    @property
    def active(self) -> list[tuple[int, Replica]]:
        """The replicas that have not failed, each with its index in the engine."""
        return [(index, replica) for index, replica in enumerate(self.replicas) if replica.failure is None]

    def save(self) -> None:
        """Take a snapshot of every active replica, and write the snapshots if checkpoint_seconds have passed.

        A replica with non-finite weights is marked failed instead.
        """
        state = self.engine.state()
        is_finite = state.is_finite()
        for index, replica in self.active:
            if is_finite[index]:
                replica.checkpoints.held = replica.snapshot(state.replica(index))
            else:
                replica.fail(f"after step {self.step} the model contains non-finite weights")
        if time.perf_counter() - self.written_at >= self.plan.checkpoint_seconds:
            self.write()

    def write(self) -> None:
        """Write the history lines and checkpoints that are held in memory."""
        start = time.perf_counter()
        write_replicas(self.replicas)
        self.written_at = self.logged_at = time.perf_counter()
        for _, replica in self.active:
            replica.progress.checkpoint_seconds += (self.written_at - start) / len(self.active)

    def evaluate(self) -> bool:
        """Measure each replica's mean loss per target token on the validation examples.

        Returns False if a stop was requested in the meantime: the step is saved, and the resumed run repeats the
        evaluation.
        """
        examples, active = self.plan.val_examples, self.active
        seconds, tokens, totals = 0.0, 0, np.zeros(len(self.replicas))
        for first in range(0, len(examples) if active else 0, EXAMPLES_PER_EVALUATION):
            if self.stop:
                return False
            part = examples[first : first + EXAMPLES_PER_EVALUATION]
            start = time.perf_counter()
            losses = self.engine.evaluate(part)
            seconds += time.perf_counter() - start
            targets = int(part.targets.sum())
            totals, tokens = totals + losses * targets, tokens + targets
            self.observer.evaluating(first + len(part), len(examples), seconds)
        for index, replica in active:
            replica.add_evaluation(float(totals[index]) / tokens, seconds / len(active))
        if self.memory is not None:
            self.memory.observe(resident_memory())
        return True

    def log(self, evaluated: bool) -> None:
        """Write the history line of the current step."""
        for _, replica in self.active:
            replica.log(evaluated)
        if self.active:
            val_losses = [r.progress.val_loss for _, r in self.active if r.progress.val_loss is not None]
            self.observer.log(self.step, self.mean_loss(), fmean(val_losses) if evaluated else None, self.rate())

    def advance(self) -> None:
        """Train up to the next step that is saved or evaluated, but for at most about ADVANCE_SECONDS."""
        plan, active, begin = self.plan, self.active, self.step
        if not active:
            return
        most_steps = max(1, int(ADVANCE_SECONDS * self.rate()))  # the first step runs alone: no rate is known yet
        end = min(plan.next_stop(begin), begin + most_steps)
        rates = self.learning_rates(begin, end)
        compile_seconds, start = self.engine.compile_seconds, time.perf_counter()
        losses = self.engine.advance(plan.first_step + begin, rates)
        seconds = time.perf_counter() - start - (self.engine.compile_seconds - compile_seconds)
        self.step, self.seconds = end, self.seconds + seconds
        for index, replica in active:
            targets = self.workload.target_tokens(plan.first_step + begin, plan.first_step + end, index)
            replica.add_steps(begin, losses[:, index].tolist(), targets.tolist(), plan, seconds / len(active))
        for step in filter(plan.logs_at, range(begin + 1, end)):
            finite = [loss for loss in losses[step - begin - 1].tolist() if math.isfinite(loss)]
            if finite:
                self.observer.log(step, fmean(finite), None, self.rate())
        if time.perf_counter() - self.logged_at >= HISTORY_SECONDS:
            for _, replica in active:
                replica.history.write()
            self.logged_at = time.perf_counter()
        if self.active:
            self.observer.update(end, self.mean_loss(), self.rate())

    def learning_rates(self, begin: int, end: int) -> np.ndarray:
        """Return the learning rate of each step and replica, (end - begin, R)."""
        schedules = {replica.schedule for replica in self.replicas}
        factors = {schedule: np.array([schedule.factor(s) for s in range(begin, end)]) for schedule in schedules}
        return np.stack([replica.lr * factors[replica.schedule] for replica in self.replicas], axis=1)

    def rate(self) -> float:
        """Return the steps per second of all replicas together, excluding evaluation and disk; 0 before any step."""
        return self.step / self.seconds if self.seconds else 0.0

    def mean_loss(self) -> float | None:
        losses = [replica.progress.recent_losses[-1] for _, replica in self.active if replica.progress.recent_losses]
        return fmean(losses) if losses else None


class Observer(Protocol):
    """Receives the progress of training. Losses are means over the replicas; rates come from `Training.rate`."""

    def update(self, step: int, loss: float | None, rate: float) -> None: ...
    def evaluating(self, done: int, total: int, seconds: float) -> None: ...
    def log(self, step: int, loss: float | None, val_loss: float | None, rate: float) -> None: ...
