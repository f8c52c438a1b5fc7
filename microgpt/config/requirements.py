"""What a rule says when it is broken: one sentence with key, value and what is allowed."""

import math
from collections.abc import Iterable
from typing import Any

from microgpt.errors import UserError


def one_of(key: str, value: Any, allowed: Iterable[Any]) -> None:
    if value not in allowed:
        raise UserError(f"{key}={value} is not allowed: {key} is one of {', '.join(map(str, allowed))}")


def require(holds: bool, key: str, value: Any, allowed: str) -> None:
    if not holds:
        raise UserError(f"{key}={'null' if value is None else value} is not allowed: {allowed}")


def at_least(key: str, value: float | None, least: float) -> None:
    if value is not None:
        finite = "finite and " if isinstance(value, float) else ""
        require(math.isfinite(value) and value >= least, key, value, f"{key} must be {finite}at least {least}")


def positive(key: str, value: float | None) -> None:
    if value is not None:
        require(math.isfinite(value) and value > 0, key, value, f"{key} must be finite and above 0")
