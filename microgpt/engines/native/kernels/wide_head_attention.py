"""Causal attention and its gradient for heads of one or more whole vectors, computed with matmul.py.

attention.py is for heads that share a vector. Here, the lanes of a query's scores correspond to keys, so that a vector
exponential covers 16 keys. For one head of one document of T positions, with D lanes in the head:

    S = Q K^T            (T, T lanes)   from a transposed copy of the keys, (D, T lanes)
    P = softmax(scale S)                in place; 0 for later keys
    O = P V              (T, D)
    dS = scale P (dO V^T - rows(dO O))  rows(dO O): the sum of dO O over the lanes of each query
    dQ = dS K, dK = dS^T Q, dV = P^T dO

Queries are processed in tiles of TILE, with the keys up to the end of the tile; in dK and dV, keys are processed in
tiles in the same way.

A product computes up to 3 extra rows (matmul.py). The extra rows belong to positions that are computed later, or follow
the last position: documents, tiles and rows are computed in ascending order, and every row is written before it is
read.

    q, k, v, o     offsets of the head in the first row of the document; rows of q, k and v are `row` elements apart
    s, ds          P and dS, with rows `s_row` elements apart
    turned         transposed copy of k or v
    length         T
"""

import math

from numba.extending import register_jitable

from microgpt.engines.native.kernels.declaration import Floats, Int64s, LayoutRecord, kernel
from microgpt.engines.native.kernels.matmul import multiply, transpose
from microgpt.engines.native.kernels.simd.exp import LOG2_E, exp2
from microgpt.engines.native.kernels.simd.lanes import horizontal_max, keep_first, slot_sum
from microgpt.engines.native.kernels.simd.vector import LANES, fma, get, load, maximum, splat, store, where_positive

TILE = 48  # number of queries computed together, all with the keys up to the last query of the tile


@kernel
def softmax_rows(A: Floats, s: int, s_row: int, first: int, queries: int, vectors: int, scale: float):
    """s[t, j] = softmax_j(scale s[t, j]) over keys j <= first + t, 0 for later keys; a row has `vectors` vectors."""
    factor = scale * LOG2_E
    for t in range(queries):
        row, count = s + t * s_row, first + t + 1
        whole = count // LANES * LANES
        last, rest = row + whole, count - whole
        maxima = splat(A, -1e30)
        for i in range(row, last, LANES):
            maxima = maximum(load(A, i), maxima)
        if rest > 0:
            maxima = maximum(keep_first(load(A, last), rest, -1e30), maxima)
        largest, total = splat(A, horizontal_max(maxima)), splat(A, 0.0)
        for i in range(row, last, LANES):
            e = exp2((load(A, i) - largest) * factor)
            store(A, i, e)
            total = total + e
        if rest > 0:
            e = keep_first(exp2((load(A, last) - largest) * factor), rest, 0.0)
            store(A, last, e)
            total = total + e
        inverse = splat(A, 1.0) / slot_sum(total, 16)
        end = row + (count + LANES - 1) // LANES * LANES
        for i in range(row, end, LANES):
            store(A, i, load(A, i) * inverse)
        for i in range(end, row + vectors * LANES, LANES):
            store(A, i, splat(A, 0.0))


@kernel
def head_weights(A: Floats, q: int, row: int, turned: int, turned_row: int, s: int, s_row: int, lanes: int, first: int,
                 queries: int, scale: float):  # fmt: skip
    """P of the queries of a tile that begins at position `first` of the document, from the transposed keys"""
    vectors = (first + queries + LANES - 1) // LANES
    multiply(A, s, s_row, A, q, row, 1, A, turned, turned_row, queries, lanes, vectors, 0)
    softmax_rows(A, s, s_row, first, queries, vectors, scale)


@register_jitable
def kept_weights(layer, p, f, z):
    """Offset of P for the query in row p and the head at lane f, and the distance between its rows, if kept"""
    lanes = z.slot_vectors * LANES
    row = z.head_lanes // lanes * z.block_lanes
    return layer + z.attention + p * row + f // lanes * z.block_lanes, row


