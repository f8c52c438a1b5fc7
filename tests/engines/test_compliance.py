"""Every engine against the scalar engine: models, toggles, sizes, optimizers, schedules and batches, in pairs.

The cases take their models, activations,
optimizers and schedules from the tables, so that a new entry is covered.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations, islice, product

import numpy as np
import pytest
from support.compliance import (
    Case,
    Results,
    assert_close,
    assert_computes,
    each_dtype,
    each_engine,
    options_of,
    results,
    tolerance_of,
)
from support.models import EACH_OPTIMIZER
from support.program import mostly_slow

from microgpt.data.batches import BatchOrder
from microgpt.engines.base import EngineState, Tokens, Workload
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.model.spec import ACTIVATIONS, MODEL_KINDS, ModelSpec
from microgpt.training.schedules import SCHEDULES, Schedule

STEPS = 50
GRADIENT_STEPS = 4  # what the gradients of a case cost

# The factors of a case. A case is a line of one word for each factor, in this order.
MODELS = {  # kind and number of layers
    f"{kind}-{n_layer}" if n_layer else kind: (kind, n_layer)
    for kind, parts in MODEL_KINDS.items()
    for n_layer in ((1, 2, 3) if parts.has_blocks else (0,))
}
TIED = {"tied": True, "untied": False}
NORMED = {"normed": True, "unnormed": False}
SIZES = {  # n_embd, n_head, vocab_size, block_size, the most characters of most documents
    "heads-of-3": (6, 2, 5, 7, 5),
    "heads-of-1": (4, 4, 33, 5, 3),
    "head-of-20": (20, 1, 5, 3, 2),
    "heads-of-20": (40, 2, 33, 2, 1),
    "heads-of-4": (16, 4, 27, 16, 3),
    "block-of-70": (4, 1, 5, 70, 4),
    "block-of-1": (8, 4, 33, 1, 1),
}
OPTIMIZERS = EACH_OPTIMIZER | {"plain-sgd": OptimizerSpec("sgd")}
CLIPS = {"clipped": 0.5, "unclipped": None}
BATCHES = {"batch-1": 1, "batch-3": 3, "batch-20": 20, "batch-70": 70}
FACTORS = (MODELS, TIED, NORMED, ACTIVATIONS, SIZES, OPTIMIZERS, CLIPS, SCHEDULES, BATCHES)

CASES = [  # with LARGE_CASES they contain every pair of words that can occur together
    "bigram tied normed relu heads-of-4 adam clipped constant batch-20",
    "bigram tied normed relu heads-of-4 plain-sgd unclipped sqrt batch-1",
    "bigram tied unnormed relu block-of-70 sgd clipped warmdown batch-1",
    "bigram tied unnormed relu heads-of-4 adamw unclipped linear batch-3",
    "bigram untied normed relu block-of-70 sgd unclipped constant batch-70",
    "bigram untied unnormed relu block-of-1 sgd clipped warmdown batch-1",
    "bigram untied unnormed relu block-of-70 adam unclipped constant batch-3",
    "bigram untied unnormed relu block-of-70 plain-sgd unclipped cosine batch-70",
    "bigram untied unnormed relu heads-of-4 sgd unclipped cosine batch-70",
    "bigram untied unnormed relu heads-of-1 adamw unclipped cosine batch-20",
    "gpt-1 tied normed relu heads-of-20 plain-sgd clipped cosine batch-1",
    "gpt-1 tied normed relu_squared block-of-1 adam clipped sqrt batch-20",
    "gpt-1 tied normed relu_squared heads-of-1 adam unclipped warmdown batch-20",
    "gpt-1 tied unnormed relu heads-of-20 adamw unclipped linear batch-1",
    "gpt-1 tied unnormed relu heads-of-1 plain-sgd unclipped sqrt batch-3",
    "gpt-1 tied unnormed relu heads-of-3 adamw unclipped constant batch-3",
    "gpt-1 tied unnormed relu_squared block-of-70 adamw clipped sqrt batch-1",
    "gpt-1 tied unnormed relu_squared block-of-70 sgd clipped cosine batch-3",
    "gpt-1 tied unnormed relu_squared head-of-20 sgd clipped linear batch-1",
    "gpt-1 untied unnormed relu heads-of-4 adamw unclipped cosine batch-1",
    "gpt-1 untied unnormed relu heads-of-3 plain-sgd unclipped linear batch-20",
    "gpt-1 untied unnormed relu_squared head-of-20 adam unclipped cosine batch-1",
    "gpt-2 tied normed relu_squared block-of-1 adamw clipped linear batch-70",
    "gpt-2 tied normed relu_squared heads-of-4 sgd clipped sqrt batch-1",
    "gpt-2 tied unnormed relu_squared head-of-20 adamw unclipped warmdown batch-1",
    "gpt-2 untied normed relu_squared head-of-20 adamw unclipped sqrt batch-1",
    "gpt-2 untied normed relu_squared heads-of-3 adam clipped cosine batch-1",
    "gpt-2 untied unnormed relu head-of-20 plain-sgd unclipped linear batch-3",
    "gpt-2 untied unnormed relu_squared heads-of-1 sgd clipped constant batch-3",
    "gpt-3 tied normed relu block-of-1 plain-sgd clipped cosine batch-20",
    "gpt-3 tied normed relu_squared head-of-20 adam unclipped constant batch-1",
    "gpt-3 untied unnormed relu block-of-1 adamw unclipped constant batch-1",
    "gpt-3 untied unnormed relu heads-of-1 adamw clipped linear batch-1",
    "gpt-3 untied unnormed relu_squared block-of-1 adamw unclipped sqrt batch-3",
    "gpt-3 untied unnormed relu_squared heads-of-3 sgd clipped sqrt batch-3",
]
LARGE_CASES = [  # three steps of the largest take the scalar engine seconds
    "gpt-1 untied unnormed relu heads-of-1 adam clipped linear batch-70",
    "gpt-1 tied unnormed relu head-of-20 adam clipped linear batch-20",
    "gpt-1 tied normed relu_squared heads-of-20 sgd unclipped warmdown batch-1",
    "gpt-3 untied unnormed relu heads-of-4 adam unclipped warmdown batch-3",
    "gpt-1 untied normed relu heads-of-20 adamw clipped constant batch-3",
    "gpt-1 untied unnormed relu_squared heads-of-3 plain-sgd unclipped warmdown batch-70",
    "gpt-2 tied normed relu_squared heads-of-20 plain-sgd unclipped constant batch-1",
    "gpt-2 untied unnormed relu_squared block-of-70 sgd clipped linear batch-20",
    "gpt-3 tied unnormed relu_squared heads-of-20 adam clipped sqrt batch-1",
    "gpt-3 untied normed relu_squared block-of-70 sgd unclipped sqrt batch-70",
    "gpt-1 tied unnormed relu_squared head-of-20 sgd unclipped constant batch-70",
    "gpt-1 untied normed relu_squared heads-of-20 sgd unclipped constant batch-20",
]
# Products of parameters and targets that limit a case's steps, and what the least steps of a case may be at most.
QUICK_WORK, SLOW_WORK = 120_000, 300_000
LEAST_QUICK_WORK, LEAST_RANDOM_WORK = 250_000, 1_000_000


def fits(line: str) -> bool:
    """A model without blocks has neither an activation nor heads, and its width is that of the vocabulary."""
    model, _, _, activation, size, *_ = line.split()
    has_blocks = MODELS[model][1] > 0
    return has_blocks or (activation == ACTIVATIONS[0] and size in ("heads-of-1", "heads-of-4", "block-of-70"))


def cases_of_new_entries() -> list[str]:
    """Return lines for the table entries that no line has: some of CASES with the new word in its place."""
    found = []
    for place, factor in enumerate(FACTORS):
        for word in factor:
            if not any(line.split()[place] == word for line in [*CASES, *LARGE_CASES]):
                lines = [line.split() for line in CASES]
                changed = [" ".join([*words[:place], word, *words[place + 1 :]]) for words in lines]
                found += [line for line in dict.fromkeys(changed) if fits(line)][::6]
    return found


NEW_CASES = cases_of_new_entries()


def case_of(line: str, work: float) -> Case:
    """Return a case of 50 steps, or of fewer, but at least 3, so that the scalar engine's work is at most `work`."""
    model, tied, normed, activation, size, optimizer, clip, schedule, batch = line.split()
    n_embd, n_head, vocab_size, block_size, usual = SIZES[size]
    kind, n_layer = MODELS[model]
    spec = ModelSpec(
        kind=kind,
        vocab_size=vocab_size,
        n_embd=n_embd if n_layer else vocab_size,
        n_head=n_head if n_layer else 1,
        n_layer=n_layer,
        block_size=block_size,
        tie_lm_head=TIED[tied],
        input_rmsnorm=NORMED[normed],
        activation=activation,
    )
    batch_size, rng, bos = BATCHES[batch], np.random.default_rng(sum(line.encode())), vocab_size - 1
    lengths = [block_size, 1, *rng.integers(1, usual + 1, batch_size + 3).tolist()]
    examples = [[bos, *rng.integers(0, bos, length).tolist(), bos][: block_size + 1] for length in lengths]
    orders = [BatchOrder(rng.permutation(len(examples)), (), 0.0, batch_size) for _ in range(2)]
    std = 0.8 * n_embd**-0.5  # larger than initial weights, so that attention is far from uniform
    steps = max(3, int(min(STEPS, work / work_of_step(spec, batch_size, examples) - GRADIENT_STEPS)))
    factors = [Schedule(schedule, steps).factor(step) for step in range(steps)]
    return Case(
        spec=spec,
        optimizer=replace(OPTIMIZERS[optimizer], grad_clip=CLIPS[clip]),
        workload=Workload(examples, orders),
        state=EngineState({name: rng.normal(0, std, (2, *shape)) for name, shape in spec.shapes().items()}),
        rates=np.outer(factors, (0.03 if optimizer == "plain-sgd" else 0.01) * np.array([1.0, 0.5])),
    )


