"""What happens to each position apart from products: embedding, norm, activation, loss; and the way back.

Rows have `lanes` lanes, a multiple of 16, of which those behind the last feature are zero and stay so.
"""

import math

from microgpt.engines.native.attention import LOG2_E
from microgpt.engines.native.kernel_cache import DOUBLE, I64, INT, F, kernel
from microgpt.engines.native.simd.exp import exp2
from microgpt.engines.native.simd.lanes import lane, largest_lane, slot_sum
from microgpt.engines.native.simd.types import (
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

ROWS_A_LOGARITHM = 16  # each factor is at most the vocabulary's size: their product stays finite in float64
# Nats below the likeliest token from which a probability is 0 in float64, and its loss infinite as the scalar engine's
LARGEST_GAP = 745.13


@kernel(F, INT, INT, F, INT, INT, I64, I64, INT)
def embed(A, x, lanes, P, wte, wpe, tokens, positions, rows):
    """x[p, :] = wte[token_p, :] + wpe[position_p, :]; no wpe where it is negative."""
    for p in range(rows):
        for i in range(0, lanes, LANES):
            value = load(P, wte + get(tokens, p) * lanes + i)
            if wpe >= 0:
                value = value + load(P, wpe + get(positions, p) * lanes + i)
            store(A, x + p * lanes + i, value)


@kernel(F, INT, INT, INT, F, INT, INT, I64, I64)
def embed_backward(A, dx, lanes, rows, G, wte, wpe, tokens, positions):
    """dwte[token_p, :] += dx[p, :], dwpe[position_p, :] += dx[p, :]"""
    for p in range(rows):
        for i in range(0, lanes, LANES):
            gradient = load(A, dx + p * lanes + i)
            row = wte + get(tokens, p) * lanes + i
            store(G, row, load(G, row) + gradient)
            if wpe >= 0:
                row = wpe + get(positions, p) * lanes + i
                store(G, row, load(G, row) + gradient)


@kernel(F, INT, INT, INT, INT, INT, INT, DOUBLE)
def rmsnorm(A, y, scale, x, lanes, rows, features, epsilon):
    """y[p, :] = scale_p x[p, :] with scale_p = 1 / sqrt(mean(x[p, :]^2) + epsilon)"""
    for p in range(rows):
        squares = splat(A, 0.0)
        for i in range(p * lanes, (p + 1) * lanes, LANES):
            squares = fma(load(A, x + i), load(A, x + i), squares)
        put(A, scale + p, lane(slot_sum(squares, 16), 0))
    for p in range(0, rows, LANES):  # now with positions in the lanes
        store(A, scale + p, splat(A, 1.0) / sqrt(load(A, scale + p) * (1.0 / features) + epsilon))
    for p in range(rows):
        factor = load_splat(A, scale + p)
        for i in range(p * lanes, (p + 1) * lanes, LANES):
            store(A, y + i, load(A, x + i) * factor)


@kernel(F, INT, INT, INT, INT, INT, INT, INT, INT)
def rmsnorm_backward(A, dx, dy, y, scale, lanes, rows, features, accumulate):
    """dx[p, :] (+)= scale_p (dy[p, :] - y[p, :] mean(dy[p, :] y[p, :])), with y and scale as `rmsnorm` left them"""
    for p in range(rows):
        products = splat(A, 0.0)
        for i in range(p * lanes, (p + 1) * lanes, LANES):
            products = fma(load(A, dy + i), load(A, y + i), products)
        mean = slot_sum(products, 16) * (1.0 / features)
        factor = load_splat(A, scale + p)
        for i in range(p * lanes, (p + 1) * lanes, LANES):
            gradient = (load(A, dy + i) - load(A, y + i) * mean) * factor
            store(A, dx + i, load(A, dx + i) + gradient if accumulate else gradient)


@kernel(F, INT, INT, INT)
def copy(A, y, x, count):
    for i in range(0, count, LANES):
        store(A, y + i, load(A, x + i))


@kernel(F, INT, INT, INT, INT)
def relu(A, y, x, count, squared):
    """y = max(x, 0), or its square; x keeps max(x, 0) for the way back"""
    for i in range(0, count, LANES):
        value = load(A, x + i)
        value = where_positive(value, value)
        store(A, x + i, value)
        if squared:
            store(A, y + i, value * value)


@kernel(F, INT, INT, INT, INT)
def relu_backward(A, dx, x, count, squared):
    """dx becomes what it was times the slope: 1 or, squared, 2 x, where x > 0, and 0 elsewhere"""
    for i in range(0, count, LANES):
        gradient, value = load(A, dx + i), load(A, x + i)
        if squared:
            gradient = gradient * value * 2.0
        store(A, dx + i, where_positive(value, gradient))


@kernel(F, INT, INT, INT, I64, INT, F, DOUBLE, returns=DOUBLE)
def cross_entropy(A, logits, lanes, sums, targets, rows, padding, weight):
    """sum_p -log softmax(logits[p, :])[target_p]; logits become their gradient: weight (softmax - one_hot).

    A row whose target is negative is not asked for: it adds nothing, and its gradient is 0.
    `padding` is added to a row's last vector: 0 for a token, -1e30 for a lane behind the vocabulary. `sums` is scratch
    for a number a row. In phases of short steps, as attention is.
    """
    total, product = 0.0, 1.0
    for p in range(rows):
        row, last = logits + p * lanes, logits + (p + 1) * lanes - LANES
        store(A, last, load(A, last) + load(padding, 0))
        largest = load(A, last)
        for i in range(row, last, LANES):
            largest = maximum(load(A, i), largest)
        put(A, sums + p, lane(largest_lane(largest), 0))
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
        put(A, sums + p, lane(slot_sum(normalizer, 16), 0))
    for p in range(rows):
        if get(targets, p) >= 0:
            product *= get(A, sums + p)
        else:
            put(A, sums + p, math.inf)  # and so a factor of 0
        if p % ROWS_A_LOGARITHM == ROWS_A_LOGARITHM - 1:  # the logarithm of a product is cheaper than their sum
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
