"""One matrix product for the whole of training: Y[i, :] (+)= sum_k X[i, k] W[k, :].

Y and W are rows of vectors; X is read number by number with any two strides, so that the same code computes

    forward          y[p, :]  = sum_k  x[p, k]  W^T[k, :]     for every position p
    backward, input  dx[p, :] = sum_o  dy[p, o] W[o, :]
    backward, weight dW[o, :] = sum_p  dy[p, o] x[p, :]       for every output o

A tile holds rows x vectors of Y in registers while k runs.
"""

from microgpt.engines.native.kernel_cache import INT, F, kernel
from microgpt.engines.native.simd.types import LANES, fma, load, load_splat, read, registers, splat, store, write


def tile(rows, vectors):
    """A function that computes `rows` rows x `vectors` vectors of Y, which begins at y."""
    count = rows * vectors

    @kernel(F, INT, INT, F, INT, INT, INT, F, INT, INT, INT, INT, inline=True)
    def compute(Y, y, y_row, X, x, x_row, x_k, W, w, w_k, inner, accumulate):
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
    """A function that computes all rows of `vectors` vectors of Y, in tiles of four sizes, which descend.

    As many as are left choose the smallest tile that takes them all. The last size is the least that pays: with fewer
    sums at a time the processor waits for each just as long.
    """
    tile_1, tile_2, tile_3, tile_4 = (tile(size, vectors) for size in (size_1, size_2, size_3, size_4))

    @kernel(F, INT, INT, F, INT, INT, INT, F, INT, INT, INT, INT, INT, inline=True)
    def compute(Y, y, y_row, X, x, x_row, x_k, W, w, w_k, rows, inner, accumulate):
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


@kernel(F, INT, INT, F, INT, INT, INT, F, INT, INT, INT, INT, INT, INT)
def multiply(Y, y, y_row, X, x, x_row, x_k, W, w, w_k, rows, inner, vectors, accumulate):
    """Y[i, :] (+)= sum_k X[i, k] W[k, :] for i < rows, k < inner; a row of Y and W has `vectors` vectors.

    Up to 3 rows more may be computed: behind the last one there must be room in Y and X, whatever it holds.
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
