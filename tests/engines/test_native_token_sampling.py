"""Sampling in compiled code: the token and the probabilities of inference/sampling.py, bit for bit."""

import random

import numpy as np
import pytest

from microgpt.engines.native.kv_cache import choose
from microgpt.engines.native.machine_code import kernels_for
from microgpt.errors import NonFiniteError
from microgpt.inference.sampling import SamplingPolicy, probabilities


class Fixed(random.Random):
    """A generator of one number."""

    def __init__(self, number: float):
        super().__init__()
        self.number = number

    def random(self) -> float:
        return self.number


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("vocab", [2, 27, 82])
def test_tokens_and_probabilities_are_those_of_python(dtype: str, vocab: int) -> None:
    rng, numbers, rows, stride = random.Random(vocab), np.random.default_rng(vocab), 200, vocab + 7
    logits = numbers.normal(0, numbers.choice([0.1, 2, 30, 400], (rows, 1)), (rows, stride))
    logits[::3] = logits[::3].round(1)  # with ties
    logits = logits.astype(dtype)
    uniforms = [rng.choice([0.0, rng.random(), 1 - 2**-53]) for _ in range(rows)]
    policies = [
        SamplingPolicy(rng.choice([0.0, 1e-60, 0.5, 1.0, rng.uniform(0.01, 3)]), rng.choice([None, 1, 5, 2**64]))
        for _ in range(rows)
    ]
    temperatures = [0.0 if policy.is_greedy else policy.temperature for policy in policies]
    limits = [policy.top_k for policy in policies]
    kernels, flat = kernels_for(dtype), logits.reshape(-1)
    found = choose(kernels, flat, 0, stride, vocab, range(rows), uniforms, temperatures, limits)
    for row, policy in enumerate(policies):
        expected = probabilities(logits[row, :vocab].tolist(), policy)
        assert found.probs[row].tolist() == expected
        assert [found.tokens[row]] == Fixed(uniforms[row]).choices(range(vocab), weights=expected)


def test_a_row_with_a_logit_that_is_not_finite_has_no_token() -> None:
    kernels = kernels_for("float64")
    logits = np.array([0.5, np.nan, 1.0, 2.0, 0.0, np.inf])
    found = choose(kernels, logits, 0, 2, 2, [0, 1, 2], [0.9] * 3, [1] * 3, [None] * 3)
    assert found.tokens == [-1, 1, -1]
    with pytest.raises(NonFiniteError):
        probabilities(logits[:2].tolist(), SamplingPolicy())
