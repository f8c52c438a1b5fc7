"""Every use of hydra-optuna-sweeper and Optuna, which the extra `optuna` installs.

Checked with the versions below; tests/sweeps/test_optuna.py fails if one of these uses stops working. Optuna 2 can
store studies only with SQLAlchemy 1.4.
"""

import logging
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hydra.core.config_store import ConfigStore
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from microgpt.config.hydra_settings import Options, check_options
from microgpt.errors import UserError
from microgpt.installation import install_command

if TYPE_CHECKING:
    from filelock import FileLock

CHECKED_WITH = {"hydra-optuna-sweeper": "1.3.0", "optuna": "2.10.1", "sqlalchemy": "1.4.54"}
STUDY_LOCK = "study.lock"  # held while a trial of a stored study is created
SEEDS = 2**32  # number of seeds that samplers accept
TRIES = 3  # another process may be creating the tables of the same database
RETRY_SECONDS = 0.2
# What the plugin and Optuna raise for a mistake in a search space
REFUSALS = (ValueError, KeyError, TypeError, AssertionError, NotImplementedError)


def is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def is_mapping(value: Any) -> bool:
    return value is None or isinstance(value, Mapping)


def is_seed(value: Any) -> bool:
    return value is None or (type(value) is int and 0 <= value < SEEDS)


OPTIONS: Options = {
    "direction": (lambda value: value in ("minimize", "maximize"), "minimize or maximize"),
    "n_trials": (is_count, "an integer of at least 1"),
    "n_jobs": (is_count, "an integer of at least 1"),
    "max_failure_rate": (lambda value: isinstance(value, int | float) and 0 <= value <= 1, "a number from 0 to 1"),
    "storage": (lambda value: value is None or isinstance(value, str), "the URL of a database, or null"),
    "params": (is_mapping, "a mapping from keys to values, or null"),
    "search_space": (is_mapping, "a mapping from keys to distributions, or null"),
    "sampler": (lambda value: isinstance(value, Mapping), "an option of hydra/sweeper/sampler, such as tpe"),
    "sampler.seed": (is_seed, f"an integer from 0 to {SEEDS - 1}, or null"),
}


class Locks(Protocol):
    """The locks of a sweep's folder."""

    locks: Path

    def acquire(self, name: str, wait: bool) -> "FileLock | None": ...


def use_our_option() -> None:
    """Make hydra/sweeper=optuna the file in conf/ by removing the plugin's option: Hydra does not accept both."""
    ConfigStore.instance().repo.get("hydra", {}).get("sweeper", {}).pop("optuna.yaml", None)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # imported by Optuna; alembic logs its own plugins


def missing_plugin() -> str | None:
    """Return the message about the missing plugin, or None if it is installed."""
    is_missing = find_spec("hydra_plugins.hydra_optuna_sweeper") is None
    return f"hydra/sweeper=optuna needs hydra-optuna-sweeper: {install_command('optuna')}" if is_missing else None


def new_optuna_sweeper(options: dict[str, Any]) -> Any:
    """Return the plugin's sweeper. Raises UserError for invalid keys of hydra.sweeper, or if a library is missing."""
    if (message := missing_plugin()) is not None:
        raise UserError(message)
    check_options(options, OPTIONS)
    storage, installed = options["storage"], metadata.version("sqlalchemy")
    if storage is not None and not installed.startswith("1."):
        raise UserError(
            f"hydra.sweeper.storage={storage} needs SQLAlchemy 1.4, not {installed}: {install_command('optuna')}"
        )
    logging.getLogger("optuna").setLevel(logging.WARNING)
    from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl  # pyright: ignore[reportMissingImports]

    return OptunaSweeperImpl(**options)


