"""Vector exp, computed as exp(x) = exp2(LOG2_E x)."""

from llvmlite import ir
from numba import types

from microgpt.engines.native.kernels.simd.vector import INT32_VECTOR, LANES, call, constant, instruction, same

LOG2_E = 1.4426950408889634
# Polynomial for 2^r on |r| <= 1/2, highest power first: degree 6, fitted by iteratively reweighted least squares until
# the extrema of the relative error are equal. They are 2.7e-9, a twentieth of float32's rounding error.
EXP2_COEFFICIENTS = (
    1.5345808576335804e-4, 1.339993119198909e-3, 9.618488969859828e-3, 5.550328777050003e-2, 0.24022646890516197,
    0.6931472057372168, 1.0,
)  # fmt: skip
ROUNDING = 1.5 * 2**23  # x + ROUNDING in float32 contains the integer nearest to x in its low bits
SMALLEST_EXPONENT = -100.0  # below, 2^x is set to 0: products with it could be subnormal, which take 100 cycles each


@instruction(same)
def exp2(builder, argument_types, x):
    """2^x for x <= 0; in float32, 0 for x below -100; NaN propagates.

    float32: x = n + r with an integer n; 2^x is the polynomial in r with n added to its exponent, with an error of less
    than one unit in the last place (relative 8e-8). float64: the C library's exp2 for each lane.
    """
    (vector,) = argument_types
    if vector.dtype == types.float64:
        return call(builder, "exp2", vector, x)
    least = constant(vector, SMALLEST_EXPONENT)
    vanishes = builder.fcmp_ordered("<", x, least)
    x = builder.select(vanishes, least, x)
    rounded = builder.fadd(x, constant(vector, ROUNDING))
    r = builder.fsub(x, builder.fsub(rounded, constant(vector, ROUNDING)))
    p = constant(vector, EXP2_COEFFICIENTS[0])
    for coefficient in EXP2_COEFFICIENTS[1:]:
        p = call(builder, "fmuladd", vector, p, r, constant(vector, coefficient))
    n = builder.shl(builder.bitcast(rounded, INT32_VECTOR), ir.Constant(INT32_VECTOR, [23] * LANES))
    power = builder.bitcast(builder.add(builder.bitcast(p, INT32_VECTOR), n), vector.llvm)
    return builder.select(vanishes, constant(vector, 0.0), power)
