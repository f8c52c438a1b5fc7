"""Every engine against the scalar engine: the options of a model's architecture, in pairs."""

import random
from dataclasses import replace
from functools import cache
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from support.compliance import Case, Results, assert_computes, each_dtype, each_engine, options_of, results
from support.models import ALTERNATIVES, DEFAULTS, EACH_OPTIMIZER

from microgpt.data.batches import BatchOrder
from microgpt.engines.base import EngineState, Workload
from microgpt.engines.options import EngineOptions
from microgpt.model.spec import ModelSpec

# The factors of a case: a key of the model and its values. A case has a value for each, in this order.
FACTORS: dict[str, tuple[Any, ...]] = {
    "sizes": ((8, 2, None), (8, 2, 1), (16, 4, 2), (12, 6, 3)),  # n_embd, n_head, n_kv_head
    "n_layer": (1, 2),
    **{name: (DEFAULTS[name], *values) for name, values in ALTERNATIVES.items() if name != "n_kv_head"},
    "mlp_width": (None, 5, 19),
    "input_rmsnorm": (True, False),
    "tie_lm_head": (False, True),
    "optimizer": tuple(EACH_OPTIMIZER),
}
LARGE_SIZES = ((40, 2, 1), (20, 1, None), (36, 6, 2), (64, 4, 4))
Combination = tuple[Any, ...]


def pairs_of(combination: Combination) -> set[tuple[Any, ...]]:
    return set(combinations(enumerate(combination), 2))


def pairwise_cover(factors: dict[str, tuple[Any, ...]], candidates: int = 50) -> list[Combination]:
    """Return combinations that contain every pair of values: repeatedly the best of some random ones."""
    rng, places = random.Random(0), list(enumerate(factors.values()))
    missing = {
        ((i, a), (j, b)) for (i, first), (j, second) in combinations(places, 2) for a, b in product(first, second)
    }
    cover: list[Combination] = []
    while missing:
        wanted = min(missing, key=repr)
        drawn = [[rng.choice(values) for values in factors.values()] for _ in range(candidates)]
        for values in drawn:
            for place, value in wanted:
                values[place] = value
        best = max(map(tuple, drawn), key=lambda values: len(pairs_of(values) & missing))
        cover.append(best)
        missing -= pairs_of(best)
    return cover


COVER = pairwise_cover(FACTORS)


def name_of(combination: Combination) -> str:
    named = dict(zip(FACTORS, combination, strict=True))
    words = [key if value is True else str(value) for key, value in named.items() if value not in (False, None)]
    return "-".join(words).replace(" ", "")


def case_of(combination: Combination, steps: int, batch_size: int) -> Case:
    given = dict(zip(FACTORS, combination, strict=True))
    n_embd, n_head, n_kv_head = given.pop("sizes")
    optimizer = EACH_OPTIMIZER[given.pop("optimizer")]
    spec = ModelSpec(
        "gpt", vocab_size=7, n_embd=n_embd, n_head=n_head, n_kv_head=n_kv_head, block_size=6, rope_theta=30.0, **given
    )
    rng, bos = np.random.default_rng(sum(name_of(combination).encode())), spec.vocab_size - 1
    lengths = [spec.block_size, 1, *rng.integers(1, spec.block_size + 1, batch_size + 1).tolist()]
    examples = [[bos, *rng.integers(0, bos, length).tolist(), bos][: spec.block_size + 1] for length in lengths]
    orders = [BatchOrder(rng.permutation(len(examples)), (), 0.0, batch_size) for _ in range(2)]
    std = 0.8 * n_embd**-0.5
    return Case(
        spec=spec,
        optimizer=replace(optimizer, grad_clip=1.0),
        workload=Workload(examples, orders),
        state=EngineState({name: rng.normal(0, std, (2, *shape)) for name, shape in spec.shapes().items()}),
        rates=np.outer(np.linspace(1, 0.5, steps), 0.01 * np.array([1.0, 0.5])),
    )


@cache
def scalar_results(combination: Combination, steps: int, batch_size: int) -> tuple[Case, Results]:
    case = case_of(combination, steps, batch_size)
    return case, results(case, EngineOptions("python"))


@each_engine
@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
@pytest.mark.parametrize("combination", COVER, ids=name_of)
def test_options_in_pairs(combination: Combination, engine: str, dtype: str) -> None:
    options = options_of(engine, dtype)
    assert_computes(*scalar_results(combination, 2, 1), options)


@pytest.mark.slow
@each_engine
@each_dtype
@pytest.mark.parametrize("number", range(10))
def test_options_of_larger_models(number: int, engine: str, dtype: str) -> None:
    options, rng = options_of(engine, dtype), random.Random(number)
    values = {key: rng.choice(values) for key, values in (FACTORS | {"sizes": LARGE_SIZES}).items()}
    assert_computes(*scalar_results(tuple(values.values()), 4, 2), options)


def test_the_cases_contain_every_pair_of_values() -> None:
    found = set().union(*map(pairs_of, COVER))
    places = list(enumerate(FACTORS.values()))
    for (i, first), (j, second) in combinations(places, 2):
        assert {((i, a), (j, b)) for a, b in product(first, second)} <= found
