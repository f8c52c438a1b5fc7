"""Decoding with a KV cache: the next token's logits are computed from the keys and values of earlier positions.

The rows of a pass are single positions of different texts, or consecutive positions of one text. Each text has a slot
in the cache, which contains the key and value of every position: (slots, n_layer, block, 2 head_lanes). Other arguments
are the same as in forward_backward.py.
"""

import math

from microgpt.engines.native.kernels.attention import exponentiate, mix, normalize, score
from microgpt.engines.native.kernels.declaration import Floats, Int64s, LayoutRecord, entry, kernel
from microgpt.engines.native.kernels.forward_backward import (
    embed_tokens,
    output_logits,
    project_out_and_mlp,
    project_qkv,
)
from microgpt.engines.native.kernels.simd.vector import LANES, get, load, offset, store
from microgpt.engines.native.layout import QUERY_TILE


@kernel
def store_keys_and_values(A: Floats, cache: Floats, layer: int, positions: Int64s, slots: Int64s, rows: int,
                          z: LayoutRecord):  # fmt: skip
    a, qkv = z.head_lanes, layer * z.a_layer + z.qkv_rows
    for r in range(rows):
        own = ((get(slots, r) * z.n_layer + layer) * z.block + get(positions, r)) * 2 * a
        for i in range(0, 2 * a, LANES):
            store(cache, own + i, load(A, qkv + r * 3 * a + a + i))


@kernel
def cached_attention(A: Floats, cache: Floats, layer: int, positions: Int64s, slots: Int64s, rows: int,
                     z: LayoutRecord):  # fmt: skip
    """Attention of each row's query to its text's positions up to its own, computed in phases as in `attention`"""
    a, group, scale = z.head_lanes, z.slot_vectors * LANES, 1.0 / math.sqrt(z.embd / z.heads)
    s, weights, s_row = layer * z.a_layer, z.scratch + QUERY_TILE * LANES, z.block * LANES
    slot_size = z.n_layer * z.block * 2 * a
    first = layer * z.block * 2 * a
    for begin in range(0, rows, QUERY_TILE):
        end = min(begin + QUERY_TILE, rows)
        for f in range(0, a, group):
            for r in range(begin, end):
                score(A, s + z.qkv_rows + r * 3 * a + f, cache, get(slots, r) * slot_size + first + f, 2 * a,
                      weights + (r - begin) * s_row, z.scratch + (r - begin) * LANES, get(positions, r) + 1,
                      z.slot_vectors, z.slot_width, scale)  # fmt: skip
            for r in range(begin, end):
                exponentiate(A, weights + (r - begin) * s_row, z.scratch + (r - begin) * LANES, get(positions, r) + 1)
            for r in range(begin, end):
                normalize(A, weights + (r - begin) * s_row, z.scratch + (r - begin) * LANES, get(positions, r) + 1)
            for r in range(begin, end):
                mix(A, s + z.attended + r * a + f, cache, get(slots, r) * slot_size + first + a + f, 2 * a,
                    weights + (r - begin) * s_row, get(positions, r) + 1, z.slot_vectors)  # fmt: skip


@kernel
def read_table(A: Floats, cache: Floats, tokens: Int64s, positions: Int64s, rows: int, z: LayoutRecord):
    """x, q, k and v of the first layer, read from a table, because they depend only on token and position"""
    e, qkv = z.embd_lanes, 3 * z.head_lanes
    for r in range(rows):
        row = z.table + (get(tokens, r) * z.block + get(positions, r)) * (e + qkv)
        for i in range(0, e, LANES):
            store(A, z.x + r * e + i, load(cache, row + i))
        for i in range(0, qkv, LANES):
            store(A, z.qkv_rows + r * qkv + i, load(cache, row + e + i))


@entry
def decode(P: Floats, T: Floats, A: Floats, cache: Floats, model: int, ids: Int64s, stride: int, rows: int,
           z: LayoutRecord):  # fmt: skip
    """Logits of every row after its token. ids contains tokens, positions and slots, `stride` elements apart."""
    p, t = offset(P, model * z.size), offset(T, model * z.t_size)
    positions, slots = offset(ids, stride), offset(ids, 2 * stride)
    if z.table >= 0:
        read_table(A, cache, ids, positions, rows, z)
    else:
        embed_tokens(p, A, ids, positions, rows, z)
    for layer in range(z.n_layer):
        if layer > 0 or z.table < 0:
            project_qkv(p, t, A, positions, layer, rows, z)
        store_keys_and_values(A, cache, layer, positions, slots, rows, z)
        cached_attention(A, cache, layer, positions, slots, rows, z)
        project_out_and_mlp(p, t, A, layer, rows, z)
    output_logits(p, t, A, rows, z)
