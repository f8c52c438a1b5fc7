"""Trains a sweep's jobs in this process, or in workers of joblib, Ray or submitit (Slurm).

Each worker trains a share of the jobs (workers.py). Locks in the sweep's folder prevent workers, and other commands
that run the same sweep, from training a job twice. Workers receive composed jobs instead of running the command again,
because the jobs that an optimizing sweeper proposes depend on earlier results.
"""

import contextlib
import math
import os
import signal
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from microgpt.distributed import available_cores
from microgpt.errors import Interrupted, UserError
from microgpt.installation import install_command
from microgpt.sweeps.groups import Job, group, shape_of
from microgpt.sweeps.lifecycle import current_sweep
from microgpt.sweeps.runner import Outcome, SweepRunner
from microgpt.sweeps.workers import LostWorkerError, Share, ShareResult, supervised, workers_folder
from microgpt.training.guards import StopRequest, stop_on_signals
from microgpt.training.run_inputs import InputReader

OPTIONS = "hydra.launcher.options"
RAY_STORE_BYTES = 100_000_000  # size of Ray's object store, which holds only the configurations of the shares


class Executor(ABC):
    """The workers of a library. The constructor raises UserError for options that the library does not accept."""

    stop_with_starter = True  # False: the workers continue after this process ends

    def __init__(self, workers: int | None):
        self.count = workers or available_cores()
        self.threads = max(1, available_cores() // self.count)  # per worker

    @abstractmethod
    def run(self, shares: list[Share]) -> list[ShareResult]:
        """Train each share in a worker. The result of a lost worker contains a LostWorkerError."""

    def cancel(self) -> None:  # noqa: B027 (optional)
        """Stop workers that do not stop with this process. Called repeatedly during `run`."""

    def close(self) -> None:  # noqa: B027 (optional)
        """Stop everything that the library started."""


class JoblibExecutor(Executor):
    """Worker processes on this machine, which share its cores. `options` are passed to joblib.Parallel."""

    def __init__(self, workers: int | None, options: dict[str, Any], files: Path):
        import joblib

        super().__init__(workers)
        # n_jobs=1 would train in this process. Idle workers end soon, even if this process was killed.
        own: dict[str, Any] = {"backend": "loky", "batch_size": 1, "idle_worker_timeout": 5}
        with refused_options(options, TypeError, ValueError):
            self.parallel = joblib.Parallel(n_jobs=max(2, self.count), **own, **options)

    def run(self, shares: list[Share]) -> list[ShareResult]:
        from joblib import delayed
        from joblib.externals.loky.process_executor import BrokenProcessPool, TerminatedWorkerError

        try:
            return list(self.parallel(delayed(share)() for share in shares) or [])  # pyright: ignore[reportReturnType]
        except (BrokenProcessPool, TerminatedWorkerError) as error:  # joblib has killed all of them
            return [lost(f"a joblib worker ended before its jobs finished: {first_sentence(error)}")]


class RayExecutor(Executor):
    """Tasks of a local Ray instance or, with options.address, of a cluster that shares the file system.

    `options` are passed to ray.init. Each worker gets a share of the cores and of the GPUs.
    """

    def __init__(self, workers: int | None, options: dict[str, Any], files: Path):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # no upload of the working directory
        import ray  # pyright: ignore[reportMissingImports] (an extra)

        self.ray = ray
        self.is_local = options.get("address", "local") == "local"
        # Ray's sockets need a short path. The folder is removed when this process ends, if not earlier.
        self.folder = tempfile.TemporaryDirectory(prefix="microgpt-ray-", dir="/tmp", ignore_cleanup_errors=True)
        local = {
            "address": "local", "num_cpus": workers or available_cores(), "include_dashboard": False,
            "object_store_memory": RAY_STORE_BYTES, "_temp_dir": self.folder.name,
        }  # fmt: skip
        general = {"log_to_driver": False, "logging_level": "ERROR"}
        refused = refused_options(options, TypeError, ValueError, RuntimeError, ConnectionError)
        with restored_signal_handlers(), refused:
            ray.init(**{**general, **(local if self.is_local else {}), **options})
        resources = ray.cluster_resources()
        super().__init__(workers or max(1, int(resources.get("CPU", 1))))
        if not self.is_local:
            self.threads = 1
        self.gpus = resources.get("GPU", 0.0)

    def run(self, shares: list[Share]) -> list[ShareResult]:
        call = self.ray.remote(lambda share: share())
        gpus = gpus_per_worker(self.gpus, len(shares))
        tasks = [
            call.options(name=f"worker {share.number}", num_cpus=self.cores_of(share), num_gpus=gpus).remote(share)
            for share in shares
        ]
        return [self.result(task) for task in tasks]

    def cores_of(self, share: Share) -> float:
        """Return the cores to reserve: 1, or on a cluster the threads of a job, at most the largest machine's cores."""
        if self.is_local:
            return 1
        wanted = max(job.config.backend.threads or 1 for job in share.jobs)
        return min(wanted, max(node["Resources"].get("CPU", 0) for node in self.ray.nodes() if node["Alive"]))

    def result(self, task: Any) -> ShareResult:
        try:
            return self.ray.get(task)
        except self.ray.exceptions.RayError as error:
            return lost(f"a Ray worker ended before its jobs finished: {first_sentence(error)}")

    def close(self) -> None:
        self.ray.shutdown()
        self.folder.cleanup()


class SubmititExecutor(Executor):
    """Slurm jobs. `options` are those of submitit's AutoExecutor, and `cluster`: slurm, or local for a test."""

    def __init__(self, workers: int | None, options: dict[str, Any], files: Path):
        import submitit

        cluster = options.get("cluster", "slurm")
        if cluster not in ("slurm", "local"):
            raise UserError(f"{OPTIONS}.cluster={cluster} is not allowed: it must be slurm or local")
        if cluster == "slurm" and workers is None:
            raise UserError("hydra.launcher.workers=null is not allowed: set the number of jobs that Slurm should run")
        super().__init__(workers)
        self.stop_with_starter = cluster == "local"
        if cluster == "slurm":
            self.threads = options.get("cpus_per_task", 1)
        given = {name: value for name, value in options.items() if name != "cluster"}
        with refused_options(options, TypeError, ValueError, NameError, RuntimeError, AssertionError, KeyError):
            self.executor = submitit.AutoExecutor(folder=files, cluster=cluster)
            self.executor.update_parameters(**{"name": files.parents[1].name, **given})
        self.cancellable: list[Any] = []

    def run(self, shares: list[Share]) -> list[ShareResult]:
        with restored_signal_handlers():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited by the processes that submitit starts
            with self.executor.batch():
                jobs = [self.executor.submit(share) for share in shares]
        if not self.stop_with_starter:
            self.cancellable = list(jobs)
        print(f"jobs of {self.executor.cluster}: {', '.join(job.job_id for job in jobs)}", flush=True)
        return [self.result(job) for job in jobs]

    def result(self, job: Any) -> ShareResult:
        from submitit.core.utils import FailedJobError, UncompletedJobError

        try:
            return job.result()
        except (FailedJobError, UncompletedJobError):
            where = f"job {job.job_id} of {self.executor.cluster}"
            return lost(f"{where} ended before its sweep jobs finished: see {job.paths.stderr}")

    def cancel(self) -> None:
        while self.cancellable:
            self.cancellable.pop().cancel(check=False)


EXECUTORS = {"joblib": JoblibExecutor, "ray": RayExecutor, "submitit": SubmititExecutor}
EXTRAS = {"joblib": "joblib", "ray": "ray", "submitit": "slurm"}  # library: the extra that installs it


def check_launcher(executor: str, workers: int | None, max_group: int | None) -> None:
    """Raise UserError if a value is not allowed or the executor is not installed."""
    key = "hydra.launcher.executor"
    if executor not in ("process", *EXECUTORS):
        raise UserError(f"{key}={executor} is not allowed: {key} must be one of process, {', '.join(EXECUTORS)}")
    for name, value in (("workers", workers), ("max_group", max_group)):
        if value is not None and value < 1:
            raise UserError(f"hydra.launcher.{name}={value} is not allowed: hydra.launcher.{name} must be at least 1")
    if executor in EXTRAS and find_spec(executor) is None:
        raise UserError(f"{key}={executor} needs {executor}: {install_command(EXTRAS[executor])}")


def train_jobs(
    executor: str,
    workers: int | None,
    options: dict[str, Any],
    folder: Path,
    jobs: list[Job],
    max_group: int | None,
    reader: InputReader | None = None,
) -> dict[int, Outcome]:
    """Train jobs of the sweep in `folder`. Returns their outcomes, keyed by job number.

    `reader` holds the data of the jobs that has been read in this process.

    Raises UserError if a value is not allowed or the executor is not installed, Interrupted, and MicrogptError if
    files can no longer be written or a worker was lost.
    """
    check_launcher(executor, workers, max_group)
    with stop_on_signals() as stop:
        if executor == "process":
            return SweepRunner(folder, jobs, max_group, reader).run(stop)
        given = {name: value for name, value in options.items() if value is not None}
        with (
            workers_folder(folder) as files,
            contextlib.closing(EXECUTORS[executor](workers, given, files)) as library,
        ):
            return train_in_workers(library, folder, jobs, max_group, files, stop)


def train_in_workers(
    executor: Executor, folder: Path, jobs: list[Job], max_group: int | None, files: Path, stop: StopRequest
) -> dict[int, Outcome]:
    shares = [
        Share(number, folder, part, max_group, executor.threads, files, executor.stop_with_starter)
        for number, part in enumerate(share_out(jobs, executor.count), 1)
    ]
    try:
        with supervised(shares, files, stop, executor.cancel):
            results = executor.run(shares)
    except KeyboardInterrupt as second:
        print(f"stopped immediately; {current_sweep().how_to_continue}", flush=True)
        raise Interrupted(stop.signal_number or signal.SIGINT) from second
    outcomes = {number: outcome for result in results for number, outcome in result.outcomes.items()}
    signals = [result.signal_number for result in results if result.signal_number is not None]
    if stop or signals:
        completed = sum(outcome.error is None for outcome in outcomes.values())
        print(
            f"interrupted: {completed} of {len(jobs)} jobs are completed; {current_sweep().how_to_continue}", flush=True
        )
        raise Interrupted(stop.signal_number or signals[0])
    for result in results:
        if result.error is not None:
            raise result.error
    return outcomes


def share_out(jobs: list[Job], count: int) -> list[list[Job]]:
    """Divide the jobs into at most `count` shares, the jobs of each shape as evenly as possible."""
    ordered = [job for shape in group(jobs, lambda job: shape_of(job.config), lambda job: len(jobs)) for job in shape]
    return [ordered[first::count] for first in range(min(count, len(ordered)))]


def gpus_per_worker(gpus: float, workers: int) -> float:
    """Return the number of GPUs per worker if all workers run at the same time; a fraction if workers share a GPU."""
    if gpus < 1:
        return 0
    return float(gpus // workers) if gpus >= workers else 1 / math.ceil(workers / gpus)


@contextlib.contextmanager
def refused_options(options: dict[str, Any], *errors: type[Exception]) -> Iterator[None]:
    """Raise UserError for a library's errors about its options."""
    try:
        yield
    except errors as error:
        raise UserError(f"{OPTIONS}={options} is not allowed: {first_sentence(error)}") from error


@contextlib.contextmanager
def restored_signal_handlers() -> Iterator[None]:
    """Restore the signal handlers for Ctrl-C and SIGTERM at the end of the block."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def lost(what: str) -> ShareResult:
    return ShareResult(error=LostWorkerError(f"{what}; {current_sweep().how_to_continue}"))


def first_sentence(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return first.split(". ")[0].rstrip(".")
