"""Composes the configurations of a sweep's jobs: the shared part once, then each job's own values.

Hydra composes each job from all of its files, which takes 50 ms, longer than the training of a tiny model. Options of
groups, and keys that are added or deleted, are still composed by Hydra; it always applies a plain `key=value` last.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf

from microgpt.config.hydra_compat import apply_overrides, is_group, override_dirname
from microgpt.config.hydra_settings import check_output_subdir
from microgpt.config.keys import value_at
from microgpt.errors import UserError
from microgpt.sweeps.hydra_job import (
    HydraFiles,
    HydraJob,
    JobCallbacks,
    JobSettings,
    calls_jobs,
    template_of,
    without_hydra,
)

DEFAULT_SWEEP = "${outputs_dir}/sweeps/${sweep_id:}"  # the default of hydra.sweep.dir (conf/config.yaml)
INTEGER = re.compile("0|[1-9][0-9]*")
CACHED_BASES = 64  # compositions to keep


@dataclass(frozen=True)
class Place:
    """The settings for a job's folder and process in the `hydra` node."""

    sweep_dir: str
    subdir: str
    output_subdir: str | None
    environment: tuple[tuple[str, str], ...]  # the variables of hydra.job.env_set


@dataclass(frozen=True)
class Composed:
    """A job's configuration before it is checked."""

    plain: dict[str, Any]  # with interpolations as written; values may be invalid
    choices: dict[str, Any]  # the selected option of each group
    overrides: tuple[str, ...]  # without overrides of Hydra's own keys
    place: Place
    base: "Base"
    settings: JobSettings
    config: DictConfig | None = None  # None: `plain` has no interpolations; otherwise valid until the next composition

    @cached_property
    def values(self) -> dict[str, Any]:
        """The configuration as dictionaries. Raises OmegaConf's errors about interpolations."""
        return self.plain if self.config is None else as_dictionary(self.config, resolve=True)

    def hydra_job(self, callbacks: Any = None, task_function: TaskFunction | None = None) -> HydraJob:
        """Return the files, callbacks and environment that Hydra gives the job. `callbacks` are a HydraContext's."""
        files = calls = None
        if self.place.output_subdir is not None:
            number = self.settings.number
            values = (self.overrides, self.settings.dirname, str(number), number)
            files = HydraFiles(self.place.output_subdir, self.base.texts(self.plain), self.base.template, values)
        if callbacks is not None and task_function is not None and calls_jobs(callbacks):
            calls = JobCallbacks(callbacks, task_function, self.base.full, self.settings)
        return HydraJob(files, calls, self.place.environment)


@dataclass(frozen=True)
class Parsed:
    """An override of a job."""

    override: Override
    portable: Override  # without the loader, which cannot be pickled for another process
    is_own: bool  # not one of Hydra's own keys
    is_plain: bool  # sets a key to a value and does nothing else


class Base:
    """The part that jobs share: a configuration composed by Hydra, with and without the `hydra` node.

    After the first job, a job whose values have the same types is a copy of the first with its own values: OmegaConf
    left such values unchanged, and no interpolation refers to them.
    """

    def __init__(self, full: DictConfig, sweep_dir: str | None):
        OmegaConf.set_readonly(full.hydra, False)
        OmegaConf.set_struct(full.hydra, False)
        self.full = full
        self.choices = dict(full.hydra.runtime.choices)
        self.config = without_hydra(full)
        self.override_dirname = override_dirname(full)
        self.first: dict[str, Any] | None = None  # the values of one job, if they have no interpolations
        self.known_texts: dict[str, tuple[Any, str]] = {}  # key -> value of the last job, and its YAML
        self.unchanged: set[tuple[str, type]] = set()  # keys with types of values that OmegaConf leaves unchanged
        hydra = as_dictionary(full.hydra)
        named = (hydra["job"]["env_set"], hydra["output_subdir"])
        is_numbered = hydra["sweep"]["subdir"] == "${hydra.job.num}" and "${" not in json.dumps(named)
        self.place = self.place_of(sweep_dir, "0") if is_numbered and sweep_dir is not None else None

    def place_of(self, sweep_dir: str | None = None, subdir: str = "") -> Place:
        hydra = self.full.hydra
        environment = tuple((str(key), str(value)) for key, value in hydra.job.env_set.items())
        return Place(sweep_dir or hydra.sweep.dir, subdir or hydra.sweep.subdir, hydra.output_subdir, environment)

    @cached_property
    def template(self) -> tuple[str, ...]:
        return template_of(self.full)

    def apply(self, overrides: list[Override]) -> dict[str, Any]:
        """Set the values of a job in `config` and return `config` as dictionaries. Raises Hydra's errors."""
        apply_overrides(overrides, self.config)
        plain = as_dictionary(self.config)
        if "${" not in json.dumps(plain):
            self.first = plain
            for override in overrides:
                value = override._value
                if is_unchanged(plain, override.key_or_group, value):
                    self.unchanged.add((override.key_or_group, type(value)))
        return plain

    def copy_with(self, overrides: list[Override]) -> dict[str, Any] | None:
        """Return the result of `apply` without using OmegaConf; None if the results might differ."""
        if self.first is None:
            return None
        plain = dict(self.first)
        for override in overrides:
            key, value = override.key_or_group, override._value
            if (key, type(value)) not in self.unchanged or (isinstance(value, str) and "${" in value):
                return None
            *groups, name = key.split(".")
            node = plain
            for group in groups:
                node[group] = node = dict(node[group])
            node[name] = value
        return plain

    def texts(self, plain: dict[str, Any]) -> tuple[str, ...]:
        """Return the keys of a job's configuration and their values as YAML."""
        texts = []
        for key, value in plain.items():
            known, text = self.known_texts.get(key, (None, ""))
            if value is not known or known is None:
                text = section_as_yaml(key, json.dumps(value))
                self.known_texts[key] = value, text
            texts.append(text)
        return tuple(texts)


