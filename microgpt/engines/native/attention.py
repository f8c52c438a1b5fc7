"""Causal attention with the features of a position in the lanes: softmax(q k^T / sqrt(head_dim)) v, head by head.

A position's queries, keys and values are rows of vectors. Heads of up to 16 features lie side by side in a vector,
each in a slot of `width` lanes (the next power of two), and are computed at once: a sum over a slot leaves every lane
with its own head's score. A larger head takes several vectors (`span`), and width is 16. Lanes that no feature uses are
zero and stay so.

Queries come in tiles, and a tile is computed in phases, each a loop of short independent steps: that keeps a processor
busy that would otherwise wait for one query's sums.
"""

from microgpt.engines.native.kernel_cache import DOUBLE, I64, INT, F, kernel
from microgpt.engines.native.simd.exp import exp2
from microgpt.engines.native.simd.lanes import slot_sum
from microgpt.engines.native.simd.types import LANES, fma, get, load, maximum, splat, store

TILE = 16  # queries
LOG2_E = 1.4426950408889634


@kernel(F, INT, F, INT, INT, INT, INT, INT, INT, INT, DOUBLE, inline=True)
def score(A, q, K, k, k_row, s, largest, count, span, width, scale):
    """s[j] = log2(e) scale q k_j for one query and keys j < count, and the largest of them."""
    maxima = splat(A, -1e30)
    for j in range(count):
        products = splat(A, 0.0)
        for i in range(0, span * LANES, LANES):
            products = fma(load(A, q + i), load(K, k + j * k_row + i), products)
        scores = slot_sum(products, width) * (scale * LOG2_E)
        store(A, s + j * LANES, scores)
        maxima = maximum(scores, maxima)
    store(A, largest, maxima)


@kernel(F, INT, INT, INT, inline=True)
def exponentiate(A, s, largest, count):
    """s[j] becomes 2^(s[j] - largest), and what was the largest 1 / sum_j s[j]."""
    maxima, total = load(A, largest), splat(A, 0.0)
    for j in range(s, s + count * LANES, LANES):
        e = exp2(load(A, j) - maxima)
        store(A, j, e)
        total = total + e
    store(A, largest, splat(A, 1.0) / total)


@kernel(F, INT, INT, INT, inline=True)
def normalize(A, s, factor, count):
    """s[j] *= factor"""
    for j in range(s, s + count * LANES, LANES):
        store(A, j, load(A, j) * load(A, factor))


@kernel(F, INT, F, INT, INT, INT, INT, INT, inline=True)
def mix(A, o, V, v, v_row, s, count, span):
    """o = sum_j s[j] v_j for one query and keys j < count"""
    for i in range(0, span * LANES, LANES):
        mixed = splat(A, 0.0)
        for j in range(count):
            mixed = fma(load(A, s + j * LANES), load(V, v + j * v_row + i), mixed)
        store(A, o + i, mixed)


@kernel(F, INT, INT, INT, INT, INT, INT, INT, INT, INT, INT, DOUBLE)
def probabilities(A, q, k, row, s, s_row, scratch, first, queries, span, width, scale):
    """s[t, j] = softmax_j(scale q_t k_j) over keys j <= first + t, for the queries t of a tile that begins at `first`.

    q and k point at the tile's first query and the document's first key; rows of both are `row` apart.
    """
    for t in range(queries):
        score(A, q + t * row, A, k, row, s + t * s_row, scratch + t * LANES, first + t + 1, span, width, scale)
    for t in range(queries):
        exponentiate(A, s + t * s_row, scratch + t * LANES, first + t + 1)
    for t in range(queries):
        normalize(A, s + t * s_row, scratch + t * LANES, first + t + 1)


