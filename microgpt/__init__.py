"""microgpt: a laboratory for the smallest complete GPT.

The names in `__all__` are public. They are imported from microgpt/api/ on first use, so that `import microgpt` is
fast. docs/architecture.md describes the packages.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from microgpt.api import Model, Run, Runs, UserError, load, runs, sweep, train

__version__ = "0.1.0"
__all__ = ["Model", "Run", "Runs", "UserError", "load", "runs", "sweep", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("microgpt.api"), name)
    raise AttributeError(f"module 'microgpt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
