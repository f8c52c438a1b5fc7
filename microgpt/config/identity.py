"""The keys that distinguish runs: the hash of a configuration, its label, and the settings that a report compares.

The schema defines the effect of each key.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from microgpt.config.keys import Effect, as_plain, keys_of
from microgpt.config.schema import Config


def config_hash(config: Config) -> str:
    """Return the SHA-256 (hex) of the keys that affect a run's results or output."""
    return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()


def identity(config: Config) -> dict[str, Any]:
    """Return the keys and values that `config_hash` covers, as nested dictionaries."""
    return with_effect(as_plain(config), type(config), ("training", "output"))


def settings_with(effects: tuple[Effect, ...], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a recorded configuration with one of the effects, keyed by dotted name (model.n_embd).

    A key is left out if its value has no effect.
    """
    settings: dict[str, Any] = {}
    for name, value in with_effect(config, Config, effects).items():
        nested = isinstance(value, dict)
        settings |= {f"{name}.{key}": inner for key, inner in value.items()} if nested else {name: value}
    return settings


def training_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a recorded configuration that affect training, keyed by dotted name."""
    return settings_with(("training",), config)


def label(config: Mapping[str, Any]) -> str:
    """Return the values of a recorded configuration that only its record or log contains, as JSON.

    Values equal to the defaults are left out; the label is empty if no value differs.
    """
    own = {name: config[name] for name in default_record() if name in config}
    if own == default_record():
        return ""
    defaults, settings = (settings_with(("record",), one) for one in (default_record(), own))
    changed = {name: value for name, value in settings.items() if name not in defaults or value != defaults[name]}
    return json.dumps(changed, sort_keys=True) if changed else ""


@cache
def default_record() -> dict[str, Any]:
    """Return the defaults of the top-level keys and groups that only a run's record or log contains."""
    plain = as_plain(Config())
    return {name: plain[name] for name, stated in keys_of(Config).items() if stated.effect == "record"}


def with_effect(config: Mapping[str, Any], node: type, effects: tuple[Effect, ...]) -> dict[str, Any]:
    """Return the keys of a plain configuration with one of the effects.

    Keys unknown to this version of microgpt are included.
    """
    stated, found = keys_of(node), {}
    for name, value in config.items():
        if name in stated and (stated[name].effect not in effects or value in stated[name].without_effect):
            continue
        inner = stated[name].node if name in stated else None
        if inner is not None and isinstance(value, Mapping):  # a key without its own effect has that of its group
            value = with_effect(value, inner, (*effects, "training"))
        if value != {}:
            found[name] = value
    return found
