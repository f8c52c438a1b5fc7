"""Causal attention, softmax(scale q k^T) v with scale = 1 / sqrt(head_dim), for heads that share a vector.

The queries, keys and values of a position are rows of slots, one slot per head (layout.py). The heads of a vector are
computed at once: the horizontal sum over a slot leaves the head's score in all lanes of the slot. A `group` consists of
the slots that are computed together: one vector or, in decoding, the `vectors` vectors of one larger head (training of
such heads is in wide_head_attention.py). Lanes without a feature are zero and stay zero.

Queries are processed in tiles of 16. A tile is computed in phases, each of which is a loop of short independent steps;
otherwise the processor would wait for the horizontal sums of one query at a time.

    q, k, v, o     offsets of the first query, key, value and output of a group; dq, dk, dv, do: of their gradients
    s              offset of scores, which become attention weights: one vector per query and key
    t, j           index of a query in its tile, index of a key in its document
    width          number of lanes of a slot
"""

import math

from microgpt.engines.native.kernels.declaration import Floats, Int64s, LayoutRecord, inlined, kernel
from microgpt.engines.native.kernels.simd.exp import LOG2_E, exp2
from microgpt.engines.native.kernels.simd.lanes import slot_sum
from microgpt.engines.native.kernels.simd.vector import LANES, fma, get, load, maximum, splat, store
from microgpt.engines.native.layout import QUERY_TILE

# Parts of the forward pass that are also used for decoding, where keys and values come from a cache


@inlined
def score(A: Floats, q: int, K: Floats, k: int, k_row: int, s: int, largest: int, count: int, vectors: int, width: int,
          scale: float):  # fmt: skip
    """s[j] = log2(e) scale q k_j for one query and keys j < count; `largest` becomes their maximum."""
    maxima = splat(A, -1e30)
    for j in range(count):
        products = splat(A, 0.0)
        for i in range(0, vectors * LANES, LANES):
            products = fma(load(A, q + i), load(K, k + j * k_row + i), products)
        scores = slot_sum(products, width) * (scale * LOG2_E)
        store(A, s + j * LANES, scores)
        maxima = maximum(scores, maxima)
    store(A, largest, maxima)


@inlined
def exponentiate(A: Floats, s: int, largest: int, count: int):
    """s[j] = 2^(s[j] - largest); `largest` becomes 1 / sum_j s[j]."""
    maxima, total = load(A, largest), splat(A, 0.0)
    for j in range(s, s + count * LANES, LANES):
        e = exp2(load(A, j) - maxima)
        store(A, j, e)
        total = total + e
    store(A, largest, splat(A, 1.0) / total)


@inlined
def normalize(A: Floats, s: int, factor: int, count: int):
    """s[j] *= factor"""
    for j in range(s, s + count * LANES, LANES):
        store(A, j, load(A, j) * load(A, factor))


@inlined
def mix(A: Floats, o: int, V: Floats, v: int, v_row: int, s: int, count: int, vectors: int):
    """o = sum_j s[j] v_j for one query and keys j < count"""
    for i in range(0, vectors * LANES, LANES):
        mixed = splat(A, 0.0)
        for j in range(count):
            mixed = fma(load(A, s + j * LANES), load(V, v + j * v_row + i), mixed)
        store(A, o + i, mixed)


# Training and evaluation: all positions of whole documents


@inlined
def place_of_weights(layer: int, p: int, f: int, scratch: int, z: LayoutRecord) -> int:
    """Offset of the attention weights of the query in row p and the group at lane f, in the layer or in scratch"""
    kept = layer + z.attention + (p * z.head_lanes + f) * z.block
    return kept if z.keeps_attention else scratch


@inlined
def distance_of_weights(z: LayoutRecord) -> int:
    """Distance between the attention weights of consecutive queries"""
    return (z.head_lanes if z.keeps_attention else LANES) * z.block


@kernel
def attention_weights(A: Floats, q: int, k: int, row: int, s: int, s_row: int, scratch: int, first: int, queries: int,
                      width: int, scale: float):  # fmt: skip
    """s[t, j] = softmax_j(scale q_t k_j) over keys j <= first + t, for the queries t of a tile that begins at `first`.

    Rows of q and k are `row` elements apart, rows of s are `s_row` apart; `scratch` has one vector per query.
    """
    for t in range(queries):
        score(A, q + t * row, A, k, row, s + t * s_row, scratch + t * LANES, first + t + 1, 1, width, scale)
    for t in range(queries):
        exponentiate(A, s + t * s_row, scratch + t * LANES, first + t + 1)
    for t in range(queries):
        normalize(A, s + t * s_row, scratch + t * LANES, first + t + 1)


