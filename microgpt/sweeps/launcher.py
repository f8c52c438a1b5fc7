"""hydra/launcher=vectorized: receives a sweep's jobs together, so that jobs of the same shape are trained side by side.

It composes and checks all jobs before the first one runs, trains them in this process or in workers (executors.py),
and returns a result per job to Hydra. Jobs of other tasks run one after the other.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from microgpt.config.hydra_settings import check_shared_process
from microgpt.sweeps.checked_job import JobResult, run_job
from microgpt.sweeps.checks import CheckedJobs, JobChecker
from microgpt.sweeps.composition import Composer
from microgpt.sweeps.failures import FailedJob, record_failures, report_by_cause
from microgpt.sweeps.groups import Job
from microgpt.sweeps.lifecycle import current_sweep

if TYPE_CHECKING:
    from microgpt.sweeps.runner import Outcome

ON_OTHER_MACHINES = ("ray", "submitit")  # executors whose workers may run on other machines, for example with a GPU


class VectorizedLauncher(Launcher):
    """Trains jobs in this process (executor=process) or in `workers` processes of joblib, ray or submitit.

    `options` are passed to the executor. At most `max_group` models train side by side; None: groups.py decides.
    """

    def __init__(self, executor: str, workers: int | None, max_group: int | None, options: dict[str, Any] | None):
        self.executor = executor
        self.workers = workers
        self.max_group = max_group
        self.options: Any = OmegaConf.to_container(OmegaConf.create(options or {}), resolve=True)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config
        self.folder = Path(str(config.hydra.sweep.dir))
        composer, is_here = Composer(hydra_context.config_loader, config), self.executor not in ON_OTHER_MACHINES
        has_trials = current_sweep().has_trials
        self.checker = JobChecker(composer, self.folder, is_here, has_trials, hydra_context.callbacks, task_function)
        self.numbers: Sequence[int] | None = None  # of the next jobs; None: consecutive, from `initial_job_idx`

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs.

        The error of a failed job is returned, so that the results of the others are kept; an error that ends the whole
        sweep is raised.
        """
        following = range(initial_job_idx, initial_job_idx + len(job_overrides))
        numbered = dict(zip(self.numbers or following, job_overrides, strict=True))
        checked = self.check(numbered)
        if not self.checker.has_trials and initial_job_idx == 0:  # for Hydra's sweeper; ours have already checked this
            checked.require_runnable()
        from microgpt.sweeps.runner import Outcome  # imports numpy, which --help does not need

        errors = checked.errors(list(numbered))
        self.record([checked.failed[number] for number in errors])
        report_by_cause(errors)
        returns: dict[int, JobReturn] = {}
        outcomes = {number: Outcome(error=error) for number, error in errors.items()}
        jobs = [checked.jobs[number] for number in numbered if number in checked.jobs]
        for job in jobs:
            if job.config.task.name != "train":
                returns[job.number] = self.run_alone(job.number, numbered[job.number])
        outcomes |= self.train([job for job in jobs if job.number not in returns])
        current_sweep().errors += [one.error for one in outcomes.values() if one.error is not None]
        for number, outcome in outcomes.items():
            status = JobStatus.COMPLETED if outcome.error is None else JobStatus.FAILED
            overrides = list(numbered[number])
            returns[number] = JobResult(overrides=overrides, status=status, _return_value=outcome.result)
        return [returns[number] for number in numbered]

    def check(self, jobs: Mapping[int, Sequence[str]]) -> CheckedJobs:
        """Check new jobs and return all checked jobs. Raises UserError for invalid keys of the launcher."""
        from microgpt.sweeps.executors import check_launcher  # imports numpy, which --help does not need

        setup_globals()
        check_launcher(self.executor, self.workers, self.max_group)
        checked = self.checker.check(jobs)
        if any(job.config.task.name == "train" for job in checked.jobs.values()):
            check_shared_process(self.config.hydra)
        return checked

    def record(self, failed: list[FailedJob]) -> None:
        if failed:
            from microgpt.sweeps.folder import SweepFolder

            with SweepFolder(self.folder).creating_folders():
                record_failures(failed)

    def run_alone(self, number: int, overrides: Sequence[str]) -> JobReturn:
        """Run a job of a task that cannot be vectorized, as Hydra's own launcher does."""
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(number), number
        folder = "hydra.sweep.dir", "hydra.sweep.subdir"
        print(f"job {number}: {' '.join(overrides)}", flush=True)
        try:
            return run_job(self.task_function, config, *folder, self.hydra_context)
        finally:
            configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)

    def train(self, jobs: list[Job]) -> "dict[int, Outcome]":
        if not jobs:
            return {}
        from microgpt.sweeps.executors import train_jobs

        reader = self.checker.reader
        return train_jobs(self.executor, self.workers, self.options, self.folder, jobs, self.max_group, reader)
