"""The SIMD vocabulary of the native kernels: a vector of 16 numbers as a type that numba knows.

A vector holds 16 lanes of float32 or float64. LLVM maps it to what the processor has: one AVX-512 register, two of
AVX2, four of SSE or NEON. With it a kernel reads like the formula that it computes, and runs like one written in C with
vector extensions. Arithmetic is IEEE without re-association, so a result does not depend on how a loop was cut into
tiles; only a product and the sum that follows it may be fused (`fma`). Indices count elements from a pointer, and
nothing is checked: whoever calls sees to the bounds.
"""

import inspect
import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import RequireLiteralValue
from numba.extending import intrinsic, models, overload, register_model

LANES = 16
SMALLEST_NORMAL = 2.0**-126  # of float32
INT32, INT64, MASK = ir.IntType(32), ir.IntType(64), ir.IntType(LANES)
INTEGERS = ir.VectorType(INT32, LANES)
FLOATS = {"float32": ir.FloatType(), "float64": ir.DoubleType()}


class VectorType(types.Type):
    """16 lanes of a numba float type."""

    def __init__(self, dtype):
        self.dtype = dtype
        self.llvm = ir.VectorType(FLOATS[dtype.name], LANES)
        super().__init__(name=f"{dtype.name}x{LANES}")


class RegistersType(types.Type):
    """A few vectors that a kernel indexes by constants: LLVM keeps them in registers."""

    def __init__(self, vector):
        self.vector = vector
        super().__init__(name=f"registers_{vector.name}")


@register_model(VectorType)
class VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, kind.llvm)


@register_model(RegistersType)
class RegistersModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, kind.vector.llvm.as_pointer())