def work_of_step(spec: ModelSpec, batch_size: int, examples: Sequence[Tokens]) -> float:
    return spec.parameter_count() * batch_size * sum(len(example) - 1 for example in examples) / len(examples)


def is_short(line: str, most: int) -> bool:
    """Return whether the work of the case with the least steps is at most `most`."""
    case = case_of(line, work=0)
    work = work_of_step(case.spec, case.workload.orders[0].batch_size, case.workload.examples)
    return (len(case.rates) + GRADIENT_STEPS) * work <= most


@cache
def scalar_results(line: str, work: float) -> tuple[Case, Results]:
    case = case_of(line, work)
    return case, results(case, EngineOptions("python"))


def check(line: str, work: float, engine: str, dtype: str) -> None:
    options = options_of(engine, dtype)
    case, expected = scalar_results(line, work)
    assert_computes(case, expected, options)


@each_engine
@pytest.mark.parametrize("line", [line for line in [*NEW_CASES, *CASES[::2]] if is_short(line, LEAST_QUICK_WORK)])
def test_an_engine_computes_what_the_scalar_engine_computes(line: str, engine: str) -> None:
    """In float64; the slow test below has these cases and longer ones, with more steps, in both float types."""
    check(line, QUICK_WORK, engine, "float64")


@each_engine
@each_dtype
@mostly_slow(1, "line", [
    "gpt-2 untied normed relu heads-of-3 plain-sgd clipped constant batch-1",
    "bigram untied normed relu heads-of-4 adamw clipped cosine batch-3",
    "gpt-1 tied unnormed relu_squared heads-of-4 adam unclipped linear batch-20",
])  # fmt: skip
def test_masked_targets_are_read_and_excluded_from_the_loss(line: str, engine: str, dtype: str) -> None:
    options, case = options_of(engine, dtype), case_of(line, QUICK_WORK)
    rng = np.random.default_rng(5)

    def masked(example: Tokens) -> list[int]:
        """Mask more than half of the targets, but never all of them."""
        kept = int(rng.integers(1, len(example)))
        return [token if i in (0, kept) or rng.random() < 0.4 else ~token for i, token in enumerate(example)]

    examples = [masked(example) for example in case.workload.examples]
    case = replace(case, workload=Workload(examples, case.workload.orders))
    expected = results(case, EngineOptions("python"))
    found = results(case, options, expected.final)
    allowed = tolerance_of(dtype, case.optimizer)
    assert_close({"losses": found.losses}, {"losses": expected.losses}, allowed.losses)
    assert_close(found.first_gradients, expected.first_gradients, allowed.same_parameters)
    assert_close({"evaluated": found.evaluated}, {"evaluated": expected.evaluated}, allowed.same_parameters)
    assert_close(found.final.parameters, expected.final.parameters, allowed.trained)


