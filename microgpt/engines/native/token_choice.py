"""Sampling tokens from logits in compiled code, bit-identical to inference/sampling.py and `random.choices`.

The order of operations, the functions of the C library and the way in which `sum` adds are those of Python.
"""

import math
import sys
from collections.abc import Sequence

import numpy as np

from microgpt.engines.base import Choices
from microgpt.engines.native.compilation import Float64Array, FloatArray, Floats, Int64Array, kernel
from microgpt.engines.native.simd.vector import get, pointer

COMPENSATED_SUM = int(sys.version_info >= (3, 12))  # from then on, `sum` of floats is Neumaier's


@kernel
def python_sum(values: Float64Array, begin: int, end: int, compensated: int) -> float:
    """`sum` of values[begin:end]"""
    high, low = values[begin], 0.0
    for i in range(begin + 1, end):
        x = values[i]
        added = high + x
        if compensated:
            low += (high - added) + x if abs(high) >= abs(x) else (x - added) + high
        high = added
    return high + low if low != 0.0 and math.isfinite(low) else high


@kernel
def is_kept(A: Floats, row: int, vocab: int, scale: float, token: int, k: int) -> int:
    """1 for a token of the k largest scaled logits, of which the lower token comes first if they are equal"""
    own, before = get(A, row + token) * scale, 0
    for i in range(vocab):
        other = get(A, row + i) * scale
        before += other > own or (other == own and i < token)
    return before < k


@kernel
def row_probabilities(A: Floats, row: int, vocab: int, temperature: float, k: int, minus_one: float, compensated: int,
                      probs: Float64Array, begin: int) -> int:  # fmt: skip
    """Write softmax(logits / temperature) to probs[begin : begin + vocab]; return 0 for a logit that is not finite."""
    largest = 0
    for i in range(vocab):
        if not math.isfinite(get(A, row + i)):
            return 0
        if get(A, row + i) > get(A, row + largest):
            largest = i
    if temperature == 0.0:
        for i in range(vocab):
            probs[begin + i] = i == largest
        return 1
    scale = math.pow(temperature, minus_one)  # the compiler would replace a constant exponent by a division
    top = get(A, row + largest) * scale
    for i in range(vocab):
        kept = k >= vocab or is_kept(A, row, vocab, scale, i, k)
        probs[begin + i] = math.exp(get(A, row + i) * scale - top) if kept else 0.0
    norm = math.pow(python_sum(probs, begin, begin + vocab, compensated), minus_one)
    for i in range(vocab):
        probs[begin + i] *= norm
    return 1


@kernel
def choose_tokens(A: FloatArray, logits: int, stride: int, vocab: int, rows: Int64Array, uniforms: Float64Array,
                  temperatures: Float64Array, top_k: Int64Array, minus_one: float, compensated: int,
                  probs: Float64Array, tokens: Int64Array):  # fmt: skip
    """Sample a token for each of `rows`, whose logits begin at logits + row * stride; see base.ChoosesTokens.

    probs (len(rows) * vocab,) receives the probabilities.
    """
    a = pointer(A, 0)
    for n in range(len(rows)):
        begin, tokens[n] = n * vocab, -1
        if row_probabilities(a, logits + rows[n] * stride, vocab, temperatures[n], top_k[n], minus_one, compensated,
                             probs, begin):  # fmt: skip
            whole = 0.0
            for i in range(vocab):
                whole += probs[begin + i]
            threshold, token, upto = uniforms[n] * whole, 0, probs[begin]
            while token < vocab - 1 and upto <= threshold:
                token += 1
                upto += probs[begin + token]
            tokens[n] = token


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
    """See base.ChoosesTokens; row r's logits begin at activations[logits + r * stride]."""
    probs, tokens = np.empty(len(rows) * vocab), np.empty(len(rows), np.int64)
    choose_tokens(
        activations, logits, stride, vocab, np.array(rows), np.array(uniforms), np.array(temperatures),
        np.array([k or vocab for k in top_k]), -1.0, COMPENSATED_SUM, probs, tokens,
    )  # fmt: skip
    return Choices(tokens.tolist(), probs.reshape(len(rows), vocab))