def instruction(result: Callable[..., Any], literal: bool = False) -> Callable[[Callable], Any]:
    """Make a word of the vocabulary from a function that emits its code.

    result(*types of the arguments) is the type of its value. The function gets the builder, those types and the
    arguments, whole numbers as int64; with `literal` the last one as a Python number, known when compiling.
    """

    def decorate(code):
        def define(typing, *kinds):
            if literal and not isinstance(kinds[-1], types.IntegerLiteral):
                raise RequireLiteralValue("the last argument must be a literal")  # numba tries again with literals

            def emit(context, builder, signature, values):
                whole = [context.cast(builder, v, k, types.int64) if isinstance(k, types.Integer) else v
                         for v, k in zip(values, kinds, strict=True)]  # fmt: skip
                if literal:
                    whole[-1] = kinds[-1].literal_value
                produced = code(builder, kinds, *whole)
                return context.get_dummy_value() if produced is None else produced

            return result(*kinds)(*kinds), emit

        # numba matches arguments by name: typing, and the code's own
        _, _, *own = inspect.signature(code).parameters.values()
        context = inspect.Parameter("typing", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        define.__signature__ = inspect.Signature([context, *own])
        define.__name__, define.__doc__ = code.__name__, code.__doc__
        return intrinsic(define)

    return decorate


def vector_of(pointer, *_):
    return VectorType(pointer.dtype)


def same(x, *_):
    return x


def nothing(*_):
    return types.void


def constant(x, number):
    return ir.Constant(x.llvm, [number] * LANES)


def spread(builder, x, number):
    """A scalar of the lanes' type in all lanes."""
    undefined = ir.Constant(x.llvm, ir.Undefined)
    lane_0 = builder.insert_element(undefined, number, INT32(0))
    return builder.shuffle_vector(lane_0, undefined, ir.Constant(INTEGERS, [0] * LANES))


def converted(builder, number, kind, dtype: Any):
    """A scalar as a number of dtype, whole or real."""
    if not isinstance(dtype, types.Float):
        return builder.trunc(number, ir.IntType(dtype.bitwidth)) if dtype.bitwidth < 64 else number
    if isinstance(kind, types.Integer):
        return builder.sitofp(number, FLOATS[dtype.name])
    if kind.bitwidth == dtype.bitwidth:
        return number
    return (builder.fptrunc if kind.bitwidth > dtype.bitwidth else builder.fpext)(number, FLOATS[dtype.name])


def call(builder, name, x, *values):
    """An LLVM intrinsic on vectors like x."""
    kind = ir.FunctionType(x.llvm, [x.llvm] * len(values))
    suffix = f"v{LANES}f{x.dtype.bitwidth}"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.{suffix}"), values)


def vector_at(builder, kind, pointer, index):
    return builder.bitcast(builder.gep(pointer, [index], inbounds=True), VectorType(kind.dtype).llvm.as_pointer())


# Memory


def define_data(typing, array, index):
    """Pointer to array[index]: what kernels hand on to each other instead of arrays, which are seven numbers each"""

    def emit(context, builder, signature, values):
        pointer = context.make_array(array)(context, builder, values[0]).data
        return builder.gep(pointer, [context.cast(builder, values[1], index, types.int64)], inbounds=True)

    return types.CPointer(array.dtype)(array, index), emit


data: Any = intrinsic(define_data)


@instruction(same)
def shift(builder, kinds, pointer, count):
    """Pointer to the element `count` further on"""
    return builder.gep(pointer, [count], inbounds=True)


@instruction(vector_of)
def load(builder, kinds, pointer, index):
    """pointer[index : index + 16]"""
    return builder.load(vector_at(builder, kinds[0], pointer, index), align=kinds[0].dtype.bitwidth // 8)


@instruction(nothing)
def store(builder, kinds, pointer, index, value):
    """pointer[index : index + 16] = value"""
    builder.store(value, vector_at(builder, kinds[0], pointer, index), align=kinds[0].dtype.bitwidth // 8)


@instruction(lambda pointer, index: pointer.dtype)
def get(builder, kinds, pointer, index):
    """pointer[index], one number"""
    return builder.load(builder.gep(pointer, [index], inbounds=True))


@instruction(nothing)
def prefetch(builder, kinds, pointer, index):
    """pointer[index] will be read soon: fetch its cache line"""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, INT32, INT32, INT32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    place = builder.bitcast(builder.gep(pointer, [index], inbounds=True), byte)
    builder.call(function, [place, INT32(0), INT32(3), INT32(1)])  # for reading, to be kept, data


@instruction(nothing)
def put(builder, kinds, pointer, index, value):
    """pointer[index] = value, one number"""
    number = converted(builder, value, kinds[2], kinds[0].dtype)
    builder.store(number, builder.gep(pointer, [index], inbounds=True))


@instruction(vector_of)
def splat(builder, kinds, like, number):
    """`number` in all lanes, of the type of the elements behind `like`, a pointer or a vector"""
    dtype = kinds[0].dtype
    return spread(builder, VectorType(dtype), converted(builder, number, kinds[1], dtype))


@instruction(vector_of)
def load_splat(builder, kinds, pointer, index):
    """pointer[index] in all lanes"""
    return spread(builder, vector_of(*kinds), builder.load(builder.gep(pointer, [index], inbounds=True)))


@instruction(lambda pointer, count: RegistersType(VectorType(pointer.dtype)), literal=True)
def registers(builder, kinds, pointer, count):
    """`count` (a literal) vectors of the type of the elements; their content is undefined"""
    vector = vector_of(*kinds).llvm
    block = cgutils.alloca_once(builder, ir.ArrayType(vector, count))
    return builder.bitcast(block, vector.as_pointer())


@instruction(lambda block, index: block.vector)
def read(builder, kinds, block, index):
    """registers[index]"""
    return builder.load(builder.gep(block, [index], inbounds=True))


@instruction(nothing)
def write(builder, kinds, block, index, value):
    """registers[index] = value"""
    builder.store(value, builder.gep(block, [index], inbounds=True))


# Arithmetic


def overload_operator(symbol, name):
    @instruction(same)
    def operation(builder, kinds, x, y):
        return getattr(builder, name)(x, y)

    @overload(symbol)
    def implementation(x, y):
        scalar = (types.Float, types.Integer)
        if isinstance(x, VectorType) and isinstance(y, VectorType):
            return lambda x, y: operation(x, y)
        if isinstance(x, VectorType) and isinstance(y, scalar):
            return lambda x, y: operation(x, splat(x, y))
        if isinstance(y, VectorType) and isinstance(x, scalar):
            return lambda x, y: operation(splat(y, x), y)
        return None


overload_operator(operator.add, "fadd")
overload_operator(operator.sub, "fsub")
overload_operator(operator.mul, "fmul")
overload_operator(operator.truediv, "fdiv")


@instruction(same)
def fma(builder, kinds, x, y, z):
    """x * y + z, rounded once where the processor can"""
    return call(builder, "fmuladd", kinds[0], x, y, z)


@instruction(same)
def maximum(builder, kinds, x, y):
    """The larger lane by lane; where x is not a number, y."""
    return builder.select(builder.fcmp_ordered(">", x, y), x, y)


@instruction(same)
def where_positive(builder, kinds, x, y):
    """y where x > 0, elsewhere 0; not a number where x is none"""
    zero = constant(kinds[0], 0.0)
    return builder.select(builder.fcmp_ordered("<=", x, zero), zero, y)


@instruction(same)
def flushed(builder, kinds, x):
    """x, but 0 where it is too small for a normal float32: such numbers take the processor several times as long"""
    least = builder.fcmp_ordered("<", call(builder, "fabs", kinds[0], x), constant(kinds[0], SMALLEST_NORMAL))
    return builder.select(least, constant(kinds[0], 0.0), x)


@instruction(same)
def sqrt(builder, kinds, x):
    return call(builder, "sqrt", kinds[0], x)
