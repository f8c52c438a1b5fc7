"""Where the native kernels keep a model's numbers: rows of whole vectors, heads in slots, zeros in between.

All offsets and widths count numbers, not bytes.
"""

from typing import NamedTuple

import numba
import numpy as np

from microgpt.engines.native.attention import TILE
from microgpt.engines.native.simd.types import LANES
from microgpt.model.spec import ModelSpec

KEEPING_BLOCK = 64  # up to this block size attention's probabilities are kept; they grow with its square


def whole(count: int) -> int:
    """The next multiple of a vector's lanes."""
    return -(-count // LANES) * LANES


class Layout(NamedTuple):
    """A model's sizes, and offsets into its arrays. A layer's offsets are from the layer's beginning."""

    n_layer: int
    embd: int  # features of the residual stream, without padding
    hidden: int  # features of the MLP
    heads: int
    vocab: int
    block: int
    embd_lanes: int  # the same with padding
    hidden_lanes: int
    vocab_lanes: int
    head_lanes: int  # of all heads' slots together: the width of q, of k and of v
    span: int  # vectors of a head, where it takes more than one
    width: int  # lanes of a head's slot in a vector
    squared: int  # whether the activation is relu squared
    keeps: int  # whether the probabilities of attention are kept for the way back
    normed: int  # whether there is a norm on the summed embedding
    # Parameters: matrices (outputs, inputs) as rows of inputs
    wte: int
    wpe: int  # -1: none
    lm_head: int  # wte where tied
    decayed: int  # from here on weight decay applies
    layers: int
    layer: int  # size of one
    qkv: int
    wo: int
    fc1: int
    fc2: int
    size: int  # of all parameters
    # Transposed copies: rows of outputs
    t_lm_head: int
    t_layers: int
    t_size: int
    # Workspace: `rows` rows of each; a layer's own parts, then what all layers share
    rows: int
    w_layer: int
    x: int
    scale1: int
    n1: int
    qkv_rows: int
    kept: int  # probabilities of attention, where they are kept
    attended: int
    mid: int
    scale2: int
    n2: int
    pre: int
    act: int
    embedded: int
    scale0: int
    last: int
    logits: int
    dx: int
    dn: int
    dhidden: int
    dqkv: int
    dattended: int
    sums: int
    scratch: int
    w_size: int


# In a kernel a layout is a record: passed as one pointer, its fields by name.
DTYPE = np.dtype([(field, np.int64) for field in Layout._fields])
LAYOUT = numba.from_dtype(DTYPE)


def layout_of(spec: ModelSpec, rows: int) -> Layout:
    """The layout of a model whose workspace has room for `rows` positions at once; parameters do not depend on it."""
    embd, hidden, vocab, block = spec.n_embd, 4 * spec.n_embd, spec.vocab_size, spec.block_size
    gpt = spec.kind == "gpt"
    e, f, v = whole(embd), whole(hidden), whole(vocab)
    head_dim = spec.head_dim
    slot = 1 << (head_dim - 1).bit_length() if head_dim <= LANES else whole(head_dim)
    a = whole(spec.n_head * slot)
    capacity, rows = rows, rows + 4  # products are computed for up to 3 rows more than there are (matmul.py)
    offset = 0

    def take(count: int) -> int:
        nonlocal offset
        offset += count
        return offset - count

    def section(**counts: int) -> dict[str, int]:
        nonlocal offset
        offset = 0
        return {name: take(whole(count)) for name, count in counts.items()}

    layer = section(qkv=3 * a * e, wo=e * a, fc1=f * e, fc2=e * f)
    layer_size = offset
    parameters = section(wte=v * e, wpe=whole(block) * e if gpt else 0, lm_head=0 if spec.tie_lm_head else v * e,
                         layers=spec.n_layer * layer_size)  # fmt: skip
    size = offset
    transposed = section(t_lm_head=e * v, t_layers=spec.n_layer * layer_size)
    t_size = offset
    keeps = block <= KEEPING_BLOCK
    squared = spec.activation == "relu_squared"
    span = max(1, slot // LANES)
    own = section(
        x=rows * e, scale1=rows, n1=rows * e, qkv_rows=rows * 3 * a, kept=rows * (a // span) * block if keeps else 0,
        attended=rows * a, mid=rows * e, scale2=rows, n2=rows * e, pre=rows * f, act=rows * f if squared else 0,
    )  # fmt: skip
    w_layer = offset
    if not squared:
        own["act"] = own["pre"]
    shared = section(
        all_layers=spec.n_layer * w_layer, embedded=rows * e, scale0=rows, last=rows * e, logits=rows * v, dx=rows * e,
        dn=rows * e, dhidden=rows * f, dqkv=rows * 3 * a, dattended=rows * a, sums=rows,
        scratch=2 * (block + 1) * TILE * LANES,
    )  # fmt: skip
    del shared["all_layers"]
    w_size = offset
    if not gpt:
        parameters["wpe"] = -1
    decayed = parameters["lm_head"]
    if spec.tie_lm_head:
        parameters["lm_head"] = parameters["wte"]
    return Layout(
        n_layer=spec.n_layer, embd=embd, hidden=hidden, heads=spec.n_head, vocab=vocab, block=block, embd_lanes=e,
        hidden_lanes=f, vocab_lanes=v, head_lanes=a, span=span, width=min(slot, LANES), squared=int(squared),
        normed=int(spec.input_rmsnorm), keeps=int(keeps), decayed=decayed, layer=layer_size, size=size, t_size=t_size,
        rows=capacity, w_layer=w_layer, w_size=w_size, **parameters, **layer, **transposed, **own, **shared,
    )  # fmt: skip


def record(values: NamedTuple, dtype: np.dtype) -> np.record:
    """A named tuple as what a kernel takes."""
    return np.rec.array([tuple(values)], dtype=dtype)[0]
