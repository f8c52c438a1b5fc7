"""The forward and the backward pass of one model over a chunk of a batch.

A chunk consists of the positions of several documents, one after the other; each position is a row of every activation.
The features of a position are in the lanes of vectors: embeddings, norms, residuals and their gradients load whole
vectors, a batch of a single name uses all lanes, and documents are not padded to the longest document.

Arguments of the kernels (the offsets and shapes in the flat arrays are in layout.py):

    P  parameters of the model: matrices (outputs, inputs)
    T  transposed copies of the matrices (inputs, outputs), read by the forward pass
    G  gradients of the parameters, in the layout of P
    A  activations and their gradients
    z  the layout

    rows       positions of the chunk
    tokens     (rows,) input token of each position
    positions  (rows,) index of each position in its document
    begins     (documents + 1,) first row of each document, then `rows`

    e, f, v, a number of lanes in a row of the residual stream, the MLP, the logits and q
    w, t, s    offsets of a layer in P and G, in T, and in A
"""

from microgpt.engines.native.kernels.activations import activate, activate_backward
from microgpt.engines.native.kernels.attention import attention, attention_backward
from microgpt.engines.native.kernels.attention_options import (
    add_up_shared,
    encode_heads,
    encode_heads_backward,
    transpose_shared,
)
from microgpt.engines.native.kernels.declaration import Floats, Int64s, LayoutRecord, kernel
from microgpt.engines.native.kernels.matmul import add_row_of_few, linear, linear_backward, transpose
from microgpt.engines.native.kernels.norms import norm, norm_backward, rmsnorm, rmsnorm_backward
from microgpt.engines.native.kernels.pointwise import (
    add_column_sums,
    add_vector,
    copy,
    embed,
    embed_backward,
    multiply_by,
    repeat_vector,
    softcap,
)
from microgpt.engines.native.kernels.simd.vector import LANES, splat, store
from microgpt.engines.native.kernels.wide_head_attention import head_attention, head_attention_backward


@kernel
def transpose_weights(P: Floats, T: Floats, share: int, shares: int, z: LayoutRecord):
    """Write the transposed copies of the matrices for the forward pass.

    A share consists of every `shares`-th layer; the last share also includes lm_head.
    """
    e, f, ff, v, a = z.embd_lanes, z.hidden_lanes, z.fc1_lanes, z.vocab_lanes, z.head_lanes
    if share == shares - 1:
        transpose(P, z.lm_head, e, T, z.t_lm_head, v, v, e)
    for layer in range(share, z.n_layer, shares):
        w, t = z.layers + layer * z.layer, z.t_layers + layer * z.t_layer
        if z.kv_heads == z.heads:
            transpose(P, w + z.qkv, e, T, t + z.t_qkv, 3 * a, 3 * a, e)
        else:
            bias = z.layer_vectors + layer * z.vectors + z.qkv_bias
            transpose_shared(P, w + z.qkv, bias, T, t + z.t_qkv, t + z.t_qkv_bias, z)
        transpose(P, w + z.wo, a, T, t + z.t_wo, e, e, a)
        transpose(P, w + z.fc1, e, T, t + z.t_fc1, ff, ff, e)
        transpose(P, w + z.fc2, f, T, t + z.t_fc2, e, e, f)


# Parts of the forward pass that are also used for decoding, where only attention differs


@kernel
def embed_tokens(P: Floats, A: Floats, tokens: Int64s, positions: Int64s, rows: int, z: LayoutRecord):
    """Input of the first layer (without layers: of the output layer): wte + wpe, with an RMSNorm if enabled"""
    x = z.x if z.n_layer > 0 else z.last
    embed(A, z.embedded if z.input_rmsnorm else x, z.embd_lanes, P, z.wte, z.wpe, tokens, positions, rows)
    if z.input_rmsnorm:
        rmsnorm(A, x, z.scale0, z.embedded, z.embd_lanes, rows, z.embd, z.norm_eps)


