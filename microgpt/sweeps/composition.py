"""The configurations of a sweep's jobs, quickly: what jobs share is composed once, their own values are set in it.

Hydra composes each job from all its files: a twentieth of a second, more than a tiny model trains. Options of groups
and keys that are added or deleted still go that way; a plain `key=value` is applied last by Hydra in any case.
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

MOST_BASES = 64  # compositions that are kept


@dataclass(frozen=True)
class Composed:
    """A job's configuration, which holds until the next one is composed; the options chosen; its own overrides."""

    config: DictConfig
    choices: dict[str, Any]
    overrides: tuple[str, ...]


class Composer:
    def __init__(self, loader: ConfigLoader, master: DictConfig):
        self.loader = loader
        self.master = master
        self.parser = OverridesParser.create(config_loader=loader)
        self.parse = lru_cache(100_000)(self.parser.parse_override)
        self.base = lru_cache(MOST_BASES)(self.compose_base)

    def compose(self, overrides: Sequence[str]) -> Composed:
        """Raises Hydra's own errors, as a composition of all overrides would."""
        parsed = [self.parse(override) for override in overrides]
        plain = [override for override in parsed if self.is_plain(override)]
        others = tuple(line for line, override in zip(overrides, parsed, strict=True) if not self.is_plain(override))
        config, choices = self.base(others, tuple(override.key_or_group for override in plain))
        apply_overrides(plain, config)
        own = [line for line, override in zip(overrides, parsed, strict=True) if not is_hydra_s(override)]
        return Composed(config, choices, tuple(own))

    def is_plain(self, override: Override) -> bool:
        """Whether it gives a key a value and does nothing else."""
        return (
            override.type == OverrideType.CHANGE
            and override.package is None
            and not is_hydra_s(override)
            and not is_group(self.loader, override.key_or_group)
            and not isinstance(override.value(), dict)
        )

    def compose_base(self, overrides: tuple[str, ...], keys: tuple[str, ...]) -> tuple[DictConfig, dict[str, Any]]:
        """The composition of what jobs share. `keys` is what they set in it: others must not find it there."""
        composed = self.loader.load_sweep_config(self.master, list(overrides))
        HydraConfig.instance().set_config(composed)
        choices = dict(composed.hydra.runtime.choices)
        with read_write(composed), open_dict(composed):
            del composed["hydra"]
        return composed, choices


def is_hydra_s(override: Override) -> bool:
    return override.key_or_group.startswith(("hydra.", "hydra/"))


def plain_dictionary(config: DictConfig) -> dict[str, Any]:
    """A configuration as it was composed, for the record of a job whose values may be at fault."""
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
