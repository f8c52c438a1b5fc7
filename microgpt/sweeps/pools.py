"""The workers that joblib, Ray and submitit offer, and what each library makes of starting, stopping and losing them.

Knows nothing of trainings: a worker is given a share (workers.py) and hands back what became of it.
"""

import contextlib
import math
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from microgpt.errors import MicrogptError, UserError
from microgpt.sweeps.workers import Done, Share

OPTIONS = "hydra.launcher.options"
GO_ON = "the same command goes on from there"
# joblib's; those that have done their share end soon, also where the process that started them was killed.
PROCESSES: dict[str, Any] = {"backend": "loky", "batch_size": 1, "idle_worker_timeout": 5}
LITTLE_MEMORY = 100_000_000  # bytes: a share's configurations are all that Ray's store of objects is to hold


class LostWorkerError(MicrogptError):
    """A worker ended without a word. What it has saved is good."""


class Pool(Protocol):
    """A library's workers. Making them raises UserError for options that it does not take."""

    count: int
    threads: int | None  # for each, where `count` of them work; None: as many as it finds
    here: bool  # whether they are processes that stop once this one is gone

    def run(self, shares: list[Share]) -> list[Done]:
        """What became of each share; a worker that was lost is a `Done` with an error."""
        ...

    def ask_to_stop(self) -> None:
        """Have each worker write its checkpoints and return. Called many times while `run` runs; asks each once."""
        ...

    def close(self) -> None: ...


def pool_named(library: str, workers: int | None, options: dict[str, Any], said: Path) -> Pool:
    return {"joblib": JoblibWorkers, "ray": RayWorkers, "submitit": SubmititWorkers}[library](workers, options, said)


