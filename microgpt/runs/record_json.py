"""Converts dataclasses to JSON objects and back. The fields are the keys, in the same order.

The key of a field whose name ends in `_` omits the `_`. A field with the metadata OMIT_IF_EMPTY is written only if it
is neither None nor empty.
"""

import math
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

OMIT_IF_EMPTY = {"omit_if_empty": True}

Part = TypeVar("Part")


def parse(kind: type[Part], found: Any) -> Part | None:
    """Build a record, or a part of one, from a JSON object. Returns None for other JSON values.

    A missing key takes the field's default, or None. Keys of other versions are ignored.
    """
    if not isinstance(found, dict):
        return None
    values = {}
    for one in readers(kind):
        value = found.get(one.key, one.default)
        if one.container is not None and not isinstance(value, one.container):
            value = one.container()
        elif one.part is None:
            pass
        elif one.container is list:
            value = [part for item in value if (part := parse(one.part, item)) is not None]
        else:
            value = parse(one.part, value)
        values[one.name] = value
    return kind(**values)


@dataclass(frozen=True)
class Reader:
    """How a field is read from JSON. A value of the wrong type becomes None, [] or {}."""

    name: str
    key: str
    default: Any
    container: type[list[Any]] | type[dict[Any, Any]] | None
    part: Any  # the dataclass of the value or of a list's items


@cache
def readers(kind: Any) -> list[Reader]:
    hints, found = get_type_hints(kind), []
    for one in fields(kind):
        hint = hints[one.name]
        container = get_origin(hint) if get_origin(hint) in (list, dict) else None
        part = next(filter(is_dataclass, [hint, *get_args(hint)]), None)
        default = None if one.default is MISSING else one.default
        found.append(Reader(one.name, one.name.rstrip("_"), default, container, part))
    return found


def plain(value: Any) -> Any:
    """Return dataclasses as dictionaries, without empty OMIT_IF_EMPTY fields."""
    if is_dataclass(value):
        return {
            one.name.rstrip("_"): plain(inner)
            for one in fields(value)
            if (inner := getattr(value, one.name)) not in (None, []) or "omit_if_empty" not in one.metadata
        }
    return [plain(inner) for inner in value] if isinstance(value, list) else value


def without_non_finite(value: Any) -> Any:
    """Return a JSON value with NaN and infinity, which are not valid JSON, as strings."""
    if isinstance(value, dict):
        return {key: without_non_finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_non_finite(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
