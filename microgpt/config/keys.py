"""Declares the keys of the configuration, with default, help and constraint, and checks them.

A field in schema.py is declared with `key` or `group`. A value that violates its constraint raises an error of one
sentence: key=value and what is allowed.
"""

import math
import operator
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from microgpt.errors import UserError

CHECKED: dict[str, Any] = {}  # the last valid group of each name: jobs of a sweep share groups
Default = TypeVar("Default")
# What a key affects: weights and losses (training), only other outputs of a run, such as samples (output), only what
# else is recorded or logged about a run, such as notes (record), or none of these.
Effect = Literal["training", "output", "record", "none"]


@dataclass(frozen=True)
class Key:
    """Metadata of a schema field beyond its type and default. null is allowed if the type allows it."""

    help: str = ""
    one_of: Collection[str] = ()  # for a list: allowed values of each item
    at_least: float | None = None  # bounds of a number, which must also be finite
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    holds: Callable[[Any], bool] | None = None  # any other condition, described by `allowed`
    allowed: str = ""
    is_path: bool = False  # whether the value is the path of a file or a folder
    not_paths: tuple[str, ...] = ()  # values that are not paths although is_path is set
    secret: bool = False  # whether messages hide the value
    effect: Effect = "training"
    without_effect: tuple[Any, ...] = ()  # values with which the key has no effect
    node: type | None = None  # for a group: the dataclass of its keys

    @property
    def text(self) -> str:
        """The allowed names and the help text."""
        return ": ".join(filter(None, (" | ".join(self.one_of), self.help)))


def key(default: Default, help: str = "", *, new: bool = False, **constraint: Any) -> Default:
    """Declare a key of the schema; `constraint` holds fields of Key.

    A key added after version 0.1.0 is `new`: the hash of a configuration includes it only if its value is not the
    default, so that the configurations of earlier runs keep their hash.
    """
    if new:
        constraint["without_effect"] = (default,)
    metadata = {"key": Key(help, **constraint)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)  # pyright: ignore[reportReturnType]
    return field(default=default, metadata=metadata)


def group(node: type[Default], effect: Effect = "training") -> Default:
    """Declare a group of keys; the dataclass `node` is its schema."""
    return field(default_factory=node, metadata={"key": Key(effect=effect, node=node)})


@cache
def keys_of(node: type) -> dict[str, Key]:
    """Return the metadata of the fields of a schema dataclass, keyed by field name."""
    return {f.name: f.metadata["key"] for f in fields(node)}


def as_plain(node: Any) -> dict[str, Any]:
    """Return a configuration, or one of its groups, as nested dictionaries. Lists are shared with it, not copied."""
    groups = {name for name, stated in keys_of(type(node)).items() if stated.node is not None}
    return {name: as_plain(value) if name in groups else value for name, value in vars(node).items()}


def value_at(node: Any, path: str) -> Any:
    """Return the value at a dotted path in nested dictionaries; None if there is none."""
    for part in path.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def walk(node: Any, path: str = "") -> Iterator[tuple[str, Any, Key]]:
    """Yield (dotted name, value, Key) of every key of a configuration."""
    for name, stated in keys_of(type(node)).items():
        value = getattr(node, name)
        if stated.node is not None:
            yield from walk(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value, stated


@cache
def text_keys(node: type) -> dict[str, bool]:
    """Return the dotted names of the keys that take strings or lists of strings, and whether null is also allowed."""
    types, found = get_type_hints(node), {}
    for name, stated in keys_of(node).items():
        if stated.node is not None:
            found |= {f"{name}.{inner}": null for inner, null in text_keys(stated.node).items()}
        elif types[name] in (str, str | None, list[str]):
            found[name] = types[name] == str | None
    return found


@cache
def item_types(node: type) -> dict[str, type]:
    """Return the type of the items of each key of a schema dataclass that takes a list, keyed by field name."""
    return {name: get_args(hint)[0] for name, hint in get_type_hints(node).items() if get_origin(hint) is list}


def with_absolute_paths(config: Default, directory: Path) -> Default:
    """Return the configuration with its relative paths resolved against `directory`."""
    changes: dict[str, Any] = {}
    for name, stated in keys_of(type(config)).items():
        value = getattr(config, name)
        if stated.node is not None:
            changes[name] = with_absolute_paths(value, directory)
        elif stated.is_path and value is not None and value not in stated.not_paths:
            changes[name] = str(directory / value)
    return replace(config, **changes)  # pyright: ignore[reportArgumentType]


def check_keys(node: Any, path: str = "") -> None:
    """Check each key of a configuration, or of the group at `path`, on its own.

    Raises UserError for the first violated constraint.
    """
    for name, stated in keys_of(type(node)).items():
        value = getattr(node, name)
        if stated.node is not None:
            if CHECKED.get(f"{path}{name}") is not value:
                check_keys(value, f"{path}{name}.")
                CHECKED[f"{path}{name}"] = value
        elif value is not None:
            if name in item_types(type(node)):
                check_items(f"{path}{name}", value, item_types(type(node))[name], stated)
            check_key(f"{path}{name}", value, stated)


def check_items(name: str, value: Any, item: type, stated: Key) -> None:
    """Check the type of a list and of its items: OmegaConf does not check a list that an interpolation returns."""
    how = ", not a string: ${oc.decode:...} converts it" if isinstance(value, str) else ""
    require(isinstance(value, list), name, value, f"{name} must be a list, as in [a,b]{how}")
    allowed = stated.allowed or f"each must be {'a string' if item is str else 'an integer'}"
    require(all(type(one) is item for one in value), name, value, allowed)


def check_key(name: str, value: Any, stated: Key) -> None:
    for item in value if isinstance(value, list) else [value]:
        if stated.one_of:
            one_of(name, item, stated.one_of)
        if isinstance(item, int | float):
            check_number(name, item, stated)
    if stated.holds is not None:
        require(stated.holds(value), name, "***" if stated.secret else value, stated.allowed)


def check_number(name: str, value: float, stated: Key) -> None:
    """Check the bounds of a number; NaN and infinity are never allowed."""
    limits = [
        ("at least", operator.ge, stated.at_least),
        ("above", operator.gt, stated.above),
        ("at most", operator.le, stated.at_most),
        ("below", operator.lt, stated.below),
    ]
    if not (math.isfinite(value) and all(limit is None or holds(value, limit) for _, holds, limit in limits)):
        words = ["finite"] if isinstance(value, float) and stated.below is None else []
        words += [f"{word} {limit}" for word, _, limit in limits if limit is not None]
        require(False, name, value, f"{name} must be {' and '.join(words)}")


def one_of(name: str, value: Any, allowed: Collection[Any]) -> None:
    require(value in allowed, name, value, f"{name} must be one of {', '.join(map(str, allowed))}")


def require(holds: bool, name: str, value: Any, allowed: str) -> None:
    """Raise UserError unless the condition holds."""
    if not holds:
        shown = {None: "null", True: "true", False: "false"}[value] if isinstance(value, bool | None) else value
        raise UserError(f"{name}={shown or repr(shown)} is not allowed: {allowed}")
