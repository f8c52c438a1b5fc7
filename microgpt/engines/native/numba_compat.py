"""What the native engine takes from the inside of numba. Checked with numba 0.68.1."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numba.core.codegen import JITCodeLibrary, JITCPUCodegen
from numba.core.compiler_lock import global_compiler_lock


@contextmanager
def without_machine_code() -> Iterator[None]:
    """Let functions be compiled to LLVM code only, which those that call them include.

    numba writes machine code for every function; that of a function that only other compiled functions call never
    runs. Other threads wait until the end before they compile.
    """
    with global_compiler_lock:
        finalize, set_env = JITCodeLibrary._finalize_final_module, JITCPUCodegen.set_env
        replace(mark_as_final, leave_unset)
        try:
            yield
        finally:
            replace(finalize, set_env)


def replace(finalize: Any, set_env: Any) -> None:
    JITCodeLibrary._finalize_final_module, JITCPUCodegen.set_env = finalize, set_env


def leave_unset(codegen: Any, env_name: str, env: Any) -> None:
    """Take the place of JITCPUCodegen.set_env, which writes to an address in the machine code."""


def mark_as_final(library: Any) -> None:
    """Do what CPUCodeLibrary._finalize_final_module does, except give the module to the machine code generator."""
    library._finalize_dynamic_globals()
    library._verify_declare_only_symbols()
    library._finalized = True
