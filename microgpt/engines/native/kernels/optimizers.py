"""Optimizers for the flat parameters of one model, with the formulas of engines/scalar/optimizers.py.

An optimizer is a kernel that updates the parameters begin .. end - 1, with a code in CODES (optimizer_settings.py) and
a branch in `apply`. Zeros must stay zero because rows are padded with zeros: with a zero gradient and zero moments, a
parameter must not change.

    P, G, M, V  parameters, gradients, first and second moments, in the same layout; M is V if there is only one moment
    m, v, g     the moments and the gradient of a parameter p
    o           the settings, one scalar each

If a gradient stays zero, for example because a unit is never active, its moments decay until they are subnormal
numbers, with which processors are several times slower. Such moments are therefore set to zero every 32 steps; checking
all moments in every step took 4 % of the time at batch size 1.

Threads share the update of a large model: each thread updates its share of every section of the arrays.
"""

import math

from numba.extending import register_jitable

from microgpt.engines.native.kernels.declaration import Floats, LayoutRecord, SettingsRecord, kernel
from microgpt.engines.native.kernels.muon import muon
from microgpt.engines.native.kernels.simd.lanes import horizontal_sum
from microgpt.engines.native.kernels.simd.vector import (
    LANES,
    flush_subnormals,
    fma,
    load,
    splat,
    sqrt,
    store,
    where_positive,
)
from microgpt.engines.native.optimizer_settings import ADAM, LION, MUON, SGD

FLUSHING_INTERVAL = 32  # steps
SMALLEST_SHARING = 1e-15  # smallest eps for which the product of two denominators is always a normal float32


@kernel
def adam(P: Floats, G: Floats, M: Floats, V: Floats, begin: int, end: int, lr: float, correction1: float,
         correction2: float, o: SettingsRecord):  # fmt: skip
    """m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2, p -= lr m' / (sqrt(v') + eps)

    with m' = m / correction1 and v' = v / correction2. Two vectors share one division, which is the slowest
    instruction: a / b = a d / (b d), c / d = c b / (b d).
    """
    old1, new1, old2, new2 = splat(P, o.beta1), splat(P, 1 - o.beta1), splat(P, o.beta2), splat(P, 1 - o.beta2)
    rate, inverse2, epsilon = splat(P, lr / correction1), splat(P, 1 / correction2), splat(P, o.eps)
    i = begin
    while o.eps >= SMALLEST_SHARING and i + 2 * LANES <= end:
        j = i + LANES
        g_i, g_j = load(G, i), load(G, j)
        m_i, m_j = fma(old1, load(M, i), new1 * g_i), fma(old1, load(M, j), new1 * g_j)
        v_i, v_j = fma(old2, load(V, i), new2 * (g_i * g_i)), fma(old2, load(V, j), new2 * (g_j * g_j))
        b, d = sqrt(v_i * inverse2) + epsilon, sqrt(v_j * inverse2) + epsilon
        shared = rate / (b * d)
        store(M, i, m_i)
        store(M, j, m_j)
        store(V, i, v_i)
        store(V, j, v_j)
        store(P, i, load(P, i) - m_i * d * shared)
        store(P, j, load(P, j) - m_j * b * shared)
        i += 2 * LANES
    while i < end:
        g = load(G, i)
        m = fma(old1, load(M, i), new1 * g)
        v = fma(old2, load(V, i), new2 * (g * g))
        store(M, i, m)
        store(V, i, v)
        store(P, i, load(P, i) - m * (rate / (sqrt(v * inverse2) + epsilon)))
        i += LANES


@kernel
def sgd(P: Floats, G: Floats, M: Floats, begin: int, end: int, lr: float, o: SettingsRecord):
    """m = momentum m + g, p -= lr m"""
    momentum, rate = splat(P, o.momentum), splat(P, lr)
    for i in range(begin, end, LANES):
        m = fma(momentum, load(M, i), load(G, i))
        store(M, i, m)
        store(P, i, load(P, i) - rate * m)


@kernel
def lion(P: Floats, G: Floats, M: Floats, begin: int, end: int, lr: float, o: SettingsRecord):
    """p -= lr sign(beta1 m + (1 - beta1) g), m = beta2 m + (1 - beta2) g

    Without fma, because the sum of terms that cancel would have the sign of a rounding error.
    """
    old1, new1, old2, new2 = splat(P, o.beta1), splat(P, 1 - o.beta1), splat(P, o.beta2), splat(P, 1 - o.beta2)
    rate = splat(P, lr)
    for i in range(begin, end, LANES):
        g, m = load(G, i), load(M, i)
        u = old1 * m + new1 * g
        store(P, i, load(P, i) - (where_positive(u, rate) - where_positive(0.0 - u, rate)))
        store(M, i, old2 * m + new2 * g)


