"""Makes our launcher and sweeper known to Hydra, which takes plugins from the package `hydra_plugins` alone.

They are put there when the program starts, not when it is installed: a checkout needs no second top-level folder.
"""

import importlib
import sys
from types import ModuleType

from hydra.core.plugins import Plugins


def register_plugins() -> None:
    """Register both under the names by which conf/hydra/ calls them: hydra_plugins.microgpt.<class>."""
    plugins = Plugins.instance()  # executes Hydra's own plugins: ours derive from the classes that it finds
    ours = importlib.import_module("microgpt.sweeps.launcher")
    try:
        package = importlib.import_module("hydra_plugins")  # there if any plugin is installed
    except ImportError:
        package = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        package.__path__ = []
    sys.modules["hydra_plugins.microgpt"] = package.microgpt = ours  # pyright: ignore[reportAttributeAccessIssue]
    for plugin in (ours.VectorizedLauncher, ours.GridSweeper):
        plugin.__module__ = "hydra_plugins.microgpt"
        plugins.register(plugin)
