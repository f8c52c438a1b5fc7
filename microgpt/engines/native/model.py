"""The kernel `features`: one model at a time, the features of a position in the lanes.

A chunk of a batch is its documents' positions, one after the other, as rows. Forward products read transposed copies
of the matrices, backward ones the matrices themselves (matmul.py): no number of a product is ever moved between lanes.
"""

import math

from microgpt.engines.native.attention import attention, attention_backward
from microgpt.engines.native.kernel_cache import I32, I64, INT, F, kernel
from microgpt.engines.native.layout import LAYOUT
from microgpt.engines.native.matmul import multiply
from microgpt.engines.native.pointwise import (
    copy,
    embed,
    embed_backward,
    relu,
    relu_backward,
    rmsnorm,
    rmsnorm_backward,
)
from microgpt.engines.native.simd.lanes import transpose_block
from microgpt.engines.native.simd.types import LANES, get, put, splat, store

EPSILON = 1e-5


@kernel(F, INT, INT, F, INT, INT, INT, INT)
def transpose(P, w, w_row, T, t, t_row, rows, columns):
    """T[k, o] = W[o, k], in blocks of 16 x 16"""
    for o in range(0, rows, LANES):
        for k in range(0, columns, LANES):
            transpose_block(P, w + o * w_row + k, w_row, T, t + k * t_row + o, t_row)


@kernel(F, F, LAYOUT)
def transpose_all(P, T, z):
    """The transposed copies that the forward pass reads, from the parameters."""
    e, f, v, a = z.embd_lanes, z.hidden_lanes, z.vocab_lanes, z.head_lanes
    transpose(P, z.lm_head, e, T, z.t_lm_head, v, v, e)
    for layer in range(z.n_layer):
        w, t = z.layers + layer * z.layer, z.t_layers + layer * z.layer
        transpose(P, w + z.qkv, e, T, t + z.qkv, 3 * a, 3 * a, e)
        transpose(P, w + z.wo, a, T, t + z.wo, e, e, a)
        transpose(P, w + z.fc1, e, T, t + z.fc1, f, f, e)
        transpose(P, w + z.fc2, f, T, t + z.fc2, e, e, f)


@kernel(F, F, I64, I64, INT, LAYOUT)
def enter(P, A, tokens, positions, rows, z):
    """What the first layer, or the head where there is none, reads: embeddings, normed or not."""
    x = z.x if z.n_layer > 0 else z.last
    embed(A, z.embedded if z.normed else x, z.embd_lanes, P, z.wte, z.wpe, tokens, positions, rows)
    if z.normed:
        rmsnorm(A, x, z.scale0, z.embedded, z.embd_lanes, rows, z.embd, EPSILON)


