"""Matrix products: one kernel, Y[i, :] (+)= sum_k X[i, k] W[k, :], for all three products of a linear layer.

Rows of Y and W are vectors; X is read element by element with two arbitrary strides, so that the same code computes

    forward               y[p, :]  = sum_k  x[p, k]  W^T[k, :]     for every position p
    gradient of input     dx[p, :] = sum_o  dy[p, o] W[o, :]
    gradient of weights   dW[o, :] = sum_p  dy[p, o] x[p, :]       for every output o

without operations between lanes. The forward product reads a transposed copy of W. A tile keeps rows x vectors of Y in
registers during the loop over k. The order of the additions for an element of Y does not depend on tiles and pieces.
"""

from microgpt.engines.native.kernels.declaration import Floats, inlined, kernel
from microgpt.engines.native.kernels.simd.lanes import lowest_bit, nonzero_lanes, transpose_block
from microgpt.engines.native.kernels.simd.vector import (
    LANES,
    fma,
    load,
    load_splat,
    on_stack,
    prefetch,
    read,
    registers,
    splat,
    store,
    write,
)


def tile(rows, vectors):
    """Create a kernel that computes a tile of `rows` rows x `vectors` vectors of Y, starting at offset y."""
    count = rows * vectors

    @inlined
    def compute(Y: Floats, y: int, y_row: int, X: Floats, x: int, x_row: int, x_k: int, W: Floats, w: int, w_k: int,
                inner: int, accumulate: int):  # fmt: skip
        sums = registers(Y, count)
        row = registers(Y, vectors)
        for i in range(rows):
            for j in range(vectors):
                write(sums, i * vectors + j, load(Y, y + i * y_row + j * LANES) if accumulate else splat(Y, 0.0))
        for k in range(inner):
            for j in range(vectors):
                write(row, j, load(W, w + k * w_k + j * LANES))
            for i in range(rows):
                factor = load_splat(X, x + i * x_row + k * x_k)
                for j in range(vectors):
                    write(sums, i * vectors + j, fma(factor, read(row, j), read(sums, i * vectors + j)))
        for i in range(rows):
            for j in range(vectors):
                store(Y, y + i * y_row + j * LANES, read(sums, i * vectors + j))

    return compute


def panel(vectors, size_1, size_2, size_3, size_4):
    """Create a kernel that computes all rows of `vectors` vectors of Y, in tiles of four heights, largest first.

    The remaining rows use the smallest tile that is large enough. size_4 is the smallest useful height: a tile with
    fewer sums takes as long, because each sum waits for its previous addition. With `ahead`, the next tile's part of Y
    is prefetched.
    """
    tile_1, tile_2, tile_3, tile_4 = (tile(size, vectors) for size in (size_1, size_2, size_3, size_4))

    @inlined
    def compute(Y: Floats, y: int, y_row: int, X: Floats, x: int, x_row: int, x_k: int, W: Floats, w: int, w_k: int,
                rows: int, inner: int, accumulate: int, ahead: int):  # fmt: skip
        i = 0
        while rows - i > size_2:
            if ahead:
                for r in range(i + size_1, min(i + 2 * size_1, rows)):
                    for j in range(vectors):
                        prefetch(Y, y + r * y_row + j * LANES)
            tile_1(Y, y + i * y_row, y_row, X, x + i * x_row, x_row, x_k, W, w, w_k, inner, accumulate)
            i += size_1
        y, x = y + i * y_row, x + i * x_row
        if rows - i > size_3:
            tile_2(Y, y, y_row, X, x, x_row, x_k, W, w, w_k, inner, accumulate)
        elif rows - i > size_4:
            tile_3(Y, y, y_row, X, x, x_row, x_k, W, w, w_k, inner, accumulate)
        elif rows > i:
            tile_4(Y, y, y_row, X, x, x_row, x_k, W, w, w_k, inner, accumulate)

    return compute


panel_4, panel_2, panel_1 = panel(4, 6, 4, 3, 2), panel(2, 8, 6, 4, 2), panel(1, 8, 7, 6, 4)

PACKED_ROWS = 32  # from this number on, copying W is faster, in pieces of PACKED_INNER rows x 4 vectors (fits L1 cache)
PACKED_INNER = 128


