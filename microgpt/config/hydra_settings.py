"""The keys of the node `hydra` that cannot be honoured: one sentence each. docs/hydra.md lists all keys."""

from collections.abc import Iterable
from typing import Any

from hydra.conf import HydraConf
from hydra.types import RunMode

from microgpt.errors import UserError

# Keys that Hydra fills in itself; in a sweep also those that its launchers fill in.
FILLED = (
    "hydra.runtime", "hydra.overrides", "hydra.job.override_dirname", "hydra.job.config_name",
)  # fmt: skip
FILLED_IN_SWEEPS = ("hydra.job.num", "hydra.job.id")


def check_hydra(hydra: HydraConf) -> None:
    """Raise UserError for a key that Hydra would overwrite without a word."""
    filled = (*FILLED, *FILLED_IN_SWEEPS) if hydra.mode == RunMode.MULTIRUN else FILLED
    for override in hydra.overrides.hydra:
        key = override.lstrip("+~").partition("=")[0]
        if starts_with(key, filled):
            raise UserError(f"{override} is not allowed: Hydra sets {key} itself")


def check_shared_process(hydra: HydraConf) -> None:
    """Raise UserError for a key that cannot differ between jobs that are trained side by side in one process."""
    reason = "jobs of hydra/launcher=vectorized share a process; hydra/launcher=basic runs one after the other"
    if hydra.job.chdir:
        raise UserError(f"hydra.job.chdir=true is not allowed with -m: {reason}")
    logging: Any = hydra.job_logging
    if logging is not None and logging.get("root") is not None:
        choice = hydra.runtime.choices["hydra/job_logging"]
        raise UserError(f"hydra/job_logging={choice} is not allowed with -m: {reason}")


def starts_with(key: str, nodes: Iterable[str]) -> bool:
    return any(key == node or key.startswith(f"{node}.") for node in nodes)
