"""Which jobs of a sweep train side by side."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microgpt.config.schema import Config
from microgpt.model.spec import ModelSpec
from microgpt.sweeps.groups import group, most_together, shape_of

TENSOR = replace(Config(), backend=replace(Config().backend, name="native"))
SMALL = ModelSpec("gpt", vocab_size=27, n_embd=16, n_head=4, n_layer=1, block_size=16)
LARGE = ModelSpec("gpt", vocab_size=500, n_embd=256, n_head=8, n_layer=8, block_size=512)


def changed(node: str, **values: object) -> Config:
    inner = getattr(TENSOR, node)
    return replace(TENSOR, **{node: replace(inner, **values)})


@pytest.mark.parametrize(
    "other",
    [
        replace(TENSOR, seed=7),
        changed("optim", lr=0.5),
        changed("schedule", name="cosine", warmup_steps=3),
        changed("sample", num_samples=1, temperature=2.0),
        replace(TENSOR, outputs_dir="elsewhere"),
        changed("sweep", fresh=True),
    ],
    ids=["seed", "lr", "schedule", "sample", "outputs_dir", "sweep"],
)
def test_runs_of_a_group_may_differ_in_these_keys(other: Config) -> None:
    assert shape_of(other) == shape_of(TENSOR)


@pytest.mark.parametrize(
    "other",
    [
        changed("model", tie_lm_head=True),
        changed("model", n_embd=8),
        changed("train", steps=5),
        changed("train", batch_size=2),
        changed("train", eval_every=3),
        changed("train", max_memory_growth=None),
        changed("optim", beta1=0.5),
        changed("data", split_seed=1),
        changed("style", share=0.5),
        changed("backend", dtype="float64"),
    ],
    ids=str,
)
def test_runs_of_another_shape_are_trained_apart(other: Config) -> None:
    assert shape_of(other) != shape_of(TENSOR)


def test_the_size_of_a_group_is_limited_by_memory_and_by_the_user() -> None:
    assert most_together(TENSOR, SMALL, False, None) >= 64
    assert most_together(TENSOR, SMALL, False, 5) == 5
    assert most_together(TENSOR, LARGE, False, None) == 1
    assert most_together(TENSOR, SMALL, True, None) == 4096


def test_an_untrained_baseline_and_plain_python_run_alone() -> None:
    assert most_together(changed("train", steps=0), SMALL, False, None) == 1
    assert most_together(changed("backend", name="python"), SMALL, False, 64) == 1


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 99))), st.integers(1, 7))
def test_groups_have_every_item_once_and_equal_keys(items: list[tuple[int, int]], most: int) -> None:
    groups = group(items, lambda item: item[0], lambda item: most)
    assert sorted(item for members in groups for item in members) == sorted(items)
    assert all(len({key for key, _ in members}) == 1 and len(members) <= most for members in groups)
    for key in {key for key, _ in items}:
        sizes = [len(members) for members in groups if members[0][0] == key]
        assert all(size == most for size in sizes[:-1]), "no more groups than it takes"
