"""Compile the kernels once for each float type, with explicit signatures, and keep the machine code on disk."""

import atexit
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import llvmlite.binding
import numba
import platformdirs
from filelock import FileLock
from numba import types
from numba.core import config

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

OPTIONS = {"nogil": True, "error_model": "numpy", "boundscheck": False}
KEPT_VERSIONS = 3  # of compiled kernels, on disk
KERNELS: list[Any] = []  # numba dispatchers in the order of definition: a kernel comes after those that it calls


def kernel(function: Callable) -> Any:
    """Decorate a function that is compiled for the types that its annotations state."""
    return declare(function, inline=False)


def inlined(function: Callable) -> Any:
    """Decorate a kernel that becomes part of the machine code of each kernel that calls it."""
    return declare(function, inline=True)


def declare(function: Callable, inline: bool) -> Any:
    dispatcher = numba.njit(**OPTIONS, forceinline=inline)(function)
    KERNELS.append(dispatcher)
    return dispatcher


def is_entry(dispatcher: Any) -> bool:
    """Return whether Python calls a kernel: only these are kept on disk, each with the kernels that it calls."""
    return FloatArray in dispatcher.py_func.__annotations__.values()


def signature(dispatcher: Any, dtype: str) -> Any:
    """Return a kernel's numba signature for `dtype`."""
    number = getattr(types, dtype)
    by_annotation = {int: types.int64, float: types.float64,
                     Floats: types.CPointer(number), FloatArray: types.Array(number, 1, "C")}  # fmt: skip
    annotations = dispatcher.py_func.__annotations__
    found = {name: by_annotation.get(each) or each.__metadata__[0] for name, each in annotations.items()}
    return found.pop("return", types.void)(*found.values())


# Where machine code is kept


def digest() -> str:
    """Return a digest of what machine code depends on: the sources of this package, the compiler, the processor.

    numba's own cache compares only the file of a function, not those of the functions that it calls; it also compares
    the path and the modification time of the file, so both are part of the digest.
    """
    sources = b"".join(
        f"{source} {source.stat().st_mtime_ns}".encode() + source.read_bytes()
        for source in sorted(Path(__file__).resolve().parent.rglob("*.py"))
    )
    machine = llvmlite.binding.get_host_cpu_name() + llvmlite.binding.get_host_cpu_features().flatten()
    versions = f"{numba.__version__} {llvmlite.__version__} {machine}"
    return hashlib.sha256(sources + versions.encode()).hexdigest()[:16]


def make_cache_directory() -> Path:
    """Make the folder of this digest in NUMBA_CACHE_DIR or the user's cache, or a temporary one if that fails."""
    root = os.environ.get("NUMBA_CACHE_DIR")
    folder = (Path(root) if root else platformdirs.user_cache_path("microgpt") / "kernels") / digest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:  # a home that cannot be written: each process compiles for itself
        private = tempfile.mkdtemp(prefix="microgpt-kernels-")
        atexit.register(shutil.rmtree, private, ignore_errors=True)
        folder = Path(private) / digest()
        folder.mkdir()
        return folder


@cache
def cache_directory() -> Path:
    """Return this process's cache directory."""
    return make_cache_directory()


def remove_old_versions() -> None:
    """Remove the compiled kernels of all versions except the newest."""
    versions = sorted(cache_directory().parent.glob("*/float*.compiled"), key=lambda path: path.stat().st_mtime)
    kept = {path.parent for path in versions[::-1][: 2 * KEPT_VERSIONS]}
    for path in versions:
        if path.parent not in kept:
            shutil.rmtree(path.parent, ignore_errors=True)


# Compilation


def compile_kernels(dtype: str, say: Callable[[str], None]) -> float:
    """Load all kernels for `dtype` (float32 or float64) from disk, or compile them; return the seconds of compiling."""
    folder = cache_directory()
    done = folder / f"{dtype}.compiled"
    with FileLock(f"{folder}-{dtype}.lock"):  # a second process waits until the first has compiled
        if done.exists():
            build(dtype, entries_only=True)
            return 0.0
        say(f"compiling the native kernels for {dtype}: once for this version on this machine")
        start = time.perf_counter()
        build(dtype, entries_only=False)
        done.touch()
        remove_old_versions()
        seconds = time.perf_counter() - start
        say(f"compiled in {seconds:.1f} s; kept in {folder}")
        return seconds


def build(dtype: str, entries_only: bool) -> None:
    """Compile each kernel for `dtype`, entries with numba's cache on disk."""
    before, config.CACHE_DIR = config.CACHE_DIR, str(cache_directory())  # pyright: ignore[reportAttributeAccessIssue]
    try:
        for dispatcher in KERNELS:
            if is_entry(dispatcher):
                dispatcher.enable_caching()  # reads config.CACHE_DIR
            elif entries_only:
                continue
            dispatcher.disable_compile(False)
            dispatcher.compile(signature(dispatcher, dtype))
            dispatcher.disable_compile()  # a call with other integer types converts them
    finally:
        config.CACHE_DIR = before  # pyright: ignore[reportAttributeAccessIssue]
