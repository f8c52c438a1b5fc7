"""Muon's update of a matrix, which subtracts a nearly orthogonal matrix (engines/scalar/optimizers.py).

The Newton-Schulz iteration consists of matrix products, computed with matmul.py.
"""

import math

from microgpt.engines.native.kernels.declaration import Floats, LayoutRecord, SettingsRecord, kernel
from microgpt.engines.native.kernels.matmul import multiply, transpose
from microgpt.engines.native.kernels.simd.lanes import horizontal_sum
from microgpt.engines.native.kernels.simd.vector import LANES, fma, load, splat, store


@kernel
def orthogonalize(A: Floats, x: int, y: int, t: int, gram: int, m: int, n: int, o: SettingsRecord) -> int:
    """X <- a X + (b A + c A^2) X with A = X X^T, o.steps times, for X (m, n) at x; return the result's offset, x or y.

    Scratch: m n elements at y and at t, 2 m^2 at gram. m and n are multiples of 16.
    """
    squared = gram + m * m
    for _ in range(o.steps):
        transpose(A, x, n, A, t, m, m, n)
        multiply(A, gram, m, A, x, n, 1, A, t, m, m, n, m // LANES, 0)
        multiply(A, squared, m, A, gram, m, 1, A, gram, m, m, m, m // LANES, 0)
        for i in range(0, m * m, LANES):
            store(A, squared + i, load(A, gram + i) * o.b + load(A, squared + i) * o.c)
        for i in range(0, m * n, LANES):
            store(A, y + i, load(A, x + i) * o.a)
        multiply(A, y, n, A, squared, m, 1, A, x, n, m, m, n // LANES, 1)
        x, y = y, x
    return x


@kernel
def move_matrix(P: Floats, G: Floats, M: Floats, A: Floats, x: int, w: int, rows: int, columns: int, outputs: int,
                inputs: int, lr: float, o: SettingsRecord):  # fmt: skip
    """m = momentum m + (1 - momentum) g, u = momentum m + (1 - momentum) g, W -= lr scale orthogonalized(U)

    with scale = sqrt(max(1, outputs / inputs)), for the matrix (outputs, inputs) at w, padded to (rows, columns).
    Scratch begins at x in A (the layout's `muon`).
    """
    size, is_tall, momentum = rows * columns, outputs > inputs, o.momentum
    y, t, gram = x + size, x + 2 * size, x + 3 * size
    moved, squares = t if is_tall else x, splat(A, 0.0)
    for i in range(0, size, LANES):
        new = load(G, w + i) * (1 - momentum)
        moment = load(M, w + i) * momentum + new
        u = moment * momentum + new
        store(M, w + i, moment)
        store(A, moved + i, u)
        squares = fma(u, u, squares)
    norm = max(math.sqrt(horizontal_sum(squares)), o.smallest_norm)
    for i in range(0, size, LANES):
        store(A, moved + i, load(A, moved + i) / norm)
    if is_tall:
        transpose(A, t, columns, A, x, rows, rows, columns)
        found = orthogonalize(A, x, y, t, gram, columns, rows, o)
        transpose(A, found, rows, A, t, columns, columns, rows)
        found = t
    else:
        found = orthogonalize(A, x, y, t, gram, rows, columns, o)
    rate = lr * math.sqrt(max(1.0, outputs / inputs))
    for i in range(0, size, LANES):
        store(P, w + i, load(P, w + i) - load(A, found + i) * rate)


@kernel
def muon(P: Floats, G: Floats, M: Floats, A: Floats, lr: float, o: SettingsRecord, z: LayoutRecord):
    """Update the matrices of the blocks; A is scratch."""
    e, f, a, kv = z.embd_lanes, z.hidden_lanes, z.head_lanes, z.kv_lanes
    kv_features = z.embd // z.heads * z.kv_heads
    for layer in range(z.n_layer):
        w = z.layers + layer * z.layer
        for part in range(3):
            begin, lanes, outputs = a + (part - 1) * kv, kv, kv_features
            if part == 0:
                begin, lanes, outputs = 0, a, z.embd
            move_matrix(P, G, M, A, z.muon, w + z.qkv + begin * e, lanes, e, outputs, z.embd, lr, o)
        move_matrix(P, G, M, A, z.muon, w + z.wo, e, a, z.embd, z.embd, lr, o)
        for part in range(1 + z.gated):
            move_matrix(P, G, M, A, z.muon, w + z.fc1 + part * f * e, f, e, z.hidden, z.embd, lr, o)
        move_matrix(P, G, M, A, z.muon, w + z.fc2, e, f, z.embd, z.hidden, lr, o)
