"""Converts Python values such as {"optim.lr": 0.005, "data.path": None} to overrides, as on the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from microgpt.errors import UserError

Overrides = str | Mapping[str, Any]  # `key=value`, or a mapping of keys to values, which may be mappings

PLAIN_TEXT = re.compile(r"[A-Za-z_./][\w./+-]*", re.ASCII)  # a string that needs no quotes in Hydra's grammar
KEYWORDS = ("true", "false", "null", "nan", "inf")


def overrides_of(given: Sequence[Overrides], swept: bool = False) -> list[str]:
    """Return the overrides of a call. With `swept`, a list, tuple or range in a mapping contains the values of a sweep.

    Raises UserError for flags, for another task, and for arguments that are neither strings nor mappings.
    """
    for one in given:
        if not isinstance(one, str | Mapping) or type(one).__module__.startswith("omegaconf"):
            raise UserError(
                f"{type(one).__name__} is not allowed: an override must be a string key=value or a mapping of keys"
            )
    found = [override for one in given for override in ([one] if isinstance(one, str) else pairs(one, swept))]
    for override, key in zip(found, keys_of(found), strict=True):
        if override.startswith("-"):
            raise UserError(f"{override} is not allowed: it is a command-line flag; overrides must be key=value")
        if key == "task":
            raise UserError(f"{override} is not allowed: each function of the Python API sets the task itself")
    return found


def keys_of(overrides: Sequence[str]) -> list[str]:
    return [override.lstrip("+~").split("=")[0] for override in overrides]


def pairs(given: Mapping[str, Any], swept: bool, path: str = "") -> Iterator[str]:
    for key, value in given.items():
        if isinstance(value, Mapping):
            yield from pairs(value, swept, f"{path}{key}.")
        elif swept and isinstance(value, list | tuple | range) and not value:
            raise UserError(f"{path}{key} has no values: a sweep needs at least one")
        elif isinstance(value, range) and not swept:
            raise UserError(f"{path}{key}={value} is not allowed: to train with several values, use microgpt.sweep")
        elif swept and isinstance(value, range):
            yield f"{path}{key}={written_range(value)}"
        elif swept and isinstance(value, list | tuple):
            yield f"{path}{key}={','.join(map(written, value))}"
        else:
            yield f"{path}{key}={written(value)}"


def written_range(values: range) -> str:
    parts = [values.stop] if (values.start, values.step) == (0, 1) else [values.start, values.stop]
    return f"range({','.join(map(str, parts if values.step == 1 else [*parts, values.step]))})"


def written(value: Any) -> str:
    """Return a value in Hydra's grammar."""
    if hasattr(value, "item"):  # a numpy scalar
        value = value.item()
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(map(written, value))}]"
    text = str(value)
    if PLAIN_TEXT.fullmatch(text) and text.lower() not in KEYWORDS:
        return text
    return quoted(text)


def quoted(text: str) -> str:
    """Return a string in quotes. Backslashes are escaped only before a quote."""
    escaped = re.sub(r"(\\*)(\"|$)", lambda found: found[1] * 2 + ('\\"' if found[2] else ""), text)
    return f'"{escaped}"'
