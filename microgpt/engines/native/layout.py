"""Memory layout of a model in the kernels: sizes, and offsets into the flat arrays of parameters and activations.

Every row is padded with zeros to whole vectors of 16 lanes, so that kernels need no code for incomplete vectors. The
queries, keys and values of a position consist of slots, one per head. For up to 16 features, the slot size is the next
power of two, and several slots share a vector; a larger head has a slot of several vectors (attention.py). With rope,
which pairs the two halves of a head's features, these are in the two halves of the slot (attention_options.py).

Sizes and offsets count array elements.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from microgpt.engines.base import implementation
from microgpt.model.spec import ModelSpec

LANES = 16  # lanes of a vector
KINDS = ("gpt", "bigram")  # the kinds of model that forward_backward.py supports
POSITIONS = {"learned": False, "rope": True, "none": False}  # whether queries and keys are rotated
NORMS = {"rmsnorm": False, "layernorm": True}  # whether the mean is subtracted
RELU, RELU_SQUARED, GELU, GELU_TANH, SILU = range(5)  # codes of the activations in kernels/activations.py
ACTIVATIONS = {"relu": RELU, "relu_squared": RELU_SQUARED, "gelu": GELU, "gelu_tanh": GELU_TANH, "silu": SILU}
QUERY_TILE = 16  # number of queries that attention computes together
SPARE_ROWS = LANES  # rows after the end of a workspace that matrix products and transposed copies also read or write
KEPT_BLOCK_SIZE = 64  # largest block size for which attention weights (quadratic memory) are kept for the backward pass


class Layout(NamedTuple):
    """Sizes of a model and offsets into its arrays; offsets of a layer's parts are relative to the layer."""

    # Sizes
    n_layer: int
    embd: int  # features of the residual stream
    hidden: int  # hidden features of the MLP
    heads: int
    kv_heads: int  # key/value heads; each serves heads / kv_heads consecutive query heads
    vocab: int
    block: int
    block_lanes: int
    embd_lanes: int  # padded row of the residual stream
    hidden_lanes: int  # padded row of the MLP's hidden features
    vocab_lanes: int  # padded row of the logits
    head_lanes: int  # slots of all query heads: the width of q, and of k and v with one copy per query head
    kv_lanes: int  # slots of all key/value heads: the width of k and v in the parameters
    fc1_lanes: int  # outputs of fc1: hidden_lanes or, with a gated MLP, twice as many: gate, then fc1
    slot_vectors: int  # vectors per head; 1 if heads share a vector
    slot_width: int  # lanes of a head in a vector
    # Options
    activation: int  # code of the activation function (activations.py)
    gated: int  # 1: the MLP has a gate
    input_rmsnorm: int  # 1: a norm on the summed embedding
    centered: int  # 1: the norms of the blocks and the final norm subtract the mean
    final_norm: int
    qk_norm: int
    bias: int  # 1: the linear layers of the blocks have biases
    keeps_attention: int  # 1: attention weights are kept for the backward pass
    norm_eps: float
    logit_softcap: float  # 0: none
    # Parameters: matrices (outputs, inputs), row major
    wte: int  # (vocab_lanes, embd_lanes)
    wpe: int  # (block, embd_lanes); -1: no position embedding
    layer_vectors: int  # gains and biases, layer after layer
    lm_head: int  # (vocab_lanes, embd_lanes); wte if tied
    decayed: int  # weight decay applies from this offset on
    layers: int
    layer: int  # size of a layer
    qkv: int  # (head_lanes + 2 kv_lanes, embd_lanes): attn_wq, attn_wk, attn_wv
    wo: int  # (embd_lanes, head_lanes)
    fc1: int  # (fc1_lanes, embd_lanes): mlp_gate if there is one, mlp_fc1
    fc2: int  # (embd_lanes, hidden_lanes)
    size: int  # size of all parameters
    # Gains and biases, all before the matrices that decay
    final_vectors: int  # vectors of the final norm
    vectors: int  # size of a layer's gains and biases
    norm1_vectors: int  # vectors of the norm before attention
    norm2_vectors: int
    qkv_bias: int
    wo_bias: int
    fc1_bias: int
    fc2_bias: int
    gain: int  # offset of the gain in the vectors of a norm; -1: none
    shift: int  # offset of the bias in the vectors of a norm; -1: none
    # Transposed copies of the matrices (inputs, outputs) for the forward pass, layer after layer
    t_lm_head: int
    t_layers: int
    t_layer: int  # size of a layer
    t_qkv_bias: int  # (3 head_lanes,): as in t_qkv, with one copy of the bias of k and v per query head
    t_qkv: int  # (embd_lanes, 3 head_lanes): with one copy of the columns of k and v per query head
    t_wo: int
    t_fc1: int
    t_fc2: int
    t_size: int
    # Activations with `rows` rows, one per position. First the activations of each layer, kept for the backward pass
    rows: int
    a_layer: int  # size of a layer
    x: int  # (rows, embd_lanes): input of the layer
    scale1: int  # (rows,): 1 / rms(x) of the norm before attention
    norm1: int  # (rows, embd_lanes): output of the norm before attention
    qkv_rows: int  # (rows, 3 head_lanes): q, k, v
    attention: int  # attention weights, if kept; for each row, `block` vectors per group of slots, or block_lanes
    # elements per head of whole vectors
    attended: int  # (rows, head_lanes): output of attention before wo
    mid: int  # (rows, embd_lanes): residual stream between attention and MLP
    scale2: int
    norm2: int
    pre: int  # (rows, fc1_lanes): input of the activation function, later the factors of activations.py
    act: int  # (rows, hidden_lanes): input of fc2; equals pre if computed in place
    unit1: int  # (rows, embd_lanes): norm1 before gain and bias; equals norm1 if the norm has neither
    unit2: int
    qk_scale: int  # with qk_norm, 1 / rms of each head: one vector per row and group of slots of q and k
    # Then the activations shared by all layers
    embedded: int  # (rows, embd_lanes): summed embedding before the norm
    scale0: int
    last: int  # (rows, embd_lanes): output of the last layer
    logits: int  # (rows, vocab_lanes), then their gradient
    dx: int  # gradient of the residual stream
    dnorm: int
    dhidden: int  # (rows, fc1_lanes)
    dqkv: int
    dattended: int
    sums: int  # (rows,): one number per row, used by the loss or a sampler
    scratch: int  # used by attention.py
    turned: int  # (lanes of a head, block_lanes): used by wide_head_attention.py
    scores: int  # (block_lanes + SPARE_ROWS, block_lanes)
    dscores: int
    scale3: int  # (rows,): of the final norm
    final: int  # (rows, embd_lanes): output of the final norm; equals `last` without a final norm
    unit3: int
    capped: int  # (rows, vocab_lanes): d(logit) / d(logit before the softcap)
    dact: int  # (rows, hidden_lanes): gradient of act; equals dhidden without a gate
    ones: int  # (embd_lanes,): constants, 1 for features and 0 for padding
    rotations: int  # (block, 2, lanes of a slot's vectors): cos and +-sin of rope (attention_options.py); -1: none
    muon: int  # scratch of muon.py for three copies of a layer's largest matrix and two square matrices
    a_size: int
    table: int = -1  # table of the first layer, in the KV cache (kv_cache.py); -1: none


