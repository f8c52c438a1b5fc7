"""A vector of 16 lanes as a numba type, with loads, stores and lane-wise arithmetic.

A lane is a float32 or a float64. LLVM maps a float32 vector to one AVX-512 register, two AVX2 registers, or four SSE or
NEON registers. Arithmetic follows IEEE 754 without re-association, so that a result does not depend on how a loop is
divided into tiles. The only exception is `fma`, a product and a sum with one or two roundings, depending on the
processor. An index counts elements from a pointer; bounds are not checked.
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

from microgpt.engines.native.layout import LANES

SMALLEST_NORMAL = 2.0**-126  # of float32
INT32, INT64, MASK = ir.IntType(32), ir.IntType(64), ir.IntType(LANES)
INT32_VECTOR = ir.VectorType(INT32, LANES)
FLOATS = {"float32": ir.FloatType(), "float64": ir.DoubleType()}


class VectorType(types.Type):
    """16 lanes of a numba float type."""

    def __init__(self, dtype):
        self.dtype = dtype
        self.llvm = ir.VectorType(FLOATS[dtype.name], LANES)
        super().__init__(name=f"{dtype.name}x{LANES}")


class RegistersType(types.Type):
    """An array of vectors with constant indices, which LLVM keeps in registers."""

    def __init__(self, vector):
        self.vector = vector
        super().__init__(name=f"registers_{vector.name}")


@register_model(VectorType)
class VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        super().__init__(manager, vector, vector.llvm)


@register_model(RegistersType)
class RegistersModel(models.PrimitiveModel):
    def __init__(self, manager, registers):
        super().__init__(manager, registers, registers.vector.llvm.as_pointer())


def instruction(result: Callable[..., Any], literal: bool = False) -> Callable[[Callable], Any]:
    """Decorate a function that emits LLVM code, to create a numba intrinsic.

    `result` maps the numba types of the arguments to the type of the result. The function receives the LLVM builder,
    the argument types and the arguments (integers as int64). With `literal`, the last argument is a Python integer
    known at compile time.
    """

    def decorate(emitter):
        def define(typing, *argument_types):
            if literal and not isinstance(argument_types[-1], types.IntegerLiteral):
                raise RequireLiteralValue("the last argument must be a literal")  # numba then retries with literals

            def emit(context, builder, signature, values):
                arguments = [context.cast(builder, v, t, types.int64) if isinstance(t, types.Integer) else v
                             for v, t in zip(values, argument_types, strict=True)]  # fmt: skip
                if literal:
                    arguments[-1] = argument_types[-1].literal_value
                value = emitter(builder, argument_types, *arguments)
                return context.get_dummy_value() if value is None else value

            return result(*argument_types)(*argument_types), emit

        # numba matches arguments by name: `typing`, then the emitter's parameters after builder and argument_types
        _, _, *own = inspect.signature(emitter).parameters.values()
        context = inspect.Parameter("typing", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        define.__signature__ = inspect.Signature([context, *own])
        define.__name__, define.__doc__ = emitter.__name__, emitter.__doc__
        return intrinsic(define)

    return decorate


# Result types of instructions


def vector_of(pointer, *_):
    return VectorType(pointer.dtype)


def same(x, *_):
    return x


def nothing(*_):
    return types.void


# Parts of emitters


def constant(vector, number):
    """Return a vector constant with `number` in all lanes."""
    return ir.Constant(vector.llvm, [number] * LANES)


def broadcast(builder, vector, number):
    """Return a vector of the LLVM type `vector`, with the scalar `number` in all lanes."""
    undefined = ir.Constant(vector, ir.Undefined)
    lane_0 = builder.insert_element(undefined, number, INT32(0))
    return builder.shuffle_vector(lane_0, undefined, ir.Constant(INT32_VECTOR, [0] * LANES))


def convert(builder, number, source, target: Any):
    """Convert a scalar between numba number types."""
    if not isinstance(target, types.Float):
        return builder.trunc(number, ir.IntType(target.bitwidth)) if target.bitwidth < 64 else number
    if isinstance(source, types.Integer):
        return builder.sitofp(number, FLOATS[target.name])
    if source.bitwidth == target.bitwidth:
        return number
    return (builder.fptrunc if source.bitwidth > target.bitwidth else builder.fpext)(number, FLOATS[target.name])


def call(builder, name, vector, *values):
    """Call an LLVM intrinsic on vectors."""
    function_type = ir.FunctionType(vector.llvm, [vector.llvm] * len(values))
    suffix = f"v{LANES}f{vector.dtype.bitwidth}"
    function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.{name}.{suffix}")
    return builder.call(function, values)


def element(builder, pointer, index):
    return builder.gep(pointer, [index], inbounds=True)


def vector_at(builder, pointer_type, pointer, index):
    """Return the address of the vector that begins at pointer[index]."""
    return builder.bitcast(element(builder, pointer, index), VectorType(pointer_type.dtype).llvm.as_pointer())


# Memory


@instruction(same)
def offset(builder, argument_types, pointer, count):
    """Pointer to pointer[count]"""
    return element(builder, pointer, count)


@instruction(vector_of)
def load(builder, argument_types, pointer, index):
    """pointer[index : index + 16]"""
    pointer_type = argument_types[0]
    return builder.load(vector_at(builder, pointer_type, pointer, index), align=pointer_type.dtype.bitwidth // 8)


@instruction(nothing)
def store(builder, argument_types, pointer, index, value):
    """pointer[index : index + 16] = value"""
    pointer_type = argument_types[0]
    builder.store(value, vector_at(builder, pointer_type, pointer, index), align=pointer_type.dtype.bitwidth // 8)


@instruction(lambda pointer, index: pointer.dtype)
def get(builder, argument_types, pointer, index):
    """pointer[index], a scalar"""
    return builder.load(element(builder, pointer, index))


@instruction(nothing)
def put(builder, argument_types, pointer, index, value):
    """pointer[index] = value, a scalar"""
    number = convert(builder, value, argument_types[2], argument_types[0].dtype)
    builder.store(number, element(builder, pointer, index))


@instruction(nothing)
def prefetch(builder, argument_types, pointer, index):
    """Prefetch the cache line of pointer[index], which will be read soon."""
    byte = ir.IntType(8).as_pointer()
    function_type = ir.FunctionType(ir.VoidType(), [byte, INT32, INT32, INT32])
    function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
    address = builder.bitcast(element(builder, pointer, index), byte)
    builder.call(function, [address, INT32(0), INT32(3), INT32(1)])  # read access, high locality, data cache


@instruction(vector_of)
def splat(builder, argument_types, like, number):
    """A vector with `number` in all lanes; `like` is a pointer or vector that determines the element type."""
    dtype = argument_types[0].dtype
    return broadcast(builder, VectorType(dtype).llvm, convert(builder, number, argument_types[1], dtype))


@instruction(vector_of)
def load_splat(builder, argument_types, pointer, index):
    """pointer[index] in all lanes"""
    return broadcast(builder, vector_of(*argument_types).llvm, builder.load(element(builder, pointer, index)))


@instruction(lambda pointer, count: RegistersType(VectorType(pointer.dtype)), literal=True)
def registers(builder, argument_types, pointer, count):
    """`count` (a literal) vectors of the pointer's element type, with undefined content"""
    vector = vector_of(*argument_types).llvm
    block = cgutils.alloca_once(builder, ir.ArrayType(vector, count))
    return builder.bitcast(block, vector.as_pointer())


