"""Optimizers on the flat parameters of one model; the formulas are those of engines/scalar/optimizers.py.

An optimizer is a kernel that updates the parameters from `begin` to before `end`, with a code in CODES and a branch in
`apply`. Zeros must stay zero, since rows are padded with them: a zero gradient and zero moments move nothing.

    P, G, M, V  parameters, gradients, first and second moments: arrays of one layout; M is V if there is one moment
    m, v, g     the moments and gradient of a parameter p
    o           the settings, with a scalar for each

Moments whose gradient stays zero, such as those of a unit that never fires, decay until they are subnormal, on which
processors are several times slower. Every 32 steps such moments become zero: checking all in every step took 4 % of the
time at batch size 1.
"""

import math
from typing import Annotated, Any, NamedTuple

import numba
import numpy as np
from numba.extending import register_jitable

from microgpt.engines.base import implementation
from microgpt.engines.native.compilation import Floats, kernel
from microgpt.engines.native.layout import LayoutRecord
from microgpt.engines.native.simd.lanes import horizontal_sum
from microgpt.engines.native.simd.vector import LANES, flush_subnormals, fma, load, splat, sqrt, store
from microgpt.engines.optimizer import OptimizerSpec

FLUSHING_INTERVAL = 32  # steps
SMALLEST_SHARING = 1e-15  # smallest eps with which the product of two denominators is sure to be a normal float32

ADAM, SGD = range(2)
CODES = {"adam": ADAM, "adamw": ADAM, "sgd": SGD}  # adamw is adam with decoupled weight decay


class Settings(NamedTuple):
    """An OptimizerSpec in numbers."""

    code: int
    moments: int
    beta1: float
    beta2: float
    eps: float
    momentum: float
    decay: float  # decoupled weight decay; 0: none
    largest_norm: float  # infinity: gradients are not clipped


DTYPE = np.dtype([(field, np.int64 if kind is int else np.float64) for field, kind in Settings.__annotations__.items()])
SettingsRecord = Annotated[Any, numba.from_dtype(DTYPE)]


def settings_record(spec: OptimizerSpec) -> np.record:
    """Return an optimizer as kernels take it. Raises UserError for one without a kernel."""
    settings = Settings(
        code=implementation(CODES, "optim.name", spec.name, "CODES in engines/native/optimizers.py"),
        moments=spec.moments,
        beta1=spec.beta1,
        beta2=spec.beta2,
        eps=spec.eps,
        momentum=spec.momentum,
        decay=spec.decay,
        largest_norm=math.inf if spec.grad_clip is None else spec.grad_clip,
    )
    return np.rec.array([tuple(settings)], dtype=DTYPE)[0]


def bias_corrections(spec: OptimizerSpec, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Return 1 - beta1^t and 1 - beta2^t of the steps from `begin` to before `end`, counted from 0: t is step + 1."""
    t = np.arange(begin + 1, end + 1)
    return 1 - spec.beta1**t, 1 - spec.beta2**t


@kernel
def adam(P: Floats, G: Floats, M: Floats, V: Floats, begin: int, end: int, lr: float, correction1: float,
         correction2: float, o: SettingsRecord):  # fmt: skip
    """m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2, p -= lr m' / (sqrt(v') + eps)

    with m' = m / correction1 and v' = v / correction2. Two vectors share one division, the slowest instruction of all:
    a / b = a d / (b d), c / d = c b / (b d).
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
def apply(P: Floats, G: Floats, M: Floats, V: Floats, begin: int, end: int, lr: float, correction1: float,
          correction2: float, o: SettingsRecord):  # fmt: skip
    """Update the parameters from `begin` to before `end` with the optimizer of these settings."""
    if o.code == ADAM:
        adam(P, G, M, V, begin, end, lr, correction1, correction2, o)
    elif o.code == SGD:
        sgd(P, G, M, begin, end, lr, o)
    else:  # a code without a branch: the next loss is NaN, which ends the run
        for i in range(begin, end, LANES):
            store(P, i, load(P, i) * math.nan)


@kernel
def clip(G: Floats, size: int, largest_norm: float):
    """Scale all gradients together so that their Euclidean norm is at most `largest_norm` (Pascanu et al., 2013)."""
    squares = splat(G, 0.0)
    for i in range(0, size, LANES):
        squares = fma(load(G, i), load(G, i), squares)
    norm = math.sqrt(horizontal_sum(squares))
    if norm > largest_norm:
        for i in range(0, size, LANES):
            store(G, i, load(G, i) * (largest_norm / norm))


@kernel
def flush(M: Floats, size: int):
    for i in range(0, size, LANES):
        store(M, i, flush_subnormals(load(M, i)))


@register_jitable
def whole_pairs(count):
    """Round up to a multiple of two vectors."""
    return -(-count // (2 * LANES)) * (2 * LANES)


@kernel
def update(P: Floats, G: Floats, M: Floats, V: Floats, step: int, lr: float, correction1: float, correction2: float,
           o: SettingsRecord, z: LayoutRecord):  # fmt: skip
    """Clip, decay and update all parameters of a model in step number `step`, counted from 0."""
    if o.largest_norm < math.inf:
        clip(G, z.size, o.largest_norm)
    if o.decay > 0:
        keep = splat(P, 1 - lr * o.decay)
        for i in range(z.decayed, z.size, LANES):
            store(P, i, load(P, i) * keep)
    # Without the rows of zeros behind the vocabulary: with 27 characters they would be 4 % of the parameters.
    table, positions = whole_pairs(z.vocab * z.embd_lanes), whole_pairs(z.block * z.embd_lanes)
    apply(P, G, M, V, z.wte, z.wte + table, lr, correction1, correction2, o)
    if z.wpe >= 0:
        apply(P, G, M, V, z.wpe, z.wpe + positions, lr, correction1, correction2, o)
    if z.lm_head != z.wte:
        apply(P, G, M, V, z.lm_head, z.lm_head + table, lr, correction1, correction2, o)
    apply(P, G, M, V, z.layers, z.size, lr, correction1, correction2, o)
    if step % FLUSHING_INTERVAL == FLUSHING_INTERVAL - 1:
        flush(M, z.size)
        if o.moments == 2:
            flush(V, z.size)