@kernel(F, INT, INT, INT, INT, INT, INT, I64, INT, INT, INT, INT, DOUBLE)
def attention(A, qkv, out, kept, keeps, scratch, block, begins, documents, features, span, width, scale):
    """out[p, :] for every position p of every document d, whose rows are begins[d] to before begins[d + 1].

    A row of qkv is q, k, v of `features` lanes each. With `keeps` the probabilities stay at `kept` for the way back,
    `block` vectors for every position and every vector or head; without, they are computed there once more.
    """
    row, step = 3 * features, span * LANES
    probs = scratch + 2 * TILE * LANES
    for d in range(documents):
        begin, end = get(begins, d), get(begins, d + 1)
        for f in range(0, features, step):
            keys = qkv + begin * row + features + f
            for p in range(begin, end, TILE):
                queries = min(TILE, end - p)
                s = kept + (p * features // step + f // step) * block * LANES if keeps else probs
                s_row = features // step * block * LANES if keeps else block * LANES
                probabilities(
                    A, qkv + p * row + f, keys, row, s, s_row, scratch, p - begin, queries, span, width, scale
                )
                for t in range(queries):
                    o = out + (p + t) * features + f
                    mix(A, o, A, keys + features, row, s + t * s_row, p - begin + t + 1, span)


@kernel(F, INT, INT, INT, INT, INT, INT, INT, INT, INT, INT, INT, INT, INT, INT, INT, INT, INT, DOUBLE)
def tile_backward(A, q, dq, k, dk, v, row, o, do, o_row, s, s_row, ds, ds_row, first, queries, span, width, scale):
    """dq of a tile's queries, and what they add to dk and dv (as far behind dk as v behind k).

    ds = p (do v - do o) scale; dq_t = sum_j ds_tj k_j; dk_j += sum_t ds_tj q_t; dv_j += sum_t p_tj do_t.
    """
    for t in range(queries):
        products = splat(A, 0.0)
        for i in range(0, span * LANES, LANES):
            products = fma(load(A, do + t * o_row + i), load(A, o + t * o_row + i), products)
        mean = slot_sum(products, width)
        for j in range(first + t + 1):
            gains = splat(A, 0.0)
            for i in range(0, span * LANES, LANES):
                gains = fma(load(A, do + t * o_row + i), load(A, v + j * row + i), gains)
            p = load(A, s + t * s_row + j * LANES)
            store(A, ds + t * ds_row + j * LANES, p * (slot_sum(gains, width) - mean) * scale)
    for i in range(0, span * LANES, LANES):
        for t in range(queries):
            total = splat(A, 0.0)
            for j in range(first + t + 1):
                total = fma(load(A, ds + t * ds_row + j * LANES), load(A, k + j * row + i), total)
            store(A, dq + t * row + i, total)
        for j in range(first + queries):
            key, value = load(A, dk + j * row + i), load(A, dk + v - k + j * row + i)
            for t in range(max(0, j - first), queries):
                key = fma(load(A, ds + t * ds_row + j * LANES), load(A, q + t * row + i), key)
                value = fma(load(A, s + t * s_row + j * LANES), load(A, do + t * o_row + i), value)
            store(A, dk + j * row + i, key)
            store(A, dk + v - k + j * row + i, value)


@kernel(F, INT, INT, INT, INT, INT, INT, INT, INT, I64, INT, INT, INT, INT, DOUBLE)
def attention_backward(A, qkv, dqkv, out, dout, kept, keeps, scratch, block, begins, documents, features, span, width,
                       scale):  # fmt: skip
    """dqkv[p, :] from dout[p, :], for every position of every document; layout as in `attention`."""
    row, step = 3 * features, span * LANES
    ds = scratch + 2 * TILE * LANES
    probs = ds + TILE * block * LANES
    for p in range(get(begins, 0) * row, get(begins, documents) * row, LANES):
        store(A, dqkv + p, splat(A, 0.0))
    for d in range(documents):
        begin, end = get(begins, d), get(begins, d + 1)
        for f in range(0, features, step):
            k, dk = qkv + begin * row + features + f, dqkv + begin * row + features + f
            for p in range(begin, end, TILE):
                queries, first = min(TILE, end - p), p - begin
                q = qkv + p * row + f
                s = kept + (p * features // step + f // step) * block * LANES if keeps else probs
                s_row = features // step * block * LANES if keeps else block * LANES
                if not keeps:
                    probabilities(A, q, k, row, s, s_row, scratch, first, queries, span, width, scale)
                tile_backward(A, q, dqkv + p * row + f, k, dk, k + features, row, out + p * features + f,
                              dout + p * features + f, features, s, s_row, ds, block * LANES, first, queries, span,
                              width, scale)  # fmt: skip
