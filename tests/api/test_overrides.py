"""Python values as overrides: Hydra reads them back unchanged."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from microgpt.api.overrides import overrides_of
from microgpt.errors import UserError

TEXTS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\n\r"), max_size=20)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS,
    st.sampled_from(["null", "True", "1", "1e3", "a b", "a=b", 'say "hi"', "it's", "\\", '\\"', "${seed}",
                     "\\${5}", "[x]"]),
)  # fmt: skip


def parsed(override: str) -> Any:
    """Return the value after Hydra has parsed it and OmegaConf has resolved interpolations."""
    value = OverridesParser.create().parse_override(override).value()
    return OmegaConf.to_container(OmegaConf.create({"value": value}), resolve=True)["value"]  # pyright: ignore


@settings(deadline=None, database=None, max_examples=60)
@given(st.one_of(VALUES, st.lists(VALUES, max_size=3)))
def test_hydra_reads_a_value_as_it_is(value: Any) -> None:
    (override,) = overrides_of([{"some.key": value}])
    assert override.startswith("some.key=")
    assert parsed(override) == value


def test_overrides_of_a_run() -> None:
    given = [
        "mode=tensor",
        {"train": {"steps": 10, "eval_every": None}, "optim.lr": 1e-3, "style.phrases": ["a b", "c"]},
    ]
    assert overrides_of(given) == [
        "mode=tensor", "train.steps=10", "train.eval_every=null", "optim.lr=0.001", 'style.phrases=["a b",c]',
    ]  # fmt: skip


def test_values_of_a_sweep_are_written_as_on_the_command_line() -> None:
    swept = {
        "seed": range(16),
        "a": range(2, 8),
        "b": range(0, 9, 3),
        "optim.lr": [0.01, 0.005],
        "style": ("x", "y"),
        "c": 1,
    }
    assert overrides_of([swept], swept=True) == [
        "seed=range(16)", "a=range(2,8)", "b=range(0,9,3)", "optim.lr=0.01,0.005", "style=x,y", "c=1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("override", "sentence"),
    [("-m", "-m is not allowed: it is a command-line flag"), ("--cfg=job", "is a command-line flag"),
     ("task=chat", "task=chat is not allowed"),
     ({"seed": []}, "seed has no values"), (["mode=tensor"], r"list is not allowed.*; write \* before a list"),
     ({"seed": {1, 2}}, r"^seed=\{1, 2\} is not allowed: a set has no order; write a list$"),
     ({"seed": b"1"}, "^seed=b'1' is not allowed: a value must be a string, a number"),
     ({"seed": [[1, 2]]}, r"^seed=\[1, 2\] is not allowed: seed takes a single value"),
     ({"tags": ["a", "b"]}, r"each value of tags is a list; write \[\['a', 'b'\]\] for one value in all jobs$"),
     ({"data": [["judy"]]}, r"^data=\['judy'\] is not allowed: data takes the name of an option"),
     ({"task": {"name": "train"}, "seed": 1}, r"to repeat a run, pass \*run\.record\.overrides$"),
     (OmegaConf.create({"seed": 1}), "DictConfig is not allowed")],
)  # fmt: skip
def test_what_is_no_override_is_refused(override: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        overrides_of([override], swept=True)


@pytest.mark.parametrize("values", [range(2), np.arange(2), pd.Series([0, 1]), iter([0, 1]), {0: 1, 1: 2}.keys()])
def test_any_sequence_is_the_values_of_a_sweep(values: Any) -> None:
    (override,) = overrides_of([{"seed": values}], swept=True)
    assert override in ("seed=range(2)", "seed=0,1")
    if not isinstance(values, Iterator):
        with pytest.raises(UserError, match=r"^seed=.* is not allowed: .* use microgpt\.sweep"):
            overrides_of([{"seed": values}])


def test_values_of_other_libraries() -> None:
    given = {"a": np.float64(0.5), "b": np.array(3), "c": Fraction(1, 4), "d": Path("x/y"), "e": np.logspace(-2, -1, 2)}
    assert overrides_of([given], swept=True) == ["a=0.5", "b=3", "c=0.25", "d=x/y", "e=0.01,0.1"]


def test_the_values_of_a_list_are_lists() -> None:
    assert overrides_of([{"tags": [["a"], ["b", "c"]]}], swept=True) == ["tags=[a],[b,c]"]
