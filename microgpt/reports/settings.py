"""Settings of a run: the part of its configuration that affects its results, how runs differ in it, and labels.

Configurations are plain dictionaries, as run.json has them.
"""

import hashlib
import json
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any, TypeVar

from microgpt.config.identity import settings_with, training_settings
from microgpt.config.keys import walk
from microgpt.config.schema import Config

LR = "optim.lr"
TOGGLES = ("model.tie_lm_head", "model.input_rmsnorm")
DATA = "data.sha256"  # of the text: a setting like the keys, although it is measured and not configured
# torch sums in an order that depends on the number of threads; auto: the run was stopped before it began
SAME_WITH_ANY_THREADS = ("python", "native", "auto")
LONGEST_VALUE = 40  # characters of a value in a label
LARGEST_PLAIN = 1e6  # from which a number may have an exponent

Settings = dict[str, Any]  # {"model.n_embd": 16, ...}
Item = TypeVar("Item")
Group = TypeVar("Group", bound=Hashable)


def grouped(items: Iterable[Item], key: Callable[[Item], Group]) -> dict[Group, list[Item]]:
    """Return the items with equal keys together, in their order."""
    found: dict[Group, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


@dataclass(frozen=True)
class SharedSettings:
    """The settings of runs that differ only in the seed; one immutable object is shared by all of them."""

    config_text: str  # the configuration without the seed, as JSON
    backend: str | None
    data_sha256: str | None

    @cached_property
    def training(self) -> Settings:
        """Everything that affects training, except the seed."""
        found = training_settings(json.loads(self.config_text))
        if self.backend in SAME_WITH_ANY_THREADS:
            found.pop("backend.threads", None)
        return {**found, DATA: self.data_sha256}

    @cached_property
    def recorded(self) -> Settings:
        """Everything that affects training or another output of a run, except the seed."""
        return settings_with(("training", "output"), json.loads(self.config_text))

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.training)

    @cached_property
    def comparison_key(self) -> str:
        return comparison_key(self.training)


shared_settings = lru_cache(maxsize=1 << 16)(SharedSettings)


def settings_of(config: Mapping[str, Any], backend: str | None, data_sha256: str | None) -> SharedSettings:
    text = json.dumps({key: value for key, value in config.items() if key != "seed"})
    return shared_settings(text, backend, data_sha256)


def fingerprint(settings: Mapping[str, Any], without: Sequence[str] = ()) -> str:
    """Return text that is equal for equal settings, ignoring the keys `without`."""
    return json.dumps({key: value for key, value in settings.items() if key not in without}, sort_keys=True)


def comparison_key(settings: Settings) -> str:
    """Return eight hex digits that are equal for runs that differ only in the two toggles and the seed."""
    return hashlib.sha256(fingerprint(settings, without=TOGGLES).encode()).hexdigest()[:8]


def differing_keys(variants: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys in which variants differ, in the order of the configuration, without redundant ones.

    An optimizer's own keys are redundant beside optim.name, and the text's hash beside the keys that choose the text.
    """
    variants = list({id(settings): settings for settings in variants}.values())
    order = dict.fromkeys(key for settings in variants for key in settings)
    differing = [key for key in order if len({exact(settings, key) for settings in variants}) > 1]

    def may_explain(other: str, key: str) -> bool:
        group = f"{key.partition('.')[0]}."
        return other.startswith(group) and (other.endswith(".name") if key != DATA else other != DATA)

    def is_redundant(key: str) -> bool:
        by = [other for other in differing if other != key and may_explain(other, key)]
        return bool(by) and not key.endswith(".name") and determines(by, key, variants)

    return [key for key in differing if not is_redundant(key)]


def determines(by: Sequence[str], key: str, variants: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether variants with equal values of the keys `by` have equal values of `key`."""
    groups = grouped(variants, lambda settings: exact_values(settings, by)).values()
    return all(len({exact(settings, key) for settings in group}) == 1 for group in groups)


def exact(settings: Mapping[str, Any], key: str) -> str:
    """Return a value as text that is unique to the value."""
    return json.dumps(settings.get(key), sort_keys=True)


def exact_values(settings: Mapping[str, Any], keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(exact(settings, key) for key in keys)


def label(settings: Mapping[str, Any]) -> str:
    """Return settings as overrides, `tie_lm_head=true optim.lr=0.005`, with the toggles without their group."""
    return " ".join(f"{short(key)}={abbreviated(written(value))}" for key, value in settings.items())


def short(key: str) -> str:
    return key.removeprefix("model.") if key in TOGGLES else key.removesuffix(".name")


def column_names(keys: Sequence[str]) -> dict[str, str]:
    """Return short names of keys: the last part, or the whole key if two last parts are the same."""
    last = [short(key).rpartition(".")[2] for key in keys]
    return {key: name if last.count(name) == 1 else short(key) for key, name in zip(keys, last, strict=True)}


def with_short_keys(text: str, keys: Sequence[str]) -> str:
    """Return a label with short names in place of the keys."""
    for key, name in column_names(keys).items():
        text = re.sub(rf"(?<![\w.]){re.escape(short(key))}(?![\w.])", name, text)
    return text


def written(value: Any) -> str:
    """Return a value as on a command line; 30.0 as 30."""
    if isinstance(value, float) and value.is_integer() and abs(value) < LARGEST_PLAIN:
        return str(int(value))
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def abbreviated(text: str) -> str:
    """Return a long value as its first characters and a digest, so that labels of different values differ."""
    if len(text) <= LONGEST_VALUE:
        return text
    return f"{text[: LONGEST_VALUE // 2]}...{hashlib.sha256(text.encode()).hexdigest()[:4]}"


def setting(settings: Mapping[str, Any], key: str) -> Any:
    """Return a setting, or its default if it is absent."""
    return settings.get(key, all_defaults().get(key))


def defaults_among(settings: Mapping[str, Any]) -> int:
    """Return how many of the settings have the schema's default."""
    return sum(is_default(settings, key) for key in settings)


def is_default(settings: Mapping[str, Any], key: str) -> bool:
    defaults = all_defaults()
    return key in defaults and exact(settings, key) == exact(defaults, key)


@cache
def all_defaults() -> Settings:
    return {name: value for name, value, _ in walk(Config())}
