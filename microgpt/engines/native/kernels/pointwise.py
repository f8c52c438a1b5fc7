"""Operations on each position: embedding, biases, soft cap and cross-entropy, each with its gradient.

A is the array of activations; x, y, dx, ... are offsets into A. A row has `lanes` lanes, a multiple of 16; lanes after
the last feature are zero and stay zero.
"""

import math

from microgpt.engines.native.kernels.declaration import Floats, Int64s, inlined, kernel
from microgpt.engines.native.kernels.simd.exp import LOG2_E, exp2
from microgpt.engines.native.kernels.simd.lanes import horizontal_max, horizontal_sum
from microgpt.engines.native.kernels.simd.tanh_erf import tanh
from microgpt.engines.native.kernels.simd.vector import (
    LANES,
    get,
    load,
    load_splat,
    maximum,
    put,
    splat,
    store,
)

ROWS_A_LOGARITHM = 16  # factors in a product of normalizers (each at most vocab_size), which stays finite in float64
# Distance in nats from the largest logit above which a probability is 0 in float64 and the loss is infinite, as in the
# scalar engine.
LARGEST_GAP = 745.13


@kernel
def copy(A: Floats, y: int, x: int, count: int):
    """y = x"""
    for i in range(0, count, LANES):
        store(A, y + i, load(A, x + i))


# Embedding


@kernel
def embed(A: Floats, x: int, lanes: int, P: Floats, wte: int, wpe: int, tokens: Int64s, positions: Int64s, rows: int):
    """x[p, :] = wte[token_p, :] + wpe[position_p, :]; a negative wpe means none."""
    for p in range(rows):
        for i in range(0, lanes, LANES):
            value = load(P, wte + get(tokens, p) * lanes + i)
            if wpe >= 0:
                value = value + load(P, wpe + get(positions, p) * lanes + i)
            store(A, x + p * lanes + i, value)


@kernel
def embed_backward(A: Floats, dx: int, lanes: int, rows: int, G: Floats, wte: int, wpe: int, tokens: Int64s,
                   positions: Int64s):  # fmt: skip
    """dwte[token_p, :] += dx[p, :], dwpe[position_p, :] += dx[p, :]"""
    for p in range(rows):
        for i in range(0, lanes, LANES):
            gradient = load(A, dx + p * lanes + i)
            row = wte + get(tokens, p) * lanes + i
            store(G, row, load(G, row) + gradient)
            if wpe >= 0:
                row = wpe + get(positions, p) * lanes + i
                store(G, row, load(G, row) + gradient)


# Biases of linear layers


@kernel
def add_vector(A: Floats, y: int, x: int, P: Floats, b: int, lanes: int, rows: int):
    """y[p, :] = x[p, :] + b"""
    for p in range(0, rows * lanes, lanes):
        for i in range(0, lanes, LANES):
            store(A, y + p + i, load(A, x + p + i) + load(P, b + i))


@kernel
def repeat_vector(A: Floats, y: int, P: Floats, b: int, lanes: int, rows: int):
    """y[p, :] = b"""
    for p in range(0, rows * lanes, lanes):
        for i in range(0, lanes, LANES):
            store(A, y + p + i, load(P, b + i))


@kernel
def add_column_sums(A: Floats, dy: int, row: int, G: Floats, db: int, lanes: int, rows: int):
    """db += sum_p dy[p, :]; rows of dy are `row` elements apart."""
    for i in range(0, lanes, LANES):
        total = load(G, db + i)
        for p in range(rows):
            total = total + load(A, dy + p * row + i)
        store(G, db + i, total)


# Soft cap of the logits


@kernel
def softcap(A: Floats, logits: int, slopes: int, count: int, cap: float):
    """logits = cap tanh(logits / cap), slopes = d(result) / d(logits)"""
    for i in range(0, count, LANES):
        value, slope = tanh(load(A, logits + i) * (1.0 / cap))
        store(A, logits + i, value * cap)
        store(A, slopes + i, slope)


@kernel
def multiply_by(A: Floats, x: int, factors: int, count: int):
    """x *= factors"""
    for i in range(0, count, LANES):
        store(A, x + i, load(A, x + i) * load(A, factors + i))


# Cross-entropy


@inlined
def mask_and_max(A: Floats, row: int, end: int, mask: Floats) -> float:
    """Add `mask` to the last vector of logits[row : end], and return the largest logit.

    The mask is 0 for tokens and -1e30 for the padding after the vocabulary.
    """
    last = end - LANES
    store(A, last, load(A, last) + load(mask, 0))
    largest = load(A, last)
    for i in range(row, last, LANES):
        largest = maximum(load(A, i), largest)
    return horizontal_max(largest)


@kernel
def cross_entropy(A: Floats, logits: int, lanes: int, sums: int, targets: Int64s, rows: int, mask: Floats,
                  weight: float) -> float:  # fmt: skip
    """sum_p -log softmax(logits[p, :])[target_p]; logits become their gradient, weight (softmax - one_hot).

    A row with a masked (negative) target has no loss and a gradient of 0. `sums` is scratch for one number per row;
    `mask` is the same as in `mask_and_max`. As in attention, the phases are loops of short independent steps.
    """
    total, product = 0.0, 1.0
    for p in range(rows):
        put(A, sums + p, mask_and_max(A, logits + p * lanes, logits + (p + 1) * lanes, mask))
    for p in range(rows):
        row, target = logits + p * lanes, get(targets, p)
        if target >= 0:
            gap = get(A, sums + p) - get(A, row + target)
            total += math.inf if gap > LARGEST_GAP else gap
        largest, normalizer = load_splat(A, sums + p), splat(A, 0.0)
        for i in range(row, row + lanes, LANES):
            e = exp2((load(A, i) - largest) * LOG2_E)
            store(A, i, e)
            normalizer = normalizer + e
        put(A, sums + p, horizontal_sum(normalizer))
    for p in range(rows):
        if get(targets, p) >= 0:
            product *= get(A, sums + p)
        else:
            put(A, sums + p, math.inf)  # the factor of the row becomes 0
        if p % ROWS_A_LOGARITHM == ROWS_A_LOGARITHM - 1:  # one logarithm of a product instead of a sum of logarithms
            total += math.log(product)
            product = 1.0
    for p in range(0, rows, LANES):
        store(A, sums + p, splat(A, weight) / load(A, sums + p))
    for p in range(rows):
        row, factor = logits + p * lanes, load_splat(A, sums + p)
        for i in range(row, row + lanes, LANES):
            store(A, i, load(A, i) * factor)
        target = get(targets, p)
        if target >= 0:
            put(A, row + target, get(A, row + target) - weight)
    return total + math.log(product)
