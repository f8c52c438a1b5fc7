"""Declare a kernel: decorators, the types of its arguments, which kernels it calls."""

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numba
from numba import types

# Annotations of a kernel's arguments, besides int (int64) and float (float64). Pointers are for kernels that are called
# by kernels, arrays for kernels that are called by Python. Floats have the type that is compiled for, float32 or
# float64.
Floats = Annotated[Any, "pointer to floats"]
FloatArray = Annotated[Any, "array of floats"]
Int32s = Annotated[Any, types.CPointer(types.int32)]
Int64s = Annotated[Any, types.CPointer(types.int64)]
Int32Array = Annotated[Any, types.Array(types.int32, 1, "C")]
Int64Array = Annotated[Any, types.Array(types.int64, 1, "C")]
Float64Array = Annotated[Any, types.Array(types.float64, 1, "C")]
UInt64 = Annotated[Any, types.uint64]

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "boundscheck": False}
KERNELS: list[Any] = []  # numba dispatchers in the order of definition: a kernel comes after those that it calls


def kernel(function: Callable) -> Any:
    """Decorate a function that is compiled for the types that its annotations state."""
    return declare(function, inline=False)


def entry(function: Callable) -> Any:
    """Decorate a kernel that Python calls although it has no FloatArray."""
    function.is_entry = True  # pyright: ignore[reportFunctionMemberAccess]
    return kernel(function)


def inlined(function: Callable) -> Any:
    """Decorate a kernel that becomes part of the machine code of each kernel that calls it."""
    return declare(function, inline=True)


def declare(function: Callable, inline: bool) -> Any:
    # Wrappers, with which Python and C can call a kernel, would take a tenth of the time of compiling.
    more = {"forceinline": inline, "no_cpython_wrapper": not is_entry(function), "no_cfunc_wrapper": True}
    options: dict[str, Any] = OPTIONS | more
    dispatcher = numba.njit(**options)(function)
    KERNELS.append(dispatcher)
    return dispatcher


def is_entry(function: Callable) -> bool:
    """Return whether Python calls a kernel: only these are kept on disk, each with the kernels that it calls."""
    return FloatArray in function.__annotations__.values() or getattr(function, "is_entry", False)


def signature(dispatcher: Any, dtype: str) -> Any:
    """Return a kernel's numba signature for `dtype`."""
    number = getattr(types, dtype)
    by_annotation = {int: types.int64, float: types.float64,
                     Floats: types.CPointer(number), FloatArray: types.Array(number, 1, "C")}  # fmt: skip
    annotations = dispatcher.py_func.__annotations__
    found = {name: by_annotation.get(each) or each.__metadata__[0] for name, each in annotations.items()}
    return found.pop("return", types.void)(*found.values())


# Calls between kernels


def called_by(dispatcher: Any) -> list[Any]:
    """Return the kernels that a kernel's code refers to."""
    variables = inspect.getclosurevars(dispatcher.py_func)
    named = {id(value) for value in (*variables.globals.values(), *variables.nonlocals.values())}
    return [kernel for kernel in KERNELS if id(kernel) in named]


def with_called(entries: Sequence[Any]) -> list[Any]:
    """Return these kernels and all that they call, directly or through others, in the order of definition."""
    needed, unread = set(), list(entries)
    while unread:
        dispatcher = unread.pop()
        if dispatcher not in needed:
            needed.add(dispatcher)
            unread += called_by(dispatcher)
    return [kernel for kernel in KERNELS if kernel in needed]


def halves() -> tuple[list[Any], list[Any]]:
    """Return the entries in two halves that take about as long to compile: those of training, and the others."""
    entries = [kernel for kernel in KERNELS if is_entry(kernel.py_func)]
    training = [kernel for kernel in entries if kernel.py_func.__module__.endswith(".train_kernels")]
    return training, [kernel for kernel in entries if kernel not in training]
