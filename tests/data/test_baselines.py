"""Reference losses by counting: against sums by hand, a loop over dictionaries, and the embedded names."""

import json
import math
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microgpt.data.baselines import count_baselines
from microgpt.data.corpus import build_corpus
from microgpt.data.examples import Examples
from microgpt.data.sources import read_source


def by_loop(train: list[list[int]], val: list[list[int]], vocab_size: int) -> dict[str, float | None]:
    """The definition, one token at a time."""
    pairs = [pair for example in train for pair in pairwise(example)]
    single, double, before = Counter(t for _, t in pairs), Counter(pairs), Counter(s for s, _ in pairs)
    unigram = bigram = targets = 0
    for example in val:
        for s, t in pairwise(example):
            unigram -= math.log((single[t] + 1) / (len(pairs) + vocab_size))
            bigram -= math.log((double[s, t] + 1) / (before[s] + vocab_size))
            targets += 1
    if not targets:
        return {"uniform": math.log(vocab_size), "unigram": None, "bigram": None}
    return {"uniform": math.log(vocab_size), "unigram": unigram / targets, "bigram": bigram / targets}


def test_counts_are_those_of_a_sum_by_hand():
    """Training: 2 0 2 and 2 1 2, so the targets are 0 2 1 2. Validation: 2 0 0 2, so the pairs are 20, 00, 02."""
    found = count_baselines([[2, 0, 2], [2, 1, 2]], [[2, 0, 0, 2]], 3)
    assert found["uniform"] == math.log(3)
    assert found["unigram"] == pytest.approx(-(math.log(2 / 7) + math.log(2 / 7) + math.log(3 / 7)) / 3, rel=1e-14)
    assert found["bigram"] == pytest.approx(-(math.log(2 / 5) + math.log(1 / 4) + math.log(2 / 4)) / 3, rel=1e-14)


def test_the_first_token_is_no_target_and_the_last_no_source():
    assert count_baselines([[0, 1]] * 3, [[0, 1]], 2)["unigram"] == pytest.approx(-math.log(4 / 5))
    assert count_baselines([[0, 1]] * 3, [[1, 0]], 2)["bigram"] == pytest.approx(-math.log(1 / 2))


@pytest.mark.parametrize("val", [[], [[0]]], ids=["no examples", "no targets"])
def test_without_validation_there_is_only_the_uniform_loss(val):
    assert count_baselines([[0, 1]], val, 2) == {"uniform": math.log(2), "unigram": None, "bigram": None}


def test_without_training_counts_every_token_is_equally_likely():
    found = count_baselines([], [[0, 3, 1]], 4)
    assert found["unigram"] == found["bigram"] == pytest.approx(math.log(4))


def example_lists(vocab_size: int, least: int):
    return st.lists(st.lists(st.integers(0, vocab_size - 1), min_size=2, max_size=9), min_size=least, max_size=12)


@given(st.data(), st.integers(1, 6))
def test_arrays_and_a_loop_over_dictionaries_agree(data, vocab_size):
    train, val = data.draw(example_lists(vocab_size, 0)), data.draw(example_lists(vocab_size, 1))
    assert count_baselines(train, val, vocab_size) == pytest.approx(by_loop(train, val, vocab_size), rel=1e-12)


@given(st.data(), st.integers(2, 6))
def test_examples_in_any_order_and_a_slice_of_shared_tokens_count_the_same(data, vocab_size):
    train, val = data.draw(example_lists(vocab_size, 2)), data.draw(example_lists(vocab_size, 1))
    whole = Examples.of([*val, *train])
    shuffled = data.draw(st.permutations(train))
    expected = count_baselines(train, val, vocab_size)
    assert count_baselines(shuffled, val, vocab_size) == pytest.approx(expected, rel=1e-12)
    assert count_baselines(whole[len(val) :], whole[: len(val)], vocab_size) == pytest.approx(expected, rel=1e-12)


def test_ids_far_apart_need_no_table_of_all_pairs():
    """With 2**20 tokens such a table would have 2**40 cells."""
    last = 2**20 - 1
    found = count_baselines([[0, last, 0]], [[0, last]], last + 1)
    assert found["bigram"] == pytest.approx(-math.log(2 / (last + 2)), rel=1e-14)


@pytest.fixture(scope="module")
def names():
    return build_corpus(
        read_source("names", None), text_format="lines", long_documents="truncate", val_fraction=0.1, split_seed=0,
        block_size=16,
    )  # fmt: skip


def test_on_names_counting_pairs_beats_counting_letters_beats_guessing(names):
    vocab_size = len(names.tokenizer.chars) + 1
    found = count_baselines(names.train.examples, names.val.examples, vocab_size)
    assert found["bigram"] is not None
    assert found["unigram"] is not None
    assert 2.3 < found["bigram"] < found["unigram"] < math.log(27)
    assert found == pytest.approx(by_loop(names.train.examples, names.val.examples, vocab_size), rel=1e-10)


def test_figures_are_plain_numbers_that_json_takes(names):
    found = count_baselines(names.train.examples, names.val.head(10), 27)
    assert {type(value) for value in found.values()} == {float}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