@kernel
def project_qkv(P: Floats, T: Floats, A: Floats, positions: Int64s, layer: int, rows: int, z: LayoutRecord):
    """Norm, then queries, keys and values of a layer"""
    e, a, t, s = z.embd_lanes, z.head_lanes, z.t_layers + layer * z.t_layer, layer * z.a_layer
    vectors, qkv = z.layer_vectors + layer * z.vectors, s + z.qkv_rows
    norm(P, A, s + z.norm1, s + z.unit1, s + z.scale1, s + z.x, rows, vectors + z.norm1_vectors, z)
    if z.bias and z.kv_heads == z.heads:
        repeat_vector(A, qkv, P, vectors + z.qkv_bias, 3 * a, rows)
    elif z.bias:
        repeat_vector(A, qkv, T, t + z.t_qkv_bias, 3 * a, rows)
    linear(A, qkv, 3 * a, s + z.norm1, e, z.embd, T, t + z.t_qkv, rows, z.bias)
    if z.rotations >= 0 or z.qk_norm:
        encode_heads(A, qkv, s + z.qk_scale, positions, rows, z)


@kernel
def residual(P: Floats, A: Floats, y: int, x: int, bias: int, rows: int, z: LayoutRecord):
    """y = x + bias, to which the output of a linear layer is then added"""
    if z.bias:
        add_vector(A, y, x, P, bias, z.embd_lanes, rows)
    else:
        copy(A, y, x, rows * z.embd_lanes)


@kernel
def project_out_and_mlp(P: Floats, T: Floats, A: Floats, layer: int, rows: int, z: LayoutRecord):
    """The rest of a layer after attention: mid = x + wo(attended), then mid + fc2(activation(fc1(norm(mid)))).

    The result is the input of the next layer or of the output layer.
    """
    e, f, ff, a = z.embd_lanes, z.hidden_lanes, z.fc1_lanes, z.head_lanes
    t, s, vectors = z.t_layers + layer * z.t_layer, layer * z.a_layer, z.layer_vectors + layer * z.vectors
    following = z.last if layer == z.n_layer - 1 else s + z.a_layer + z.x
    residual(P, A, s + z.mid, s + z.x, vectors + z.wo_bias, rows, z)
    linear(A, s + z.mid, e, s + z.attended, a, a, T, t + z.t_wo, rows, 1)
    norm(P, A, s + z.norm2, s + z.unit2, s + z.scale2, s + z.mid, rows, vectors + z.norm2_vectors, z)
    if z.bias:
        repeat_vector(A, s + z.pre, P, vectors + z.fc1_bias, ff, rows)
    linear(A, s + z.pre, ff, s + z.norm2, e, z.embd, T, t + z.t_fc1, rows, z.bias)
    activate(A, s + z.act, s + z.pre, f, rows, z.gated, z.activation)
    residual(P, A, following, s + z.mid, vectors + z.fc2_bias, rows, z)
    if rows == 1 and z.act == z.pre:
        add_row_of_few(A, following, s + z.act, T, t + z.t_fc2, f, e)
    else:
        linear(A, following, e, s + z.act, f, z.hidden, T, t + z.t_fc2, rows, 1)


@kernel
def output_logits(P: Floats, T: Floats, A: Floats, rows: int, z: LayoutRecord):
    if z.final_norm:
        norm(P, A, z.final, z.unit3, z.scale3, z.last, rows, z.final_vectors, z)
    linear(A, z.logits, z.vocab_lanes, z.final, z.embd_lanes, z.embd, T, z.t_lm_head, rows, 0)
    if z.logit_softcap > 0:
        softcap(A, z.logits, z.capped, rows * z.vocab_lanes, z.logit_softcap)


# The two passes


@kernel
def forward(P: Floats, T: Floats, A: Floats, tokens: Int64s, positions: Int64s, begins: Int64s, documents: int,
            rows: int, z: LayoutRecord):  # fmt: skip
    """Logits of every row; the values needed by the backward pass are left in A."""
    embed_tokens(P, A, tokens, positions, rows, z)
    for layer in range(z.n_layer):
        project_qkv(P, T, A, positions, layer, rows, z)
        if z.slot_width == LANES:
            head_attention(A, layer * z.a_layer, begins, documents, z)
        else:
            attention(A, layer * z.a_layer, begins, documents, z)
        project_out_and_mlp(P, T, A, layer, rows, z)
    output_logits(P, T, A, rows, z)


