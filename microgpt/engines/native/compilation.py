"""Compile the kernels once for each float type, with explicit signatures, and keep the machine code on disk.

<cache>/<digest>/float32/           numba's index and data files
<cache>/<digest>/float32.compiled   the SHA-256 of each of them, written last
"""

import hashlib
import importlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import llvmlite.binding
import numba
import platformdirs
from filelock import FileLock
from numba import types
from numba.core import config, event
from numba.core.caching import NullCache

from microgpt.errors import UserError

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
KEPT_VERSIONS = 3  # of compiled kernels, on disk
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
    machine += f"{config.CPU_NAME} {config.CPU_FEATURES}"  # pyright: ignore[reportAttributeAccessIssue]
    versions = f"{numba.__version__} {llvmlite.__version__} {machine}"
    return hashlib.sha256(sources + versions.encode()).hexdigest()[:16]


def cache_directory() -> Path:
    """Return the folder of this digest in NUMBA_CACHE_DIR or the user's cache."""
    root = os.environ.get("NUMBA_CACHE_DIR")
    return (Path(root) if root else platformdirs.user_cache_path("microgpt") / "kernels") / digest()


def make_cache_directory() -> Path:
    """Make the folder. Raises OSError if it cannot be made or written."""
    folder = cache_directory()
    make_writable_folder(folder)
    return folder