# Kernels receive a layout as a record: one pointer to named fields.
DTYPE = np.dtype([(field, np.int64 if kind is int else np.float64) for field, kind in Layout.__annotations__.items()])


def whole(count: int) -> int:
    """Round up to whole vectors."""
    return -(-count // LANES) * LANES


def section(**counts: int) -> tuple[dict[str, int], int]:
    """Arrange parts of whole vectors one after the other; return their offsets and the total size."""
    offsets, size = {}, 0
    for name, count in counts.items():
        offsets[name] = size
        size += whole(count)
    return offsets, size


@dataclass(frozen=True)
class Widths:
    """Numbers of lanes in the rows of a model, padded to whole vectors."""

    embd: int
    hidden: int  # hidden features of the MLP
    fc1: int  # outputs of fc1, including the gate
    vocab: int
    heads: int  # slots of all query heads
    kv: int  # slots of all key/value heads
    slot_vectors: int  # vectors per head
    slot_width: int  # lanes of a head in a vector
    norm: int  # gain and bias of a norm

    @classmethod
    def of(cls, spec: ModelSpec, rotates: bool) -> "Widths":
        slot, hidden = slot_lanes(spec.head_dim, rotates), whole(spec.mlp_features)
        return cls(
            embd=whole(spec.n_embd), hidden=hidden, fc1=2 * hidden if spec.gated_mlp else hidden,
            vocab=whole(spec.vocab_size), heads=whole(spec.n_head * slot), kv=whole(spec.kv_heads * slot),
            slot_vectors=max(1, slot // LANES), slot_width=min(slot, LANES),
            norm=whole(spec.n_embd) * (spec.norm_gain + spec.norm_has_bias),
        )  # fmt: skip


def layout_of(spec: ModelSpec, rows: int) -> Layout:
    """Return the layout of a model with a workspace for `rows` positions, on which the parameters do not depend."""
    place = "engines/native/layout.py"
    implementation(dict.fromkeys(KINDS), "model.kind", spec.kind, f"KINDS in {place}")
    rotates = implementation(POSITIONS, "model.position", spec.position, f"POSITIONS in {place}")
    centered = implementation(NORMS, "model.norm", spec.norm, f"NORMS in {place}")
    activation = implementation(ACTIVATIONS, "model.activation", spec.activation, f"ACTIVATIONS in {place}")
    in_place = activation == RELU and not spec.gated_mlp  # whether the MLP's `act` overwrites its `pre`
    w, has_gain, has_shift = Widths.of(spec, rotates), spec.norm_gain, spec.norm_has_bias
    return Layout(
        n_layer=spec.n_layer, embd=spec.n_embd, hidden=spec.mlp_features, heads=spec.n_head, kv_heads=spec.kv_heads,
        vocab=spec.vocab_size, block=spec.block_size, block_lanes=whole(spec.block_size), embd_lanes=w.embd,
        hidden_lanes=w.hidden, vocab_lanes=w.vocab, head_lanes=w.heads, kv_lanes=w.kv, fc1_lanes=w.fc1,
        slot_vectors=w.slot_vectors, slot_width=w.slot_width,
        activation=activation, gated=int(spec.gated_mlp), input_rmsnorm=int(spec.input_rmsnorm),
        centered=int(centered), final_norm=int(spec.final_norm), qk_norm=int(spec.qk_norm), bias=int(spec.bias),
        keeps_attention=int(keeps_attention(spec)), norm_eps=spec.norm_eps, logit_softcap=spec.logit_softcap or 0.0,
        gain=0 if has_gain else -1, shift=(w.embd if has_gain else 0) if has_shift else -1, rows=rows,
        **parameter_offsets(spec, w), **transposed_offsets(spec, w),
        **workspace_offsets(spec, w, rows + SPARE_ROWS, in_place, rotates),
    )  # fmt: skip


def keeps_attention(spec: ModelSpec) -> bool:
    return spec.block_size <= KEPT_BLOCK_SIZE


def parameter_offsets(spec: ModelSpec, w: Widths) -> dict[str, int]:
    """Return the offsets of the parameters, and the sizes of all parameters, of a layer and of its gains and biases."""
    biased = int(spec.bias)
    of_vectors, vectors = section(
        norm1_vectors=w.norm, norm2_vectors=w.norm, qkv_bias=biased * (w.heads + 2 * w.kv), wo_bias=biased * w.embd,
        fc1_bias=biased * w.fc1, fc2_bias=biased * w.embd,
    )  # fmt: skip
    of_layer, layer = section(
        qkv=(w.heads + 2 * w.kv) * w.embd, wo=w.embd * w.heads, fc1=w.fc1 * w.embd, fc2=w.embd * w.hidden
    )
    offsets, size = section(
        wte=w.vocab * w.embd, wpe=whole(spec.block_size) * w.embd if spec.has_position_embedding else 0,
        layer_vectors=spec.n_layer * vectors, final_vectors=w.norm if spec.final_norm else 0,
        lm_head=0 if spec.tie_lm_head else w.vocab * w.embd, layers=spec.n_layer * layer,
    )  # fmt: skip
    decayed = offsets["lm_head"]
    if spec.tie_lm_head:
        offsets["lm_head"] = offsets["wte"]
    if not spec.has_position_embedding:
        offsets["wpe"] = -1
    return {**offsets, **of_layer, **of_vectors, "decayed": decayed, "layer": layer, "vectors": vectors, "size": size}


def transposed_offsets(spec: ModelSpec, w: Widths) -> dict[str, int]:
    """Return the offsets of the transposed copies of the matrices, and the sizes of all copies and of a layer's."""
    of_layer, layer = section(
        t_qkv_bias=int(spec.bias) * 3 * w.heads, t_qkv=3 * w.heads * w.embd, t_wo=w.embd * w.heads,
        t_fc1=w.fc1 * w.embd, t_fc2=w.embd * w.hidden,
    )  # fmt: skip
    offsets, size = section(t_lm_head=w.embd * w.vocab, t_layers=spec.n_layer * layer)
    return {**offsets, **of_layer, "t_layer": layer, "t_size": size}


def workspace_offsets(spec: ModelSpec, w: Widths, n: int, in_place: bool, rotates: bool) -> dict[str, int]:
    """Return the offsets of the activations and gradients of `n` rows, and the sizes of all and of a layer's."""
    e, a, block = w.embd, w.heads, spec.block_size
    units, has_whole_heads, columns = n * e if w.norm else 0, w.slot_width == LANES, whole(block)
    kept_weights = a // (w.slot_vectors * LANES) * columns if has_whole_heads else a * block  # of a row
    square = (columns + SPARE_ROWS) * columns if has_whole_heads else 0
    of_layer, layer = section(
        x=n * e, scale1=n, norm1=n * e, qkv_rows=n * 3 * a,
        attention=n * kept_weights if keeps_attention(spec) else 0, attended=n * a, mid=n * e,
        scale2=n, norm2=n * e, pre=n * w.fc1, act=0 if in_place else n * w.hidden, unit1=units, unit2=units,
        qk_scale=n * 2 * a // w.slot_vectors if spec.qk_norm else 0,
    )  # fmt: skip
    if in_place:
        of_layer["act"] = of_layer["pre"]
    if not units:
        of_layer["unit1"], of_layer["unit2"] = of_layer["norm1"], of_layer["norm2"]
    shared, size = section(
        all_layers=spec.n_layer * layer, embedded=n * e, scale0=n, last=n * e, logits=n * w.vocab, dx=n * e,
        dnorm=n * e, dhidden=n * w.fc1, dqkv=n * 3 * a, dattended=n * a, sums=n,
        scratch=2 * (block + 1) * QUERY_TILE * LANES, turned=w.slot_vectors * LANES * columns, scores=square,
        dscores=square, scale3=n, final=n * e if spec.final_norm else 0,
        unit3=units if spec.final_norm else 0, capped=n * w.vocab if spec.logit_softcap else 0,
        dact=n * w.hidden if spec.gated_mlp else 0, ones=e,
        rotations=block * 2 * w.slot_vectors * LANES if rotates else 0,
        muon=3 * e * max(a, w.hidden) + 2 * max(e, a) ** 2,
    )  # fmt: skip
    del shared["all_layers"]
    for name, replacement, is_present in (
        ("final", shared["last"], spec.final_norm), ("unit3", shared["final"], units), ("rotations", -1, rotates),
        ("dact", shared["dhidden"], spec.gated_mlp),
    ):  # fmt: skip
        shared[name] = shared[name] if is_present else replacement
    return {**of_layer, **shared, "a_layer": layer, "a_size": size}


def slot_lanes(head_dim: int, rotates: bool) -> int:
    """Return the number of lanes of a head."""
    if head_dim <= LANES:
        return 1 << (head_dim - 1).bit_length()
    return 2 * whole(head_dim // 2) if rotates else whole(head_dim)


def head_feature_lanes(spec: ModelSpec, layout: Layout) -> np.ndarray:
    """Return the lane of every feature of a head in its slot."""
    feature = np.arange(spec.head_dim)
    if layout.rotations < 0:
        return feature
    half = spec.head_dim // 2
    return feature % half + feature // half * (layout.slot_vectors * layout.slot_width // 2)


def layout_record(layout: Layout) -> np.ndarray:
    """Return an array with one element, the record."""
    return np.array([tuple(layout)], dtype=DTYPE)