@kernel(F, F, INT, INT, LAYOUT)
def project(T, A, layer, rows, z):
    """A layer up to its attention: queries, keys and values of every row."""
    e, a, t, s = z.embd_lanes, z.head_lanes, z.t_layers + layer * z.layer, layer * z.w_layer
    rmsnorm(A, s + z.n1, s + z.scale1, s + z.x, e, rows, z.embd, EPSILON)
    multiply(A, s + z.qkv_rows, 3 * a, A, s + z.n1, e, 1, T, t + z.qkv, 3 * a, rows, z.embd, 3 * a // LANES, 0)


@kernel(F, F, INT, INT, LAYOUT)
def conclude(T, A, layer, rows, z):
    """A layer from its attention on. Its result is where the next layer, or the head, looks for it."""
    e, f, a, t, s = z.embd_lanes, z.hidden_lanes, z.head_lanes, z.t_layers + layer * z.layer, layer * z.w_layer
    following = z.last if layer == z.n_layer - 1 else s + z.w_layer + z.x
    copy(A, s + z.mid, s + z.x, rows * e)
    multiply(A, s + z.mid, e, A, s + z.attended, a, 1, T, t + z.wo, e, rows, a, e // LANES, 1)
    rmsnorm(A, s + z.n2, s + z.scale2, s + z.mid, e, rows, z.embd, EPSILON)
    multiply(A, s + z.pre, f, A, s + z.n2, e, 1, T, t + z.fc1, f, rows, z.embd, f // LANES, 0)
    relu(A, s + z.act, s + z.pre, rows * f, z.squared)
    copy(A, following, s + z.mid, rows * e)
    multiply(A, following, e, A, s + z.act, f, 1, T, t + z.fc2, e, rows, z.hidden, e // LANES, 1)


@kernel(F, F, INT, LAYOUT)
def leave(T, A, rows, z):
    """Logits of every row."""
    v = z.vocab_lanes
    multiply(A, z.logits, v, A, z.last, z.embd_lanes, 1, T, z.t_lm_head, v, rows, z.embd, v // LANES, 0)


@kernel(F, F, F, I64, I64, I64, INT, INT, LAYOUT)
def forward(P, T, A, tokens, positions, begins, documents, rows, z):
    """Logits of every row, and on the way there all that the backward pass needs."""
    scale = 1.0 / math.sqrt(z.embd / z.heads)
    enter(P, A, tokens, positions, rows, z)
    for layer in range(z.n_layer):
        s = layer * z.w_layer
        project(T, A, layer, rows, z)
        attention(A, s + z.qkv_rows, s + z.attended, s + z.kept, z.keeps, z.scratch, z.block, begins, documents,
                  z.head_lanes, z.span, z.width, scale)  # fmt: skip
        conclude(T, A, layer, rows, z)
    leave(T, A, rows, z)


@kernel(F, F, F, I64, I64, I64, INT, INT, INT, LAYOUT)
def backward(P, G, A, tokens, positions, begins, documents, rows, accumulate, z):
    """From the gradient of the logits to that of every parameter, added to G or written over it."""
    e, f, v, a = z.embd_lanes, z.hidden_lanes, z.vocab_lanes, z.head_lanes
    scale = 1.0 / math.sqrt(z.embd / z.heads)
    if not accumulate:  # the embeddings' gradients are sums over positions
        for i in range(z.wte, z.decayed, LANES):
            store(G, i, splat(G, 0.0))
    multiply(G, z.lm_head, e, A, z.logits, 1, v, A, z.last, e, z.vocab, rows, e // LANES, accumulate)
    multiply(A, z.dx, e, A, z.logits, v, 1, P, z.lm_head, e, rows, z.vocab, e // LANES, 0)
    for back in range(z.n_layer):
        layer = z.n_layer - 1 - back
        w, s = z.layers + layer * z.layer, layer * z.w_layer
        multiply(G, w + z.fc2, f, A, z.dx, 1, e, A, s + z.act, f, z.embd, rows, f // LANES, accumulate)
        multiply(A, z.dhidden, f, A, z.dx, e, 1, P, w + z.fc2, f, rows, z.embd, f // LANES, 0)
        relu_backward(A, z.dhidden, s + z.pre, rows * f, z.squared)
        multiply(G, w + z.fc1, e, A, z.dhidden, 1, f, A, s + z.n2, e, z.hidden, rows, e // LANES, accumulate)
        multiply(A, z.dn, e, A, z.dhidden, f, 1, P, w + z.fc1, e, rows, z.hidden, e // LANES, 0)
        rmsnorm_backward(A, z.dx, z.dn, s + z.n2, s + z.scale2, e, rows, z.embd, 1)
        multiply(G, w + z.wo, a, A, z.dx, 1, e, A, s + z.attended, a, z.embd, rows, a // LANES, accumulate)
        multiply(A, z.dattended, a, A, z.dx, e, 1, P, w + z.wo, a, rows, z.embd, a // LANES, 0)
        attention_backward(A, s + z.qkv_rows, z.dqkv, s + z.attended, z.dattended, s + z.kept, z.keeps, z.scratch,
                           z.block, begins, documents, a, z.span, z.width, scale)  # fmt: skip
        multiply(G, w + z.qkv, e, A, z.dqkv, 1, 3 * a, A, s + z.n1, e, 3 * a, rows, e // LANES, accumulate)
        multiply(A, z.dn, e, A, z.dqkv, 3 * a, 1, P, w + z.qkv, e, rows, 3 * a, e // LANES, 0)
        rmsnorm_backward(A, z.dx, z.dn, s + z.n1, s + z.scale1, e, rows, z.embd, 1)
    if z.normed:
        x = z.x if z.n_layer > 0 else z.last
        rmsnorm_backward(A, z.dx, z.dx, x, z.scale0, e, rows, z.embd, 0)
    embed_backward(A, z.dx, e, rows, G, z.wte, z.wpe, tokens, positions)


@kernel(I32, I64, I64, I64, INT, INT, INT, I64, returns=INT)
def gather(tokens, starts, ends, batch, begin, end, rows, ids):
    """Lay out the examples batch[begin], ... as rows, as many as fit before batch[end]; returns how many examples.

    ids becomes `rows` inputs, `rows` targets, `rows` positions, and the first row of each example and behind the last.
    A token ~t, whose prediction is not asked for, is the input t, and as a target stays negative.
    """
    documents, p = 0, 0
    for b in range(begin, end):
        example = get(batch, b)
        first, length = get(starts, example), get(ends, example) - get(starts, example) - 1
        if p + length > rows:
            break
        put(ids, 3 * rows + documents, p)
        for i in range(length):
            token = get(tokens, first + i)
            put(ids, p + i, token if token >= 0 else ~token)
            put(ids, rows + p + i, get(tokens, first + i + 1))
            put(ids, 2 * rows + p + i, i)
        p += length
        documents += 1
    put(ids, 3 * rows + documents, p)
    return documents
