"""Examples as arrays are to everyone else the lists that they were made of."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microgpt.data.examples import Examples

property_test = settings(deadline=None, database=None, max_examples=80)
example = st.lists(st.integers(0, 200), min_size=2, max_size=9)
several = st.lists(example, max_size=12)
bound = st.none() | st.integers(-15, 15)
slices = st.builds(slice, bound, bound, st.none() | st.sampled_from([-3, -2, -1, 1, 2, 3]))
THREE = [[5, 1, 5], [5, 2, 3, 4, 5], [5, 0]]


def as_lists(examples: Sequence[Sequence[int]]) -> list[list[int]]:
    return [list(one) for one in examples]


@property_test
@given(several)
def test_examples_are_the_lists_that_they_were_made_of(lists: list[list[int]]) -> None:
    examples = Examples.of(lists)
    assert as_lists(examples) == lists
    assert len(examples) == len(lists)
    assert bool(examples) == bool(lists)
    assert all(type(token) is int for one in examples for token in one)
    assert list(reversed(examples)) == lists[::-1]


@property_test
@given(several, st.integers(-15, 15))
def test_an_index_finds_what_it_finds_in_a_list(lists: list[list[int]], index: int) -> None:
    examples = Examples.of(lists)
    if -len(lists) <= index < len(lists):
        assert examples[index] == lists[index]
    else:
        with pytest.raises(IndexError):
            examples[index]


@property_test
@given(several, slices, slices)
def test_slices_of_slices_are_those_of_lists_and_share_the_tokens(
    lists: list[list[int]], first: slice, second: slice
) -> None:
    examples = Examples.of(lists)
    part = examples[first][second]
    assert isinstance(part, Examples)
    assert as_lists(part) == lists[first][second]
    assert part.tokens is examples.tokens


@property_test
@given(several, slices)
def test_an_example_has_one_target_less_than_tokens(lists: list[list[int]], part: slice) -> None:
    examples = Examples.of(lists)
    assert examples.targets.tolist() == [len(one) - 1 for one in lists]
    assert examples[part].targets.tolist() == [len(one) - 1 for one in lists[part]]


@property_test
@given(several)
def test_arrays_hold_one_example_behind_the_other(lists: list[list[int]]) -> None:
    examples = Examples.of(lists)
    assert examples.tokens.tolist() == [token for one in lists for token in one]
    assert [examples.tokens[a:b].tolist() for a, b in zip(examples.starts, examples.ends, strict=True)] == lists
    kinds = examples.tokens.dtype, examples.starts.dtype, examples.ends.dtype
    assert kinds == (np.int32, np.int64, np.int64)


def test_no_examples_are_an_empty_sequence() -> None:
    for empty in (Examples.of([]), Examples.of(iter(())), Examples.of(THREE)[3:]):
        assert len(empty) == 0
        assert not empty
        assert list(empty) == []
        assert empty.targets.tolist() == []
        assert empty.targets.sum() == 0


def test_examples_of_examples_are_the_same_object() -> None:
    examples = Examples.of(THREE)
    assert Examples.of(examples) is examples
    part = examples[1:]
    assert Examples.of(part) is part


@pytest.mark.parametrize("given", [iter(THREE), tuple(map(tuple, THREE)), [np.array(one) for one in THREE]])
def test_examples_may_be_made_of_any_sequences(given: Sequence[Sequence[int]]) -> None:
    assert as_lists(Examples.of(given)) == THREE


def test_what_is_read_of_an_example_is_a_copy() -> None:
    examples = Examples.of(THREE)
    read = examples[0]
    read[0] = 99
    assert examples[0] == THREE[0]


def test_an_example_is_found_by_its_tokens() -> None:
    examples = Examples.of([*THREE, THREE[1]])
    assert THREE[1] in examples
    assert [5, 9] not in examples
    assert examples.index(THREE[1]) == 1
    assert examples.count(THREE[1]) == 2


@given(st.lists(st.lists(st.integers(-9, 8), min_size=2, max_size=8), max_size=6))
def test_targets_are_the_tokens_that_are_asked_for(lists):
    examples = Examples.of(lists)
    assert examples.positions.tolist() == [len(one) - 1 for one in lists]
    assert examples.targets.tolist() == [sum(token >= 0 for token in one[1:]) for one in lists]
    assert examples[1:4].targets.tolist() == examples.targets.tolist()[1:4]
