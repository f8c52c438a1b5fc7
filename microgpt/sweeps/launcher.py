"""hydra/launcher=vectorized: receives a sweep's jobs together, so that those of one shape are trained side by side.

It composes and checks all jobs before the first one runs, has them trained in this process or by workers
(executors.py), and returns a result per job to Hydra. Jobs of other tasks run one after the other.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from microgpt.config.hydra_compat import basic_sweeper
from microgpt.config.hydra_errors import report
from microgpt.config.hydra_schema import from_omegaconf
from microgpt.config.validation import check, check_overrides
from microgpt.errors import UserError
from microgpt.runs.record import Invocation
from microgpt.sweeps.composition import Composed, Composer
from microgpt.sweeps.groups import Job
from microgpt.sweeps.lifecycle import current_sweep


class VectorizedLauncher(Launcher):
    """Train in this process (executor=process) or in `workers` processes of joblib, ray or submitit.

    `options` are those of the executor. At most `max_group` models train side by side; None: as groups.py decides.
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

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; a failed one returns NaN, so that the others count. Raises what ends the whole sweep."""
        setup_globals()
        composer = Composer(self.hydra_context.config_loader, self.config)
        results: dict[int, JobReturn] = {}
        trainings: dict[int, Job] = {}
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            composed = composer.compose(overrides)
            if composed.config.task.name != "train":
                results[number] = self.run_alone(number, overrides)
            elif (job := self.checked(number, composed)) is not None:
                trainings[number] = job
        objectives = self.train(list(trainings.values()))
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            if number not in results:
                results[number] = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
                results[number].return_value = objectives.get(number, float("nan"))
        return [results[number] for number in sorted(results)]

    def run_alone(self, number: int, overrides: Sequence[str]) -> JobReturn:
        """Run a job of a task that cannot be vectorized, as Hydra's own launcher does."""
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(number), number
        folder = "hydra.sweep.dir", "hydra.sweep.subdir"
        return run_job(self.task_function, config, *folder, self.hydra_context, configure_logging=False)

    def checked(self, number: int, composed: Composed) -> Job | None:
        """Return the job, or None for one that breaks a rule: it fails alone and is recorded."""
        invocation = Invocation(composed.overrides, (str(self.folder), number))
        try:
            config = from_omegaconf(composed.config, composed.choices)
            check(config)
            check_overrides(config.task.name, invocation)
            return Job(number, config, composed.overrides)
        except UserError as error:
            from microgpt.runs.folders import record_failed_job  # numpy, which --help starts without

            current_sweep().errors.append(error)
            report(error, prefix=f"job {number}: ")
            record_failed_job(composed.plain(), invocation, error)
            return None

    def train(self, jobs: list[Job]) -> dict[int, float]:
        """Return the value that each job minimises; the errors of failed jobs go to the current sweep."""
        if not jobs:
            return {}
        from microgpt.sweeps.executors import train_jobs

        outcomes = train_jobs(self.executor, self.workers, self.options, self.folder, jobs, self.max_group)
        current_sweep().errors += [outcome.error for outcome in outcomes.values() if outcome.error is not None]
        return {number: outcome.objective for number, outcome in outcomes.items()}


class GridSweeper(basic_sweeper()):  # pyright: ignore[reportGeneralTypeIssues]
    """Hydra's own sweeper, but the launcher composes all jobs before the first one runs.

    Hydra's would compose each of them once more to see whether it can be done.
    """

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        if not isinstance(self.launcher, VectorizedLauncher):
            super().validate_batch_is_legal(batch)
