"""Compile the kernels for a float type to object code, with numba. A second process compiles half of them.

Only this module and the modules in kernels/ import numba; machine_code.py imports this module if it must.
"""

import importlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from numba import types
from numba.core import codegen
from numba.core.compiler_lock import global_compiler_lock

from microgpt.distributed import available_cores
from microgpt.engines.native.kernel_cache import cache_directory, checksums, remove_old_versions
from microgpt.engines.native.kernels.declaration import ENTRIES, KERNELS, halves, signature, with_called

ENTRY_MODULES = ("train", "decoding", "text_sampling", "bulk_sampling", "token_sampling", "python_random")
for module in ENTRY_MODULES:
    importlib.import_module(f"microgpt.engines.native.kernels.{module}")

SECOND_PROCESS = """
import pickle, sys
from microgpt.engines.native.compilation import build
from microgpt.engines.native.kernels.declaration import halves, with_called
pickle.dump(build(sys.argv[1], with_called(halves()[1])), sys.stdout.buffer)
"""
SECONDS_OF_SILENCE = 5  # minimum time between two progress lines during compilation
NUMBA_FUNCTION = re.compile(rb"(?:numba|NRT)_\w+(?=\0)")  # in the names that object code refers to

Code = dict[str, bytes]  # the content of the files of entries, by name (machine_code.py)


def compile_and_keep(
    dtype: str, folder: Path | None, say: Callable[[str], None], why: str = "", refused: OSError | None = None
) -> Code:
    """Compile all kernels and keep them in the folder, unless it is None or cannot be written."""
    say(why or f"compiling the native kernels for {dtype}: once for this version on this machine")
    start = time.perf_counter()
    code = build_in_two_processes(dtype, Progress(say))
    if folder is not None:
        try:
            keep(dtype, folder, code)
        except OSError as error:
            refused = error
    where = f"kept in {folder}"
    if refused is not None:
        where = (
            f"not kept, because {refused.filename or cache_directory()} cannot be written ({refused.strerror}): "
            "set NUMBA_CACHE_DIR=<folder> to use another folder"
        )
    say(f"compiled in {time.perf_counter() - start:.1f} s; {where}")
    return code


def keep(dtype: str, folder: Path, code: Code) -> None:
    """Write the files and, last, their checksums. Raises OSError, for example if the disk is full."""
    manifest, kept = folder / f"{dtype}.compiled", folder / dtype
    manifest.unlink(missing_ok=True)
    shutil.rmtree(kept, ignore_errors=True)
    try:
        kept.mkdir()
        for name, content in code.items():
            (kept / name).write_bytes(content)
        manifest.write_text(json.dumps(checksums(code)))
    except OSError:
        manifest.unlink(missing_ok=True)
        shutil.rmtree(kept, ignore_errors=True)
        raise
    remove_old_versions(folder)


def build_in_two_processes(dtype: str, progress: "Progress") -> Code:
    """Compile all kernels. On a machine with several cores, a second process compiles half of them.

    If the second process fails for any reason, this process compiles its half as well.
    """
    ours, others = halves()
    if available_cores() < 2 or not ours or not others:
        return build(dtype, KERNELS, progress)
    with second_process(dtype) as its_code:
        code = build(dtype, with_called(ours), progress)
        return code | (its_code() or build(dtype, with_called(others), progress))


@contextmanager
def second_process(dtype: str) -> Iterator[Callable[[], Code | None]]:
    """Start a process that compiles the second half; yield a function that waits for its code, None if it failed.

    The process finds the package, but does not import modules from the working directory.
    """
    paths = [str(Path(__file__).resolve().parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", SECOND_PROCESS, dtype],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches only this process, which ends the second process
        )
    except OSError:  # such as a limit on the number of processes
        yield lambda: None
        return

    def its_code() -> Code | None:
        output, _ = process.communicate()
        return pickle.loads(output) if process.returncode == 0 else None

    with process:
        try:
            yield its_code
        finally:
            process.kill()


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


def build(dtype: str, chosen: Sequence[Any], progress: "Progress | None" = None) -> Code:
    """Compile kernels for `dtype`, in order; return the files of those that Python calls."""
    without_scipy()
    code: Code = {}
    for number, dispatcher in enumerate(chosen):
        is_entry = dispatcher in ENTRIES
        dispatcher.disable_compile(False)
        with nullcontext() if is_entry else without_machine_code():  # the code is copied into the callers
            dispatcher.compile(signature(dispatcher, dtype))
        dispatcher.disable_compile()  # a call with other integer types converts them
        if is_entry:
            name = dispatcher.py_func.__name__
            code[name] = file_content(name, dispatcher.overloads[signature(dispatcher, dtype).args])
        if progress is not None:
            progress.show(number + 1, len(chosen))
    return code


def file_content(name: str, compiled: Any) -> bytes:
    """Return the file of a compiled entry (machine_code.py)."""
    _, _, (code, _) = compiled.library.serialize_using_object_code()
    header = {
        "name": name,
        "symbol": compiled.fndesc.llvm_cfunc_wrapper_name,
        "arguments": [c_type(each) for each in compiled.signature.args],
        "result": c_type(compiled.signature.return_type),
        "raising": sorted({found.decode() for found in NUMBA_FUNCTION.findall(code)}),
    }
    return json.dumps(header).encode() + b"\n" + code


def c_type(numba_type: Any) -> str:
    """Return the type of an argument or result in a file's header."""
    if isinstance(numba_type, types.Record):
        return "record*"
    return f"{numba_type.dtype.name}*" if isinstance(numba_type, types.CPointer) else numba_type.name


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
