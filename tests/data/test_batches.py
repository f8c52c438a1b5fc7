"""Which examples make up which step."""

import math
import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microgpt.data.batches import BatchOrder, indices_of_orders, shuffled

property_test = settings(deadline=None, database=None, max_examples=80)
# Below 1, as the rules of the configuration demand.
shares = st.one_of(st.floats(0.001, 0.999), st.integers(1, 99).map(lambda percent: percent / 100))


def test_a_step_takes_the_next_examples_of_the_order():
    order = BatchOrder(corpus=[4, 2, 0, 3, 1], style=[], style_share=0.0, batch_size=2)
    assert [order.batch(step) for step in range(2)] == [[4, 2], [0, 3]]


def test_with_a_batch_of_one_step_s_meets_example_s_modulo_n():
    corpus = [2, 0, 1]
    order = BatchOrder(corpus=corpus, style=[], style_share=0.0, batch_size=1)
    assert [order.batch(step) for step in range(10)] == [[corpus[step % 3]] for step in range(10)]


@property_test
@given(st.integers(1, 20), st.integers(1, 30), st.integers(0, 40))
def test_the_order_wraps_round_without_leaving_any_example_out(batch_size, count, step):
    corpus = list(reversed(range(count)))
    order = BatchOrder(corpus=corpus, style=[], style_share=0.0, batch_size=batch_size)
    first = step * batch_size
    assert order.batch(step) == [corpus[i % count] for i in range(first, first + batch_size)]


@property_test
@given(st.integers(1, 8), shares, st.integers(1, 12))
def test_the_examples_do_not_depend_on_the_batch_size(batch_size, share, steps):
    def met(size: int, count: int) -> list[int]:
        order = BatchOrder(corpus=range(7), style=range(7, 10), style_share=share, batch_size=size)
        return [example for step in range(count) for example in order.batch(step)]

    assert met(batch_size, steps) == met(1, batch_size * steps)


@property_test
@given(st.lists(st.integers(0, 50), max_size=10), shares)
def test_a_batch_is_a_function_of_the_step_alone(steps, share):
    def order() -> BatchOrder:
        return BatchOrder(corpus=range(9), style=[9, 10], style_share=share, batch_size=3)

    asked_before = order()
    for step in steps:
        assert asked_before.batch(step) == order().batch(step)


@property_test
@given(shares, st.integers(1, 6), st.integers(1, 6), st.integers(0, 400))
def test_after_n_examples_the_style_had_the_floor_of_its_share(share, corpus_count, style_count, n):
    style = range(corpus_count, corpus_count + style_count)
    order = BatchOrder(corpus=range(corpus_count), style=style, style_share=share, batch_size=1)
    met = order.indices(0, n).ravel().tolist()
    assert sum(example in style for example in met) == math.floor(n * share)


@property_test
@given(shares, st.permutations(range(5)), st.permutations(range(5, 9)), st.integers(0, 300))
def test_corpus_and_style_cycle_each_in_its_own_order(share, corpus, style, n):
    order = BatchOrder(corpus=corpus, style=style, style_share=share, batch_size=1)
    met = order.indices(0, n).ravel().tolist()
    of_style = [example for example in met if example >= 5]
    of_corpus = [example for example in met if example < 5]
    assert of_style == [style[i % 4] for i in range(len(of_style))]
    assert of_corpus == [corpus[i % 5] for i in range(len(of_corpus))]


@property_test
@given(st.integers(2, 20))
def test_the_styles_examples_are_spread_evenly(every):
    order = BatchOrder(corpus=[0], style=[1], style_share=1 / every, batch_size=1)
    places = np.flatnonzero(order.indices(0, 20 * every).ravel() == 1).tolist()
    assert {b - a for a, b in pairwise(places)} <= {every - 1, every, every + 1}


@property_test
@given(shares, st.integers(1, 5), st.integers(0, 50), st.integers(0, 20))
def test_indices_of_several_steps_are_those_of_each_step(share, batch_size, begin, steps):
    order = BatchOrder(corpus=range(7), style=range(7, 10), style_share=share, batch_size=batch_size)
    assert order.indices(begin, begin + steps).tolist() == [order.batch(begin + s) for s in range(steps)]


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("counts", [(7, 7, 7), (7, 5, 9)], ids=["equal", "different"])
def test_indices_of_several_orders_are_those_of_each_order(counts, share):
    rng = np.random.default_rng(0)
    orders = [BatchOrder(rng.permutation(count), [9, 8], share * (r == 1), 3) for r, count in enumerate(counts)]
    found = indices_of_orders(orders, 2, 11)
    assert (found.shape, found.dtype) == ((3, 9, 3), np.int64)
    assert found.tolist() == [order.indices(2, 11).tolist() for order in orders]


@property_test
@given(shares, st.integers(0, 10**9))
def test_the_count_of_the_styles_examples_is_that_of_python_s_own_arithmetic(share, count):
    order = BatchOrder(corpus=[0], style=[1], style_share=share, batch_size=1)
    assert order.batch(count) == [int(int((count + 1) * share) > int(count * share))]


def test_a_share_of_zero_meets_the_corpus_alone():
    order = BatchOrder(corpus=[0, 1], style=[2], style_share=0.0, batch_size=4)
    assert order.batch(3) == [0, 1, 0, 1]


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_shuffled_is_the_permutation_of_random_shuffle(count):
    documents = [f"document {i}" for i in range(count)]
    order = shuffled(count, random.Random(42))
    random.Random(42).shuffle(documents)
    assert [f"document {i}" for i in order] == documents


def test_shuffling_leaves_the_generator_where_random_shuffle_does():
    ours, reference = random.Random(42), random.Random(42)
    shuffled(100, ours)
    reference.shuffle(list(range(100)))
    assert ours.getstate() == reference.getstate()
