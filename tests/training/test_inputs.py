"""Inputs of runs: which checkpoints a new leg may continue."""

import pytest

from microgpt.engines.optimizer import OPTIMIZERS
from microgpt.training.inputs import share_moments


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_continues_its_own_moments(name: str) -> None:
    assert share_moments(name, name)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("adam", "adamw", True), ("adam", "sgd", False), ("adamw", "sgd", False), ("of_a_later_version", "adam", False)],
)
def test_optimizers_that_differ_by_weight_decay_alone_share_moments(one: str, other: str, expected: bool) -> None:
    assert share_moments(one, other) == share_moments(other, one) == expected
