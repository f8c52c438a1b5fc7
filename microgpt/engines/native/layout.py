"""Memory layout of a model in the kernels: sizes, and offsets into the flat arrays of parameters and activations.

Every row is padded with zeros to whole vectors of 16 lanes, so that kernels need no code for incomplete vectors. The
queries, keys and values of a position consist of slots, one for each head: up to 16 features lie in a slot of the next
power of two lanes, and several slots share a vector; a larger head has a slot of several vectors (attention.py).

Sizes and offsets count array elements.
"""

from typing import Annotated, Any, NamedTuple

import numba
import numpy as np

from microgpt.engines.base import implementation, refuse_options
from microgpt.engines.native.pointwise import ACTIVATIONS
from microgpt.engines.native.simd.vector import LANES
from microgpt.model.spec import ModelSpec

KINDS = ("gpt", "bigram")  # the kinds of model that forward_backward.py computes
# Options of model/spec.py that this engine does not compute yet
LACKING = (
    "position", "norm", "norm_eps", "norm_gain", "final_norm", "qk_norm", "bias", "gated_mlp", "mlp_width",
    "n_kv_head", "logit_softcap",
)  # fmt: skip
QUERY_TILE = 16  # queries that attention computes together
SPARE_ROWS = 4  # behind the rows of a workspace: a matrix product computes up to 3 rows too many (matmul.py)
KEPT_BLOCK_SIZE = 64  # up to it attention weights, which need memory of its square, are kept for the backward pass


class Layout(NamedTuple):
    """Sizes of a model and offsets into its arrays; offsets of a layer's parts count from the layer's beginning."""

    # Sizes
    n_layer: int
    embd: int  # features of the residual stream
    hidden: int  # features of the MLP
    heads: int
    vocab: int
    block: int
    embd_lanes: int  # the same with padding: a row of the residual stream,
    hidden_lanes: int  # of the MLP,
    vocab_lanes: int  # of the logits,
    head_lanes: int  # and of the slots of all heads: the width of q, of k and of v
    slot_vectors: int  # vectors of a head; 1 if heads share a vector
    slot_width: int  # lanes of a head in a vector
    activation: int  # code of the activation function (pointwise.py)
    input_rmsnorm: int  # 1: a norm on the summed embedding
    keeps_attention: int  # 1: attention weights are kept for the backward pass
    # Parameters: matrices (outputs, inputs), row major
    wte: int  # (vocab_lanes, embd_lanes)
    wpe: int  # (block, embd_lanes); -1: no position embedding
    lm_head: int  # (vocab_lanes, embd_lanes); wte if tied
    decayed: int  # weight decay applies from here on
    layers: int
    layer: int  # size of a layer
    qkv: int  # (3 head_lanes, embd_lanes): attn_wq, attn_wk, attn_wv
    wo: int  # (embd_lanes, head_lanes)
    fc1: int  # (hidden_lanes, embd_lanes)
    fc2: int  # (embd_lanes, hidden_lanes)
    size: int  # of all parameters
    # Transposed copies (inputs, outputs), each layer with the offsets of its parameters
    t_lm_head: int
    t_layers: int
    t_size: int
    # Activations: `rows` rows, one for each position. First those of each layer, kept for the backward pass
    rows: int
    a_layer: int  # size of a layer
    x: int  # (rows, embd_lanes): input of the layer
    scale1: int  # (rows,): 1 / rms(x), of the norm before attention
    norm1: int  # (rows, embd_lanes)
    qkv_rows: int  # (rows, 3 head_lanes): q, k, v
    attention: int  # attention weights if they are kept: `block` vectors for each row and group of slots
    attended: int  # (rows, head_lanes): output of attention before wo
    mid: int  # (rows, embd_lanes): residual stream between attention and MLP
    scale2: int
    norm2: int
    pre: int  # (rows, hidden_lanes): input of the activation function
    act: int  # (rows, hidden_lanes): its output; pre if it is computed in place
    # Then those that layers share
    embedded: int  # (rows, embd_lanes): summed embedding before its norm
    scale0: int
    last: int  # (rows, embd_lanes): output of the last layer
    logits: int  # (rows, vocab_lanes), then their gradient
    dx: int  # gradient of the residual stream
    dnorm: int
    dhidden: int
    dqkv: int
    dattended: int
    sums: int  # (rows,): a number for each row, of the loss or of a sampler
    scratch: int  # of attention, see there
    a_size: int


