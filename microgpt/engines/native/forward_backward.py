"""The forward and the backward pass of one model over a chunk of a batch.

A chunk is the positions of several documents, one after the other; each position is a row of every activation. The
features of a position lie in the lanes of vectors: embeddings, norms, residuals and their gradients are loads of whole
vectors, a batch of a single name uses all lanes, and documents are not padded to the longest.

Arguments of the kernels; the layout (layout.py) has the offsets and shapes of everything in the flat arrays:

    P  parameters of the model: matrices (outputs, inputs)
    T  transposed copies of the matrices (inputs, outputs), which the forward pass reads
    G  gradients of the parameters, in the layout of P
    A  activations and their gradients
    z  the layout

    rows       positions of the chunk
    tokens     (rows,) input token of each position
    positions  (rows,) number of each position in its document
    begins     (documents + 1,) first row of each document, and `rows`

    e, f, v, a lanes of a row of the residual stream, the MLP, the logits, and of q
    w, t, s    offsets of a layer in P and G, in T, and in A
"""

from microgpt.engines.native.attention import attention, attention_backward
from microgpt.engines.native.compilation import Floats, Int64s, kernel
from microgpt.engines.native.layout import LayoutRecord
from microgpt.engines.native.matmul import linear, linear_backward, transpose
from microgpt.engines.native.pointwise import (
    activate,
    activate_backward,
    copy,
    embed,
    embed_backward,
    rmsnorm,
    rmsnorm_backward,
)
from microgpt.engines.native.simd.vector import LANES, splat, store


@kernel
def transpose_weights(P: Floats, T: Floats, z: LayoutRecord):
    """Write the transposed copies of all matrices that the forward pass multiplies with."""
    e, f, v, a = z.embd_lanes, z.hidden_lanes, z.vocab_lanes, z.head_lanes
    transpose(P, z.lm_head, e, T, z.t_lm_head, v, v, e)
    for layer in range(z.n_layer):
        w, t = z.layers + layer * z.layer, z.t_layers + layer * z.layer
        transpose(P, w + z.qkv, e, T, t + z.qkv, 3 * a, 3 * a, e)
        transpose(P, w + z.wo, a, T, t + z.wo, e, e, a)
        transpose(P, w + z.fc1, e, T, t + z.fc1, f, f, e)
        transpose(P, w + z.fc2, f, T, t + z.fc2, e, e, f)


# Parts of the forward pass, also for decoding, which differs in its attention


@kernel
def embed_tokens(P: Floats, A: Floats, tokens: Int64s, positions: Int64s, rows: int, z: LayoutRecord):
    """Input of the first layer, or of the output layer if there is no other: wte + wpe, with an RMSNorm if enabled."""
    x = z.x if z.n_layer > 0 else z.last
    embed(A, z.embedded if z.input_rmsnorm else x, z.embd_lanes, P, z.wte, z.wpe, tokens, positions, rows)
    if z.input_rmsnorm:
        rmsnorm(A, x, z.scale0, z.embedded, z.embd_lanes, rows, z.embd)


@kernel
def project_qkv(T: Floats, A: Floats, layer: int, rows: int, z: LayoutRecord):
    """RMSNorm, then queries, keys and values of a layer."""
    e, a, t, s = z.embd_lanes, z.head_lanes, z.t_layers + layer * z.layer, layer * z.a_layer
    rmsnorm(A, s + z.norm1, s + z.scale1, s + z.x, e, rows, z.embd)
    linear(A, s + z.qkv_rows, 3 * a, s + z.norm1, e, z.embd, T, t + z.qkv, rows, 0)


@kernel
def project_out_and_mlp(T: Floats, A: Floats, layer: int, rows: int, z: LayoutRecord):
    """The rest of a layer after its attention: mid = x + wo(attended), then mid + fc2(activation(fc1(norm(mid)))).

    The result is the input of the next layer, or of the output layer.
    """
    e, f, a, t, s = z.embd_lanes, z.hidden_lanes, z.head_lanes, z.t_layers + layer * z.layer, layer * z.a_layer
    following = z.last if layer == z.n_layer - 1 else s + z.a_layer + z.x
    copy(A, s + z.mid, s + z.x, rows * e)
    linear(A, s + z.mid, e, s + z.attended, a, a, T, t + z.wo, rows, 1)
    rmsnorm(A, s + z.norm2, s + z.scale2, s + z.mid, e, rows, z.embd)
    linear(A, s + z.pre, f, s + z.norm2, e, z.embd, T, t + z.fc1, rows, 0)
    activate(A, s + z.act, s + z.pre, rows * f, z.activation)
    copy(A, following, s + z.mid, rows * e)
    linear(A, following, e, s + z.act, f, z.hidden, T, t + z.fc2, rows, 1)


# The two passes


@kernel
def forward(P: Floats, T: Floats, A: Floats, tokens: Int64s, positions: Int64s, begins: Int64s, documents: int,
            rows: int, z: LayoutRecord):  # fmt: skip
    """Logits of every row; keeps in A what the backward pass reads."""
    embed_tokens(P, A, tokens, positions, rows, z)
    for layer in range(z.n_layer):
        project_qkv(T, A, layer, rows, z)
        attention(A, layer * z.a_layer, begins, documents, z)
        project_out_and_mlp(T, A, layer, rows, z)
    linear(A, z.logits, z.vocab_lanes, z.last, z.embd_lanes, z.embd, T, z.t_lm_head, rows, 0)


@kernel
def backward(P: Floats, G: Floats, A: Floats, tokens: Int64s, positions: Int64s, begins: Int64s, documents: int,
             rows: int, accumulate: int, z: LayoutRecord):  # fmt: skip
    """Gradients of all parameters from the gradient of the logits: written to G, or added with `accumulate`."""
    e, f, v, a = z.embd_lanes, z.hidden_lanes, z.vocab_lanes, z.head_lanes
    if not accumulate:  # gradients of embeddings are sums over positions
        for i in range(z.wte, z.decayed, LANES):
            store(G, i, splat(G, 0.0))
    linear_backward(A, z.dx, z.last, e, z.logits, v, z.vocab, P, G, z.lm_head, rows, accumulate)
    for back in range(z.n_layer):
        layer = z.n_layer - 1 - back
        w, s = z.layers + layer * z.layer, layer * z.a_layer
        linear_backward(A, z.dhidden, s + z.act, f, z.dx, e, z.embd, P, G, w + z.fc2, rows, accumulate)
        activate_backward(A, z.dhidden, s + z.pre, rows * f, z.activation)
        linear_backward(A, z.dnorm, s + z.norm2, e, z.dhidden, f, z.hidden, P, G, w + z.fc1, rows, accumulate)
        rmsnorm_backward(A, z.dx, z.dnorm, s + z.norm2, s + z.scale2, e, rows, z.embd, 1)
        linear_backward(A, z.dattended, s + z.attended, a, z.dx, e, z.embd, P, G, w + z.wo, rows, accumulate)
        attention_backward(A, s, begins, documents, z)
        linear_backward(A, z.dnorm, s + z.norm1, e, z.dqkv, 3 * a, 3 * a, P, G, w + z.qkv, rows, accumulate)
        rmsnorm_backward(A, z.dx, z.dnorm, s + z.norm1, s + z.scale1, e, rows, z.embd, 1)
    if z.input_rmsnorm:
        x = z.x if z.n_layer > 0 else z.last
        rmsnorm_backward(A, z.dx, z.dx, x, z.scale0, e, rows, z.embd, 0)
    embed_backward(A, z.dx, e, rows, G, z.wte, z.wpe, tokens, positions)
