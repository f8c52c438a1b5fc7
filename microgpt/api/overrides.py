"""Converts Python values such as {"optim.lr": 0.005, "data.path": None} to overrides, as on the command line."""

from __future__ import annotations

import numbers
import os
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import cache
from typing import Any

from microgpt.config.keys import keys_of as schema_keys
from microgpt.config.keys import walk
from microgpt.config.schema import Config
from microgpt.errors import UserError

Overrides = str | Mapping[str, Any]  # `key=value`, or a mapping of keys to values, which may be mappings

PLAIN_TEXT = re.compile(r"[A-Za-z_./][\w./+-]*", re.ASCII)  # a string that needs no quotes in Hydra's grammar
KEYWORDS = ("true", "false", "null", "nan", "inf")


def overrides_of(given: Sequence[Overrides], swept: bool = False) -> list[str]:
    """Return the overrides of a call. With `swept`, a list, range, array, ... in a mapping contains values of a sweep.

    Raises UserError for flags, for another task, and for arguments that are neither strings nor mappings.
    """
    for one in given:
        if not isinstance(one, str | Mapping) or type(one).__module__.startswith("omegaconf"):
            how = "; write * before a list of overrides" if isinstance(one, list | tuple) else ""
            raise UserError(
                f"{type(one).__name__} is not allowed: an override must be a string key=value or a mapping of keys{how}"
            )
    found = [override for one in given for override in ([one] if isinstance(one, str) else pairs(one, swept))]
    for override, key in zip(found, keys_of(found), strict=True):
        if override.startswith("-"):
            raise UserError(f"{override} is not allowed: it is a command-line flag; overrides must be key=value")
        if key == "task":
            raise UserError(f"{override} is not allowed: each function of the Python API sets the task itself")
        if key == "task.name":
            raise UserError("a whole configuration is not allowed: to repeat a run, pass *run.record.overrides")
    return found


def keys_of(overrides: Sequence[str]) -> list[str]:
    return [override.lstrip("+~").split("=")[0] for override in overrides]


def pairs(given: Mapping[str, Any], swept: bool, path: str = "") -> Iterator[str]:
    for name, given_value in given.items():
        key = f"{path}{name}"
        value = plain(key, given_value)
        if isinstance(value, Mapping):
            yield from pairs(value, swept, f"{key}.")
        elif not isinstance(value, list | range):
            yield f"{key}={written(value)}"
        elif swept:
            check_swept(key, value)
            yield f"{key}={written_range(value) if isinstance(value, range) else ','.join(map(written, value))}"
        else:
            check_list(key, value)
            yield f"{key}={written(value)}"


def plain(key: str, value: Any) -> Any:
    """Return a value of a mapping as a mapping, list, range, string, number, bool or None.

    Arrays, series, iterators and other sequences become lists. Raises UserError for any other type.
    """
    if hasattr(value, "tolist"):  # a scalar, an array, a series or a tensor of numpy, pandas or torch
        value = value.tolist()
    if value is None or isinstance(value, str | bool | int | float | range | Mapping):
        return value
    if isinstance(value, os.PathLike | Decimal):
        return str(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, set | frozenset):
        raise UserError(f"{key}={reprlib.repr(value)} is not allowed: a set has no order; write a list")
    if isinstance(value, Iterable) and not isinstance(value, bytes | bytearray | memoryview):
        items = [plain(key, item) for item in value]
        if not any(isinstance(item, Mapping) for item in items):
            return items
    raise UserError(
        f"{key}={reprlib.repr(value)} is not allowed: a value must be a string, a number, True, False, None or a list "
        "of these"
    )


def check_swept(key: str, values: Sequence[Any]) -> None:
    """Raise UserError unless these can be the values of a key in a sweep."""
    if not values:
        raise UserError(f"{key} has no values: a sweep needs at least one")
    is_list = [isinstance(value, list | range) for value in values]
    if key in list_keys() and not all(is_list):
        shown = list(values)
        raise UserError(
            f"{key}={shown} is not allowed: each value of {key} is a list; write [{shown}] for one value in all jobs"
        )
    for value, several in zip(values, is_list, strict=True):
        if several:
            check_list(key, value)


def check_list(key: str, value: Sequence[Any]) -> None:
    """Raise UserError if the value of a key is a list, but it takes a single value or the name of an option."""
    shown = f"{key}={reprlib.repr(value)} is not allowed"
    if key in groups():
        own = "; for your own texts, use the argument documents" if key == "data" else ""
        raise UserError(f"{shown}: {key} takes the name of an option{own}")
    if isinstance(value, range) or key in single_value_keys():
        raise UserError(f"{shown}: {key} takes a single value; to train with several values, use microgpt.sweep")


@cache
def list_keys() -> set[str]:
    return {name for name, value, _ in walk(Config()) if isinstance(value, list)}


@cache
def single_value_keys() -> set[str]:
    return {name for name, _, _ in walk(Config())} - list_keys()


@cache
def groups() -> set[str]:
    return {name for name, stated in schema_keys(Config).items() if stated.node is not None}


def written_range(values: range) -> str:
    parts = [values.stop] if (values.start, values.step) == (0, 1) else [values.start, values.stop]
    return f"range({','.join(map(str, parts if values.step == 1 else [*parts, values.step]))})"


def written(value: Any) -> str:
    """Return a plain value in Hydra's grammar. Strings are literal: "${" does not begin an interpolation."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | range):
        return f"[{','.join(map(written, value))}]"
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", str(value))
    if PLAIN_TEXT.fullmatch(text) and text.lower() not in KEYWORDS:
        return text
    return quoted(text)


def quoted(text: str) -> str:
    """Return a string in quotes. Backslashes are escaped only before a quote."""
    escaped = re.sub(r"(\\*)(\"|$)", lambda found: found[1] * 2 + ('\\"' if found[2] else ""), text)
    return f'"{escaped}"'