# Kernels take a layout as a record: one pointer, with fields by name.
DTYPE = np.dtype([(field, np.int64) for field in Layout._fields])
LayoutRecord = Annotated[Any, numba.from_dtype(DTYPE)]


def whole(count: int) -> int:
    """Round up to whole vectors."""
    return -(-count // LANES) * LANES


def section(**counts: int) -> tuple[dict[str, int], int]:
    """Place parts of whole vectors one after the other; return their offsets and the size of all."""
    offsets, size = {}, 0
    for name, count in counts.items():
        offsets[name] = size
        size += whole(count)
    return offsets, size


def layout_of(spec: ModelSpec, rows: int) -> Layout:
    """Return the layout of a model with a workspace for `rows` positions; that of parameters is the same for any."""
    refuse_options(spec, LACKING, "engines/native/layout.py and forward_backward.py")
    implementation(dict.fromkeys(KINDS), "model.kind", spec.kind, "KINDS in engines/native/layout.py")
    activation = implementation(
        ACTIVATIONS, "model.activation", spec.activation, "ACTIVATIONS in engines/native/pointwise.py"
    )
    vocab, block = spec.vocab_size, spec.block_size
    e, f, v = whole(spec.n_embd), whole(4 * spec.n_embd), whole(vocab)
    slot = 1 << (spec.head_dim - 1).bit_length() if spec.head_dim <= LANES else whole(spec.head_dim)
    slot_vectors = max(1, slot // LANES)
    a = whole(spec.n_head * slot)
    keeps_attention = block <= KEPT_BLOCK_SIZE

    layer, layer_size = section(qkv=3 * a * e, wo=e * a, fc1=f * e, fc2=e * f)
    parameters, size = section(
        wte=v * e, wpe=whole(block) * e if spec.has_position_embedding else 0,
        lm_head=0 if spec.tie_lm_head else v * e, layers=spec.n_layer * layer_size,
    )  # fmt: skip
    decayed = parameters["lm_head"]
    if spec.tie_lm_head:
        parameters["lm_head"] = parameters["wte"]
    if not spec.has_position_embedding:
        parameters["wpe"] = -1
    transposed, t_size = section(t_lm_head=e * v, t_layers=spec.n_layer * layer_size)

    n = rows + SPARE_ROWS
    of_layer, a_layer = section(
        x=n * e, scale1=n, norm1=n * e, qkv_rows=n * 3 * a,
        attention=n * (a // slot_vectors) * block if keeps_attention else 0, attended=n * a, mid=n * e, scale2=n,
        norm2=n * e, pre=n * f, act=0 if activation.in_place else n * f,
    )  # fmt: skip
    if activation.in_place:
        of_layer["act"] = of_layer["pre"]
    shared, a_size = section(
        all_layers=spec.n_layer * a_layer, embedded=n * e, scale0=n, last=n * e, logits=n * v, dx=n * e, dnorm=n * e,
        dhidden=n * f, dqkv=n * 3 * a, dattended=n * a, sums=n, scratch=2 * (block + 1) * QUERY_TILE * LANES,
    )  # fmt: skip
    del shared["all_layers"]
    return Layout(
        n_layer=spec.n_layer, embd=spec.n_embd, hidden=4 * spec.n_embd, heads=spec.n_head, vocab=vocab, block=block,
        embd_lanes=e, hidden_lanes=f, vocab_lanes=v, head_lanes=a, slot_vectors=slot_vectors,
        slot_width=min(slot, LANES), activation=activation.code, input_rmsnorm=int(spec.input_rmsnorm),
        keeps_attention=int(keeps_attention), decayed=decayed, layer=layer_size, size=size, t_size=t_size, rows=rows,
        a_layer=a_layer, a_size=a_size, **parameters, **layer, **transposed, **of_layer, **shared,
    )  # fmt: skip


def layout_record(layout: Layout) -> np.record:
    return np.rec.array([tuple(layout)], dtype=DTYPE)[0]
