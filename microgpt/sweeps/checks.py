"""Composes and checks the jobs of a sweep before the first job runs. Writes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.types import TaskFunction

from microgpt.config.choices import TASKS
from microgpt.config.hydra_errors import explain
from microgpt.config.hydra_settings import check_removals, checked_by_rules
from microgpt.config.identity import training_settings
from microgpt.config.schema import Config, ReportConfig
from microgpt.config.usage import refuse_keys_unused_by_all, refuse_unused_keys
from microgpt.errors import MicrogptError, UserError
from microgpt.runs.invocation import Invocation, SweepJob
from microgpt.sweeps.composition import Composer
from microgpt.sweeps.failures import FailedJob, by_cause, report_by_cause
from microgpt.sweeps.groups import Job
from microgpt.sweeps.hydra_job import HydraJob, job_name

if TYPE_CHECKING:
    from microgpt.training.run_inputs import InputReader


@dataclass
class CheckedJobs:
    """Jobs of any task, keyed by number: jobs that can run, and jobs that cannot."""

    jobs: dict[int, Job] = field(default_factory=dict)
    failed: dict[int, FailedJob] = field(default_factory=dict)

    def __contains__(self, number: int) -> bool:
        return number in self.jobs or number in self.failed

    def errors(self, numbers: Sequence[int]) -> dict[int, Exception]:
        return {number: self.failed[number].error for number in numbers if number in self.failed}

    def require_runnable(self) -> None:
        """Raise the errors if all jobs failed, or if jobs cannot be composed. Any other error fails only its job."""
        refuse_keys_unused_by_all([(job.config, Invocation(job.overrides)) for job in self.jobs.values()])
        check_plans([job.config for job in self.jobs.values()])
        uncomposed = [number for number, failed in self.failed.items() if failed.config is None]
        refused = self.errors(uncomposed or list(self.failed))
        if not refused or (self.jobs and not uncomposed):
            return
        if len(by_cause(refused)) > 1:
            report_by_cause(refused)
            of = len(self.jobs) + len(self.failed)
            several = UserError(f"{len(refused)} of {of} jobs cannot run, so no job was started")
            for numbers in by_cause(refused):
                several.add_note(str(refused[numbers[0]]))
            raise several
        raise next(iter(refused.values()))


def check_plans(configs: Sequence[Config]) -> None:
    """Raise UserError if the plan of the report (report.contrasts, control, nuisance) does not match these jobs."""
    planned = {id(config.report): config for config in configs if config.report != ReportConfig(config.report.question)}
    if planned:
        from microgpt.reports.experiment_plan import check_plan, levels_of, recorded

        settings = [training_settings(asdict(config)) for config in configs]
        levels = levels_of([{key: value for key, value in one.items() if key != "seed"} for one in settings])
        for plan in {recorded(asdict(config.report)) for config in planned.values()}:
            check_plan(plan, levels)


@dataclass
class JobChecker:
    """Composes and checks the jobs of the sweep in `folder`."""

    composer: Composer
    folder: Path
    trains_here: bool  # whether the jobs are trained on this machine, so that anything that it lacks is an error
    has_trials: bool = False  # whether the jobs are trials of an optimizing sweeper, with the numbers of the trials
    callbacks: Any = None  # Hydra's callbacks, which are called for each job with Hydra's `task_function`
    task_function: TaskFunction | None = None
    checked: CheckedJobs = field(default_factory=CheckedJobs)
    reader: "InputReader | None" = None  # reader of the training jobs' data

    def check(self, job_overrides: Mapping[int, Sequence[str]]) -> CheckedJobs:
        """Check the jobs that have not been checked yet. Returns all checked jobs."""
        new = {number: overrides for number, overrides in job_overrides.items() if number not in self.checked}
        trainings = []
        for number, overrides in new.items():
            job = self.composed(number, overrides)
            if job is not None and job.config.task.name == "train":
                trainings.append(job)
        if trainings:
            from microgpt.sweeps.runner import SweepRunner  # imports numpy, which --help does not need

            runner = SweepRunner(self.folder, trainings, reader=self.reader)
            self.reader = runner.reader
            errors = runner.find_failures(self.trains_here)
            for job in trainings:
                if job.number in errors:
                    del self.checked.jobs[job.number]
                    self.checked.failed[job.number] = runner.failed(job, errors[job.number])
        return self.checked

    def composed(self, number: int, overrides: Sequence[str]) -> Job | None:
        """Return the job if its configuration is valid; otherwise None, and the error is kept."""
        plain, trial = None, number if self.has_trials else None
        place, hydra_job = SweepJob(self.folder, number, str(number), trial), HydraJob()
        invocation = Invocation(tuple(overrides), place)
        try:
            composed = self.composer.compose(overrides, number)
            invocation, plain = Invocation(composed.overrides, place), composed.plain
            hydra_job = composed.hydra_job(self.callbacks, self.task_function)
            place = replace(place, name=job_name(composed.place.subdir))
            invocation = Invocation(composed.overrides, place)
            self.composer.check_folder(composed)
            with hydra_job.in_environment():
                check_removals(composed.overrides)
                config = checked_by_rules(composed.values, composed.choices)
            refuse_unused_keys(config, invocation)
            check_checkpoint(config)
        except Exception as error:
            sentence, _ = explain(error)
            if sentence is None:
                raise
            known = error if isinstance(error, MicrogptError) else UserError(sentence)
            self.checked.failed[number] = FailedJob(known, invocation, plain, hydra_job)
            return None
        job = Job(number, config, composed.overrides, place.name, self.has_trials, hydra_job)
        self.checked.jobs[number] = job
        return job


def check_checkpoint(config: Config) -> None:
    """Raise UserError if the task needs a checkpoint that does not exist."""
    if TASKS[config.task.name].needs_checkpoint:
        from microgpt.runs.checkpoint_paths import resolve_checkpoint

        resolve_checkpoint(config.checkpoint or "", config.outputs_dir)
