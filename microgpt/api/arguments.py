"""Arguments of the model's methods: conversion to plain types, and what a wrong one is called in an error message."""

import operator
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, SupportsIndex, overload

from microgpt.config.schema import SampleConfig
from microgpt.errors import UserError


def requested(
    prompt: str,
    temperature: float,
    top_k: SupportsIndex | None,
    n: SupportsIndex,
    max_new_tokens: SupportsIndex | None,
    seed: SupportsIndex | None,
) -> SampleConfig:
    """Return the arguments of a request with plain types; those of numpy are allowed. Raises UserError for others."""
    if not isinstance(prompt, str):
        raise UserError(f"prompt must be a string, not {kind_of(prompt)}")
    if not isinstance(temperature, Real):
        raise UserError(f"temperature must be a number, not {kind_of(temperature)}")
    return SampleConfig(
        str(prompt),
        float(temperature),
        whole("top_k", top_k),
        whole("n", n),
        max_new_tokens=whole("max_new_tokens", max_new_tokens),
        seed=whole("seed", seed),
    )


@overload
def whole(name: str, value: SupportsIndex) -> int: ...
@overload
def whole(name: str, value: SupportsIndex | None) -> int | None: ...
def whole(name: str, value: SupportsIndex | None) -> int | None:
    try:
        return None if value is None and name != "n" else operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        raise UserError(f"{name}={value!r} is not allowed: {name} must be an integer") from None


def is_conversation(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str | bytes)
        and all(isinstance(message, Mapping) for message in value)
    )


def kind_of(value: Any) -> str:
    """Return the type of a value for an error message: `int`, `a list of str`."""
    if isinstance(value, list | tuple) and value:
        return f"a {type(value).__name__} of {type(value[0]).__name__}"
    return type(value).__name__
