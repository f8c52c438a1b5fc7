"""A comparison: the programs that train the same model, and their runs. After a failure, the others continue.

A warm-up of every program comes first, then rounds in which each program runs once. Every other round is in reversed
order, so that a drift in the speed of the machine affects all programs. A round includes all comparisons, so that the
rounds of one comparison are minutes apart and show how much the speed of the machine varies.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import harness

from karpathy.measures import Figures, NoFiguresError
from karpathy.processes import Command, Finished, run_command
from karpathy.workloads import INTERVALS, Precision, Setup
from microgpt.errors import UserError

# The status of a run, and of a program; a program with one of the last two has no runs.
COMPLETED, FAILED, TIMED_OUT, FELL_BACK = "completed", "failed", "timed out", "cpu fallback"
UNAVAILABLE, NOT_RUN = "unavailable", "not run"
# The first one that occurs is that of the benchmark
EXIT_CODES = {FAILED: 1, UNAVAILABLE: 1, FELL_BACK: 3, TIMED_OUT: 124}
WARM_UP_STEPS = 2 * INTERVALS  # fills caches and compiles


@dataclass(frozen=True)
class Launch:
    """One run of a program: its command, and the function that reads its figures."""

    command: Command
    read: Callable[[Finished], Figures]  # raises NoFiguresError
    prepare: Callable[[], None] = lambda: None  # writes the files that the run needs


@dataclass(frozen=True)
class Contestant:
    """A program with one precision. `launch` takes the setup and the number of the round, which is in file names."""

    label: str
    precision: Precision
    device: str  # requested
    launch: Callable[[Setup, int], Launch]
    against: str | None = None  # label of the baseline to compare with; None: this is the baseline
    differences: Sequence[str] = ()  # the keys of the comparison's differences that apply to this program


@dataclass
class Run:
    """The result of one run; round 0 is the warm-up."""

    contestant: str
    round: int
    status: str
    reason: str = ""  # a sentence, unless the run completed
    figures: Figures | None = None
    command: str = ""
    cwd: str = ""
    log: str = ""
    exit_code: int | None = None
    wall_seconds: float = 0.0
    peak_memory: int = 0
    peak_gpu_memory: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "figures": self.figures and self.figures.to_dict()}


@dataclass
class BaselineComparison:
    """This project and one baseline: the programs, their differences and their runs."""

    baseline: str
    setup: Setup
    contestants: list[Contestant]
    differences: dict[str, str]  # key -> sentence
    prepare: Callable[[], None] = lambda: None  # writes the files that all programs need; raises UserError
    data_command: Command | None = None  # runs before the programs
    source: dict[str, Any] = field(default_factory=dict)  # version and origin of the baseline
    runs: list[Run] = field(default_factory=list)
    problem: str = ""  # why the baseline is not available
    notes: list[str] = field(default_factory=list)
    val_loss: float | None = None  # the target of the time to a loss

    def completed(self, label: str) -> list[Run]:
        """Return the completed runs of a program, without its warm-up."""
        return [r for r in self.runs if r.contestant == label and r.round > 0 and r.status == COMPLETED]


@dataclass(frozen=True)
class Conditions:
    """The conditions under which all commands of a benchmark run."""

    repeats: int
    timeout: float  # seconds per command
    logs: Path
    gpu_memory: Callable[[], int | None]


def run_round(comparison: BaselineComparison, number: int, conditions: Conditions) -> None:
    """Run every program of a comparison once, except programs that have failed. Round 0 is the warm-up."""
    failed = {run.contestant for run in comparison.runs if run.status != COMPLETED}
    for contestant in harness.in_turn(comparison.contestants, number):
        if contestant.label in failed:
            continue
        name = f"round {number} of {conditions.repeats}" if number else "warm-up"
        harness.say(f"{comparison.baseline}, {name}: {contestant.label}")
        run = run_once(comparison, contestant, number, conditions)
        comparison.runs.append(run)
        if run.status != COMPLETED:
            harness.say(f"  {run.status}: {run.reason}")
        elif run.figures is not None and number:
            harness.say(f"  {run.figures.tokens_per_sec:,.0f} target tokens a second")


def prepare(comparison: BaselineComparison, conditions: Conditions) -> bool:
    """Write the files that all programs need; record an error as the problem of the comparison and return False."""
    try:
        comparison.prepare()
    except (UserError, OSError) as error:
        comparison.problem = str(error)
        return False
    if comparison.data_command is not None:
        log = conditions.logs / comparison.baseline / "data.log"
        done = run_command(comparison.data_command, log, conditions.timeout)
        if done.exit_code != 0:
            comparison.problem = f"its data cannot be written: {failure(done, conditions)} ({log})"
    return not comparison.problem


def run_once(comparison: BaselineComparison, contestant: Contestant, number: int, conditions: Conditions) -> Run:
    setup = comparison.setup
    if number == 0:
        setup = replace(setup, steps=min(WARM_UP_STEPS, setup.steps))
    launch = contestant.launch(setup, number)
    command = launch.command
    name = re.sub(r"[^a-z0-9.]+", "_", contestant.label.lower()).strip("_")
    log = conditions.logs / comparison.baseline / f"{number}_{name}.log"
    run = Run(contestant.label, number, FAILED, command=command.shown(), cwd=str(command.cwd), log=str(log))
    try:
        launch.prepare()
    except (UserError, OSError) as error:
        run.reason = str(error)
        return run
    gpu_memory = conditions.gpu_memory if contestant.device == "cuda" else lambda: None
    done = run_command(command, log, conditions.timeout, gpu_memory)
    run.exit_code, run.wall_seconds = done.exit_code, done.seconds
    run.peak_memory, run.peak_gpu_memory = done.peak_memory, done.peak_gpu_memory
    if done.exit_code != 0:
        run.status, run.reason = TIMED_OUT if done.timed_out else FAILED, failure(done, conditions)
        return run
    try:
        run.figures = launch.read(done)
    except (NoFiguresError, OSError, ValueError, KeyError) as error:
        run.reason = f"it completed without figures: {error}"
        return run
    if not all(map(math.isfinite, [*run.figures.losses.values(), *run.figures.val_losses.values()])):
        run.reason = "a loss became non-finite"
    elif contestant.device == "cuda" and run.figures.device != "cuda":
        run.status, run.reason = FELL_BACK, f"a GPU was requested, but the run computed on {run.figures.device}"
    else:
        run.status = COMPLETED
    return run


def failure(done: Finished, conditions: Conditions) -> str:
    if done.timed_out:
        return f"it ran longer than --timeout={conditions.timeout:g} seconds"
    return done.problem or f"exit code {done.exit_code}: {done.last_line()}"


def exit_code(comparisons: list[BaselineComparison]) -> int:
    """Return the exit code of all runs: 0 if all completed, otherwise that of the first status in EXIT_CODES."""
    found = {run.status for comparison in comparisons for run in comparison.runs}
    found |= {UNAVAILABLE for comparison in comparisons if comparison.problem}
    return next((code for status, code in EXIT_CODES.items() if status in found), 0)