@kernel
def head_attention(A: Floats, layer: int, begins: Int64s, documents: int, z: LayoutRecord):
    """attended[p, :] of one layer, for every position p of every document; arguments as in attention.attention."""
    a, lanes, scale = z.head_lanes, z.slot_vectors * LANES, 1.0 / math.sqrt(z.embd / z.heads)
    qkv, row, kept = layer + z.qkv_rows, 3 * a, z.keeps_attention
    for d in range(documents):
        begin, length = get(begins, d), get(begins, d + 1) - get(begins, d)
        padded = (length + LANES - 1) // LANES * LANES
        for f in range(0, a, lanes):
            q, out = qkv + begin * row + f, layer + z.attended + begin * a + f
            transpose(A, q + a, row, A, z.turned, padded, padded, lanes)
            for first in range(0, length, TILE):
                queries = min(TILE, length - first)
                s, s_row = kept_weights(layer, begin + first, f, z) if kept else (z.scores, padded)
                head_weights(A, q + first * row, row, z.turned, padded, s, s_row, lanes, first, queries, scale)
                multiply(A, out + first * a, a, A, s, s_row, 1, A, q + 2 * a, row, queries, first + queries,
                         z.slot_vectors, 0)  # fmt: skip


@kernel
def head_attention_backward(A: Floats, layer: int, begins: Int64s, documents: int, z: LayoutRecord):
    """dqkv[p, :] from dattended[p, :], for every position of every document"""
    a, lanes, scale = z.head_lanes, z.slot_vectors * LANES, 1.0 / math.sqrt(z.embd / z.heads)
    qkv, row, kept, ds = layer + z.qkv_rows, 3 * a, z.keeps_attention, z.dscores
    for d in range(documents):
        begin, length = get(begins, d), get(begins, d + 1) - get(begins, d)
        padded = (length + LANES - 1) // LANES * LANES
        for f in range(0, a, lanes):
            q, dq = qkv + begin * row + f, z.dqkv + begin * row + f
            out, dout = layer + z.attended + begin * a + f, z.dattended + begin * a + f
            s, s_row = kept_weights(layer, begin, f, z) if kept else (z.scores, padded)
            if not kept:
                transpose(A, q + a, row, A, z.turned, padded, padded, lanes)
                for first in range(0, length, TILE):
                    head_weights(A, q + first * row, row, z.turned, padded, s + first * s_row, s_row, lanes, first,
                                 min(TILE, length - first), scale)  # fmt: skip
            transpose(A, q + 2 * a, row, A, z.turned, padded, padded, lanes)
            for first in range(0, length, TILE):
                queries = min(TILE, length - first)
                end = first + queries
                tile, vectors = ds + first * padded, (end + LANES - 1) // LANES
                multiply(A, tile, padded, A, dout + first * a, a, 1, A, z.turned, padded, queries, lanes, vectors, 0)
                for t in range(first, end):
                    products = splat(A, 0.0)
                    for i in range(t * a, t * a + lanes, LANES):
                        products = fma(load(A, dout + i), load(A, out + i), products)
                    mean = slot_sum(products, 16)
                    for i in range(0, vectors * LANES, LANES):
                        weight, gain = load(A, s + t * s_row + i), load(A, ds + t * padded + i)
                        store(A, ds + t * padded + i, where_positive(weight, weight * (gain - mean) * scale))
                multiply(A, dq + first * row, row, A, tile, padded, 1, A, q + a, row, queries, end, z.slot_vectors, 0)
            for first in range(0, length, TILE):
                keys, later = min(TILE, length - first), length - first
                x, dkey = first * padded + first, dq + a + first * row
                multiply(A, dkey, row, A, ds + x, 1, padded, A, q + first * row, row, keys, later, z.slot_vectors, 0)
                multiply(A, dkey + a, row, A, s + first * s_row + first, 1, s_row, A, dout + first * a, a, keys, later,
                         z.slot_vectors, 0)  # fmt: skip