@inlined
def pack(copied: Floats, W: Floats, w: int, w_k: int, inner: int):
    """Copy rows of 4 vectors of W, which are `w_k` elements apart, to consecutive memory."""
    for k in range(inner):
        for j in range(0, 4 * LANES, LANES):
            store(copied, k * 4 * LANES + j, load(W, w + k * w_k + j))


@kernel
def multiply(Y: Floats, y: int, y_row: int, X: Floats, x: int, x_row: int, x_k: int, W: Floats, w: int, w_k: int,
             rows: int, inner: int, vectors: int, accumulate: int):  # fmt: skip
    """Y[i, :] (+)= sum_k X[i, k] W[k, :] for i < rows and k < inner; a row of Y and W has `vectors` vectors.

    Y begins at y with rows y_row apart; X[i, k] is at x + i * x_row + k * x_k; W begins at w with rows w_k apart. Up to
    3 extra rows are computed, so that X and Y need space after the last row, with any content.
    """
    copied, packs = on_stack(W, 8192), rows >= PACKED_ROWS  # 8192: PACKED_INNER x 4 vectors
    j, size = 0, PACKED_INNER if packs else inner
    while vectors - j >= 4:
        for k in range(0, inner, size):
            some = min(size, inner - k)
            source, begin, distance = W, w + k * w_k + j * LANES, w_k
            if packs:
                pack(copied, W, begin, w_k, some)
                source, begin, distance = copied, 0, 4 * LANES
            panel_4(Y, y + j * LANES, y_row, X, x + k * x_k, x_row, x_k, source, begin, distance, rows, some,
                    accumulate or k > 0, packs)  # fmt: skip
        j += 4
    if vectors - j >= 2:
        panel_2(Y, y + j * LANES, y_row, X, x, x_row, x_k, W, w + j * LANES, w_k, rows, inner, accumulate, 0)
        j += 2
    if vectors - j >= 1:
        panel_1(Y, y + j * LANES, y_row, X, x, x_row, x_k, W, w + j * LANES, w_k, rows, inner, accumulate, 0)


@kernel
def add_row_of_few(A: Floats, y: int, x: int, T: Floats, w: int, inner: int, outputs: int):
    """y[:] += sum_k x[k] W^T[k, :] for one row x with many zeros (for example after relu), which are skipped.

    Each addition waits for the previous one. The result is the same as that of `linear`.
    """
    for j in range(0, outputs, LANES):
        total = load(A, y + j)
        for begin in range(0, inner, LANES):
            bits = nonzero_lanes(load(A, x + begin))
            while bits != 0:
                k = begin + lowest_bit(bits)
                total = fma(load_splat(A, x + k), load(T, w + k * outputs + j), total)
                bits &= bits - 1
        store(A, y + j, total)


@kernel
def linear(A: Floats, y: int, outputs: int, x: int, inputs: int, features: int, T: Floats, w: int, rows: int,
           accumulate: int):  # fmt: skip
    """y[p, :] (+)= W x[p, :] for every row p, with W^T at offset w in T.

    Rows of y and x have `outputs` and `inputs` lanes; x has `features` features before its padding.
    """
    multiply(A, y, outputs, A, x, inputs, 1, T, w, outputs, rows, features, outputs // LANES, accumulate)


@kernel
def linear_backward(A: Floats, dx: int, x: int, inputs: int, dy: int, outputs: int, features: int, P: Floats,
                    G: Floats, w: int, rows: int, accumulate: int):  # fmt: skip
    """dW (+)= sum_p dy[p, :] x[p, :]^T, dx[p, :] = W^T dy[p, :], with W at offset w in P and dW at offset w in G.

    dy has `features` features before its padding.
    """
    multiply(G, w, inputs, A, dy, 1, outputs, A, x, inputs, features, rows, inputs // LANES, accumulate)
    multiply(A, dx, inputs, A, dy, outputs, 1, P, w, inputs, rows, features, inputs // LANES, 0)


@kernel
def transpose(P: Floats, w: int, w_row: int, T: Floats, t: int, t_row: int, rows: int, columns: int):
    """T[k, o] = W[o, k], in blocks of 16 x 16"""
    for o in range(0, rows, LANES):
        for k in range(0, columns, LANES):
            transpose_block(P, w + o * w_row + k, w_row, T, t + k * t_row + o, t_row)
