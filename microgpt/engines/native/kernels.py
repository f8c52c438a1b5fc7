"""Declare kernels: decorators, argument types, and calls between kernels."""

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numba
from numba import types

# Annotations of a kernel's arguments, besides int (int64) and float (float64). Kernels called by kernels take pointers;
# kernels called by Python take arrays. Floats have the float type for which the kernel is compiled, float32 or float64.
Floats = Annotated[Any, "pointer to floats"]
FloatArray = Annotated[Any, "array of floats"]
Int32s = Annotated[Any, types.CPointer(types.int32)]
Int64s = Annotated[Any, types.CPointer(types.int64)]
Int32Array = Annotated[Any, types.Array(types.int32, 1, "C")]
Int64Array = Annotated[Any, types.Array(types.int64, 1, "C")]
Float64Array = Annotated[Any, types.Array(types.float64, 1, "C")]
UInt64 = Annotated[Any, types.uint64]

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "boundscheck": False}
KERNELS: list[Any] = []  # numba dispatchers in the order of definition: a kernel comes after the kernels that it calls


def kernel(function: Callable) -> Any:
    """Decorate a function that is compiled for the types in its annotations."""
    return declare(function, inline=False)


def entry(function: Callable) -> Any:
    """Decorate a kernel that Python calls although it has no FloatArray."""
    function.is_entry = True  # pyright: ignore[reportFunctionMemberAccess]
    return kernel(function)


def inlined(function: Callable) -> Any:
    """Decorate a kernel that is inlined in every kernel that calls it."""
    return declare(function, inline=True)


def declare(function: Callable, inline: bool) -> Any:
    # Wrappers for calls from Python and C would take a tenth of the compilation time.
    more = {"forceinline": inline, "no_cpython_wrapper": not is_entry(function), "no_cfunc_wrapper": True}
    options: dict[str, Any] = OPTIONS | more
    dispatcher = numba.njit(**options)(function)
    KERNELS.append(dispatcher)
    return dispatcher


def is_entry(function: Callable) -> bool:
    """Return whether Python calls the kernel. Only such kernels are kept on disk, with the kernels that they call."""
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
    """Return these kernels and all kernels that they call, directly or indirectly, in the order of definition."""
    needed, unread = set(), list(entries)
    while unread:
        dispatcher = unread.pop()
        if dispatcher not in needed:
            needed.add(dispatcher)
            unread += called_by(dispatcher)
    return [kernel for kernel in KERNELS if kernel in needed]


def halves() -> tuple[list[Any], list[Any]]:
    """Return the entries in two halves with similar compilation times: the training kernels, and the others."""
    entries = [kernel for kernel in KERNELS if is_entry(kernel.py_func)]
    training = [kernel for kernel in entries if kernel.py_func.__module__.endswith(".train_kernels")]
    return training, [kernel for kernel in entries if kernel not in training]
