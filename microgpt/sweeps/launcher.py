"""hydra/launcher=vectorized: takes a sweep's jobs together, so that those of one shape train side by side.

It composes and checks all jobs before the first one runs, has them trained (work.py) in this process or by workers of
an executor (executors.py), and returns to Hydra what became of each job. Jobs of other tasks run one after the other.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from microgpt.config.conversion import from_omegaconf
from microgpt.config.hydra_compat import basic_sweeper
from microgpt.config.hydra_errors import report
from microgpt.config.schema import Config
from microgpt.config.validation import check, check_overrides
from microgpt.errors import UserError
from microgpt.runs.record import Invocation
from microgpt.sweeps.composition import Composed, Composer, plain_dictionary
from microgpt.sweeps.lifecycle import sweep


class VectorizedLauncher(Launcher):
    """`executor`: process (this one), joblib, ray or submitit, with so many `workers`; `options` are its own.

    At most `max_group` models train side by side; None leaves it to groups.py.
    """

    def __init__(self, executor: str, workers: int | None, max_group: int | None, options: dict[str, Any] | None):
        self.executor = executor
        self.workers = workers
        self.max_group = max_group
        self.options: Any = OmegaConf.to_container(OmegaConf.create(options or {}), resolve=True)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; a failed one returns NaN, so that the others count. Raises what ends the whole sweep."""
        setup_globals()
        composer = Composer(self.hydra_context.config_loader, self.config)
        trainings, values = [], {}
        folder = Path(str(self.config.hydra.sweep.dir))
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            composed = composer.compose(overrides)
            job = Invocation(composed.overrides, (str(folder), number))
            config = attempt(composed, job)
            if config is not None and config.task.name == "train":
                trainings.append((number, config, composed.overrides))
            elif config is not None:
                values[number] = run_other_task(config, job)
        values |= self.train(folder, trainings)
        return [job_return(overrides, values.get(number)) for number, overrides in
                enumerate(job_overrides, initial_job_idx)]  # fmt: skip

    def train(self, folder: Path, trainings: list[tuple[int, Config, tuple[str, ...]]]) -> dict[int, float]:
        """What the trainings minimise; errors go to the sweep's."""
        if not trainings:
            return {}
        from microgpt.sweeps.executors import train_jobs
        from microgpt.sweeps.runner import Job

        jobs = [Job(*training) for training in trainings]
        outcomes = train_jobs(self.executor, self.workers, self.options, folder, jobs, self.max_group)
        sweep.errors += [outcome.error for outcome in outcomes.values() if outcome.error is not None]
        return {number: outcome.objective for number, outcome in outcomes.items()}


def attempt(composed: Composed, invocation: Invocation) -> Config | None:
    """The job's configuration, or None for one that breaks a rule: it fails alone."""
    assert invocation.job is not None
    try:
        config = from_omegaconf(composed.config, composed.choices)
        check(config)
        check_overrides(config.task.name, invocation)
        return config
    except UserError as error:
        sweep.errors.append(error)
        report(error, prefix=f"job {invocation.job[1]}: ")
        if composed.config.task.name == "train":
            from microgpt.runs.folders import record_failed_job

            record_failed_job(plain_dictionary(composed.config), invocation, error)
        return None


def run_other_task(config: Config, invocation: Invocation) -> float | None:
    from microgpt.tasks import task_named

    assert invocation.job is not None
    try:
        return task_named(config.task.name)(config, invocation)
    except Exception as error:
        sweep.errors.append(error)
        report(error, prefix=f"job {invocation.job[1]}: ")
        return None


def job_return(overrides: Sequence[str], value: float | None) -> JobReturn:
    returned = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
    returned.return_value = float("nan") if value is None else value
    return returned


class GridSweeper(basic_sweeper()):  # pyright: ignore[reportGeneralTypeIssues]
    """Hydra's own sweeper, except that it leaves it to our launcher to compose all jobs before the first one runs.

    It would compose each of them once more, only to see whether it can be done.
    """

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        if not isinstance(self.launcher, VectorizedLauncher):
            super().validate_batch_is_legal(batch)