@kernel
def backward(P: Floats, G: Floats, A: Floats, tokens: Int64s, positions: Int64s, begins: Int64s, documents: int,
             rows: int, accumulate: int, z: LayoutRecord):  # fmt: skip
    """Gradients of all parameters from the gradient of the logits, written to G, or added to G with `accumulate`"""
    if not accumulate:  # gradients of embeddings, gains and biases are sums over positions
        for i in range(z.wte, z.decayed, LANES):
            store(G, i, splat(G, 0.0))
    e, f, ff, v, a = z.embd_lanes, z.hidden_lanes, z.fc1_lanes, z.vocab_lanes, z.head_lanes
    fc1_outputs, qkv_outputs = ff - f + z.hidden, a + 2 * z.kv_lanes
    if z.logit_softcap > 0:
        multiply_by(A, z.logits, z.capped, rows * v)
    linear_backward(A, z.dx, z.final, e, z.logits, v, z.vocab, P, G, z.lm_head, rows, accumulate)
    if z.final_norm:
        norm_backward(P, G, A, z.dx, z.dx, z.final, z.unit3, z.scale3, rows, z.final_vectors, 0, z)
    for back in range(z.n_layer):
        layer = z.n_layer - 1 - back
        w, s, vectors = z.layers + layer * z.layer, layer * z.a_layer, z.layer_vectors + layer * z.vectors
        if z.bias:
            add_column_sums(A, z.dx, e, G, vectors + z.fc2_bias, e, rows)
        linear_backward(A, z.dact, s + z.act, f, z.dx, e, z.embd, P, G, w + z.fc2, rows, accumulate)
        activate_backward(A, z.dhidden, z.dact, s + z.act, s + z.pre, f, rows, z.gated)
        if z.bias:
            add_column_sums(A, z.dhidden, ff, G, vectors + z.fc1_bias, ff, rows)
        linear_backward(A, z.dnorm, s + z.norm2, e, z.dhidden, ff, fc1_outputs, P, G, w + z.fc1, rows, accumulate)
        v2 = vectors + z.norm2_vectors
        norm_backward(P, G, A, z.dx, z.dnorm, s + z.norm2, s + z.unit2, s + z.scale2, rows, v2, 1, z)
        if z.bias:
            add_column_sums(A, z.dx, e, G, vectors + z.wo_bias, e, rows)
        linear_backward(A, z.dattended, s + z.attended, a, z.dx, e, z.embd, P, G, w + z.wo, rows, accumulate)
        if z.slot_width == LANES:
            head_attention_backward(A, s, begins, documents, z)
        else:
            attention_backward(A, s, begins, documents, z)
        if z.rotations >= 0 or z.qk_norm:
            encode_heads_backward(A, z.dqkv, s + z.qkv_rows, s + z.qk_scale, positions, rows, z)
        if z.kv_heads < z.heads:
            add_up_shared(A, z.dqkv, rows, z)
        if z.bias:
            add_column_sums(A, z.dqkv, 3 * a, G, vectors + z.qkv_bias, qkv_outputs, rows)
        linear_backward(A, z.dnorm, s + z.norm1, e, z.dqkv, 3 * a, qkv_outputs, P, G, w + z.qkv, rows, accumulate)
        v1 = vectors + z.norm1_vectors
        norm_backward(P, G, A, z.dx, z.dnorm, s + z.norm1, s + z.unit1, s + z.scale1, rows, v1, 1, z)
    if z.input_rmsnorm:
        x = z.x if z.n_layer > 0 else z.last
        rmsnorm_backward(A, z.dx, z.dx, x, z.scale0, e, rows, z.embd, 0)
    embed_backward(A, z.dx, e, rows, G, z.wte, z.wpe, tokens, positions)