def make_writable_folder(folder: Path) -> None:
    """Raises OSError if the folder cannot be made, or takes no file."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def remove_old_versions(folder: Path) -> None:
    """Remove the compiled kernels of all versions beside `folder` except the newest."""
    versions = sorted(folder.parent.glob("*/float*.compiled"), key=lambda path: path.stat().st_mtime)
    kept = {path.parent for path in versions[::-1][: 2 * KEPT_VERSIONS]}
    for path in versions:
        if path.parent not in kept:
            shutil.rmtree(path.parent, ignore_errors=True)


def checksums(kept: Path) -> dict[str, str]:
    """Return the SHA-256 of each file below a folder, by its path there."""
    files = sorted(path for path in kept.rglob("*") if path.is_file())
    return {str(path.relative_to(kept)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def damaged_file(folder: Path, dtype: str) -> Path | None:
    """Return a file of the kept kernels that is not as it was written, or None. numba would raise or not find it."""
    manifest, kept = folder / f"{dtype}.compiled", folder / dtype
    try:
        expected, found = json.loads(manifest.read_bytes()), checksums(kept)
    except (OSError, ValueError):
        return manifest
    if not isinstance(expected, dict) or not expected:
        return manifest
    changed = [name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)]
    return kept / changed[0] if changed else None


# Compilation

READY: set[str] = set()  # the float types whose kernels this process has
UNREPORTED: dict[str, float] = {}  # seconds of compiling for a float type that `compile_kernels` has not returned
IN_THIS_PROCESS = threading.Lock()


def compile_kernels(dtype: str, say: Callable[[str], None]) -> float:
    """Load all kernels for `dtype` (float32 or float64) from disk, or compile them; return the seconds of compiling."""
    if config.DISABLE_JIT:  # pyright: ignore[reportAttributeAccessIssue]
        raise UserError("backend=native compiles its kernels with numba, and NUMBA_DISABLE_JIT switches it off")
    prepare_kernels(dtype, say)
    with IN_THIS_PROCESS:
        return UNREPORTED.pop(dtype, 0.0)


def prepare_kernels(dtype: str, say: Callable[[str], None]) -> None:
    """Do what `compile_kernels` does, which returns the seconds later."""
    with IN_THIS_PROCESS:
        if dtype not in READY:
            UNREPORTED[dtype] = load_or_compile(dtype, say)
            READY.add(dtype)


def load_or_compile(dtype: str, say: Callable[[str], None]) -> float:
    try:
        folder = make_cache_directory()
        lock = FileLock(f"{folder}-{dtype}.lock")
        lock.acquire()  # a second process waits until the first has compiled
    except OSError as error:  # such as a home that cannot be written: each process compiles for itself
        return compile_and_keep(dtype, None, say, refused=error)
    with lock:
        if not (folder / f"{dtype}.compiled").exists():
            return compile_and_keep(dtype, folder, say)
        if (damaged := damaged_file(folder, dtype)) is not None:
            return compile_and_keep(dtype, folder, say, f"{damaged} is damaged: compiling the native kernels again")
        start = time.perf_counter()
        compiles = Announcement(say, f"compiling the native kernels for {dtype}: numba does not find them in {folder}")
        with event.install_listener("numba:compile", compiles):
            build(dtype, folder / dtype, entries_only=True)
        return time.perf_counter() - start if compiles.is_made else 0.0


def compile_and_keep(
    dtype: str, folder: Path | None, say: Callable[[str], None], why: str = "", refused: OSError | None = None
) -> float:
    """Compile all kernels and keep them in a folder, if there is one; return the seconds."""
    say(why or f"compiling the native kernels for {dtype}: once for this version on this machine")
    start = time.perf_counter()
    if folder is not None:
        refused = keep(dtype, folder)
    else:
        build(dtype, None, entries_only=False)
    seconds = time.perf_counter() - start
    where = f"kept in {folder}"
    if refused is not None:
        where = (
            f"not kept, because {refused.filename or cache_directory()} cannot be written ({refused.strerror}): "
            "NUMBA_CACHE_DIR=<folder> names another place"
        )
    say(f"compiled in {seconds:.1f} s; {where}")
    return seconds


def keep(dtype: str, folder: Path) -> OSError | None:
    """Compile all kernels and keep them in a folder; return the error of a folder that cannot be written."""
    manifest, kept = folder / f"{dtype}.compiled", folder / dtype
    manifest.unlink(missing_ok=True)
    shutil.rmtree(kept, ignore_errors=True)
    error = build(dtype, kept, entries_only=False)
    if error is None:
        try:
            manifest.write_text(json.dumps(checksums(kept)))
        except OSError as full:
            error = full
    if error is not None:
        manifest.unlink(missing_ok=True)
        shutil.rmtree(kept, ignore_errors=True)
        return error
    remove_old_versions(folder)
    return None


def without_scipy() -> None:
    """Import the module of numba that would import scipy.linalg, to see whether it is there, for a third of a second.

    No kernel uses it. numba looks again when it compiles a function that does.
    """
    import numba.np.linalg

    if find_spec("scipy") is None:
        return
    before, numba.np.linalg.ensure_blas = numba.np.linalg.ensure_blas, lambda: None
    try:
        importlib.import_module("numba.np.arraymath")
    finally:
        numba.np.linalg.ensure_blas = before


def build(dtype: str, kept: Path | None, entries_only: bool) -> OSError | None:
    """Compile each kernel for `dtype`, entries with numba's cache in the folder `kept`.

    Returns the last error of writing there: the kernels are compiled all the same.
    """
    refused = None
    without_scipy()
    config.reload_config()  # now: numba does it while it compiles if one of its variables has changed
    before, config.CACHE_DIR = config.CACHE_DIR, str(kept or "")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        for dispatcher in KERNELS:
            if entries_only and not is_entry(dispatcher.py_func):
                continue
            dispatcher.disable_compile(False)
            try:
                if is_entry(dispatcher.py_func):
                    dispatcher._cache = NullCache()  # not that of another float type
                    if kept is not None:
                        make_writable_folder(kept)  # else numba would choose another place
                        dispatcher.enable_caching()  # reads config.CACHE_DIR
                dispatcher.compile(signature(dispatcher, dtype))
            except OSError as error:
                refused = error
                dispatcher.compile(signature(dispatcher, dtype))  # returns what is compiled already
            dispatcher.disable_compile()  # a call with other integer types converts them
    finally:
        config.CACHE_DIR = before  # pyright: ignore[reportAttributeAccessIssue]
    return refused


class Announcement(event.Listener):
    """Says once that numba compiles."""

    def __init__(self, say: Callable[[str], None], text: str):
        self.say, self.text = say, text
        self.is_made = False

    def on_start(self, event: Any) -> None:
        if not self.is_made:
            self.is_made = True
            self.say(self.text)

    def on_end(self, event: Any) -> None:
        pass
