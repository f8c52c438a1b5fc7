"""The SIMD vocabulary of the native kernels: a vector of 16 numbers as a type that numba knows.

`Vector` holds 16 lanes of float32 or float64. LLVM maps it to what the processor has: one AVX-512 register, two of AVX2,
four of SSE or NEON. With it a kernel reads like the formula that it computes, and runs like one written in C with vector
extensions. Arithmetic is IEEE without re-association, so a result does not depend on how a loop was cut into tiles; only
a product and the sum that follows it may be fused (`fma`).

Arrays are flat and C-contiguous, indices count elements, and nothing is checked: whoever calls sees to the bounds.
"""

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import RequireLiteralValue
from numba.extending import intrinsic, models, overload, register_jitable, register_model

LANES = 16
INT32 = ir.IntType(32)
FLOATS = {"float32": ir.FloatType(), "float64": ir.DoubleType()}


class VectorType(types.Type):
    """16 lanes of a numba float type."""

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(name=f"{dtype.name}x{LANES}")

    @property
    def element(self):
        return FLOATS[self.dtype.name]

    @property
    def llvm(self):
        return ir.VectorType(self.element, LANES)

    @property
    def suffix(self):
        """How LLVM's intrinsics call this type."""
        return f"v{LANES}f{self.dtype.bitwidth}"


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


# Memory


def address(context, builder, pointer, index, index_type):
    """Of an element behind a pointer."""
    return builder.gep(pointer, [context.cast(builder, index, index_type, types.int64)], inbounds=True)


def constant(vector, number):
    return ir.Constant(vector.llvm, [number] * LANES)


def spread(builder, vector, number):
    """A scalar in all lanes."""
    undefined = ir.Constant(vector.llvm, ir.Undefined)
    first = builder.insert_element(undefined, number, INT32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(INT32, LANES), [0] * LANES))


def llvm_function(builder, name, result, arguments):
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


@intrinsic
def data(typing, array, index):
    """Pointer to array[index]: what kernels hand on to each other instead of arrays, being one number instead of seven"""

    def emit(context, builder, signature, arguments):
        pointer = context.make_array(array)(context, builder, arguments[0]).data
        return address(context, builder, pointer, arguments[1], index)

    return types.CPointer(array.dtype)(array, index), emit


@intrinsic
def shift(typing, pointer, count):
    """Pointer to the element `count` further on"""

    def emit(context, builder, signature, arguments):
        return address(context, builder, *arguments, count)

    return pointer(pointer, count), emit


@intrinsic
def load(typing, array, index):
    """array[index : index + 16]"""
    vector = VectorType(array.dtype)

    def emit(context, builder, signature, arguments):
        pointer = address(context, builder, *arguments, index)
        loaded = builder.load(builder.bitcast(pointer, vector.llvm.as_pointer()))
        loaded.align = array.dtype.bitwidth // 8
        return loaded

    return vector(array, index), emit


@intrinsic
def store(typing, array, index, value):
    """array[index : index + 16] = value"""

    def emit(context, builder, signature, arguments):
        pointer = address(context, builder, *arguments[:2], index)
        stored = builder.store(arguments[2], builder.bitcast(pointer, value.llvm.as_pointer()))
        stored.align = array.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(array, index, value), emit


@intrinsic
def get(typing, array, index):
    """array[index], one number"""

    def emit(context, builder, signature, arguments):
        return builder.load(address(context, builder, *arguments, index))

    return array.dtype(array, index), emit


@intrinsic
def put(typing, array, index, value):
    """array[index] = value, one number"""

    def emit(context, builder, signature, arguments):
        number = context.cast(builder, arguments[2], value, array.dtype)
        builder.store(number, address(context, builder, *arguments[:2], index))
        return context.get_dummy_value()

    return types.void(array, index, value), emit


@intrinsic
def splat(typing, array, number):
    """`number` in all lanes, in the type of the array's elements"""
    vector = VectorType(array.dtype)

    def emit(context, builder, signature, arguments):
        return spread(builder, vector, context.cast(builder, arguments[1], number, array.dtype))

    return vector(array, number), emit


@intrinsic
def load_splat(typing, array, index):
    """array[index] in all lanes"""
    vector = VectorType(array.dtype)

    def emit(context, builder, signature, arguments):
        return spread(builder, vector, builder.load(address(context, builder, *arguments, index)))

    return vector(array, index), emit


@intrinsic
def registers(typing, array, count):
    """`count` (a literal) vectors of the type of the array's elements; their content is undefined"""
    if not isinstance(count, types.IntegerLiteral):
        raise RequireLiteralValue("registers(array, count) needs a literal count")
    kind = RegistersType(VectorType(array.dtype))

    def emit(context, builder, signature, arguments):
        block = cgutils.alloca_once(builder, ir.ArrayType(kind.vector.llvm, count.literal_value))
        return builder.bitcast(block, kind.vector.llvm.as_pointer())

    return kind(array, count), emit