class Proposals:
    """The trials that one command adds to a study.

    Several processes may add trials to a stored study. A process locks each of its trials until the trial has ended, so
    an unlocked trial that has not ended was left by a process that stopped; the same command continues it.
    """

    def __init__(self, plugin: Any, arguments: Sequence[str], locks: Locks, refuse_unknown: Callable[[str], None]):
        """Open the study, or create it. `arguments` are the overrides of the sweep. Raises UserError.

        `refuse_unknown` raises an error for a key that does not exist.
        """
        from optuna import create_study  # pyright: ignore[reportMissingImports] (an extra)

        self.plugin = plugin
        self.locks = locks
        self.held: dict[int, FileLock] = {}  # locks of the trials of this process, by number
        self.has_created = False  # whether this process has created a trial
        self.space, self.fixed = search_space(plugin, arguments)
        for key in self.space:
            refuse_unknown(key)
        sampler, self.n_trials = self.new_sampler(plugin.sampler.get("seed")), plugin.n_trials
        if "_partial_" in plugin.sampler:  # the grid sampler, which is made with the values of the grid
            self.n_trials = min(self.n_trials, math.prod(len(self.grid(key)) for key in self.space))
        refuse_other_study(storage := open_storage(plugin.storage), plugin, self.space)
        own = {"study_name": plugin.study_name, "direction": plugin.direction, "load_if_exists": True}
        self.study: Any = create_study(storage=storage, sampler=sampler, **own)

    def new_sampler(self, seed: int | None) -> Any:
        """Return the sampler of hydra/sweeper/sampler, with another seed if it has one."""
        try:
            sampler = instantiate(self.plugin.sampler, **({} if seed is None else {"seed": seed}))
        except InstantiationException as error:
            raise UserError(f"hydra.sweeper.sampler is not allowed: {reason(error.__cause__ or error)}") from error
        return sampler({key: self.grid(key) for key in self.space}) if isinstance(sampler, partial) else sampler

    def grid(self, key: str) -> Any:
        """Return the values of a key in the grid of hydra/sweeper/sampler=grid."""
        try:
            return self.plugin._to_grid_sampler_choices(self.space[key])
        except ValueError as error:
            raise UserError(f"{key}=interval(...) is not allowed: hydra/sweeper/sampler=grid takes lists") from error

    def propose(self, count: int) -> tuple[list[Any], list[Sequence[str]]]:
        """Return trials and their overrides: trials that were left by a stopped process, then new ones."""
        trials = [self.ask() for _ in range(count)]
        return trials, self.plugin._configure_trials(trials, self.space, self.fixed)

    def ask(self) -> Any:
        if self.plugin.storage is None:
            return self.study.ask()
        lock = self.locks.acquire(STUDY_LOCK, wait=True)
        assert lock is not None
        try:
            return self.left_trial() or self.new_trial()
        finally:
            lock.release()

    def left_trial(self) -> Any | None:
        """Return a trial that was left by a stopped process of this command, or None. It keeps its values."""
        import optuna  # pyright: ignore[reportMissingImports]

        for trial in self.running():
            name, sampler = lock_name(trial.number), self.study.sampler
            is_ours = (self.locks.locks / name).exists() and self.fixed.keys().isdisjoint(trial.params)
            if not is_ours or trial.number in self.held or (lock := self.locks.acquire(name, wait=False)) is None:
                continue
            if trial.number not in [one.number for one in self.running()]:  # it has ended since the trials were read
                lock.release()
                continue
            self.held[trial.number] = lock
            if trial.params:
                self.study.sampler = optuna.samplers.RandomSampler()  # the trial's own sampler has already proposed
            found = optuna.trial.Trial(self.study, trial._trial_id)
            self.study.sampler = sampler
            return found
        return None

    def running(self) -> list[Any]:
        """Return the trials of the study that have not ended, of any process."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.state.name == "RUNNING"]

    def new_trial(self) -> Any:
        """Create a trial in a stored study.

        Each process that adds trials has another seed: otherwise, it would propose the values of earlier trials again.
        """
        seed = self.plugin.sampler.get("seed")
        if not self.has_created and seed is not None:
            begun = [trial for trial in self.study.get_trials(deepcopy=False) if trial.state.name != "WAITING"]
            self.study.sampler = self.new_sampler((seed + len(begun)) % SEEDS)
        self.has_created = True
        trial = self.study.ask()
        if (lock := self.locks.acquire(lock_name(trial.number), wait=False)) is not None:
            self.held[trial.number] = lock
        return trial

    def tell(self, trial: Any, value: float | None) -> None:
        """End a trial with its loss; None: the trial has failed."""
        from optuna.trial import TrialState  # pyright: ignore[reportMissingImports]

        try:
            self.study.tell(trial, value, TrialState.FAIL if value is None else TrialState.COMPLETE)
        except RuntimeError as error:
            if "Study.stop" not in str(error):  # GridSampler stops the study after the last values of its grid
                raise
        if trial.number in self.held:
            self.held.pop(trial.number).release()

    def best(self) -> Any | None:
        """Return the best trial of the study; None if no trial is completed."""
        is_any = any(trial.state.name == "COMPLETE" for trial in self.study.get_trials(deepcopy=False))
        return self.study.best_trial if is_any else None

    def release(self) -> None:
        """Release the locks of trials that have not ended."""
        for lock in self.held.values():
            lock.release()


def lock_name(number: int) -> str:
    return f"trial_{number}.lock"


def search_space(plugin: Any, arguments: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the distributions of the swept keys and the values of the others. The last of repeated overrides counts.

    Raises UserError.
    """
    from hydra_plugins.hydra_optuna_sweeper._impl import (  # pyright: ignore[reportMissingImports]
        create_params_from_overrides,
    )

    try:
        plugin._process_searchspace_config()
    except REFUSALS as error:
        raise UserError(f"hydra.sweeper.search_space={plugin.search_space} is not allowed: {reason(error)}") from error
    space, fixed = dict(plugin.search_space_distributions or {}), {}
    for override in [*plugin._parse_sweeper_params_config(), *arguments]:
        try:
            distributions, values = create_params_from_overrides([override])
        except REFUSALS as error:
            raise UserError(f"{override} is not allowed: {reason(error)}") from error
        space = {key: one for key, one in space.items() if key not in values} | distributions
        fixed = {key: one for key, one in fixed.items() if key not in distributions} | values
    return space, fixed


