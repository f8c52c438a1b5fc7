"""Decoding with a KV cache: the next token's logits are computed from the keys and values of earlier positions.

The rows of a pass are single positions of different texts, or consecutive positions of one text. Each text has a slot
in the cache, which contains the key and value of every position: (slots, n_layer, block, 2 head_lanes). Other arguments
are the same as in forward_backward.py.
"""

import math
from collections.abc import Sequence

import numpy as np

from microgpt.engines.base import Choices
from microgpt.engines.native.attention import exponentiate, mix, normalize, score
from microgpt.engines.native.forward_backward import embed_tokens, output_logits, project_out_and_mlp, project_qkv
from microgpt.engines.native.kernels import FloatArray, Floats, Int64Array, Int64s, kernel
from microgpt.engines.native.layout import QUERY_TILE, Layout, LayoutRecord, layout_of, layout_record
from microgpt.engines.native.sampling_kernels import choose
from microgpt.engines.native.simd.vector import LANES, get, load, offset, pointer, store
from microgpt.engines.native.weights import Weights, aligned, workspace

MIN_ROWS = 64  # minimum number of rows in a batch decoder's pass


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


@kernel
def decode(P: FloatArray, T: FloatArray, A: FloatArray, cache: FloatArray, model: int, ids: Int64Array, stride: int,
           rows: int, z: LayoutRecord):  # fmt: skip
    """Logits of every row after its token. ids contains tokens, positions and slots, `stride` elements apart."""
    p, t, a, kept = pointer(P, model * z.size), pointer(T, model * z.t_size), pointer(A, 0), pointer(cache, 0)
    tokens = pointer(ids, 0)
    positions, slots = offset(tokens, stride), offset(tokens, 2 * stride)
    if z.table >= 0:
        read_table(a, kept, tokens, positions, rows, z)
    else:
        embed_tokens(p, a, tokens, positions, rows, z)
    for layer in range(z.n_layer):
        if layer > 0 or z.table < 0:
            project_qkv(p, t, a, positions, layer, rows, z)
        store_keys_and_values(a, kept, layer, positions, slots, rows, z)
        cached_attention(a, kept, layer, positions, slots, rows, z)
        project_out_and_mlp(p, t, a, layer, rows, z)
    output_logits(p, t, a, rows, z)


class DecodingBuffers:
    """A cache with `slots` slots, and the workspace for passes of up to `rows` rows, for one model.

    With `tabulates`, a table after the cache contains the first layer's x, q, k and v for each token and position,
    computed with the current weights.
    """

    def __init__(self, weights: Weights, replica: int, rows: int, slots: int, tabulates: bool = False):
        self.weights, self.replica, self.layout = weights, replica, layout_of(weights.spec, rows)
        layout = self.layout
        size = slots * layout.n_layer * layout.block * 2 * layout.head_lanes
        self.activations = workspace(weights.spec, layout, weights.dtype)
        self.cache = aligned(size + (table_size(layout) if tabulates else 0), weights.dtype)
        self.record = layout_record(layout._replace(table=size) if tabulates else layout)
        self.first_logit, self.logit_stride = layout.logits, layout.vocab_lanes
        logits = self.activations[layout.logits : layout.logits + rows * layout.vocab_lanes]
        self.logits = logits.reshape(rows, layout.vocab_lanes)[:, : layout.vocab]
        if tabulates:
            self.cache[size:] = first_layer(weights, replica).ravel()

    def decode(self, tokens: Sequence[int], positions: Sequence[int], slots: Sequence[int]) -> np.ndarray:
        """Read one token per row with the current weights; return logits (rows, V)."""
        ids, rows = np.array([*tokens, *positions, *slots]), len(tokens)
        w = self.weights
        decode(w.parameters, w.transposed, self.activations, self.cache, self.replica, ids, rows, rows, self.record)
        return self.logits[:rows]


def table_size(layout: Layout) -> int:
    """Return the size of the table of the first layer."""
    return layout.vocab * layout.block * (layout.embd_lanes + 3 * layout.head_lanes)


def first_layer(weights: Weights, replica: int) -> np.ndarray:
    """Return x, q, k and v of the first layer for each token and position: (vocab * block, lanes of a row)."""
    buffers = DecodingBuffers(weights, replica, MIN_ROWS, MIN_ROWS)
    layout, a = buffers.layout, buffers.activations
    e, qkv, pairs, found = layout.embd_lanes, 3 * layout.head_lanes, np.arange(layout.vocab * layout.block), []
    for some in np.split(pairs, range(MIN_ROWS, len(pairs), MIN_ROWS)):
        tokens, positions = np.divmod(some, layout.block)
        buffers.decode(tokens.tolist(), positions.tolist(), range(len(some)))
        x, rows = a[layout.x :][: len(some) * e], a[layout.qkv_rows :][: len(some) * qkv]
        found.append(np.hstack([x.reshape(-1, e), rows.reshape(-1, qkv)]))
    return np.concatenate(found)


class NativeDecoder:
    """See base.Decoder."""

    def __init__(self, weights: Weights, replica: int):
        self.buffers = DecodingBuffers(weights, replica, rows=1, slots=1)
        self.block_size, self.position = weights.spec.block_size, 0

    def feed(self, token: int) -> list[float]:
        if self.position == self.block_size:
            raise IndexError(f"position {self.position} is beyond block_size={self.block_size}")
        logits = self.buffers.decode((token,), (self.position,), (0,)).tolist()
        self.position += 1
        return logits[0]


class NativeBatchDecoder:
    """See base.BatchDecoder."""

    def __init__(self, weights: Weights, replica: int, slots: int):
        self.rows, self.block_size = max(MIN_ROWS, slots), weights.spec.block_size
        self.buffers = DecodingBuffers(weights, replica, self.rows, slots)

    def feed(self, slots: Sequence[int], positions: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
        if len(tokens) > self.rows:
            raise IndexError(f"a pass has {len(tokens)} rows, but at most {self.rows} fit")
        if max(positions) >= self.block_size:
            raise IndexError(f"position {max(positions)} is beyond block_size={self.block_size}")
        return self.buffers.decode(tokens, positions, slots)

    def choose(
        self,
        rows: Sequence[int],
        uniforms: Sequence[float],
        temperatures: Sequence[float],
        top_k: Sequence[int | None],
    ) -> Choices:
        """See base.ChoosesTokens."""
        b, vocab = self.buffers, self.buffers.logits.shape[1]
        return choose(b.activations, b.first_logit, b.logit_stride, vocab, rows, uniforms, temperatures, top_k)