@intrinsic
def read(typing, block, index):
    """registers[index]"""

    def emit(context, builder, signature, arguments):
        number = context.cast(builder, arguments[1], index, types.int64)
        return builder.load(builder.gep(arguments[0], [number], inbounds=True))

    return block.vector(block, index), emit


@intrinsic
def write(typing, block, index, value):
    """registers[index] = value"""

    def emit(context, builder, signature, arguments):
        number = context.cast(builder, arguments[1], index, types.int64)
        builder.store(arguments[2], builder.gep(arguments[0], [number], inbounds=True))
        return context.get_dummy_value()

    return types.void(block, index, value), emit


# Arithmetic


def elementwise(instruction):
    @intrinsic
    def operation(typing, x, y):
        if not (isinstance(x, VectorType) and x == y):
            return None

        def emit(context, builder, signature, arguments):
            return getattr(builder, instruction)(*arguments)

        return x(x, y), emit

    return operation


@intrinsic
def widen(typing, vector, number):
    """`number` in all lanes of a vector like the first argument"""

    def emit(context, builder, signature, arguments):
        return spread(builder, vector, context.cast(builder, arguments[1], number, vector.dtype))

    return vector(vector, number), emit


def overload_operator(symbol, operation):
    @overload(symbol)
    def implementation(x, y):
        scalar = (types.Float, types.Integer)
        if isinstance(x, VectorType) and isinstance(y, VectorType):
            return lambda x, y: operation(x, y)
        if isinstance(x, VectorType) and isinstance(y, scalar):
            return lambda x, y: operation(x, widen(x, y))
        if isinstance(y, VectorType) and isinstance(x, scalar):
            return lambda x, y: operation(widen(y, x), y)
        return None


for symbol, instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    overload_operator(symbol, elementwise(instruction))


@intrinsic
def fma(typing, x, y, z):
    """x * y + z, rounded once where the processor can"""

    def emit(context, builder, signature, arguments):
        return builder.call(llvm_function(builder, f"llvm.fmuladd.{x.suffix}", x.llvm, [x.llvm] * 3), arguments)

    return x(x, y, z), emit


@intrinsic
def maximum(typing, x, y):
    """The larger lane by lane; where x is not a number, y."""

    def emit(context, builder, signature, arguments):
        return builder.select(builder.fcmp_ordered(">", *arguments), *arguments)

    return x(x, y), emit


@intrinsic
def where_positive(typing, x, y):
    """y where x > 0, elsewhere 0"""

    def emit(context, builder, signature, arguments):
        zero = constant(x, 0.0)
        return builder.select(builder.fcmp_ordered(">", arguments[0], zero), arguments[1], zero)

    return x(x, y), emit


@intrinsic
def sqrt(typing, x):
    def emit(context, builder, signature, arguments):
        return builder.call(llvm_function(builder, f"llvm.sqrt.{x.suffix}", x.llvm, [x.llvm]), arguments)

    return x(x), emit


# Across lanes


def partner(builder, value, distance):
    """The lanes in exchanged order: lane i gets lane i ^ distance."""
    order = ir.Constant(ir.VectorType(INT32, LANES), [i ^ distance for i in range(LANES)])
    return builder.shuffle_vector(value, value, order)


@intrinsic
def first(typing, x):
    """Lane 0 as a number"""

    def emit(context, builder, signature, arguments):
        return builder.extract_element(arguments[0], INT32(0))

    return x.dtype(x), emit


@intrinsic
def transpose_block(typing, source, i, source_stride, target, j, target_stride):
    """target[j + c * target_stride + r] = source[i + r * source_stride + c] for r, c < 16

    Four rounds in which rows that lie 8, 4, 2, 1 apart exchange halves, quarters, ... of themselves.
    """
    vector = VectorType(source.dtype)
    size = source.dtype.bitwidth // 8

    def emit(context, builder, signature, arguments):
        data_in, begin_in, stride_in, data_out, begin_out, stride_out = arguments
        rows = []
        for r in range(LANES):
            index = builder.add(begin_in, builder.mul(stride_in, ir.Constant(stride_in.type, r)))
            pointer = address(context, builder, data_in, index, types.int64)
            rows.append(builder.load(builder.bitcast(pointer, vector.llvm.as_pointer())))
            rows[-1].align = size
        order = ir.VectorType(INT32, LANES)
        for step in (8, 4, 2, 1):
            low = ir.Constant(order, [i if not i & step else LANES + i - step for i in range(LANES)])
            high = ir.Constant(order, [i + step if not i & step else LANES + i for i in range(LANES)])
            for r in range(LANES):
                if not r & step:
                    pair = rows[r], rows[r + step]
                    rows[r] = builder.shuffle_vector(*pair, low)
                    rows[r + step] = builder.shuffle_vector(*pair, high)
        for r in range(LANES):
            index = builder.add(begin_out, builder.mul(stride_out, ir.Constant(stride_out.type, r)))
            pointer = address(context, builder, data_out, index, types.int64)
            builder.store(rows[r], builder.bitcast(pointer, vector.llvm.as_pointer())).align = size
        return context.get_dummy_value()

    return types.void(source, i, source_stride, target, j, target_stride), emit


