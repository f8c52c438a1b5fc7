"""Where the trainings of a sweep run: in this process, or shared out to the workers of joblib, Ray or submitit (Slurm).

Each worker gets a share of the sweep's groups and trains them as this process would (work.py). Locks in the sweep's
folder keep two workers, or two whole sweeps, from one job.
"""

import os
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from microgpt.errors import Interrupted, MicrogptError, UserError
from microgpt.sweep.groups import group, shape_of
from microgpt.sweep.work import Job, Outcome, Work

EXTRAS = {"joblib": "joblib", "ray": "ray", "submitit": "slurm"}  # library: our extra


def execute(
    executor: str, workers: int | None, options: dict[str, Any], folder: Path, jobs: list[Job], most: int | None
) -> dict[int, Outcome]:
    """The outcomes of all jobs, by number. Raises UserError for an executor that does not exist or is not installed."""
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
    count = workers or os.cpu_count() or 1
    shares = [Share(folder, share, most, None) for share in share_out(jobs, count)]
    run = {"joblib": with_joblib, "ray": with_ray, "submitit": with_submitit}[executor]
    done = run(shares, count, options, folder)
    signals = [each.signal_number for each in done if each.signal_number is not None]
    if signals:
        raise Interrupted(signals[0])
    return {number: outcome for each in done for number, outcome in each.outcomes.items()}


@dataclass(frozen=True)
class Done:
    """What a worker hands back: what became of its jobs, and the signal that stopped it."""

    outcomes: dict[int, Outcome]
    signal_number: int | None = None


@dataclass(frozen=True)
class Share:
    """The jobs of one worker."""

    folder: Path
    jobs: list[Job]
    most: int | None
    threads: int | None  # for each; None: all cores that the worker has

    def __call__(self) -> Done:
        work = Work(self.folder, self.jobs, self.most, self.threads)
        signal_number = None
        try:
            work.run()
        except Interrupted as stop:
            signal_number = stop.exit_code - 128
        return Done({number: portable(outcome) for number, outcome in work.outcomes.items()}, signal_number)


def portable(outcome: Outcome) -> Outcome:
    """With an error that any process can unpickle; a bug has shown its traceback where it happened."""
    if outcome.error is None or isinstance(outcome.error, MicrogptError):
        return outcome
    return Outcome(error=MicrogptError(str(outcome.error)))


def share_out(jobs: list[Job], count: int) -> list[list[Job]]:
    """A share of about the same size for each worker; jobs of one shape stay together as far as that allows."""
    ordered = [job for shape in group(jobs, lambda job: shape_of(job.config), lambda job: len(jobs)) for job in shape]
    size = -(-len(ordered) // count)
    return [ordered[begin : begin + size] for begin in range(0, len(ordered), size)]


def with_joblib(shares: list[Share], count: int, options: dict[str, Any], folder: Path) -> list[Done]:
    """Processes of this machine, which share its cores; `options` are those of joblib.Parallel."""
    import joblib

    threads = max(1, (os.cpu_count() or 1) // count)
    calls = [joblib.delayed(replace(share, threads=threads))() for share in shares]
    return list(joblib.Parallel(n_jobs=count, **options)(calls) or [])  # pyright: ignore[reportReturnType]


def with_ray(shares: list[Share], count: int, options: dict[str, Any], folder: Path) -> list[Done]:
    """Ray's workers, here or on its cluster; `options` are those of ray.init."""
    import ray  # pyright: ignore[reportMissingImports] (an extra)

    here = not ray.is_initialized()
    if here:
        own = {} if "address" in options else {"num_cpus": count, "include_dashboard": False}
        ray.init(**{"log_to_driver": True, **own, **options})
    try:
        run = ray.remote(lambda share: share())
        return ray.get([run.remote(share) for share in shares])
    finally:
        if here:
            ray.shutdown()


def with_submitit(shares: list[Share], count: int, options: dict[str, Any], folder: Path) -> list[Done]:
    """Jobs of Slurm; `options` are those of submitit's AutoExecutor, and `cluster`: slurm, or local to try it here."""
    import submitit

    cluster = options.pop("cluster", None)
    executor = submitit.AutoExecutor(folder=folder / ".submitit", cluster=cluster)
    executor.update_parameters(**{"name": folder.name, **options})
    return [job.result() for job in executor.map_array(Share.__call__, shares)]
