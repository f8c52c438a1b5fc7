"""Operations between the lanes of a vector: horizontal sums and maxima, prefix sums, transposition of a block."""

from llvmlite import ir
from numba import types
from numba.extending import register_jitable

from microgpt.engines.native.kernels.simd.vector import (
    INT32,
    INT32_VECTOR,
    INT64,
    LANES,
    MASK,
    broadcast,
    constant,
    convert,
    instruction,
    maximum,
    nothing,
    same,
    vector_at,
)


@instruction(same, literal=True)
def exchange(builder, argument_types, x, distance):
    """A vector whose lane i is lane i ^ distance (a literal) of x"""
    return builder.shuffle_vector(x, x, ir.Constant(INT32_VECTOR, [i ^ distance for i in range(LANES)]))


@instruction(same, literal=True)
def shift(builder, argument_types, x, distance):
    """A vector whose lane i is lane i - distance (a literal) of x; the first lanes are 0."""
    order = [LANES + i - distance for i in range(LANES)]
    return builder.shuffle_vector(constant(argument_types[0], 0.0), x, ir.Constant(INT32_VECTOR, order))


@instruction(lambda x, number: x.dtype, literal=True)
def lane(builder, argument_types, x, number):
    """One lane (a literal number) as a scalar"""
    return builder.extract_element(x, INT32(number))


@instruction(same)
def keep_first(builder, argument_types, x, count, other):
    """The first `count` lanes of x, and the scalar `other` in the remaining lanes"""
    (vector, _, number), integers = argument_types, ir.VectorType(INT64, LANES)
    counts = broadcast(builder, integers, count)
    is_kept = builder.icmp_signed("<", ir.Constant(integers, list(range(LANES))), counts)
    return builder.select(is_kept, x, broadcast(builder, vector.llvm, convert(builder, other, number, vector.dtype)))


@register_jitable
def slot_sum(x, width):
    """Horizontal sum over each aligned slot of `width` lanes (1, 2, 4, 8 or 16), in all lanes of the slot."""
    x = x + exchange(x, 1) if width > 1 else x
    x = x + exchange(x, 2) if width > 2 else x
    x = x + exchange(x, 4) if width > 4 else x
    return x + exchange(x, 8) if width > 8 else x


@register_jitable
def horizontal_sum(x):
    """Sum of all lanes, a scalar"""
    return lane(slot_sum(x, 16), 0)


@register_jitable
def horizontal_max(x):
    """Maximum of all lanes, a scalar"""
    x = maximum(x, exchange(x, 1))
    x = maximum(x, exchange(x, 2))
    x = maximum(x, exchange(x, 4))
    return lane(maximum(x, exchange(x, 8)), 0)


@register_jitable
def prefix_sum(x):
    """A vector whose lane i is the sum of the lanes 0 to i of x"""
    x = x + shift(x, 1)
    x = x + shift(x, 2)
    x = x + shift(x, 4)
    return x + shift(x, 8)


@instruction(lambda x, y: types.int64)
def count_at_most(builder, argument_types, x, y):
    """Number of lanes with x <= y"""
    return builder.zext(builder.ctpop(builder.bitcast(builder.fcmp_ordered("<=", x, y), MASK)), INT64)


@instruction(lambda x: types.int64)
def nonzero_lanes(builder, argument_types, x):
    """One bit per lane, 1 where x is not 0"""
    return builder.zext(builder.bitcast(builder.fcmp_unordered("!=", x, constant(argument_types[0], 0.0)), MASK), INT64)


@instruction(lambda bits: types.int64)
def lowest_bit(builder, argument_types, bits):
    """Index of the lowest bit that is 1"""
    return builder.cttz(bits, ir.Constant(ir.IntType(1), 1))


@instruction(nothing)
def transpose_block(builder, argument_types, source, i, source_stride, target, j, target_stride):
    """target[j + c * target_stride + r] = source[i + r * source_stride + c] for r, c < 16

    Takes four rounds, in which rows at a distance of 8, 4, 2 and 1 exchange halves, quarters, eighths and sixteenths.
    """
    pointer_type = argument_types[0]

    def row(pointer, begin, stride, number):
        return vector_at(builder, pointer_type, pointer, builder.add(begin, builder.mul(stride, INT64(number))))

    align = pointer_type.dtype.bitwidth // 8
    rows = [builder.load(row(source, i, source_stride, r), align=align) for r in range(LANES)]
    for step in (8, 4, 2, 1):
        low = ir.Constant(INT32_VECTOR, [n if not n & step else LANES + n - step for n in range(LANES)])
        high = ir.Constant(INT32_VECTOR, [n + step if not n & step else LANES + n for n in range(LANES)])
        for r in (r for r in range(LANES) if not r & step):
            pair = rows[r], rows[r + step]
            rows[r], rows[r + step] = builder.shuffle_vector(*pair, low), builder.shuffle_vector(*pair, high)
    for r in range(LANES):
        builder.store(rows[r], row(target, j, target_stride, r), align=align)
