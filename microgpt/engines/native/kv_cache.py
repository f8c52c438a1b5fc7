"""The KV cache, and the decoders that use it (kernels/decoding.py)."""

import sys
from collections.abc import Sequence

import numpy as np

from microgpt.engines.base import Choices
from microgpt.engines.native.layout import Layout, layout_of, layout_record
from microgpt.engines.native.machine_code import Kernels
from microgpt.engines.native.weights import Weights, aligned, workspace

MIN_ROWS = 64  # minimum number of rows in a batch decoder's pass
COMPENSATED_SUM = int(sys.version_info >= (3, 12))  # since Python 3.12, `sum` of floats uses Neumaier's method


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
        ids, rows = np.array([*tokens, *positions, *slots], np.int64), len(tokens)
        w = self.weights
        w.kernels.decode(
            w.parameters, w.transposed, self.activations, self.cache, self.replica, ids, rows, rows, self.record
        )
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
        return choose(
            b.weights.kernels, b.activations, b.first_logit, b.logit_stride, vocab, rows, uniforms, temperatures, top_k
        )


def choose(
    kernels: Kernels,
    activations: np.ndarray,
    logits: int,
    stride: int,
    vocab: int,
    rows: Sequence[int],
    uniforms: Sequence[float],
    temperatures: Sequence[float],
    top_k: Sequence[int | None],
) -> Choices:
    """See base.ChoosesTokens; the logits of row r begin at activations[logits + r * stride]."""
    probs, tokens = np.empty(len(rows) * vocab), np.empty(len(rows), np.int64)
    kernels.choose_tokens(
        activations, logits, stride, vocab, np.array(rows, np.int64), len(rows), np.array(uniforms, np.float64),
        np.array(temperatures, np.float64), np.array([min(k or vocab, vocab) for k in top_k], np.int64), -1.0,
        COMPENSATED_SUM, probs, tokens,
    )  # fmt: skip
    return Choices(tokens.tolist(), probs.reshape(len(rows), vocab))
