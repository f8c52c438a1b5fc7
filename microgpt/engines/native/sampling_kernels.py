"""Sampling tokens from logits in compiled code, bit-identical to inference/sampling.py and `random.choices`.

The order of operations, the C library functions and the summation method are the same as in Python.
"""

import math
import sys
from collections.abc import Sequence

import numpy as np

from microgpt.engines.base import Choices
from microgpt.engines.native.kernels import Float64Array, FloatArray, Int64Array, kernel
from microgpt.engines.native.simd.vector import get, pointer

COMPENSATED_SUM = int(sys.version_info >= (3, 12))  # since Python 3.12, `sum` of floats uses Neumaier's method


@kernel
def python_sum(values: Float64Array, begin: int, end: int, compensated: int) -> float:
    """Python's `sum` of values[begin:end]"""
    high, low = values[begin], 0.0
    for i in range(begin + 1, end):
        x = values[i]
        added = high + x
        if compensated:
            low += (high - added) + x if abs(high) >= abs(x) else (x - added) + high
        high = added
    return high + low if low != 0.0 and math.isfinite(low) else high


@kernel
def keep_top_k(scores: Float64Array, begin: int, vocab: int, k: int):
    """Set all scores except the k largest to -inf; among equal scores, the lower token is kept."""
    for token in range(vocab):
        own, before = scores[begin + token], 0
        for i in range(vocab):  # scores already set to -inf are not among the k largest
            other = scores[begin + i]
            before += other > own or (other == own and i < token)
        if before >= k:
            scores[begin + token] = -math.inf


@kernel
def to_probabilities(scores: Float64Array, begin: int, vocab: int, temperature: float, k: int, minus_one: float,
                     compensated: int) -> int:  # fmt: skip
    """Replace the logits scores[begin : begin + vocab] with softmax(logits / temperature); return 0 if not finite."""
    largest = 0
    for i in range(vocab):
        if not math.isfinite(scores[begin + i]):
            return 0
        if scores[begin + i] > scores[begin + largest]:
            largest = i
    if temperature == 0.0:
        for i in range(vocab):
            scores[begin + i] = i == largest
        return 1
    scale = math.pow(temperature, minus_one)  # with a constant exponent, the compiler would use a division
    top = scores[begin + largest] * scale
    for i in range(vocab):
        scores[begin + i] *= scale
    if k < vocab:
        keep_top_k(scores, begin, vocab, k)
    for i in range(vocab):
        scores[begin + i] = math.exp(scores[begin + i] - top)
    norm = math.pow(python_sum(scores, begin, begin + vocab, compensated), minus_one)
    for i in range(vocab):
        scores[begin + i] *= norm
    return 1


@kernel
def choose_by(probs: Float64Array, begin: int, vocab: int, uniform: float) -> int:
    """The token that `random.choices` selects with this random number"""
    whole = 0.0
    for i in range(vocab):
        whole += probs[begin + i]
    threshold, token, upto = uniform * whole, 0, probs[begin]
    while token < vocab - 1 and upto <= threshold:
        token += 1
        upto += probs[begin + token]
    return token


@kernel
def choose_tokens(A: FloatArray, logits: int, stride: int, vocab: int, rows: Int64Array, uniforms: Float64Array,
                  temperatures: Float64Array, top_k: Int64Array, minus_one: float, compensated: int,
                  probs: Float64Array, tokens: Int64Array):  # fmt: skip
    """Sample a token for each of `rows`; the logits of a row begin at logits + row * stride; see base.ChoosesTokens.

    probs (len(rows) * vocab,) receives the probabilities.
    """
    a = pointer(A, 0)
    for n in range(len(rows)):
        begin, tokens[n] = n * vocab, -1
        for i in range(vocab):
            probs[begin + i] = get(a, logits + rows[n] * stride + i)
        if to_probabilities(probs, begin, vocab, temperatures[n], top_k[n], minus_one, compensated):
            tokens[n] = choose_by(probs, begin, vocab, uniforms[n])


def choose(
    activations: np.ndarray,
    logits: int,
    stride: int,
    vocab: int,
    rows: Sequence[int],
    uniforms: Sequence[float],
    temperatures: Sequence[float],
    top_k: Sequence[int | None],
) -> Choices:
    """See base.ChoosesTokens; the logits of row r begin at activations[logits + r * stride]."""
    probs, tokens = np.empty(len(rows) * vocab), np.empty(len(rows), np.int64)
    choose_tokens(
        activations, logits, stride, vocab, np.array(rows), np.array(uniforms), np.array(temperatures, np.float64),
        np.array([min(k or vocab, vocab) for k in top_k]), -1.0, COMPENSATED_SUM, probs, tokens,
    )  # fmt: skip
    return Choices(tokens.tolist(), probs.reshape(len(rows), vocab))
