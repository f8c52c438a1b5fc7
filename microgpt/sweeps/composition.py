"""Compose the configurations of a sweep's jobs: what jobs share once, then each job's own values.

Hydra composes each job from all its files, which takes 50 ms, more than a tiny model trains. Options of groups, and
keys that are added or deleted, are still composed like that; Hydra applies a plain `key=value` last in any case.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from microgpt.config.hydra_compat import apply_overrides, is_group

CACHED_BASES = 64  # compositions that are kept


@dataclass(frozen=True)
class Composed:
    """A job's configuration before it is checked. `config` is valid until the next composition."""

    config: DictConfig
    choices: dict[str, Any]  # the selected option of each group
    overrides: tuple[str, ...]  # without those of Hydra's own keys

    def plain(self) -> dict[str, Any]:
        """Return the configuration as dictionaries, for the record of a job whose values may be invalid."""
        plain = OmegaConf.to_container(self.config)
        assert isinstance(plain, dict)
        return {str(key): value for key, value in plain.items()}


class Composer:
    def __init__(self, loader: ConfigLoader, master: DictConfig):
        self.loader = loader
        self.master = master
        self.parser = OverridesParser.create(config_loader=loader)
        self.parse = lru_cache(100_000)(self.parser.parse_override)
        self.base = lru_cache(CACHED_BASES)(self.compose_base)

    def compose(self, overrides: Sequence[str]) -> Composed:
        """Raises the errors that Hydra raises when it composes all overrides."""
        parsed = [self.parse(override) for override in overrides]
        plain = [override for override in parsed if self.is_plain(override)]
        others = tuple(line for line, override in zip(overrides, parsed, strict=True) if not self.is_plain(override))
        config, choices = self.base(others, tuple(override.key_or_group for override in plain))
        apply_overrides(plain, config)
        own = [line for line, override in zip(overrides, parsed, strict=True) if not is_hydra_key(override)]
        return Composed(config, choices, tuple(own))

    def is_plain(self, override: Override) -> bool:
        """Return whether an override sets a key to a value and does nothing else."""
        return (
            override.type == OverrideType.CHANGE
            and override.package is None
            and not is_hydra_key(override)
            and not is_group(self.loader, override.key_or_group)
            and not isinstance(override.value(), dict)
        )

    def compose_base(self, overrides: tuple[str, ...], keys: tuple[str, ...]) -> tuple[DictConfig, dict[str, Any]]:
        """Compose what jobs share. Jobs that set other `keys` get a base of their own, without each other's values."""
        composed = self.loader.load_sweep_config(self.master, list(overrides))
        HydraConfig.instance().set_config(composed)
        choices = dict(composed.hydra.runtime.choices)
        with read_write(composed), open_dict(composed):
            del composed["hydra"]
        return composed, choices


def is_hydra_key(override: Override) -> bool:
    return override.key_or_group.startswith(("hydra.", "hydra/"))
