"""The sweepers, which choose the jobs of a sweep. A sweeper that knows them in advance subclasses PlannedSweeper."""

import json
from abc import abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, setup_globals
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from microgpt.config.hydra_compat import combinations
from microgpt.config.identity import training_settings
from microgpt.config.schema import Config
from microgpt.config.sweeper_keys import DESIGNS
from microgpt.errors import UserError
from microgpt.runs.invocation import Invocation
from microgpt.sweeps.checks import CheckedJobs, JobChecker
from microgpt.sweeps.composition import Composer
from microgpt.sweeps.failures import FailedJob
from microgpt.sweeps.groups import Job
from microgpt.sweeps.launcher import VectorizedLauncher


@dataclass(frozen=True)
class Stage:
    """Jobs that do not depend on each other's results: the overrides of each job, in order of their numbers."""

    jobs: Sequence[Sequence[str]]
    plan: Sequence[str] = ()  # lines printed before the jobs run, once all of them have been checked


Stages = Generator[Stage, Sequence[JobReturn], None]


class PlannedSweeper(Sweeper):
    """Knows all jobs of a stage before the first of them runs. A later stage may depend on the results.

    The jobs of a stage are composed and checked before any of their files is written. In the first stage, an error is
    raised if all jobs fail or a job cannot be composed; if only some jobs fail, the rest run. Job numbers continue from
    stage to stage. After an interruption, the same command reads the results of completed jobs from their records and
    therefore has the same stages.
    """

    node = ""  # node of the configuration that only this sweeper reads

    def __init__(self, max_batch_size: int | None = None, params: dict[str, str] | None = None):
        self.max_batch_size = max_batch_size
        self.params = params or {}

    @abstractmethod
    def stages(self, overrides: list[Override]) -> Stages:
        """Yield each stage, and receive the results of its jobs in order."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader = hydra_context.config_loader
        self.master = config
        self.folder = Path(config.hydra.sweep.dir)
        self.job_launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        if isinstance(self.job_launcher, VectorizedLauncher):
            self.checker = self.job_launcher.checker
        else:
            self.checker = JobChecker(Composer(self.loader, config), self.folder, trains_here=True)

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Run all stages. Returns the results of each batch."""
        if not isinstance(self.params, Mapping):
            raise UserError(
                f"hydra.sweeper.params={self.params} is not allowed: it must map each key to its values, for example "
                "{seed: '1,2,3'}"
            )
        if self.max_batch_size is not None and self.max_batch_size < 1:
            key = f"hydra.sweeper.max_batch_size={self.max_batch_size}"
            raise UserError(f"{key} is not allowed: it must be at least 1, or null")
        for node in DESIGNS:
            if node != self.node and Invocation(tuple(arguments)).touches(node):
                raise UserError(f"{node} is not allowed: its keys require hydra/sweeper={node}")
        params = [f"{key}={value}" for key, value in self.params.items()]
        overrides = OverridesParser.create(config_loader=self.loader).parse_overrides([*params, *arguments])
        stages, batches = self.stages(overrides), []
        stage, first = next(stages, None), 0
        while stage is not None:
            checked = self.check(dict(zip(count(first), stage.jobs, strict=False)))
            if first == 0:
                checked.require_runnable()
                self.folder.mkdir(parents=True, exist_ok=True)
                OmegaConf.save(self.master, self.folder / "multirun.yaml")
            for line in stage.plan:
                print(line, flush=True)
            if stage.plan and isinstance(self.job_launcher, VectorizedLauncher):
                self.print_duration([job for number, job in checked.jobs.items() if number >= first])
            results = self.launch(stage.jobs, first)
            batches += results
            first += len(stage.jobs)
            try:
                stage = stages.send([result for batch in results for result in batch])
            except StopIteration:
                stage = None
        return batches

    def check(self, numbered: Mapping[int, Sequence[str]]) -> CheckedJobs:
        """Check jobs that have not been checked yet. Returns all checked jobs."""
        if isinstance(self.job_launcher, VectorizedLauncher):
            return self.job_launcher.check(numbered)
        setup_globals()
        return self.checker.check(numbered)

    def print_duration(self, jobs: Sequence[Job]) -> None:
        """Print the estimated duration of the jobs that are not completed, if they are trained on this machine."""
        from microgpt.sweeps.duration import about, in_words
        from microgpt.sweeps.folder import SweepFolder, own

        done = {one.overrides for one in SweepFolder(self.folder).attempts.values() if one.status == "completed"}
        left = [job for job in jobs if own(job.overrides) not in done]
        if left and self.checker.reader is not None and self.checker.trains_here:
            print(
                f"training {len(left):,} of them takes about {in_words(about(left, self.checker.reader))}", flush=True
            )

    def probe(self, jobs: Sequence[Sequence[str]]) -> list[Config | FailedJob]:
        """Return the configuration of each job, or its error. The jobs need not be part of the sweep."""
        checker = JobChecker(self.checker.composer, self.folder, trains_here=False)
        composed = [checker.composed(number, overrides) for number, overrides in enumerate(jobs)]
        return [checker.checked.failed[n] if job is None else job.config for n, job in enumerate(composed)]

    def launch(self, jobs: Sequence[Sequence[str]], first: int) -> list[Sequence[JobReturn]]:
        """Run jobs in batches, numbered from `first`. Returns the results of each batch."""
        size = self.max_batch_size or max(len(jobs), 1)
        begins = range(0, max(len(jobs), 1), size)  # one empty batch if there are no jobs
        return [self.job_launcher.launch(jobs[begin : begin + size], first + begin) for begin in begins]


def values_of(overrides: Sequence[Override]) -> dict[str, list[str]]:
    """Return the overrides `key=value` of each key, one for each value. The last of repeated overrides counts."""
    return {one.get_key_element(): [job[0] for job in combinations([one])] for one in overrides}


def what_is_trained(config: Config) -> str:
    """Return a string that is equal for configurations that train the same model for the same seed."""
    return json.dumps(training_settings(asdict(config)) | {"seed": None}, sort_keys=True)


class GridSweeper(PlannedSweeper):
    """Runs all combinations, like Hydra's own sweeper. For an experiment with report.question, it prints a plan."""

    def stages(self, overrides: list[Override]) -> Stages:
        jobs = combinations(overrides)
        values = {key: len(choices) for key, choices in values_of(overrides).items() if len(choices) > 1}
        plan = [f"{len(jobs):,} runs: {' x '.join(f'{count} {key}' for key, count in values.items())}"]
        yield Stage(jobs, plan if self.master.report.question else ())