@kernel
def multiply_by(X: Floats, begin: int, end: int, factor: float):
    """X *= factor"""
    for i in range(begin, end, LANES):
        store(X, i, load(X, i) * factor)


@kernel
def apply(P: Floats, G: Floats, M: Floats, V: Floats, begin: int, end: int, lr: float, correction1: float,
          correction2: float, code: int, o: SettingsRecord):  # fmt: skip
    """Update the parameters begin .. end - 1 with the optimizer of this code."""
    if code == ADAM:
        adam(P, G, M, V, begin, end, lr, correction1, correction2, o)
    elif code == SGD:
        sgd(P, G, M, begin, end, lr, o)
    elif code == LION:
        lion(P, G, M, begin, end, lr, o)
    else:  # a code without a branch: the next loss is NaN, which ends the run
        multiply_by(P, begin, end, math.nan)


@kernel
def gradient_norm(G: Floats, size: int) -> float:
    """Euclidean norm of all gradients"""
    squares = splat(G, 0.0)
    for i in range(0, size, LANES):
        squares = fma(load(G, i), load(G, i), squares)
    return math.sqrt(horizontal_sum(squares))


@kernel
def flush(M: Floats, begin: int, end: int):
    for i in range(begin, end, LANES):
        store(M, i, flush_subnormals(load(M, i)))


@register_jitable
def whole_pairs(count):
    """Round up to a multiple of two vectors."""
    return -(-count // (2 * LANES)) * (2 * LANES)


@register_jitable
def share_of(begin, end, share, shares):
    """Return the begin and end of share `share` of a section of the arrays, in whole pairs of vectors."""
    pairs = (end - begin) // (2 * LANES)
    first, last = begin + pairs * share // shares * 2 * LANES, begin + pairs * (share + 1) // shares * 2 * LANES
    return first, end if share == shares - 1 else last


@kernel
def update(P: Floats, G: Floats, M: Floats, V: Floats, A: Floats, step: int, lr: float, correction1: float,
           correction2: float, norm: float, share: int, shares: int, o: SettingsRecord, z: LayoutRecord):  # fmt: skip
    """Clip gradients, then decay and update a share of a model's parameters; steps count from 0, A is scratch.

    Clipping scales all gradients by one factor so that their norm, now `norm`, is at most o.largest_norm (Pascanu et
    al., 2013).
    """
    code, rate, e, flushes = o.code, lr, z.embd_lanes, step % FLUSHING_INTERVAL == FLUSHING_INTERVAL - 1
    if o.code == MUON:  # for all tensors except the matrices of the blocks
        code, rate = ADAM, lr * o.adam_lr_ratio
    for stretch in range(5):
        # Excluding the rows of zeros after the vocabulary, which with 27 characters would be 4 % of the parameters.
        begin, end = z.wte, z.wte + whole_pairs(z.vocab * e)
        if stretch == 1:
            begin, end = z.wpe, z.wpe + whole_pairs(z.block * e) if z.wpe >= 0 else z.wpe
        elif stretch == 2:
            begin, end = z.layer_vectors, z.decayed
        elif stretch == 3:
            begin, end = z.lm_head, z.lm_head + whole_pairs(z.vocab * e) if z.lm_head != z.wte else z.lm_head
        elif stretch == 4:
            begin, end = z.layers, z.size
        if stretch < 4 or o.code != MUON:
            begin, end = share_of(begin, end, share, shares)
        elif share > 0:  # the first share updates all matrices
            break
        if norm > o.largest_norm:
            multiply_by(G, begin, end, o.largest_norm / norm)
        if o.decay > 0 and stretch >= 3:
            multiply_by(P, begin, end, 1 - lr * o.decay)
        if stretch < 4 or o.code != MUON:
            apply(P, G, M, V, begin, end, rate, correction1, correction2, code, o)
        else:
            muon(P, G, M, A, lr, o, z)
        if flushes:
            flush(M, begin, end)
            if o.moments == 2:
                flush(V, begin, end)
