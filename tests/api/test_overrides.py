"""Python values as overrides: Hydra reads them back unchanged."""

from typing import Any

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
    st.sampled_from(["null", "True", "1", "1e3", "a b", "a=b", 'say "hi"', "it's", "\\", '\\"', "${seed}", "[x]"]),
)  # fmt: skip


def parsed(override: str) -> Any:
    return OverridesParser.create().parse_override(override).value()


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
     ({"seed": []}, "seed has no values"), (["mode=tensor"], "list is not allowed"),
     (OmegaConf.create({"seed": 1}), "DictConfig is not allowed")],
)  # fmt: skip
def test_what_is_no_override_is_refused(override: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        overrides_of([override], swept=True)


def test_a_range_is_the_values_of_a_sweep() -> None:
    with pytest.raises(UserError, match=r"seed=range\(0, 4\) is not allowed: .* use microgpt\.sweep"):
        overrides_of([{"seed": range(4)}])
