"""RMSNorm and LayerNorm, and their gradients, in up to three steps over the rows:

    x = x - mean(x)                         `center`, in a LayerNorm
    unit = x / sqrt(mean(x^2) + epsilon)    `rmsnorm`
    y = unit gain + shift                   `scale_and_shift`, if there is a gain or a bias

Arguments are the same as in pointwise.py. A norm writes its output y and the values that the backward pass reads:
`unit` (equal to y if the norm has neither gain nor bias) and `scale`, which is 1 / sqrt(...) for each row. The gain and
the bias are at offset w in P.
"""

from microgpt.engines.native.kernels.declaration import Floats, LayoutRecord, kernel
from microgpt.engines.native.kernels.simd.lanes import horizontal_sum, slot_sum
from microgpt.engines.native.kernels.simd.vector import (
    LANES,
    fma,
    get,
    inverse_root,
    load,
    load_splat,
    put,
    splat,
    sqrt,
    store,
)


@kernel
def rmsnorm(A: Floats, y: int, scale: int, x: int, lanes: int, rows: int, features: int,
            epsilon: float):  # fmt: skip
    """y[p, :] = scale_p x[p, :] with scale_p = 1 / sqrt(mean(x[p, :]^2) + epsilon)"""
    for p in range(rows):
        squares = splat(A, 0.0)
        for i in range(p * lanes, (p + 1) * lanes, LANES):
            squares = fma(load(A, x + i), load(A, x + i), squares)
        put(A, scale + p, horizontal_sum(squares))
    if rows == 1:  # computing one number is faster than computing 16
        put(A, scale, inverse_root(get(A, scale), 1.0 / features, epsilon))
    for p in range(0, rows if rows > 1 else 0, LANES):  # 16 positions share a division and a square root
        store(A, scale + p, splat(A, 1.0) / sqrt(load(A, scale + p) * (1.0 / features) + epsilon))
    for p in range(rows):
        factor = load_splat(A, scale + p)
        for i in range(p * lanes, (p + 1) * lanes, LANES):
            store(A, y + i, load(A, x + i) * factor)


@kernel
def rmsnorm_backward(A: Floats, dx: int, dy: int, y: int, scale: int, lanes: int, rows: int, features: int,
                     accumulate: int):  # fmt: skip
    """dx[p, :] = scale_p (dy[p, :] - y[p, :] mean(dy[p, :] y[p, :])), or += with `accumulate`"""
    for p in range(rows):
        products = splat(A, 0.0)
        for i in range(p * lanes, (p + 1) * lanes, LANES):
            products = fma(load(A, dy + i), load(A, y + i), products)
        mean = slot_sum(products, 16) * (1.0 / features)
        factor = load_splat(A, scale + p)
        for i in range(p * lanes, (p + 1) * lanes, LANES):
            gradient = (load(A, dy + i) - load(A, y + i) * mean) * factor
            store(A, dx + i, load(A, dx + i) + gradient if accumulate else gradient)


@kernel
def center(A: Floats, y: int, x: int, ones: int, lanes: int, rows: int, features: int, accumulate: int):
    """y[p, :] = x[p, :] - mean(x[p, :]), or += with `accumulate`; `ones` is 1 for features and 0 for padding."""
    for p in range(0, rows * lanes, lanes):
        total = splat(A, 0.0)
        for i in range(0, lanes, LANES):
            total = total + load(A, x + p + i)
        mean = slot_sum(total, 16) * (1.0 / features)
        for i in range(0, lanes, LANES):
            centered = load(A, x + p + i) - mean * load(A, ones + i)
            store(A, y + p + i, load(A, y + p + i) + centered if accumulate else centered)


@kernel
def scale_and_shift(A: Floats, y: int, x: int, lanes: int, rows: int, P: Floats, gain: int, shift: int):
    """y[p, :] = x[p, :] gain + shift; a negative `gain` or `shift` means none."""
    for i in range(0, lanes, LANES):
        factor = load(P, gain + i) if gain >= 0 else splat(A, 1.0)
        addend = load(P, shift + i) if shift >= 0 else splat(A, 0.0)
        for p in range(i, i + rows * lanes, lanes):
            store(A, y + p, fma(load(A, x + p), factor, addend))


@kernel
def scale_and_shift_backward(A: Floats, dy: int, x: int, lanes: int, rows: int, P: Floats, G: Floats, gain: int,
                             shift: int):  # fmt: skip
    """dgain += sum_p dy[p, :] x[p, :], dshift += sum_p dy[p, :]; dy becomes the gradient of x, dy gain."""
    for i in range(0, lanes, LANES):
        products, sums = splat(A, 0.0), splat(A, 0.0)
        factor = load(P, gain + i) if gain >= 0 else splat(A, 1.0)
        for p in range(i, i + rows * lanes, lanes):
            gradient = load(A, dy + p)
            products, sums = fma(gradient, load(A, x + p), products), sums + gradient
            store(A, dy + p, gradient * factor)
        if gain >= 0:
            store(G, gain + i, load(G, gain + i) + products)
        if shift >= 0:
            store(G, shift + i, load(G, shift + i) + sums)


@kernel
def norm(P: Floats, A: Floats, y: int, unit: int, scale: int, x: int, rows: int, w: int, z: LayoutRecord):
    """y = norm(x), with the norm that the layout selects"""
    e, source = z.embd_lanes, x
    if z.centered:
        center(A, unit, x, z.ones, e, rows, z.embd, 0)
        source = unit
    rmsnorm(A, unit, scale, source, e, rows, z.embd, z.norm_eps)
    if y != unit:
        scale_and_shift(A, y, unit, e, rows, P, w + z.gain if z.gain >= 0 else -1, w + z.shift if z.shift >= 0 else -1)


@kernel
def norm_backward(P: Floats, G: Floats, A: Floats, dx: int, dy: int, y: int, unit: int, scale: int, rows: int, w: int,
                  accumulate: int, z: LayoutRecord):  # fmt: skip
    """Write the gradient of x to dx, or add it with `accumulate`; dy is overwritten. dx and dy may be the same."""
    e = z.embd_lanes
    if y != unit:
        scale_and_shift_backward(
            A, dy, unit, e, rows, P, G, w + z.gain if z.gain >= 0 else -1, w + z.shift if z.shift >= 0 else -1
        )
    if z.centered:
        rmsnorm_backward(A, dy, dy, unit, scale, e, rows, z.embd, 0)
        center(A, dx, dy, z.ones, e, rows, z.embd, accumulate)
    else:
        rmsnorm_backward(A, dx, dy, unit, scale, e, rows, z.embd, accumulate)
