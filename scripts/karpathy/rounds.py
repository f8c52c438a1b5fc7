"""Run comparisons: a warm-up of every contestant, then rounds in which each has its turn. What fails is written down.

The order is reversed every other round, so that a machine that slows down or speeds up does so for all. A round goes
through all comparisons before the next one begins, so that the rounds of each lie minutes apart: what a machine does
differently after a while is then seen among the rounds, and not only in another benchmark.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from karpathy.commands import Finished, run_command
from karpathy.contest import (
    COMPLETED,
    FAILED,
    FELL_BACK,
    TIMED_OUT,
    UNAVAILABLE,
    Comparison,
    Contestant,
    Run,
)
from karpathy.measures import Figures, NoFiguresError
from karpathy.workloads import INTERVALS
from microgpt.errors import UserError

REPEATS = 5  # rounds that count, after one that does not
WARM_UP_STEPS = 2 * INTERVALS  # of the round that does not count: it fills caches, and compiles what is to be compiled


@dataclass(frozen=True)
class Conditions:
    """How all commands of a benchmark are run."""

    repeats: int
    timeout: float  # seconds a command
    logs: Path
    gpu_memory: Callable[[], int | None]
    say: Callable[[str], None]  # what is going on, a line each


def run_round(comparison: Comparison, number: int, conditions: Conditions) -> None:
    """One run of every contestant of a comparison; of none that failed before. Round 0 is the warm-up."""
    failed = {run.contestant for run in comparison.runs if run.status != COMPLETED}
    for contestant in comparison.contestants[:: -1 if number % 2 else 1]:
        if contestant.label in failed:
            continue
        name = f"round {number} of {conditions.repeats}" if number else "warm-up"
        conditions.say(f"{comparison.baseline}, {name}: {contestant.label}")
        run = run_once(comparison, contestant, number, conditions)
        comparison.runs.append(run)
        if run.status != COMPLETED:
            conditions.say(f"  {run.status}: {run.reason}")
        elif run.figures is not None and number:
            conditions.say(f"  {run.figures.tokens_per_sec:,.0f} target tokens a second")


def make_ready(comparison: Comparison, conditions: Conditions) -> bool:
    """Write what all need; False, with the comparison's problem, where that fails."""
    try:
        comparison.prepare()
    except (UserError, OSError) as error:
        comparison.problem = str(error)
        return False
    if comparison.data_command is not None:
        log = conditions.logs / comparison.baseline / "data.log"
        done = run_command(comparison.data_command, log, conditions.timeout)
        if done.exit_code != 0:
            comparison.problem = f"its data cannot be written: {what_went_wrong(done, conditions)} ({log})"
            return False
    return True


def run_once(comparison: Comparison, contestant: Contestant, number: int, conditions: Conditions) -> Run:
    """One run of one contestant, and what became of it."""
    workload = comparison.workload
    if number == 0:
        workload = replace(workload, steps=min(WARM_UP_STEPS, workload.steps))
    launch = contestant.launch(workload, number)
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
        run.status = TIMED_OUT if done.timed_out else FAILED
        run.reason = what_went_wrong(done, conditions)
        return run
    try:
        run.figures = launch.read(done)
    except (NoFiguresError, OSError, ValueError, KeyError) as error:
        run.reason = f"it ended well, but left no figures: {error}"
        return run
    run.status, run.reason = judge(run.figures, contestant.device)
    return run


def judge(figures: Figures, device: str) -> tuple[str, str]:
    """What to think of a run that ended well: its status, and why it is not completed."""
    if not all(map(math.isfinite, [*figures.losses.values(), *figures.val_losses.values()])):
        return FAILED, "a loss is no finite number"
    if device == "cuda" and figures.device != "cuda":
        return FELL_BACK, f"it was told to compute on a GPU, and computed on {figures.device}"
    return COMPLETED, ""


def what_went_wrong(done: Finished, conditions: Conditions) -> str:
    if done.timed_out:
        return f"it ran longer than --timeout={conditions.timeout:g} seconds"
    if done.exit_code is None:
        return done.problem
    return f"exit code {done.exit_code}: {done.last_words()}"


def exit_code(comparisons: list[Comparison]) -> int:
    """0 where every run completed; else 1 a failure or a baseline that cannot be had, 3 a fallback, 124 out of time."""
    found = {run.status for comparison in comparisons for run in comparison.runs}
    found |= {UNAVAILABLE for comparison in comparisons if comparison.problem}
    for statuses, code in (({FAILED, UNAVAILABLE}, 1), ({FELL_BACK}, 3), ({TIMED_OUT}, 124)):
        if found & statuses:
            return code
    return 0