class Composer:
    def __init__(self, loader: ConfigLoader, master: DictConfig):
        self.loader = loader
        self.master = master
        self.parser = OverridesParser.create(config_loader=loader)
        self.integers: dict[str, Parsed] = {}  # a parsed override of each key with an integer value: parsing is slow
        self.parse = lru_cache(100_000)(self.parse_one)
        self.base = lru_cache(CACHED_BASES)(self.compose_base)
        as_written: Any = OmegaConf.to_container(master, resolve=False)
        self.outputs_dir = as_written["outputs_dir"]
        is_default = DEFAULT_SWEEP in as_written["hydra"]["sweep"]["dir"]
        self.sweep_dir = master.hydra.sweep.dir if is_default else None  # None: may differ between jobs

    def compose(self, overrides: Sequence[str], number: int = 0) -> Composed:
        """Compose the job with this number. Raises the errors that Hydra would raise.

        If the job's values or its place depend on other values, HydraConfig holds the job's `hydra` node afterwards.
        """
        parsed = [self.parse(override) for override in overrides]
        plain = [one.override for one in parsed if one.is_plain]
        others = tuple(line for line, one in zip(overrides, parsed, strict=True) if not one.is_plain)
        base = self.base(others, tuple(override.key_or_group for override in plain))
        values = base.copy_with(plain) if base.place is not None else None
        is_copy = values is not None
        if values is None:
            values = base.apply(plain)
        own = [one.override for one in parsed if one.is_own]
        lines = tuple(str(override.input_line) for override in own)
        portable = tuple(one.portable for one in parsed if one.is_plain)
        settings = JobSettings(number, lines, base.override_dirname(own), self.sweep_dir, portable)
        if is_copy and base.place is not None:
            place, config = replace(base.place, subdir=str(number)), None
        else:
            settings.apply(base.full)
            place, config = base.place_of(), base.config
        return Composed(values, base.choices, lines, place, base, settings, config)

    def check_folder(self, composed: Composed) -> None:
        """Raise UserError if the job's folders would not be inside the folder of the sweep."""
        check_output_subdir(composed.place.output_subdir)
        if self.sweep_dir is None and composed.place.sweep_dir != self.master.hydra.sweep.dir:
            raise UserError(
                f"hydra.sweep.dir={composed.place.sweep_dir} is not allowed: it must be the same for all jobs of a "
                "sweep; use hydra.sweep.subdir for the folder of each job"
            )
        if composed.plain["outputs_dir"] != self.outputs_dir:
            raise UserError(
                f"outputs_dir={composed.plain['outputs_dir']} is not allowed: it must be the same for all jobs"
            )

    def parse_one(self, line: str) -> Parsed:
        key, is_assigned, value = line.partition("=")
        similar = self.integers.get(key)
        if similar is not None and is_assigned and INTEGER.fullmatch(value):
            override = replace(similar.override, _value=int(value), input_line=line)
            return replace(similar, override=override, portable=replace(override, config_loader=None))
        override = self.parser.parse_override(line)
        is_own = not is_hydra_key(override)
        is_plain = (
            override.type == OverrideType.CHANGE
            and override.package is None
            and is_own
            and not is_group(self.loader, override.key_or_group)
            and not isinstance(override.value(), dict)
        )
        parsed = Parsed(override, replace(override, config_loader=None), is_own, is_plain)
        if is_plain and INTEGER.fullmatch(value) and type(override._value) is int and key == override.key_or_group:
            self.integers[key] = parsed
        return parsed

    def compose_base(self, overrides: tuple[str, ...], keys: tuple[str, ...]) -> Base:
        """Compose the shared part of jobs. Jobs that set different `keys` get separate bases, to keep values apart."""
        return Base(self.loader.load_sweep_config(self.master, list(overrides)), self.sweep_dir)


def is_unchanged(plain: dict[str, Any], key: str, value: Any) -> bool:
    """Return whether a key has exactly the value of an override, which must be a number, a boolean or a string."""
    found = value_at(plain, key)
    return type(found) is type(value) and type(value) in (int, float, bool, str) and found == value


def as_dictionary(config: DictConfig, resolve: bool = False) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


@lru_cache(100_000)
def section_as_yaml(key: str, value: str) -> str:
    """Return a top-level key and its value, given as JSON, as YAML."""
    if value.isdecimal():  # a fast path for seeds: OmegaConf is slow
        return f"{key}: {value}\n"
    return OmegaConf.to_yaml(OmegaConf.create({key: json.loads(value)}))


def is_hydra_key(override: Override) -> bool:
    return override.key_or_group.startswith(("hydra.", "hydra/"))
