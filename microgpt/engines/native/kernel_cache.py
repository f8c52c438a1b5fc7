"""Kernels are compiled once for each kind of float, with explicit signatures, and kept on disk."""

import atexit
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import platformdirs
from filelock import FileLock
from numba import types
from numba.core import config

# Types of arguments. F and ARRAY stand for a pointer to, and an array of, the kind of float that is compiled for.
F, ARRAY = "pointer to floats", "array of floats"
INT, U64, DOUBLE = types.int64, types.uint64, types.float64
I32, I64 = types.CPointer(types.int32), types.CPointer(types.int64)
I32_ARRAY, I64_ARRAY, F64_ARRAY = (types.Array(t, 1, "C") for t in (types.int32, types.int64, types.float64))

OPTIONS = {"nogil": True, "error_model": "numpy", "boundscheck": False}
KEPT_VERSIONS = 3  # of compiled kernels, on disk


def digest() -> str:
    """What compiled code depends on: these sources, the compiler, the processor.

    numba itself looks at one file when it asks whether a function has changed, not at the functions that it calls; and
    at the file's path and time of change too, so that these are part of the digest.
    """
    sources = b"".join(
        f"{source} {source.stat().st_mtime_ns}".encode() + source.read_bytes()
        for source in sorted(Path(__file__).resolve().parent.rglob("*.py"))
    )
    machine = llvmlite.binding.get_host_cpu_name() + llvmlite.binding.get_host_cpu_features().flatten()
    versions = f"{numba.__version__} {llvmlite.__version__} {machine}"
    return hashlib.sha256(sources + versions.encode()).hexdigest()[:16]


def cache_directory() -> Path:
    """NUMBA_CACHE_DIR or the user's cache, in either case a folder of its own for each digest; else a temporary one."""
    root = os.environ.get("NUMBA_CACHE_DIR")
    folder = (Path(root) if root else platformdirs.user_cache_path("microgpt") / "kernels") / digest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:  # a home that cannot be written: compiled anew by each process
        private = tempfile.mkdtemp(prefix="microgpt-kernels-")
        atexit.register(shutil.rmtree, private, ignore_errors=True)
        folder = Path(private) / digest()
        folder.mkdir()
        return folder


CACHE = cache_directory()
# numba reads it when a function is decorated.
config.CACHE_DIR = str(CACHE)  # pyright: ignore[reportAttributeAccessIssue]
KERNELS: list[tuple[Any, Any, tuple, bool]] = []


def kernel(*arguments: Any, returns: Any = types.void, inline: bool = False) -> Callable[[Callable], Any]:
    """Compile a function for these types of arguments. One that takes an ARRAY is for Python, and kept on disk."""

    def decorate(function: Callable) -> Any:
        entry = ARRAY in arguments
        dispatcher = numba.njit(**OPTIONS, cache=entry, forceinline=inline)(function)
        KERNELS.append((dispatcher, returns, arguments, entry))
        return dispatcher

    return decorate


def compile_kernels(dtype: str, say: Callable[[str], None]) -> float:
    """Make all kernels ready for `dtype` (float32 or float64): from the disk where they are there, else compile them.

    Returns how many seconds were spent on compiling; 0 where there was nothing to compile.
    """
    done = CACHE / f"{dtype}.compiled"
    with FileLock(f"{CACHE}-{dtype}.lock"):  # a second process waits, and finds them done
        if done.exists():
            build(dtype, entries_only=True)
            return 0.0
        say(f"compiling the native kernels for {dtype}: once for this version on this machine")
        start = time.perf_counter()
        build(dtype, entries_only=False)
        done.touch()
        forget_old_versions()
        seconds = time.perf_counter() - start
        say(f"compiled in {seconds:.1f} s; kept in {CACHE}")
        return seconds


def build(dtype: str, entries_only: bool) -> None:
    number = getattr(types, dtype)
    meaning = {F: types.CPointer(number), ARRAY: types.Array(number, 1, "C")}
    for dispatcher, returns, arguments, entry in KERNELS:
        if entry or not entries_only:
            signature = returns(*[meaning[a] if isinstance(a, str) else a for a in arguments])
            dispatcher.disable_compile(False)
            dispatcher.compile(signature)
            dispatcher.disable_compile()  # calls with other integer types take this one


def forget_old_versions() -> None:
    """Remove compiled kernels of earlier versions but for the newest."""
    versions = sorted(CACHE.parent.glob("*/float*.compiled"), key=lambda path: path.stat().st_mtime)
    kept = {path.parent for path in versions[::-1][: 2 * KEPT_VERSIONS]}
    for path in versions:
        if path.parent not in kept:
            shutil.rmtree(path.parent, ignore_errors=True)
