"""The kernels as functions of Python: their machine code is loaded from disk, without numba, or compiled first.

To import numba and to load compiled functions with it takes half a second. A kept entry is therefore a file of the
object code that numba produced, which LLVM links in milliseconds, after a line of JSON for ctypes:

    {"name": ..., "symbol": ..., "arguments": ["float32*", "int64", ...], "result": "none", "raising": [...]}

`raising` are functions of numba that create Python's exceptions. As kernels raise none, they are never called.
"""

import ctypes
import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from filelock import FileLock

from microgpt.engines.native.kernel_cache import make_cache_directory, read_kept
from microgpt.errors import UserError

NUMBERS = {"int64": (int, ctypes.c_int64), "float64": (float, ctypes.c_double)}
ABORT = ctypes.cast(ctypes.CDLL(None).abort, ctypes.c_void_p).value
Kernels = SimpleNamespace  # the entries (kernels/declaration.py) for one float type, by name

LOADED: dict[str, Kernels] = {}  # by float type
ENGINES: list[Any] = []  # own the machine code of the loaded kernels
UNREPORTED: dict[str, float] = {}  # compilation seconds by float type that `compile_kernels` has not returned yet
IN_THIS_PROCESS = threading.Lock()


def compile_kernels(dtype: str, say: Callable[[str], None]) -> float:
    """Load all kernels for `dtype` (float32 or float64), or compile them; return the compilation seconds, once."""
    kernels_for(dtype, say)
    with IN_THIS_PROCESS:
        return UNREPORTED.pop(dtype, 0.0)


def kernels_for(dtype: str, say: Callable[[str], None] = print) -> Kernels:
    """Return the kernels for a float type; the first call in a process loads or compiles them."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        raise UserError("backend=native compiles its kernels with numba, but NUMBA_DISABLE_JIT disables compilation")
    with IN_THIS_PROCESS:
        if dtype not in LOADED:
            start = time.perf_counter()
            code, was_compiled = load_or_compile(dtype, say)
            UNREPORTED[dtype] = time.perf_counter() - start if was_compiled else 0.0
            LOADED[dtype] = link(code)
        return LOADED[dtype]


def load_or_compile(dtype: str, say: Callable[[str], None]) -> tuple[Iterable[bytes], bool]:
    """Return the content of the entries' files, and whether they had to be compiled."""

    def compiled(folder: Path | None, why: str = "", refused: OSError | None = None) -> tuple[Iterable[bytes], bool]:
        from microgpt.engines.native.compilation import compile_and_keep

        return compile_and_keep(dtype, folder, say, why, refused).values(), True

    try:
        folder = make_cache_directory()
        lock = FileLock(f"{folder}-{dtype}.lock")
        lock.acquire()  # a second process waits until the first has compiled
    except OSError as error:  # for example an unwritable home folder: each process compiles separately
        return compiled(None, refused=error)
    with lock:
        if not (folder / f"{dtype}.compiled").exists():
            return compiled(folder)
        files, damaged = read_kept(folder, dtype)
        if damaged is not None:
            return compiled(folder, f"{damaged} is damaged: compiling the native kernels again")
        return files.values(), False


# Linking


def link(files: Iterable[bytes]) -> Kernels:
    """Return functions that call the entries in these files."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    ENGINES.append(engine)
    headers = []
    for content in files:
        header, _, code = content.partition(b"\n")
        headers.append(json.loads(header))
        for name in headers[-1]["raising"]:
            if llvm.address_of_symbol(name) is None:
                llvm.add_symbol(name, ABORT)
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return Kernels(**{each["name"]: function(engine.get_function_address(each["symbol"]), each) for each in headers})


def function(address: int, header: dict[str, Any]) -> Callable[..., Any]:
    """Return a function that calls an entry without the GIL; its arguments are arrays and numbers."""
    converters, types = zip(*map(argument, header["arguments"]), strict=True)
    result = None if header["result"] == "none" else NUMBERS[header["result"]][1]
    call = ctypes.CFUNCTYPE(result, *types)(address)

    def entry(*arguments: Any) -> Any:
        return call(*[convert(value) for convert, value in zip(converters, arguments, strict=True)])

    return entry


def argument(kind: str) -> tuple[Callable[[Any], Any], Any]:
    """Return what converts an argument for ctypes, and its C type."""
    if kind in NUMBERS:
        return NUMBERS[kind]
    if kind == "record*":
        return lambda record: record.ctypes.data, ctypes.c_void_p
    dtype = np.dtype(kind.removesuffix("*"))

    def address(array: np.ndarray) -> int:
        if array.dtype != dtype or not array.flags.c_contiguous:
            raise TypeError(f"a kernel needs a contiguous array of {kind}, not {array.dtype}")
        try:
            return ctypes.addressof(ctypes.c_char.from_buffer(array))  # pyright: ignore[reportArgumentType]
        except (TypeError, ValueError):  # read-only, or empty
            return array.ctypes.data

    return address, ctypes.c_void_p
