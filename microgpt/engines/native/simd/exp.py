"""The exponential of 16 numbers at once."""

from llvmlite import ir
from numba import types

from microgpt.engines.native.simd.types import INTEGERS, LANES, call, constant, instruction, same

# 2^r on |r| <= 1/2, relative error at most 3e-9: fitted to equal ripples (least squares, reweighted)
EXP2_COEFFICIENTS = (
    1.5345808576335804e-4, 1.339993119198909e-3, 9.618488969859828e-3, 5.550328777050003e-2, 0.24022646890516197,
    0.6931472057372168, 1.0,
)  # fmt: skip
ROUNDING = 1.5 * 2**23  # added to a float32 it leaves the nearest whole number in the low bits
SMALLEST_EXPONENT = -125.0  # below, 2^x is not a normal float32 any more


@instruction(same)
def exp2(builder, kinds, x):
    """2^x for x <= 0, to about a unit in the last place; at most 2^-125 below -125. Not a number stays so.

    float32: x = n + r with whole n; 2^x is 2^r with n added to its exponent. float64 asks the C library lane by lane.
    """
    (kind,) = kinds
    if kind.dtype == types.float64:
        return call(builder, "exp2", kind, x)
    least = constant(kind, SMALLEST_EXPONENT)
    x = builder.select(builder.fcmp_ordered("<", x, least), least, x)
    rounded = builder.fadd(x, constant(kind, ROUNDING))
    r = builder.fsub(x, builder.fsub(rounded, constant(kind, ROUNDING)))
    p = constant(kind, EXP2_COEFFICIENTS[0])
    for coefficient in EXP2_COEFFICIENTS[1:]:
        p = call(builder, "fmuladd", kind, p, r, constant(kind, coefficient))
    n = builder.shl(builder.bitcast(rounded, INTEGERS), ir.Constant(INTEGERS, [23] * LANES))
    return builder.bitcast(builder.add(builder.bitcast(p, INTEGERS), n), kind.llvm)
