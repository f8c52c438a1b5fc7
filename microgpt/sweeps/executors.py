"""Where the trainings of a sweep run: in this process, or shared out to the workers of joblib, Ray or submitit (Slurm).

Each worker gets a share of the sweep's jobs and trains them as this process would (work.py). Locks in the sweep's
folder keep two workers, or two whole sweeps, from one job. A signal to this process asks all workers to stop: each
writes its checkpoints first. Knows no library: those are in pools.py.
"""

import contextlib
import os
import shutil
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from microgpt.errors import Interrupted, UserError
from microgpt.sweeps.groups import group, shape_of
from microgpt.sweeps.pools import GO_ON, LostWorkerError, Pool, pool_named
from microgpt.sweeps.runner import Job, Outcome, Work
from microgpt.sweeps.workers import Share, attending, new_folder
from microgpt.training.guards import StopRequest, stop_on_signals

EXTRAS = {"joblib": "joblib", "ray": "ray", "submitit": "slurm"}  # library: our extra


def execute(
    executor: str, workers: int | None, options: dict[str, Any], folder: Path, jobs: list[Job], most: int | None
) -> dict[int, Outcome]:
    """The outcomes of all jobs, by number.

    Raises UserError for a value that is not allowed and an executor that is not installed, Interrupted, and
    MicrogptError where nothing can be written any more or a worker was lost.
    """
    key = "hydra.launcher.executor"
    if executor not in ("process", *EXTRAS):
        raise UserError(f"{key}={executor} is not allowed: {key} is one of process, {', '.join(EXTRAS)}")
    if workers is not None and workers < 1:
        raise UserError(f"hydra.launcher.workers={workers} is not allowed: hydra.launcher.workers must be at least 1")
    if most is not None and most < 1:
        raise UserError(f"hydra.launcher.max_group={most} is not allowed: hydra.launcher.max_group must be at least 1")
    if executor == "process":
        return Work(folder, jobs, most).run()
    if find_spec(executor) is None:
        raise UserError(f"{key}={executor} needs {executor}: pip install 'microgpt[{EXTRAS[executor]}]'")
    said = new_folder(folder)
    given = {name: value for name, value in options.items() if value is not None}
    try:
        with stop_on_signals() as stop, contextlib.closing(pool_named(executor, workers, given, said)) as pool:
            outcomes = run(pool, folder, jobs, most, said, stop)
    except LostWorkerError:  # more may stand there than was printed
        raise
    except BaseException:
        discard(said)
        raise
    discard(said)
    return outcomes


def discard(said: Path) -> None:
    shutil.rmtree(said, ignore_errors=True)
    with contextlib.suppress(OSError):  # another process has workers on this sweep too
        said.parent.rmdir()


def run(
    pool: Pool, folder: Path, jobs: list[Job], most: int | None, said: Path, stop: StopRequest
) -> dict[int, Outcome]:
    parts = share_out(jobs, pool.count)
    starter = os.getpid() if pool.here else None
    shares = [Share(n, folder, part, most, pool.threads, said, starter=starter) for n, part in enumerate(parts, 1)]
    try:
        with attending(shares, stop, pool.ask_to_stop):
            done = pool.run(shares)
    except KeyboardInterrupt as second:
        print(f"stopped at once; {GO_ON}", flush=True)
        raise Interrupted(stop.signal_number or signal.SIGINT) from second
    outcomes = {number: outcome for each in done for number, outcome in each.outcomes.items()}
    signals = [each.signal_number for each in done if each.signal_number is not None]
    if stop or signals:
        completed = sum(outcome.error is None for outcome in outcomes.values())
        print(f"interrupted: {completed} of {len(jobs)} jobs are completed; {GO_ON}", flush=True)
        raise Interrupted(stop.signal_number or signals[0])
    for each in done:
        if each.error is not None:
            raise each.error
    return outcomes


def share_out(jobs: list[Job], count: int) -> list[list[Job]]:
    """So many shares, or fewer where there are fewer jobs.

    Each has its part of the jobs of every shape, so that none has more than one job of each more than another.
    """
    ordered = [job for shape in group(jobs, lambda job: shape_of(job.config), lambda job: len(jobs)) for job in shape]
    return [ordered[first::count] for first in range(min(count, len(ordered)))]
