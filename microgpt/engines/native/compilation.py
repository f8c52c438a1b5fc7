"""Compile the kernels once per float type, with explicit signatures. A second process compiles half of the kernels.

The machine code is kept on disk (kernel_cache.py).
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock
from numba.core import codegen, config, event
from numba.core.caching import NullCache
from numba.core.compiler_lock import global_compiler_lock

from microgpt.distributed import available_cores
from microgpt.engines.native import kernels
from microgpt.engines.native.kernel_cache import (
    cache_directory,
    checksums,
    damaged_file,
    make_cache_directory,
    make_writable_folder,
    remove_old_versions,
)
from microgpt.engines.native.kernels import halves, is_entry, signature, with_called
from microgpt.errors import UserError

SECOND_PROCESS = """
import sys
from pathlib import Path
import microgpt.engines.native.engine
from microgpt.engines.native.compilation import build
from microgpt.engines.native.kernels import halves, with_called
sys.exit(build(sys.argv[1], Path(sys.argv[2]), with_called(halves()[1])) is not None)
"""
SECONDS_OF_SILENCE = 5  # minimum time between two progress lines during compilation

READY: set[str] = set()  # float types whose kernels are loaded in this process
UNREPORTED: dict[str, float] = {}  # compilation seconds by float type that `compile_kernels` has not returned yet
IN_THIS_PROCESS = threading.Lock()


def compile_kernels(dtype: str, say: Callable[[str], None]) -> float:
    """Load all kernels for `dtype` (float32 or float64) from disk, or compile them; return the compilation seconds."""
    if config.DISABLE_JIT:  # pyright: ignore[reportAttributeAccessIssue]
        raise UserError("backend=native compiles its kernels with numba, but NUMBA_DISABLE_JIT disables compilation")
    prepare_kernels(dtype, say)
    with IN_THIS_PROCESS:
        return UNREPORTED.pop(dtype, 0.0)


def prepare_kernels(dtype: str, say: Callable[[str], None]) -> None:
    """Load or compile the kernels; the next call of `compile_kernels` returns the compilation seconds."""
    with IN_THIS_PROCESS:
        if dtype not in READY:
            UNREPORTED[dtype] = load_or_compile(dtype, say)
            READY.add(dtype)


def load_or_compile(dtype: str, say: Callable[[str], None]) -> float:
    try:
        folder = make_cache_directory()
        lock = FileLock(f"{folder}-{dtype}.lock")
        lock.acquire()  # a second process waits until the first has compiled
    except OSError as error:  # for example an unwritable home folder: each process compiles separately
        return compile_and_keep(dtype, None, say, refused=error)
    with lock:
        if not (folder / f"{dtype}.compiled").exists():
            return compile_and_keep(dtype, folder, say)
        if (damaged := damaged_file(folder, dtype)) is not None:
            return compile_and_keep(dtype, folder, say, f"{damaged} is damaged: compiling the native kernels again")
        start = time.perf_counter()
        compiles = Announcement(say, f"compiling the native kernels for {dtype}: numba does not find them in {folder}")
        with event.install_listener("numba:compile", compiles):
            build(dtype, folder / dtype, [kernel for half in halves() for kernel in half])
        return time.perf_counter() - start if compiles.is_made else 0.0


def compile_and_keep(
    dtype: str, folder: Path | None, say: Callable[[str], None], why: str = "", refused: OSError | None = None
) -> float:
    """Compile all kernels and keep them in the folder, if any; return the seconds."""
    say(why or f"compiling the native kernels for {dtype}: once for this version on this machine")
    start = time.perf_counter()
    progress = Progress(say)
    if folder is not None:
        refused = keep(dtype, folder, progress)
    else:
        build(dtype, None, kernels.KERNELS, progress)
    seconds = time.perf_counter() - start
    where = f"kept in {folder}"
    if refused is not None:
        where = (
            f"not kept, because {refused.filename or cache_directory()} cannot be written ({refused.strerror}): "
            "set NUMBA_CACHE_DIR=<folder> to use another folder"
        )
    say(f"compiled in {seconds:.1f} s; {where}")
    return seconds


def keep(dtype: str, folder: Path, progress: "Progress") -> OSError | None:
    """Compile all kernels and keep them in a folder; return the error if the folder cannot be written."""
    manifest, kept = folder / f"{dtype}.compiled", folder / dtype
    manifest.unlink(missing_ok=True)
    shutil.rmtree(kept, ignore_errors=True)
    error = build_in_two_processes(dtype, kept, progress)
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


def build_in_two_processes(dtype: str, kept: Path, progress: "Progress") -> OSError | None:
    """Compile all kernels; return the last error of writing to the folder `kept`.

    On a machine with several cores, a second process compiles half of the kernels to a separate folder, from which they
    are then loaded. If the second process fails for any reason, this process compiles its half as well.
    """
    ours, others = halves()
    if available_cores() < 2 or not ours or not others:
        return build(dtype, kept, kernels.KERNELS, progress)
    theirs = kept.with_name(f"{dtype}.second")
    shutil.rmtree(theirs, ignore_errors=True)
    with second_process(dtype, theirs) as has_compiled:
        error = build(dtype, kept, with_called(ours), progress)
        is_there = has_compiled() and has_copied(theirs, kept)
    return build(dtype, kept, others if is_there else with_called(others), progress) or error


def has_copied(folder: Path, to: Path) -> bool:
    try:
        shutil.copytree(folder, to, dirs_exist_ok=True)
    except OSError:  # such as a full disk, which `build` finds as well
        return False
    return True


@contextmanager
def second_process(dtype: str, kept: Path) -> Iterator[Callable[[], bool]]:
    """Start a process that compiles the second half; yield a function that waits and returns whether it succeeded.

    The process finds the package, but does not import modules from the working directory.
    """
    paths = [str(Path(__file__).resolve().parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", SECOND_PROCESS, dtype, str(kept)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches only this process, which ends the second process
        )
    except OSError:  # such as a limit on the number of processes
        yield lambda: False
        return
    try:
        yield lambda: process.wait() == 0
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(kept, ignore_errors=True)


def without_scipy() -> None:
    """Import the module of numba that checks for scipy, but skip its import of scipy.linalg, which takes 0.3 s.

    No kernel needs scipy. numba checks again when it compiles a function that does.
    """
    import numba.np.linalg

    if find_spec("scipy") is None:
        return
    before, numba.np.linalg.ensure_blas = numba.np.linalg.ensure_blas, lambda: None
    try:
        importlib.import_module("numba.np.arraymath")
    finally:
        numba.np.linalg.ensure_blas = before


def build(dtype: str, kept: Path | None, chosen: Sequence[Any], progress: "Progress | None" = None) -> OSError | None:
    """Compile kernels for `dtype`, in order; for kernels called by Python, use numba's cache in the folder `kept`.

    The last error of writing to the folder is returned; the kernels are compiled anyway.
    """
    refused = None
    without_scipy()
    config.reload_config()  # now, because numba would reload during compilation if a variable has changed
    before, config.CACHE_DIR = config.CACHE_DIR, str(kept or "")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        for number, dispatcher in enumerate(chosen):
            dispatcher.disable_compile(False)
            try:
                if is_entry(dispatcher.py_func):
                    dispatcher._cache = NullCache()  # not the cache of another float type
                    if kept is not None:
                        make_writable_folder(kept)  # otherwise numba would use another folder
                        dispatcher.enable_caching()  # reads config.CACHE_DIR
                compile_one(dispatcher, dtype)
            except OSError as error:
                refused = error
                compile_one(dispatcher, dtype)  # returns the already compiled kernel
            dispatcher.disable_compile()  # a call with other integer types converts them
            if progress is not None:
                progress.show(number + 1, len(chosen))
    finally:
        config.CACHE_DIR = before  # pyright: ignore[reportAttributeAccessIssue]
    return refused


def compile_one(dispatcher: Any, dtype: str) -> None:
    """Compile a kernel; without machine code if only kernels call it, because its code is copied into its callers."""
    with nullcontext() if is_entry(dispatcher.py_func) else without_machine_code():
        dispatcher.compile(signature(dispatcher, dtype))


@contextmanager
def without_machine_code() -> Iterator[None]:
    """Let numba translate functions only to LLVM code in the block, which saves a quarter of the compilation time.

    Such functions can be called by other compiled functions but not by Python. The block holds numba's lock, because
    other threads may compile functions of the caller's. With a version of numba that lacks one of the private functions
    replaced here, functions are compiled as usual.
    """

    def finalize(library: Any) -> None:
        library._finalize_dynamic_globals()
        library._finalized = True

    replacements: list[tuple[Any, str, Callable]] = [
        (codegen.CPUCodeLibrary, "_optimize_final_module", lambda library: None),
        (codegen.CPUCodeLibrary, "_finalize_final_module", finalize),
        (codegen.JITCodeLibrary, "get_pointer_to_function", lambda library, name: 0),
        (codegen.JITCPUCodegen, "set_env", lambda *arguments: None),
    ]
    needed = [(owner, name) for owner, name, _ in replacements] + [
        (codegen.CPUCodeLibrary, "_finalize_dynamic_globals")
    ]
    if not all(hasattr(owner, name) for owner, name in needed):
        yield
        return
    with global_compiler_lock:
        before = [getattr(owner, name) for owner, name, _ in replacements]
        try:
            for owner, name, replacement in replacements:
                setattr(owner, name, replacement)
            yield
        finally:
            for (owner, name, _), original in zip(replacements, before, strict=True):
                setattr(owner, name, original)


class Progress:
    """Prints every few seconds how many kernels are compiled, and the estimated remaining time."""

    def __init__(self, say: Callable[[str], None]):
        self.say = say
        self.start = self.last = time.perf_counter()

    def show(self, done: int, total: int) -> None:
        now = time.perf_counter()
        if now - self.last >= SECONDS_OF_SILENCE and done < total:
            self.last = now
            self.say(f"compiled {done} / {total} kernels | eta {(now - self.start) / done * (total - done):.0f} s")


class Announcement(event.Listener):
    """Prints a text when numba compiles for the first time."""

    def __init__(self, say: Callable[[str], None], text: str):
        self.say, self.text = say, text
        self.is_made = False

    def on_start(self, event: Any) -> None:
        if not self.is_made:
            self.is_made = True
            self.say(self.text)

    def on_end(self, event: Any) -> None:
        pass