class JoblibWorkers:
    """Processes of this machine, which share its cores; `options` are those of joblib.Parallel."""

    here = True

    def __init__(self, workers: int | None, options: dict[str, Any], said: Path):
        import joblib

        self.count = workers or cores()
        self.threads = max(1, cores() // self.count)
        with taking(options, TypeError, ValueError):
            self.parallel = joblib.Parallel(n_jobs=self.count, **PROCESSES, **options)
        self.asked: set[int] = set()

    def run(self, shares: list[Share]) -> list[Done]:
        from joblib import delayed
        from joblib.externals.loky.process_executor import BrokenProcessPool, TerminatedWorkerError

        try:
            return list(self.parallel(delayed(share)() for share in shares) or [])  # pyright: ignore[reportReturnType]
        except (BrokenProcessPool, TerminatedWorkerError) as error:  # all of them have ended then
            return [lost(f"a worker of joblib ended before its jobs did: {first_sentence(error)}")]

    def ask_to_stop(self) -> None:
        import psutil

        for child in psutil.Process().children():
            if child.pid not in self.asked:
                self.asked.add(child.pid)
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.send_signal(signal.SIGTERM)

    def close(self) -> None: ...


class RayWorkers:
    """Ray's, on a Ray of their own here or, with options.address, on a cluster that shares the file system.

    `options` are those of ray.init. A worker has its part of the cores and of the GPUs.
    """

    here = False  # Ray ends them itself
    asked = 0  # how many of the tasks

    def __init__(self, workers: int | None, options: dict[str, Any], said: Path):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # tell nobody
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # and send the working directory nowhere
        import ray  # pyright: ignore[reportMissingImports] (an extra)

        self.ray = ray
        self.tasks: list[Any] = []
        # A short path, as Ray puts its sockets there; removed at the latest when this process ends.
        self.own_files = tempfile.TemporaryDirectory(prefix="microgpt-ray-", dir="/tmp", ignore_cleanup_errors=True)
        self.is_own = options.get("address", "local") == "local"
        own = {
            "address": "local", "num_cpus": workers or cores(), "include_dashboard": False,
            "object_store_memory": LITTLE_MEMORY, "_temp_dir": self.own_files.name,
        }  # fmt: skip
        general = {"log_to_driver": False, "logging_level": "ERROR"}
        with keeping_handlers(), taking(options, TypeError, ValueError, RuntimeError, ConnectionError):
            ray.init(**{**general, **(own if self.is_own else {}), **options})
        there = ray.cluster_resources()
        self.count = workers or max(1, int(there.get("CPU", 1)))
        self.threads = max(1, cores() // self.count) if self.is_own else 1
        self.gpus = there.get("GPU", 0.0)

    def run(self, shares: list[Share]) -> list[Done]:
        call = self.ray.remote(lambda share: share())
        gpus = part_of_gpus(self.gpus, len(shares))
        for share in shares:
            options = call.options(name=f"worker {share.number}", num_cpus=self.cores_for(share), num_gpus=gpus)
            self.tasks.append(options.remote(share))
        return [self.result(task) for task in self.tasks]

    def cores_for(self, share: Share) -> float:
        """On a cluster as many as the share's jobs use threads, as far as one of its machines has so many."""
        if self.is_own:
            return 1
        wanted = max(job.config.backend.threads or 1 for job in share.jobs)
        return min(wanted, max(node["Resources"].get("CPU", 0) for node in self.ray.nodes() if node["Alive"]))

    def result(self, task: Any) -> Done:
        try:
            return self.ray.get(task)
        except self.ray.exceptions.TaskCancelledError:  # before it began
            return Done()
        except self.ray.exceptions.RayError as error:
            return lost(f"a worker of Ray ended before its jobs did: {first_sentence(error)}")

    def ask_to_stop(self) -> None:
        for task in self.tasks[self.asked :]:
            self.asked += 1
            self.ray.cancel(task)  # as Ctrl-C would

    def close(self) -> None:
        self.ray.shutdown()
        self.own_files.cleanup()


class SubmititWorkers:
    """Jobs of Slurm; `options` are those of submitit's AutoExecutor, and `cluster`: slurm, or local to try it here."""

    asked = 0  # how many of the jobs

    def __init__(self, workers: int | None, options: dict[str, Any], said: Path):
        import submitit

        cluster = options.get("cluster", "slurm")
        if cluster not in ("slurm", "local"):
            raise UserError(f"{OPTIONS}.cluster={cluster} is not allowed: {OPTIONS}.cluster is one of slurm, local")
        if cluster == "slurm" and workers is None:
            raise UserError("hydra.launcher.workers=null is not allowed: say how many jobs Slurm is to run")
        self.here = cluster == "local"
        self.count = workers or cores()
        self.threads = max(1, cores() // self.count) if self.here else options.get("cpus_per_task", 1)
        given = {name: value for name, value in options.items() if name != "cluster"}
        with taking(options, TypeError, ValueError, NameError, RuntimeError, AssertionError, KeyError):
            self.executor = submitit.AutoExecutor(folder=said, cluster=cluster)
            self.executor.update_parameters(**{"name": said.parents[1].name, **given})
        self.jobs: list[Any] = []

    def run(self, shares: list[Share]) -> list[Done]:
        with ignoring_ctrl_c(), self.executor.batch():
            self.jobs = [self.executor.submit(share) for share in shares]
        print(f"jobs of {self.executor.cluster}: {', '.join(job.job_id for job in self.jobs)}", flush=True)
        return [self.result(job) for job in self.jobs]

    def result(self, job: Any) -> Done:
        from submitit.core.utils import FailedJobError, UncompletedJobError

        try:
            return job.result()
        except (FailedJobError, UncompletedJobError):
            where = f"job {job.job_id} of {self.executor.cluster}"
            return lost(f"{where} ended before its jobs did: see {job.paths.stderr}")

    def ask_to_stop(self) -> None:
        for job in self.jobs[self.asked :]:
            self.asked += 1
            if self.here:  # the process that looks after the job hands SIGTERM on; `cancel` would kill it in a second
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(job.job_id), signal.SIGTERM)
            else:
                job.cancel(check=False)

    def close(self) -> None: ...


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def taking(options: dict[str, Any], *errors: type[Exception]) -> Iterator[None]:
    """Turn a library's complaint about its options into a sentence."""
    try:
        yield
    except errors as error:
        raise UserError(f"{OPTIONS}={options} is not allowed: {first_sentence(error)}") from error


@contextlib.contextmanager
def keeping_handlers() -> Iterator[None]:
    """What is done meanwhile does not change what Ctrl-C and SIGTERM do."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ignoring_ctrl_c() -> Iterator[None]:
    """Processes that are started meanwhile are not ended by a Ctrl-C, of which this process tells their jobs itself."""
    with keeping_handlers():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        yield


def part_of_gpus(gpus: float, workers: int) -> float:
    """How many GPUs each of so many workers may have: whole ones, or several workers share one."""
    if gpus < 1:
        return 0
    return float(gpus // workers) if gpus >= workers else 1 / math.ceil(workers / gpus)


def lost(what: str) -> Done:
    return Done(error=LostWorkerError(f"{what}; {GO_ON}"))


def first_sentence(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return first.split(". ")[0].rstrip(".")
