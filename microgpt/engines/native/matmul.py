"""Matrix products: one kernel, Y[i, :] (+)= sum_k X[i, k] W[k, :], for all three products of a linear layer.

Rows of Y and W are vectors; X is read number by number with any two strides, so that the same code computes

    forward               y[p, :]  = sum_k  x[p, k]  W^T[k, :]     for every position p
    gradient of input     dx[p, :] = sum_o  dy[p, o] W[o, :]
    gradient of weights   dW[o, :] = sum_p  dy[p, o] x[p, :]       for every output o

without an operation between lanes. The forward product reads a transposed copy of W. A tile keeps rows x vectors of Y
in registers while k runs.
"""

from microgpt.engines.native.compilation import Floats, inlined, kernel
from microgpt.engines.native.simd.lanes import transpose_block
from microgpt.engines.native.simd.vector import LANES, fma, load, load_splat, read, registers, splat, store, write


def tile(rows, vectors):
    """Make a kernel that computes a tile of `rows` rows x `vectors` vectors of Y, which begins at y."""
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
    """Make a kernel that computes all rows of `vectors` vectors of Y, in tiles of four heights, the largest first.

    The remaining rows take the smallest tile that holds them. size_4 is the smallest that pays: a tile with fewer sums
    takes as long, since each sum waits for its previous addition.
    """
    tile_1, tile_2, tile_3, tile_4 = (tile(size, vectors) for size in (size_1, size_2, size_3, size_4))

    @inlined
    def compute(Y: Floats, y: int, y_row: int, X: Floats, x: int, x_row: int, x_k: int, W: Floats, w: int, w_k: int,
                rows: int, inner: int, accumulate: int):  # fmt: skip
        i = 0
        while rows - i > size_2:
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


panel_4, panel_2, panel_1 = panel(4, 4, 3, 2, 1), panel(2, 8, 6, 4, 2), panel(1, 8, 7, 6, 4)


@kernel
def multiply(Y: Floats, y: int, y_row: int, X: Floats, x: int, x_row: int, x_k: int, W: Floats, w: int, w_k: int,
             rows: int, inner: int, vectors: int, accumulate: int):  # fmt: skip
    """Y[i, :] (+)= sum_k X[i, k] W[k, :] for i < rows and k < inner; a row of Y and W has `vectors` vectors.

    Y begins at y with rows y_row apart; X[i, k] is at x + i * x_row + k * x_k; W begins at w with rows w_k apart. Up to
    3 rows more are computed: behind the last row of X and Y there must be space, with any content.
    """
    j = 0
    while vectors - j >= 4:
        panel_4(Y, y + j * LANES, y_row, X, x, x_row, x_k, W, w + j * LANES, w_k, rows, inner, accumulate)
        j += 4
    if vectors - j >= 2:
        panel_2(Y, y + j * LANES, y_row, X, x, x_row, x_k, W, w + j * LANES, w_k, rows, inner, accumulate)
        j += 2
    if vectors - j >= 1:
        panel_1(Y, y + j * LANES, y_row, X, x, x_row, x_k, W, w + j * LANES, w_k, rows, inner, accumulate)


@kernel
def linear(A: Floats, y: int, outputs: int, x: int, inputs: int, features: int, T: Floats, w: int, rows: int,
           accumulate: int):  # fmt: skip
    """y[p, :] (+)= W x[p, :] for every row p, from W^T at w of T.

    Rows of y and x have `outputs` and `inputs` lanes; x has `features` features in front of its padding.
    """
    multiply(A, y, outputs, A, x, inputs, 1, T, w, outputs, rows, features, outputs // LANES, accumulate)


@kernel
def linear_backward(A: Floats, dx: int, x: int, inputs: int, dy: int, outputs: int, features: int, P: Floats,
                    G: Floats, w: int, rows: int, accumulate: int):  # fmt: skip
    """dW (+)= sum_p dy[p, :] x[p, :]^T, dx[p, :] = W^T dy[p, :], with W at w of P and dW at w of G.

    dy has `features` features in front of its padding.
    """
    multiply(G, w, inputs, A, dy, 1, outputs, A, x, inputs, features, rows, inputs // LANES, accumulate)
    multiply(A, dx, inputs, A, dy, outputs, 1, P, w, inputs, rows, features, inputs // LANES, 0)


@kernel
def transpose(P: Floats, w: int, w_row: int, T: Floats, t: int, t_row: int, rows: int, columns: int):
    """T[k, o] = W[o, k], in blocks of 16 x 16"""
    for o in range(0, rows, LANES):
        for k in range(0, columns, LANES):
            transpose_block(P, w + o * w_row + k, w_row, T, t + k * t_row + o, t_row)