@instruction(lambda block, index: block.vector)
def read(builder, argument_types, block, index):
    """registers[index]"""
    return builder.load(element(builder, block, index))


@instruction(nothing)
def write(builder, argument_types, block, index, value):
    """registers[index] = value"""
    builder.store(value, element(builder, block, index))


@instruction(lambda like, count: types.CPointer(like.dtype), literal=True)
def on_stack(builder, argument_types, like, count):
    """Pointer to `count` (a literal) numbers of the pointer's element type, with undefined content"""
    number = FLOATS[argument_types[0].dtype.name]
    with builder.goto_entry_block():
        block = builder.alloca(ir.ArrayType(number, count))  # cgutils.alloca_once would write zeros
    block.align = 64  # bytes: a cache line
    return builder.bitcast(block, number.as_pointer())


# Arithmetic


def overload_operator(symbol, name):
    """Define an operator for two vectors, or a vector and a scalar, with an instruction of the LLVM builder."""

    @instruction(same)
    def operation(builder, argument_types, x, y):
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
def fma(builder, argument_types, x, y, z):
    """x * y + z, with one rounding on processors that have an FMA instruction"""
    return call(builder, "fmuladd", argument_types[0], x, y, z)


@instruction(same)
def maximum(builder, argument_types, x, y):
    """The lane-wise maximum; y where either is NaN"""
    return builder.select(builder.fcmp_ordered(">", x, y), x, y)


@instruction(same)
def where_positive(builder, argument_types, x, y):
    """y where x > 0 or x is NaN, otherwise 0"""
    zero = constant(argument_types[0], 0.0)
    return builder.select(builder.fcmp_ordered("<=", x, zero), zero, y)


@instruction(same)
def flush_subnormals(builder, argument_types, x):
    """x, with subnormal float32 lanes set to 0, because processors are several times slower with subnormal numbers"""
    magnitude = call(builder, "fabs", argument_types[0], x)
    too_small = builder.fcmp_ordered("<", magnitude, constant(argument_types[0], SMALLEST_NORMAL))
    return builder.select(too_small, constant(argument_types[0], 0.0), x)


@instruction(same)
def sqrt(builder, argument_types, x):
    return call(builder, "sqrt", argument_types[0], x)


@instruction(same)
def inverse_root(builder, argument_types, x, factor, addend):
    """1 / sqrt(x factor + addend) for a scalar, rounded as in the lanes of a vector of the same type"""
    dtype, factor_type, addend_type = argument_types
    factor, addend = convert(builder, factor, factor_type, dtype), convert(builder, addend, addend_type, dtype)
    number = FLOATS[dtype.name]
    name = f"llvm.sqrt.f{dtype.bitwidth}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(number, [number]), name)
    root = builder.call(function, [builder.fadd(builder.fmul(x, factor), addend)])
    return builder.fdiv(ir.Constant(number, 1.0), root)
