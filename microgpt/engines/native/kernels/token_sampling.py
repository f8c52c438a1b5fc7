"""Sampling tokens from logits in compiled code, bit-identical to inference/sampling.py and `random.choices`.

The order of operations, the C library functions and the summation method are the same as in Python. `minus_one` is the
exponent -1.0; `compensated` is COMPENSATED_SUM (kv_cache.py).
"""

import math

from microgpt.engines.native.kernels.declaration import Float64s, Floats, Int64s, entry, kernel
from microgpt.engines.native.kernels.simd.vector import get


@kernel
def python_sum(values: Float64s, begin: int, end: int, compensated: int) -> float:
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
def keep_top_k(scores: Float64s, begin: int, vocab: int, k: int):
    """Set all scores except the k largest to -inf; among equal scores, the lower token is kept."""
    for token in range(vocab):
        own, before = scores[begin + token], 0
        for i in range(vocab):  # scores already set to -inf are not among the k largest
            other = scores[begin + i]
            before += other > own or (other == own and i < token)
        if before >= k:
            scores[begin + token] = -math.inf


@kernel
def to_probabilities(scores: Float64s, begin: int, vocab: int, temperature: float, k: int, minus_one: float,
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
def choose_by(probs: Float64s, begin: int, vocab: int, uniform: float) -> int:
    """The token that `random.choices` selects with this random number"""
    whole = 0.0
    for i in range(vocab):
        whole += probs[begin + i]
    threshold, token, upto = uniform * whole, 0, probs[begin]
    while token < vocab - 1 and upto <= threshold:
        token += 1
        upto += probs[begin + token]
    return token


@entry
def choose_tokens(A: Floats, logits: int, stride: int, vocab: int, rows: Int64s, count: int, uniforms: Float64s,
                  temperatures: Float64s, top_k: Int64s, minus_one: float, compensated: int, probs: Float64s,
                  tokens: Int64s):  # fmt: skip
    """Sample a token for each of `count` rows of logits; see base.ChoosesTokens.

    The logits of a row begin at logits + row * stride. probs (count * vocab,) receives the probabilities.
    """
    for n in range(count):
        begin, tokens[n] = n * vocab, -1
        for i in range(vocab):
            probs[begin + i] = get(A, logits + rows[n] * stride + i)
        if to_probabilities(probs, begin, vocab, temperatures[n], top_k[n], minus_one, compensated):
            tokens[n] = choose_by(probs, begin, vocab, uniforms[n])