def reason(error: BaseException) -> str:
    """Return the first line of an error of a library, for a message."""
    text = str(error).strip() or "hydra/sweeper=optuna takes lists, ranges, choices and intervals"
    line = re.sub(r"^\([\w.]+\) ", "", text.splitlines()[0])  # SQLAlchemy begins with the name of another error
    return (line[0].lower() + line[1:]).replace("`", "").rstrip(".")


def open_storage(url: str | None) -> Any:
    """Return Optuna's storage at a URL, or in memory. Raises UserError."""
    import optuna  # pyright: ignore[reportMissingImports]

    for left in reversed(range(TRIES)):
        try:
            return optuna.storages.get_storage(url)
        except Exception as error:  # of SQLAlchemy, of Redis or of the module that connects to the database
            if not left:
                allowed = "it must be the URL of a database, such as sqlite:///study.db"
                raise UserError(f"hydra.sweeper.storage={url} cannot be used: {reason(error)}; {allowed}") from error
        time.sleep(RETRY_SECONDS)
    raise AssertionError


def study_exists(url: str | None, name: str | None) -> bool:
    return url is not None and is_in(open_storage(url), name)


def is_in(storage: Any, study_name: str | None) -> bool:
    try:
        return study_name is not None and storage.get_study_id_from_name(study_name) is not None
    except KeyError:
        return False


def refuse_other_study(storage: Any, plugin: Any, space: dict[str, Any]) -> None:
    """Raise UserError if the stored study has another direction, or keys with other kinds of values."""
    import optuna  # pyright: ignore[reportMissingImports]

    name = plugin.study_name
    if not is_in(storage, name):
        return
    study = optuna.load_study(study_name=name, storage=storage)
    another = f"the study {name} in hydra.sweeper.storage={plugin.storage}"
    if (stored := study.direction.name.lower()) != plugin.direction:
        raise UserError(f"hydra.sweeper.direction={plugin.direction} is not allowed: {another} has {stored}")
    for trial in study.get_trials(deepcopy=False):
        for key in trial.distributions.keys() & space.keys():
            try:
                optuna.distributions.check_distribution_compatibility(trial.distributions[key], space[key])
            except ValueError as error:
                raise UserError(
                    f"{key} cannot have other choices in {another}: set a new name with hydra.sweeper.study_name"
                ) from error
