"""Declare kernels: decorators, argument types, and calls between kernels."""

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numba
from numba import types

from microgpt.engines.native import layout, optimizer_settings

# Annotations of a kernel's arguments, besides int (int64) and float (float64). Kernels receive arrays as pointers.
Floats = Annotated[Any, "pointer to floats of the type for which the kernel is compiled: float32 or float64"]
Int32s = Annotated[Any, types.CPointer(types.int32)]
Int64s = Annotated[Any, types.CPointer(types.int64)]
Float64s = Annotated[Any, types.CPointer(types.float64)]
UInt64 = Annotated[Any, types.uint64]
LayoutRecord = Annotated[Any, numba.from_dtype(layout.DTYPE)]  # records are passed as pointers
SettingsRecord = Annotated[Any, numba.from_dtype(optimizer_settings.DTYPE)]

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "boundscheck": False, "no_cpython_wrapper": True}
KERNELS: list[Any] = []  # numba dispatchers in the order of definition: a kernel comes after the kernels that it calls
ENTRIES: list[Any] = []  # the kernels that Python calls, through C functions


def kernel(function: Callable) -> Any:
    """Decorate a function that is compiled for the types in its annotations and called by other kernels."""
    return declare(function, no_cfunc_wrapper=True)


def inlined(function: Callable) -> Any:
    """Decorate a kernel that is inlined in every kernel that calls it."""
    return declare(function, no_cfunc_wrapper=True, forceinline=True)


def entry(function: Callable) -> Any:
    """Decorate a kernel that Python calls by its name. Entries are kept on disk, with the kernels that they call."""
    ENTRIES.append(declare(function))
    return ENTRIES[-1]


def declare(function: Callable, **options: Any) -> Any:
    KERNELS.append(numba.njit(**(OPTIONS | options))(function))
    return KERNELS[-1]


def signature(dispatcher: Any, dtype: str) -> Any:
    """Return a kernel's numba signature for `dtype`."""
    by_annotation = {int: types.int64, float: types.float64, Floats: types.CPointer(getattr(types, dtype))}
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
    training = [kernel for kernel in ENTRIES if kernel.py_func.__module__.endswith(".kernels.train")]
    return training, [kernel for kernel in ENTRIES if kernel not in training]
