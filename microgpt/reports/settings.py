"""What of a run's configuration has an effect on its numbers, how two runs differ in it, and how that is written.

Knows configurations as plain dictionaries, as run.json has them. Which runs are compared is variants.py's business.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import Any

from microgpt.reports.records import Row

TOGGLES = ("model.tie_lm_head", "model.input_rmsnorm")
DATA = "data.sha256"  # of the text itself: a setting like the keys, though it is measured and not configured
# Nodes that say nothing about what was learned, and the seed.
LEFT_OUT = ("task", "outputs_dir", "results_dir", "seed", "sample", "checkpoint", "sweep", "logger")
WITHOUT_EFFECT = {
    f"train.{key}" for key in ("log_every", "eval_every", "checkpoint_every", "keep_checkpoints", "max_memory_growth")
}
SAME_WITH_ANY_THREADS = ("python", "native")  # torch adds up in another order with other threads
LONGEST = 40  # characters of a value in a label

Settings = dict[str, Any]  # {"model.n_embd": 16, ...}


def settings_of(row: Row) -> Settings:
    """Every key that has an effect on the numbers, except the seed."""
    found: Settings = {}
    for group, node in row["config"].items():
        if group in LEFT_OUT:
            continue
        if isinstance(node, dict):
            for name, value in node.items():
                key = f"{group}.{name}"
                if key not in WITHOUT_EFFECT:
                    found[key] = value
        else:
            found[group] = node
    if found.get("train.resume") in ("auto", "never"):  # a folder makes it a new leg, which is another thing
        del found["train.resume"]
    if row["backend"] in SAME_WITH_ANY_THREADS:
        found.pop("backend.threads", None)
    found[DATA] = row["data_sha256"]
    return found


def fingerprint(settings: Mapping[str, Any]) -> str:
    """The same text for the same settings."""
    return json.dumps(settings, sort_keys=True)


def comparison_key(settings: Settings) -> str:
    """Eight hex digits, equal for runs that differ in nothing but the two toggles and the seed."""
    rest = {key: value for key, value in settings.items() if key not in TOGGLES}
    return hashlib.sha256(fingerprint(rest).encode()).hexdigest()[:8]


def differing_keys(variants: list[Settings]) -> list[str]:
    """The keys in which variants differ, in the order of the configuration, without those that others explain.

    An optimizer's own keys go with optim.name, and the text's hash with where the text is.
    """
    order = dict.fromkeys(key for settings in variants for key in settings)
    differing = [key for key in order if len({exact(settings, key) for settings in variants}) > 1]

    def explains(other: str, key: str) -> bool:
        group = f"{key.partition('.')[0]}."
        return other.startswith(group) and (other.endswith(".name") if key != DATA else other != DATA)

    explained = set()
    for key in differing:
        by = [other for other in differing if other != key and explains(other, key)]
        if by and not key.endswith(".name") and is_explained(key, by, variants):
            explained.add(key)
    return [key for key in differing if key not in explained]


def is_explained(key: str, by: list[str], variants: list[Settings]) -> bool:
    """Whether variants that agree in the keys `by` agree in `key`."""
    values: dict[tuple[str, ...], str] = {}
    return all(
        values.setdefault(tuple(exact(settings, other) for other in by), exact(settings, key)) == exact(settings, key)
        for settings in variants
    )


def exact(settings: Mapping[str, Any], key: str) -> str:
    """A value as text that no other value has."""
    return json.dumps(settings.get(key), sort_keys=True)


def label(settings: Mapping[str, Any], keys: list[str]) -> str:
    """`tie_lm_head=true optim.lr=0.005`, as it would stand on a command line, the toggles without their group."""
    return " ".join(f"{short(key)}={shortened(written(settings.get(key)))}" for key in keys)


def short(key: str) -> str:
    return key.removeprefix("model.") if key in TOGGLES else key.removesuffix(".name")


def written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def shortened(text: str) -> str:
    """A long value by its beginning and a digest: a label is to be told apart, not to be read to its end."""
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST // 2]}...{hashlib.sha256(text.encode()).hexdigest()[:4]}"


def defaults_among(settings: Mapping[str, Any]) -> int:
    """In how many of the keys the settings have the schema's default."""
    defaults = schema_defaults()
    return sum(key in defaults and exact(settings, key) == exact(defaults, key) for key in settings)


@cache
def schema_defaults() -> Settings:
    from microgpt.config.schema import Config

    nodes = asdict(Config()).items()
    return {f"{group}.{key}": value for group, node in nodes if isinstance(node, dict) for key, value in node.items()}