def random_lines(count: int) -> list[str]:
    rng = random.Random(0)
    lines = (" ".join(rng.choice(list(factor)) for factor in FACTORS) for _ in range(100 * count))
    return list(islice((line for line in lines if fits(line) and is_short(line, LEAST_RANDOM_WORK)), count))


@pytest.mark.slow
@each_engine
@each_dtype
@pytest.mark.parametrize("line", [*LARGE_CASES, *NEW_CASES, *CASES, *random_lines(40)])
def test_an_engine_computes_what_the_scalar_engine_computes_over_more_steps(line: str, engine: str, dtype: str) -> None:
    check(line, SLOW_WORK, engine, dtype)


def test_the_cases_contain_every_pair_of_words_that_can_occur_together() -> None:
    found = {pair for line in [*CASES, *LARGE_CASES] for pair in combinations(line.split(), 2)}
    words = {word for pair in found for word in pair}  # a new entry of a table has cases, but not with every other word
    pairs = {pair for first, second in combinations(FACTORS, 2) for pair in product(first, second)}
    expected = {pair for pair in pairs if words.issuperset(pair)} - {("heads-of-20", "batch-70")}  # too slow
    without_blocks = {("bigram", word) for word in ("relu_squared", "heads-of-3", "head-of-20", "heads-of-20")}
    assert expected - found == without_blocks


def test_a_new_entry_of_a_table_has_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIMIZERS, "invented", EACH_OPTIMIZER["adam"])
    found = [words for line in cases_of_new_entries() if (words := line.split())[5] == "invented"]
    for place in (0, 4, 8):
        assert len({words[place] for words in found}) > 2, "several models, sizes and batch sizes"
