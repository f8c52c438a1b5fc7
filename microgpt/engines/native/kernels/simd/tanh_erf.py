"""Vector sigmoid, tanh and cumulative distribution function of the normal distribution (for erf)."""

import math

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import register_jitable

from microgpt.engines.native.kernels.simd.exp import LOG2_E, exp2
from microgpt.engines.native.kernels.simd.vector import FLOATS, INT32, LANES, call, constant, instruction, same

# tail(x) = exp(-x^2 / 2) p(t) for x >= 0 with t = 1 / (1 + TAIL_SCALE x), as in Abramowitz and Stegun, 7.1.26; highest
# power first, without a constant term. Fitted by iteratively reweighted least squares; maximum absolute error 4e-9.
TAIL_SCALE = 0.25
TAIL_COEFFICIENTS = (
    -0.09186564882124852, 0.34271395174718333, -0.26884084384145607, 0.2827351136819221, 0.02409563909402224,
    0.11235891544081122, 0.09880286891279629,
)  # fmt: skip


@instruction(same)
def absolute(builder, argument_types, x):
    return call(builder, "fabs", argument_types[0], x)


@instruction(same)
def where_sign(builder, argument_types, x, y, z):
    """y where x > 0, else z"""
    return builder.select(builder.fcmp_ordered(">", x, constant(argument_types[0], 0.0)), y, z)


@register_jitable(forceinline=True)
def sigmoid(x):
    """s = 1 / (1 + exp(-x)), and 1 - s"""
    e = exp2(absolute(x) * -LOG2_E)
    near_1 = 1.0 / (e + 1.0)
    near_0 = e * near_1
    return where_sign(x, near_1, near_0), where_sign(x, near_0, near_1)


@register_jitable(forceinline=True)
def tanh(x):
    """tanh(x) and its derivative"""
    e = exp2(absolute(x) * (-2 * LOG2_E))
    inverse = 1.0 / (e + 1.0)
    magnitude = (1.0 - e) * inverse
    return where_sign(x, magnitude, 0.0 - magnitude), e * inverse * inverse * 4.0


@register_jitable(forceinline=True)
def normal_cdf(x):
    """The probability that a standard normal number is less than x, (1 + erf(x / sqrt(2))) / 2, and its derivative"""
    e = exp2(x * x * (-0.5 * LOG2_E))
    above = tail(absolute(x), e)
    return where_sign(x, 1.0 - above, above), e * (2 * math.pi) ** -0.5


@instruction(same)
def tail(builder, argument_types, x, e):
    """The probability that a standard normal number exceeds x >= 0; e = exp(-x^2 / 2).

    float32: a polynomial. float64: the C library's erfc for each lane.
    """
    vector = argument_types[0]
    if vector.dtype == types.float64:
        return by_lane(builder, "erfc", builder.fmul(x, constant(vector, 2**-0.5)), vector, 0.5)
    one = constant(vector, 1.0)
    t = builder.fdiv(one, call(builder, "fmuladd", vector, x, constant(vector, TAIL_SCALE), one))
    p = constant(vector, TAIL_COEFFICIENTS[0])
    for coefficient in TAIL_COEFFICIENTS[1:]:
        p = call(builder, "fmuladd", vector, p, t, constant(vector, coefficient))
    return builder.fmul(builder.fmul(p, t), e)


def by_lane(builder, name, x, vector, factor):
    """Call a C library function for each lane of a float64 vector, and multiply the results by a factor."""
    number = FLOATS["float64"]
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(number, [number]), name)
    results = ir.Constant(vector.llvm, ir.Undefined)
    for lane in range(LANES):
        result = builder.call(function, [builder.extract_element(x, INT32(lane))])
        results = builder.insert_element(results, result, INT32(lane))
    return builder.fmul(results, constant(vector, factor))
