"""Checks a composed configuration, and rejects Hydra keys that cannot take effect (docs/hydra.md)."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from hydra.conf import HydraConf
from hydra.types import RunMode
from omegaconf import OmegaConf

from microgpt.config.hydra_compat import is_plugin
from microgpt.config.hydra_schema import explained_by_option, from_values
from microgpt.config.keys import keys_of, value_at
from microgpt.config.schema import Config
from microgpt.config.validation import check
from microgpt.errors import UserError

# Keys that Hydra sets itself, and keys that its launchers set in a sweep.
FILLED = (
    "hydra.runtime", "hydra.overrides", "hydra.job.override_dirname", "hydra.job.config_name",
)  # fmt: skip
FILLED_IN_SWEEPS = ("hydra.job.num", "hydra.job.id")
# Key of a sweeper -> whether a value is allowed, and what is allowed
Options = Mapping[str, tuple[Callable[[Any], bool], str]]


def checked_by_rules(plain: Any, choices: dict[str, Any]) -> Config:
    """Return the configuration given as dictionaries that OmegaConf has checked. Raises UserError if it breaks a rule.

    `choices` maps groups to the chosen options.
    """
    config = from_values(plain, choices)
    try:
        check(config)
    except UserError as error:
        raise explained_by_option(error, config, choices) from error
    return config


def check_removals(overrides: Iterable[str]) -> None:
    """Raise UserError for ~style and other groups that every run needs."""
    for override in overrides:
        group = override.lstrip("~").partition("=")[0].partition("@")[0]
        stated = keys_of(Config).get(group)
        if override.startswith("~") and stated is not None and stated.node is not None:
            raise UserError(
                f"~{group} is not allowed: {group} is part of every run; choose another option with {group}=<option>"
            )


def check_hydra(hydra: HydraConf) -> None:
    """Raise UserError for a key that Hydra would overwrite silently."""
    filled = (*FILLED, *FILLED_IN_SWEEPS) if hydra.mode == RunMode.MULTIRUN else FILLED
    given: Any = OmegaConf.to_container(hydra.overrides.hydra)  # pyright: ignore[reportArgumentType] (as written)
    for override in given:
        key = override.lstrip("+~").partition("=")[0]
        if starts_with(key, filled):
            raise UserError(f"{override} is not allowed: Hydra sets {key} itself")


def check_plugins(hydra: Any) -> None:
    """Raise UserError for a sweeper or a launcher that is not an installed plugin."""
    for name in ("sweeper", "launcher"):
        target = (hydra[name] or {}).get("_target_")
        if not is_plugin(target):
            given = f"hydra.{name}._target_={target or 'null'}"
            raise UserError(f"{given} is not allowed: it is not an installed plugin; choose hydra/{name}=<option>")


def check_options(given: Mapping[str, Any], options: Options) -> None:
    """Raise UserError for a key of hydra.sweeper with a value that is not allowed."""
    for key, (is_allowed, allowed) in options.items():
        if not is_allowed(value := value_at(given, key)):
            shown = "null" if value is None else value
            raise UserError(f"hydra.sweeper.{key}={shown} is not allowed: it must be {allowed}")


def check_output_subdir(subdir: str | None) -> None:
    """Raise UserError for a folder of Hydra's files that is not inside the folder of the run."""
    if subdir is not None and (PurePosixPath(subdir).is_absolute() or ".." in PurePosixPath(subdir).parts):
        raise UserError(
            f"hydra.output_subdir={subdir} is not allowed: it must be a folder inside the folder of the run"
        )


def check_shared_process(hydra: HydraConf) -> None:
    """Raise UserError for a key that cannot differ between jobs that are trained side by side in one process."""
    reason = "jobs of hydra/launcher=vectorized share a process; hydra/launcher=basic runs them one after the other"
    if hydra.job.chdir:
        raise UserError(f"hydra.job.chdir=true is not allowed with -m: {reason}")
    if has_job_logging(hydra):
        choice = hydra.runtime.choices["hydra/job_logging"]
        raise UserError(f"hydra/job_logging={choice} is not allowed with -m: {reason}")


def has_job_logging(hydra: HydraConf) -> bool:
    """Return whether hydra.job_logging configures the root logger."""
    logging: Any = hydra.job_logging
    return logging is not None and logging.get("root") is not None


def starts_with(key: str, nodes: Iterable[str]) -> bool:
    return any(key == node or key.startswith(f"{node}.") for node in nodes)
