"""Folders, records and checkpoints of runs.

`microgpt.runs("outputs")` is part of the Python API (microgpt/api/run.py). When this package is imported, Python sets
the attribute `runs` of the package microgpt to it, so this package must be callable.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return import_module("microgpt.api").runs(*args, **kwargs)


sys.modules[__name__].__class__ = CallableModule
