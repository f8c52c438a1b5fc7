"""The part of the SIMD vocabulary in which lanes meet: sums over lanes, sums along them, a transposed block."""

from llvmlite import ir
from numba import types
from numba.extending import register_jitable

from microgpt.engines.native.simd.types import (
    INT32,
    INT64,
    INTEGERS,
    LANES,
    MASK,
    constant,
    instruction,
    maximum,
    nothing,
    same,
    vector_at,
)


@instruction(same, literal=True)
def exchange(builder, kinds, x, distance):
    """Lane i gets lane i ^ distance (a literal)."""
    return builder.shuffle_vector(x, x, ir.Constant(INTEGERS, [i ^ distance for i in range(LANES)]))


@instruction(same, literal=True)
def behind(builder, kinds, x, distance):
    """Lane i gets lane i - distance (a literal), the first lanes 0."""
    order = [LANES + i - distance for i in range(LANES)]
    return builder.shuffle_vector(constant(kinds[0], 0.0), x, ir.Constant(INTEGERS, order))


@register_jitable
def slot_sum(x, width):
    """The sum over each aligned slot of `width` lanes (1, 2, 4, 8 or 16), in all of its lanes."""
    x = x + exchange(x, 1) if width > 1 else x
    x = x + exchange(x, 2) if width > 2 else x
    x = x + exchange(x, 4) if width > 4 else x
    return x + exchange(x, 8) if width > 8 else x


@register_jitable
def largest_lane(x):
    """The largest of all lanes, in all lanes."""
    x = maximum(x, exchange(x, 1))
    x = maximum(x, exchange(x, 2))
    x = maximum(x, exchange(x, 4))
    return maximum(x, exchange(x, 8))


@register_jitable
def running_sum(x):
    """Lane i gets the sum of lanes 0 to i."""
    x = x + behind(x, 1)
    x = x + behind(x, 2)
    x = x + behind(x, 4)
    return x + behind(x, 8)


@instruction(lambda x, number: x.dtype, literal=True)
def lane(builder, kinds, x, number):
    """One lane (a literal number) as a number"""
    return builder.extract_element(x, INT32(number))


@instruction(lambda x, y: types.int64)
def count_at_most(builder, kinds, x, y):
    """In how many lanes x <= y"""
    return builder.zext(builder.ctpop(builder.bitcast(builder.fcmp_ordered("<=", x, y), MASK)), INT64)


@instruction(nothing)
def transpose_block(builder, kinds, source, i, source_stride, target, j, target_stride):
    """target[j + c * target_stride + r] = source[i + r * source_stride + c] for r, c < 16

    Four rounds in which rows that lie 8, 4, 2, 1 apart exchange halves, quarters, ... of themselves.
    """

    def row(pointer, begin, stride, number):
        return vector_at(builder, kinds[0], pointer, builder.add(begin, builder.mul(stride, INT64(number))))

    align = kinds[0].dtype.bitwidth // 8
    rows = [builder.load(row(source, i, source_stride, r), align=align) for r in range(LANES)]
    for step in (8, 4, 2, 1):
        low = ir.Constant(INTEGERS, [n if not n & step else LANES + n - step for n in range(LANES)])
        high = ir.Constant(INTEGERS, [n + step if not n & step else LANES + n for n in range(LANES)])
        for r in (r for r in range(LANES) if not r & step):
            pair = rows[r], rows[r + step]
            rows[r], rows[r + step] = builder.shuffle_vector(*pair, low), builder.shuffle_vector(*pair, high)
    for r in range(LANES):
        builder.store(rows[r], row(target, j, target_stride, r), align=align)
