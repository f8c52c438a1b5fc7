"""microgpt.runs(folder="outputs") returns one row per run in a folder, oldest first: Runs(folder).dataframe().

This is also the package of the folders, records and checkpoints of runs. When it is imported, Python sets the attribute
`runs` of the package microgpt to it, so it must be callable: the function is in microgpt/api/run.py.
"""

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    def __call__(self, folder: str | os.PathLike[str] = "outputs") -> Any:
        return import_module("microgpt.api").runs(folder)


sys.modules[__name__].__class__ = CallableModule
