"""Optimizers on a model's flat parameters, 16 at a time: the formulas are those of engines/scalar/optimizers.py.

Moments whose gradient stays zero, as that of a unit that never fires, would fade and stick at the smallest number there
is, with which a processor is slow. Every so many steps those that are too small for a normal float32 become zero.
"""

import math
from typing import NamedTuple

import numba
import numpy as np
from numba.extending import register_jitable

from microgpt.engines.native.kernel_cache import DOUBLE, INT, F, kernel
from microgpt.engines.native.layout import LAYOUT
from microgpt.engines.native.simd.lanes import lane, slot_sum
from microgpt.engines.native.simd.types import LANES, flushed, fma, load, splat, sqrt, store
from microgpt.engines.optimizer import OptimizerSpec

FLUSHING_INTERVAL = 32  # steps; to look at every moment in every step takes a twentieth of the time
SMALLEST_SHARING = 1e-15  # with an eps below it the product of two denominators might not be a float32


class Optimizer(NamedTuple):
    """An OptimizerSpec in numbers."""

    beta1: float
    beta2: float
    eps: float
    momentum: float
    weight_decay: float  # 0: none
    largest_norm: float  # infinite: gradients are not clipped
    moments: float  # 2: adam and adamw, 1: sgd


DTYPE = np.dtype([(field, np.float64) for field in Optimizer._fields])
OPTIMIZER = numba.from_dtype(DTYPE)


def optimizer_of(spec: OptimizerSpec) -> Optimizer:
    return Optimizer(
        beta1=spec.beta1,
        beta2=spec.beta2,
        eps=spec.eps,
        momentum=spec.momentum,
        weight_decay=spec.weight_decay if spec.name == "adamw" else 0.0,
        largest_norm=math.inf if spec.grad_clip is None else spec.grad_clip,
        moments=1.0 if spec.name == "sgd" else 2.0,
    )


@kernel(F, INT, DOUBLE)
def clip(G, size, largest_norm):
    """Scale all gradients together so that their Euclidean norm is at most `largest_norm`."""
    squares = splat(G, 0.0)
    for i in range(0, size, LANES):
        squares = fma(load(G, i), load(G, i), squares)
    norm = math.sqrt(lane(slot_sum(squares, 16), 0))
    if norm > largest_norm:
        for i in range(0, size, LANES):
            store(G, i, load(G, i) * (largest_norm / norm))


@kernel(F, F, F, F, INT, INT, DOUBLE, DOUBLE, DOUBLE, OPTIMIZER)
def adam(P, G, M, U, begin, end, lr, correction1, correction2, o):
    """m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2, p -= lr m' / (sqrt(v') + eps)

    with m' = m / correction1 = m / (1 - beta1^t), and v' likewise, from `begin` to before `end`. Two vectors share one
    division, the slowest instruction of all: a / b = a d / (b d), c / d = c b / (b d).
    """
    old1, new1, old2, new2 = splat(P, o.beta1), splat(P, 1 - o.beta1), splat(P, o.beta2), splat(P, 1 - o.beta2)
    rate, inverse2, epsilon = splat(P, lr / correction1), splat(P, 1 / correction2), splat(P, o.eps)
    i = begin
    while o.eps >= SMALLEST_SHARING and i + 2 * LANES <= end:
        j = i + LANES
        g, h = load(G, i), load(G, j)
        m, n = fma(old1, load(M, i), new1 * g), fma(old1, load(M, j), new1 * h)
        v, w = fma(old2, load(U, i), new2 * (g * g)), fma(old2, load(U, j), new2 * (h * h))
        b, d = sqrt(v * inverse2) + epsilon, sqrt(w * inverse2) + epsilon
        shared = rate / (b * d)
        store(M, i, m)
        store(M, j, n)
        store(U, i, v)
        store(U, j, w)
        store(P, i, load(P, i) - m * d * shared)
        store(P, j, load(P, j) - n * b * shared)
        i += 2 * LANES
    while i < end:
        g = load(G, i)
        m = fma(old1, load(M, i), new1 * g)
        v = fma(old2, load(U, i), new2 * (g * g))
        store(M, i, m)
        store(U, i, v)
        store(P, i, load(P, i) - m * (rate / (sqrt(v * inverse2) + epsilon)))
        i += LANES


@kernel(F, F, F, INT, DOUBLE, DOUBLE)
def sgd(P, G, M, size, lr, momentum):
    """m = momentum m + g, p -= lr m"""
    keep, rate = splat(P, momentum), splat(P, lr)
    for i in range(0, size, LANES):
        m = fma(keep, load(M, i), load(G, i))
        store(M, i, m)
        store(P, i, load(P, i) - rate * m)


@kernel(F, INT)
def flush(M, size):
    """Numbers that are too small for a normal float32 become zero."""
    for i in range(0, size, LANES):
        store(M, i, flushed(load(M, i)))


@register_jitable
def pairs(count):
    """The next multiple of two vectors."""
    return -(-count // (2 * LANES)) * (2 * LANES)


@kernel(F, F, F, F, INT, DOUBLE, DOUBLE, DOUBLE, OPTIMIZER, LAYOUT)
def update(P, G, M, U, step, lr, correction1, correction2, o, z):
    """Step number `step`, from 0, of any optimizer on all parameters of a model."""
    if o.largest_norm < math.inf:
        clip(G, z.size, o.largest_norm)
    if o.weight_decay > 0:
        keep = splat(P, 1 - lr * o.weight_decay)
        for i in range(z.decayed, z.size, LANES):
            store(P, i, load(P, i) * keep)
    flushes = step % FLUSHING_INTERVAL == FLUSHING_INTERVAL - 1
    if o.moments == 1:
        sgd(P, G, M, z.size, lr, o.momentum)
    else:
        # Without the rows of zeros behind a vocabulary, which of 27 letters would be a twenty-fifth of the work.
        table, positions = pairs(z.vocab * z.embd_lanes), pairs(z.block * z.embd_lanes)
        adam(P, G, M, U, z.wte, z.wte + table, lr, correction1, correction2, o)
        if z.wpe >= 0:
            adam(P, G, M, U, z.wpe, z.wpe + positions, lr, correction1, correction2, o)
        if z.lm_head != z.wte:
            adam(P, G, M, U, z.lm_head, z.lm_head + table, lr, correction1, correction2, o)
        adam(P, G, M, U, z.layers, z.size, lr, correction1, correction2, o)
        if flushes:
            flush(U, z.size)
    if flushes:
        flush(M, z.size)