@intrinsic
def exchange(typing, x, distance):
    """Lane i gets lane i ^ distance (a literal)."""
    if not isinstance(distance, types.IntegerLiteral):
        raise RequireLiteralValue("exchange(x, distance) needs a literal distance")

    def emit(context, builder, signature, arguments):
        return partner(builder, arguments[0], distance.literal_value)

    return x(x, distance), emit


@intrinsic
def behind(typing, x, distance):
    """Lane i gets lane i - distance (a literal), the first lanes 0."""
    if not isinstance(distance, types.IntegerLiteral):
        raise RequireLiteralValue("behind(x, distance) needs a literal distance")

    def emit(context, builder, signature, arguments):
        order = [LANES + i - distance.literal_value for i in range(LANES)]
        return builder.shuffle_vector(constant(x, 0.0), arguments[0], ir.Constant(ir.VectorType(INT32, LANES), order))

    return x(x, distance), emit


@register_jitable
def running_sum(x):
    """Lane i gets the sum of lanes 0 to i."""
    x = x + behind(x, 1)
    x = x + behind(x, 2)
    x = x + behind(x, 4)
    return x + behind(x, 8)


@intrinsic
def count_at_most(typing, x, y):
    """In how many lanes x <= y"""
    bits = ir.IntType(LANES)

    def emit(context, builder, signature, arguments):
        mask = builder.bitcast(builder.fcmp_ordered("<=", *arguments), bits)
        return builder.zext(builder.ctpop(mask), ir.IntType(64))

    return types.int64(x, y), emit


@intrinsic
def last(typing, x):
    """Lane 15 as a number"""

    def emit(context, builder, signature, arguments):
        return builder.extract_element(arguments[0], INT32(LANES - 1))

    return x.dtype(x), emit


@register_jitable
def slot_max(x, width):
    """The largest of each aligned slot of `width` lanes, in all of its lanes."""
    if width > 1:
        x = maximum(x, exchange(x, 1))
    if width > 2:
        x = maximum(x, exchange(x, 2))
    if width > 4:
        x = maximum(x, exchange(x, 4))
    if width > 8:
        x = maximum(x, exchange(x, 8))
    return x


@register_jitable
def slot_sum(x, width):
    """The sum over each aligned slot of `width` lanes (1, 2, 4, 8 or 16), in all of its lanes."""
    if width > 1:
        x = x + exchange(x, 1)
    if width > 2:
        x = x + exchange(x, 2)
    if width > 4:
        x = x + exchange(x, 4)
    if width > 8:
        x = x + exchange(x, 8)
    return x


# Functions

# 2^r on |r| <= 1/2, relative error at most 3e-9: fitted to equal ripples (least squares, reweighted)
EXP2_COEFFICIENTS = (
    1.5345808576335804e-4, 1.339993119198909e-3, 9.618488969859828e-3, 5.550328777050003e-2, 0.24022646890516197,
    0.6931472057372168, 1.0,
)  # fmt: skip
ROUNDING = 1.5 * 2**23  # added to a float32 it leaves the nearest whole number in the low bits
SMALLEST_EXPONENT = -125.0  # below, 2^x is not a normal float32 any more


@intrinsic
def exp2(typing, x):
    """2^x for x <= 0, to about a unit in the last place; at most 2^-125 below -125. Not a number stays so.

    float32: x = n + r with whole n; 2^x is 2^r with n added to its exponent. float64 asks the C library lane by lane.
    """

    def emit(context, builder, signature, arguments):
        if x.dtype == types.float64:
            return builder.call(llvm_function(builder, f"llvm.exp2.{x.suffix}", x.llvm, [x.llvm]), arguments)
        multiply_add = llvm_function(builder, f"llvm.fmuladd.{x.suffix}", x.llvm, [x.llvm] * 3)
        integers = ir.VectorType(INT32, LANES)
        least = constant(x, SMALLEST_EXPONENT)
        value = builder.select(builder.fcmp_ordered("<", arguments[0], least), least, arguments[0])
        rounded = builder.fadd(value, constant(x, ROUNDING))
        r = builder.fsub(value, builder.fsub(rounded, constant(x, ROUNDING)))
        p = constant(x, EXP2_COEFFICIENTS[0])
        for coefficient in EXP2_COEFFICIENTS[1:]:
            p = builder.call(multiply_add, [p, r, constant(x, coefficient)])
        n = builder.shl(builder.bitcast(rounded, integers), ir.Constant(integers, [23] * LANES))
        return builder.bitcast(builder.add(builder.bitcast(p, integers), n), x.llvm)

    return x(x), emit
