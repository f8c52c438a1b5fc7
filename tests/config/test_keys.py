"""Every violated constraint gives one sentence with what is allowed."""

# ruff: noqa: RUF009 (`key` and `group` return dataclass fields)
from dataclasses import dataclass, replace
from typing import Any

import pytest

from microgpt.config.keys import check_keys, group, key
from microgpt.errors import UserError


@dataclass(frozen=True)
class Inner:
    share: float = key(0.5, at_least=0, below=1)


@dataclass(frozen=True)
class Example:
    inner: Inner = group(Inner)
    name: str = key("a", one_of=("a", "b"))
    names: list[str] = key(["a"], one_of=("a", "b"))
    count: int | None = key(None, at_least=1)
    port: int = key(0, at_least=0, at_most=9)
    rate: float = key(1.0, above=0)
    bias: float = key(0.0)
    folder: str = key("x", holds=bool, allowed="it is a folder")
    token: str | None = key(None, holds=str.isalpha, allowed="it has letters only", secret=True)


BROKEN = {
    "inner.share=1.0 is not allowed: inner.share must be at least 0 and below 1": {"inner": Inner(1.0)},
    "inner.share=nan is not allowed: inner.share must be at least 0 and below 1": {"inner": Inner(float("nan"))},
    "name=c is not allowed: name must be one of a, b": {"name": "c"},
    "names=c is not allowed: names must be one of a, b": {"names": ["a", "c"]},
    "count=0 is not allowed: count must be at least 1": {"count": 0},
    "port=10 is not allowed: port must be at least 0 and at most 9": {"port": 10},
    "rate=0.0 is not allowed: rate must be finite and above 0": {"rate": 0.0},
    "rate=inf is not allowed: rate must be finite and above 0": {"rate": float("inf")},
    "bias=nan is not allowed: bias must be finite": {"bias": float("nan")},
    "folder='' is not allowed: it is a folder": {"folder": ""},
    "token=*** is not allowed: it has letters only": {"token": "s3cret"},
}


@pytest.mark.parametrize(("sentence", "changes"), BROKEN.items(), ids=BROKEN)
def test_broken_constraint_is_one_sentence(sentence: str, changes: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        check_keys(replace(Example(), **changes))
    assert str(caught.value) == sentence


def test_values_at_the_bounds_and_null_are_allowed() -> None:
    check_keys(Example())
    check_keys(replace(Example(), inner=Inner(0.0), count=1, port=9, names=[], rate=1e-300, token="abc"))


def test_a_list_is_not_shared_between_configurations() -> None:
    assert Example().names is not Example().names
