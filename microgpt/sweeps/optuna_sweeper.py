"""The sweeper of hydra/sweeper=optuna: Optuna proposes the jobs."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from microgpt.atomic import write_atomically
from microgpt.config.hydra_compat import is_group
from microgpt.config.hydra_optuna import Proposals, new_optuna_sweeper, study_exists
from microgpt.config.hydra_schema import unknown_key
from microgpt.errors import MicrogptError, UserError


class OptunaSweeper(Sweeper):
    """Runs trials as jobs with their numbers, like hydra-optuna-sweeper. A failed trial does not end the study."""

    def __init__(self, **options: Any):
        plain: Any = OmegaConf.to_container(OmegaConf.create(options), resolve=True)
        name = plain["study_name"]
        self.options = plain | {"study_name": None if name is None else str(name)}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Raises UserError if a library is missing, or if sweep.fresh=true would continue an existing study."""
        self.plugin = new_optuna_sweeper(self.options)
        self.plugin.config, self.loader = config, hydra_context.config_loader
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self.folder = Path(config.hydra.sweep.dir)
        if config.sweep.fresh and study_exists(self.options["storage"], self.options["study_name"]):
            raise UserError(
                f"sweep.fresh=true would continue the study {self.options['study_name']} in hydra.sweeper.storage="
                f"{self.options['storage']}: set a new name with hydra.sweeper.study_name"
            )

    def sweep(self, arguments: list[str]) -> None:
        from microgpt.sweeps.folder import SweepFolder

        proposals = Proposals(self.plugin, arguments, SweepFolder(self.folder), self.refuse_unknown)
        try:
            for begin in range(0, proposals.n_trials, self.plugin.n_jobs):
                self.run(proposals, min(self.plugin.n_jobs, proposals.n_trials - begin))
        finally:
            proposals.release()
        best = proposals.best()
        if best is None:
            print("no trial was completed, so there are no best values", flush=True)
            return
        print(f"best trial: {best.number}, with {best.params}: {best.value}", flush=True)
        found = {"name": "optuna", "best_params": best.params, "best_value": best.value}
        write_atomically(self.folder / "optimization_results.yaml", OmegaConf.to_yaml(OmegaConf.create(found)))

    def refuse_unknown(self, key: str) -> None:
        """Raise UserError for a swept key that does not exist: all trials would fail."""
        name = key.partition("@")[0]
        is_known = is_group(self.loader, name) or OmegaConf.select(self.plugin.config, name, default=self) is not self
        if not name.startswith("+") and not is_known:
            raise UserError(unknown_key(name))

    def run(self, proposals: Proposals, count: int) -> None:
        """Run trials together. Raises the first error if too many fail."""
        trials, overrides = proposals.propose(count)
        self.launcher.numbers = [trial.number for trial in trials]
        results: Sequence[JobReturn] = self.launcher.launch(overrides, initial_job_idx=trials[0].number)
        failures = []
        for trial, result in zip(trials, results, strict=True):
            try:
                value = float(result.return_value)
                if math.isnan(value):
                    raise MicrogptError(f"trial {trial.number} has no loss")
            except Exception as error:
                failures.append(error)
                value = None
            proposals.tell(trial, value)
        if len(failures) > self.plugin.max_failure_rate * len(results):
            raise failures[0]
