"""Every use of hydra-optuna-sweeper and Optuna, which the extra `optuna` installs.

Checked with the versions below; tests/sweeps/test_optuna.py fails if one of these uses stops working. Optuna 2 can
store studies only with SQLAlchemy 1.4.
"""

import logging
import warnings
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper

from microgpt.errors import UserError
from microgpt.installation import install_command

CHECKED_WITH = {"hydra-optuna-sweeper": "1.3.0", "optuna": "2.10.1", "sqlalchemy": "1.4.54"}


def use_our_option() -> None:
    """Make hydra/sweeper=optuna the file in conf/ by removing the plugin's option: Hydra does not accept both."""
    ConfigStore.instance().repo.get("hydra", {}).get("sweeper", {}).pop("optuna.yaml", None)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # imported by Optuna; alembic logs its own plugins


def new_optuna_sweeper(options: dict[str, Any]) -> Sweeper:
    """Return the plugin's sweeper, changed to give each job the number of its trial in the study.

    Raises UserError if the plugin is not installed, or if the installed SQLAlchemy cannot store a study.
    """
    if find_spec("hydra_plugins.hydra_optuna_sweeper") is None:
        raise UserError(f"hydra/sweeper=optuna needs hydra-optuna-sweeper: {install_command('optuna')}")
    storage = options["storage"]
    if storage is not None and not metadata.version("sqlalchemy").startswith("1."):
        installed = metadata.version("sqlalchemy")
        raise UserError(
            f"hydra.sweeper.storage={storage} needs SQLAlchemy 1.4, not {installed}: {install_command('optuna')}"
        )
    logging.getLogger("optuna").setLevel(logging.WARNING)
    from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl  # pyright: ignore[reportMissingImports]

    class NumberedSweeper(OptunaSweeperImpl):
        launcher: Any

        def _configure_trials(self, trials: list[Any], *rest: Any, **named: Any) -> Any:
            self.launcher.numbers = [trial.number for trial in trials]
            self.job_idx = trials[0].number  # for a launcher that accepts only the first job's number
            return super()._configure_trials(trials, *rest, **named)

    return NumberedSweeper(**options)


def study_exists(storage: str | None, name: str | None) -> bool:
    if storage is None:
        return False
    import optuna  # pyright: ignore[reportMissingImports] (an extra)

    return name in [study.study_name for study in optuna.get_all_study_summaries(storage)]


def propose_again(storage: str | None, name: str | None) -> None:
    """Repeat the trials of a stored study that a stopped command left unfinished, so that their jobs are resumed.

    No other process may be using the study.
    """
    if not study_exists(storage, name):
        return
    import optuna  # pyright: ignore[reportMissingImports] (an extra)

    states = optuna.trial.TrialState
    study = optuna.load_study(study_name=name, storage=storage)  # pyright: ignore[reportArgumentType]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for trial in study.get_trials(states=(states.RUNNING,)):
            study.tell(trial.number, state=states.FAIL)
            study.enqueue_trial(trial.params)
