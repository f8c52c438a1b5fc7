"""Compose the configurations of a sweep's jobs: what jobs share once, then each job's own values.

Hydra composes each job from all its files, which takes 50 ms, more than a tiny model trains. Options of groups, and
keys that are added or deleted, are still composed like that; Hydra applies a plain `key=value` last in any case.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from hydra.conf import HydraConf
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from microgpt.config.hydra_compat import apply_overrides, is_group, overrides_dirname
from microgpt.errors import UserError
from microgpt.sweeps.hydra_job import HydraFiles, HydraJob, JobCallbacks, JobSettings, calls_jobs, template_of

DEFAULT_SWEEP = "${outputs_dir}/sweeps/${sweep_id:}"  # the default of hydra.sweep.dir (conf/config.yaml)
CACHED_BASES = 64  # compositions that are kept


@dataclass(frozen=True)
class Composed:
    """A job's configuration before it is checked. `config` is valid until the next composition."""

    config: DictConfig
    choices: dict[str, Any]  # the selected option of each group
    overrides: tuple[str, ...]  # without those of Hydra's own keys
    hydra: HydraConf
    base: "Base"
    settings: JobSettings

    @cached_property
    def values(self) -> dict[str, Any]:
        """The configuration as dictionaries. Raises OmegaConf's errors about interpolations."""
        if "${" not in json.dumps(self.plain):
            return self.plain
        resolved = OmegaConf.to_container(self.config, resolve=True)
        assert isinstance(resolved, dict)
        return {str(key): value for key, value in resolved.items()}

    @cached_property
    def plain(self) -> dict[str, Any]:
        """The configuration as dictionaries, with interpolations as they are written. Its values may be invalid."""
        plain = OmegaConf.to_container(self.config)
        assert isinstance(plain, dict)
        return {str(key): value for key, value in plain.items()}

    def hydra_job(self, callbacks: Any = None, task_function: TaskFunction | None = None) -> HydraJob:
        """Return what Hydra gives the job besides its configuration. `callbacks` are those of a HydraContext."""
        files = calls = None
        if self.hydra.output_subdir is not None:
            number = self.settings.number
            values = (self.overrides, self.settings.dirname, str(number), number)
            config = tuple(section_as_yaml(key, json.dumps(value)) for key, value in self.plain.items())
            files = HydraFiles(self.hydra.output_subdir, config, self.base.template, values)
        if callbacks is not None and task_function is not None and calls_jobs(callbacks):
            calls = JobCallbacks(callbacks, task_function, self.base.full, self.settings)
        return HydraJob(files, calls, self.environment)

    @property
    def environment(self) -> tuple[tuple[str, str], ...]:
        """The variables of hydra.job.env_set."""
        return tuple((str(key), str(value)) for key, value in self.hydra.job.env_set.items())


class Base:
    """What jobs share: a configuration that Hydra has composed, with and without the node `hydra`."""

    def __init__(self, full: DictConfig):
        OmegaConf.set_readonly(full.hydra, False)
        OmegaConf.set_struct(full.hydra, False)
        self.full = full
        self.choices = dict(full.hydra.runtime.choices)
        self.config = copy.deepcopy(full)
        with read_write(self.config), open_dict(self.config):
            del self.config["hydra"]

    @cached_property
    def template(self) -> tuple[str, ...]:
        return template_of(self.full)


class Composer:
    def __init__(self, loader: ConfigLoader, master: DictConfig):
        self.loader = loader
        self.master = master
        self.parser = OverridesParser.create(config_loader=loader)
        self.parse = lru_cache(100_000)(self.parser.parse_override)
        self.base = lru_cache(CACHED_BASES)(self.compose_base)
        as_written: Any = OmegaConf.to_container(master, resolve=False)
        self.outputs_dir = as_written["outputs_dir"]
        is_default = DEFAULT_SWEEP in as_written["hydra"]["sweep"]["dir"]
        self.sweep_dir = master.hydra.sweep.dir if is_default else None  # None: each job may name another one

    def compose(self, overrides: Sequence[str], number: int = 0) -> Composed:
        """Compose the job of this number, whose node `hydra` is the current one of HydraConfig from then on.

        Raises the errors that Hydra raises when it composes all overrides.
        """
        parsed = [self.parse(override) for override in overrides]
        plain = [override for override in parsed if self.is_plain(override)]
        others = tuple(line for line, override in zip(overrides, parsed, strict=True) if not self.is_plain(override))
        base = self.base(others, tuple(override.key_or_group for override in plain))
        apply_overrides(plain, base.config)
        own = [override for override in parsed if not is_hydra_key(override)]
        lines = tuple(str(override.input_line) for override in own)
        values = tuple(replace(override, config_loader=None) for override in plain)
        settings = JobSettings(number, lines, overrides_dirname(own, base.full), self.sweep_dir, values)
        settings.apply(base.full)
        return Composed(base.config, base.choices, lines, base.full.hydra, base, settings)

    def check_folder(self, composed: Composed) -> None:
        """Raise UserError if a job would not lie in the folder of the sweep."""
        if self.sweep_dir is None and composed.hydra.sweep.dir != self.master.hydra.sweep.dir:
            raise UserError(
                f"hydra.sweep.dir={composed.hydra.sweep.dir} is not allowed: all jobs of a sweep have one folder; say "
                "what differs between them in hydra.sweep.subdir"
            )
        if composed.plain["outputs_dir"] != self.outputs_dir:
            raise UserError(
                f"outputs_dir={composed.plain['outputs_dir']} is not allowed: it is the same for all jobs of a sweep"
            )

    def is_plain(self, override: Override) -> bool:
        """Return whether an override sets a key to a value and does nothing else."""
        return (
            override.type == OverrideType.CHANGE
            and override.package is None
            and not is_hydra_key(override)
            and not is_group(self.loader, override.key_or_group)
            and not isinstance(override.value(), dict)
        )

    def compose_base(self, overrides: tuple[str, ...], keys: tuple[str, ...]) -> Base:
        """Compose what jobs share. Jobs that set other `keys` get a base of their own, without each other's values."""
        return Base(self.loader.load_sweep_config(self.master, list(overrides)))


@lru_cache(100_000)
def section_as_yaml(key: str, value: str) -> str:
    """Return a top-level key and its value, which is given as JSON, as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create({key: json.loads(value)}))


def is_hydra_key(override: Override) -> bool:
    return override.key_or_group.startswith(("hydra.", "hydra/"))