@kernel
def attention(A: Floats, layer: int, begins: Int64s, documents: int, z: LayoutRecord):
    """attended[p, :] of one layer, for every position p of every document d: rows begins[d] to begins[d + 1] - 1.

    `layer` is the offset of the layer in A. If the layout has space for the attention weights, they are stored in the
    layer for the backward pass; otherwise they are written to scratch, and the backward pass computes them again.
    """
    features, width = z.head_lanes, z.slot_width
    qkv, out, scale = layer + z.qkv_rows, layer + z.attended, 1.0 / math.sqrt(z.embd / z.heads)
    row, s_row = 3 * features, distance_of_weights(z)
    weights = z.scratch + 2 * QUERY_TILE * LANES
    for d in range(documents):
        begin, end = get(begins, d), get(begins, d + 1)
        for f in range(0, features, LANES):
            keys = qkv + begin * row + features + f
            for p in range(begin, end, QUERY_TILE):
                queries = min(QUERY_TILE, end - p)
                s = place_of_weights(layer, p, f, weights, z)
                attention_weights(
                    A, qkv + p * row + f, keys, row, s, s_row, z.scratch, p - begin, queries, width, scale
                )
                for t in range(queries):
                    o = out + (p + t) * features + f
                    mix(A, o, A, keys + features, row, s + t * s_row, p - begin + t + 1, 1)


@kernel
def tile_backward(A: Floats, q: int, dq: int, k: int, dk: int, v: int, row: int, o: int, do: int, o_row: int, s: int,
                  s_row: int, ds: int, ds_row: int, first: int, queries: int, width: int, scale: float):  # fmt: skip
    """dq of the queries of a tile, and the contributions of these queries to dk and dv, where dv = dk + v - k.

    ds = s (do v - do o) scale; dq_t = sum_j ds_tj k_j; dk_j += sum_t ds_tj q_t; dv_j += sum_t s_tj do_t.
    """
    for t in range(queries):
        gradient = load(A, do + t * o_row)
        mean = slot_sum(gradient * load(A, o + t * o_row), width)
        for j in range(first + t + 1):
            gain = slot_sum(gradient * load(A, v + j * row), width)
            store(A, ds + t * ds_row + j * LANES, load(A, s + t * s_row + j * LANES) * (gain - mean) * scale)
    for t in range(queries):
        total = splat(A, 0.0)
        for j in range(first + t + 1):
            total = fma(load(A, ds + t * ds_row + j * LANES), load(A, k + j * row), total)
        store(A, dq + t * row, total)
    for j in range(first + queries):
        key, value = load(A, dk + j * row), load(A, dk + v - k + j * row)
        for t in range(max(0, j - first), queries):
            key = fma(load(A, ds + t * ds_row + j * LANES), load(A, q + t * row), key)
            value = fma(load(A, s + t * s_row + j * LANES), load(A, do + t * o_row), value)
        store(A, dk + j * row, key)
        store(A, dk + v - k + j * row, value)


@kernel
def attention_backward(A: Floats, layer: int, begins: Int64s, documents: int, z: LayoutRecord):
    """dqkv[p, :] from dattended[p, :], for every position of every document; arguments as in `attention`."""
    features, width = z.head_lanes, z.slot_width
    qkv, out, scale = layer + z.qkv_rows, layer + z.attended, 1.0 / math.sqrt(z.embd / z.heads)
    dqkv, dout = z.dqkv, z.dattended
    row, s_row, ds_row = 3 * features, distance_of_weights(z), z.block * LANES
    ds = z.scratch + 2 * QUERY_TILE * LANES
    weights = ds + QUERY_TILE * ds_row
    for p in range(get(begins, 0) * row, get(begins, documents) * row, LANES):
        store(A, dqkv + p, splat(A, 0.0))
    for d in range(documents):
        begin, end = get(begins, d), get(begins, d + 1)
        for f in range(0, features, LANES):
            k, dk = qkv + begin * row + features + f, dqkv + begin * row + features + f
            for p in range(begin, end, QUERY_TILE):
                queries, first = min(QUERY_TILE, end - p), p - begin
                q = qkv + p * row + f
                s = place_of_weights(layer, p, f, weights, z)
                if not z.keeps_attention:
                    attention_weights(A, q, k, row, s, s_row, z.scratch, first, queries, width, scale)
                tile_backward(A, q, dqkv + p * row + f, k, dk, k + features, row, out + p * features + f,
                              dout + p * features + f, features, s, s_row, ds, ds_row, first, queries, width,
                              scale)  # fmt: skip
