"""Operations on each position: embedding, RMSNorm, activation functions, cross-entropy, each with its gradient.

A is the array of activations, in which x, y, dx, ... are offsets. A row has `lanes` lanes, a multiple of 16; lanes
behind the last feature are zero and stay zero.
"""

import math
from typing import NamedTuple

from microgpt.engines.native.compilation import Floats, Int64s, inlined, kernel
from microgpt.engines.native.simd.exp import LOG2_E, exp2
from microgpt.engines.native.simd.lanes import horizontal_max, horizontal_sum, slot_sum
from microgpt.engines.native.simd.vector import (
    LANES,
    fma,
    get,
    load,
    load_splat,
    maximum,
    put,
    splat,
    sqrt,
    store,
    where_positive,
)

EPSILON = 1e-5  # RMSNORM_EPSILON of model/spec.py, repeated: only changes within this package compile the kernels again
ROWS_A_LOGARITHM = 16  # factors of a product of normalizers, each at most vocab_size: it stays finite in float64
# Distance in nats from the largest logit at which a probability is 0 in float64, and its loss infinite, as the scalar
# engine computes it.
LARGEST_GAP = 745.13


class Activation(NamedTuple):
    """What kernels and layout need of an activation function f, which maps 0 to 0: padding stays zero."""

    code: int  # by which `activate` and `activate_backward` choose
    in_place: bool  # f(x) may overwrite x: its gradient is computed from f(x) as well as from x


RELU, RELU_SQUARED = range(2)
ACTIVATIONS = {
    "relu": Activation(RELU, in_place=True),
    "relu_squared": Activation(RELU_SQUARED, in_place=False),
}


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


# RMSNorm


@kernel
def rmsnorm(A: Floats, y: int, scale: int, x: int, lanes: int, rows: int, features: int):
    """y[p, :] = scale_p x[p, :] with scale_p = 1 / sqrt(mean(x[p, :]^2) + EPSILON)"""
    for p in range(rows):
        squares = splat(A, 0.0)
        for i in range(p * lanes, (p + 1) * lanes, LANES):
            squares = fma(load(A, x + i), load(A, x + i), squares)
        put(A, scale + p, horizontal_sum(squares))
    for p in range(0, rows, LANES):  # 16 positions share a division and a square root
        store(A, scale + p, splat(A, 1.0) / sqrt(load(A, scale + p) * (1.0 / features) + EPSILON))
    for p in range(rows):
        factor = load_splat(A, scale + p)
        for i in range(p * lanes, (p + 1) * lanes, LANES):
            store(A, y + i, load(A, x + i) * factor)


@kernel
def rmsnorm_backward(A: Floats, dx: int, dy: int, y: int, scale: int, lanes: int, rows: int, features: int,
                     accumulate: int):  # fmt: skip
    """dx[p, :] = scale_p (dy[p, :] - y[p, :] mean(dy[p, :] y[p, :])), or += with `accumulate`"""
    for p in range(rows):
        products = splat(A, 0.0)
        for i in range(p * lanes, (p + 1) * lanes, LANES):
            products = fma(load(A, dy + i), load(A, y + i), products)
        mean = slot_sum(products, 16) * (1.0 / features)
        factor = load_splat(A, scale + p)
        for i in range(p * lanes, (p + 1) * lanes, LANES):
            gradient = (load(A, dy + i) - load(A, y + i) * mean) * factor
            store(A, dx + i, load(A, dx + i) + gradient if accumulate else gradient)


# Activation functions. A code without a branch here gives NaN, which ends training at its first step


@kernel
def activate(A: Floats, y: int, x: int, count: int, activation: int):
    """y = f(x) for `count` elements and the activation function f of this code"""
    for i in range(0, count, LANES):
        value = load(A, x + i)
        if activation == RELU:
            result = where_positive(value, value)
        elif activation == RELU_SQUARED:
            positive = where_positive(value, value)
            result = positive * positive
        else:
            result = value * math.nan
        store(A, y + i, result)


@kernel
def activate_backward(A: Floats, dx: int, x: int, count: int, activation: int):
    """dx *= f'(x); x is f(x) for a function that is computed in place."""
    for i in range(0, count, LANES):
        value, gradient = load(A, x + i), load(A, dx + i)
        if activation == RELU:
            result = where_positive(value, gradient)
        elif activation == RELU_SQUARED:
            result = where_positive(value, gradient * value * 2.0)
        else:
            result = gradient * math.nan
        store(A, dx + i, result)


# Cross-entropy


@inlined
def mask_and_max(A: Floats, row: int, end: int, mask: Floats) -> float:
    """Add `mask` to the last vector of logits[row : end], and return the largest logit.

    The mask is 0 for tokens and -1e30 for the padding behind the vocabulary.
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

    The row of a masked target (a negative one) has no loss and a gradient of 0. `sums` is scratch for one number a row;
    `mask` as in `mask_and_max`. Like attention, in phases of short independent steps.
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
