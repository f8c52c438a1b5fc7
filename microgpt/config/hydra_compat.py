"""Every use of Hydra beyond its documented interface. OmegaConf is used through its public interface only.

Checked with the versions below; tests/config/test_hydra_compat.py fails when one of these uses stops working.
"""

import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig

CHECKED_WITH = {"hydra-core": "1.3.8", "omegaconf": "2.3.1"}


def share_config_store() -> None:
    """Let Hydra use its ConfigStore itself instead of deep copies, which nothing changes.

    Hydra copies the store for each option that --help lists, which would take half of the time of --help.
    """
    ConfigStore.__deepcopy__ = lambda self, memo: self  # pyright: ignore[reportAttributeAccessIssue]


def apply_overrides(overrides: Sequence[Override], config: DictConfig) -> None:
    """Set values in a composed configuration as Hydra does last. Raises Hydra's errors."""
    ConfigLoaderImpl._apply_overrides_to_config(list(overrides), config)


def is_group(loader: ConfigLoader, key: str) -> bool:
    """Return whether `key` is a config group of the search path."""
    assert isinstance(loader, ConfigLoaderImpl)
    return loader.repository.group_exists(key)


def register_plugins(module: str, *names: str) -> None:
    """Register plugin classes of a module of microgpt as hydra_plugins.microgpt.<name>, the names in conf/hydra/.

    Hydra accepts plugins from the package `hydra_plugins` only. They are put into it when the program starts instead
    of by installation, so that a checkout works without installing anything.
    """
    plugins = Plugins.instance()  # before the module is imported: this executes Hydra's own plugin modules again
    ours = importlib.import_module(module)
    try:
        package = importlib.import_module("hydra_plugins")  # exists if any plugin is installed
    except ImportError:
        package = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        package.__path__ = []
    sys.modules["hydra_plugins.microgpt"] = package.microgpt = ours  # pyright: ignore[reportAttributeAccessIssue]
    for name in names:
        plugin = getattr(ours, name)
        plugin.__module__ = "hydra_plugins.microgpt"
        plugins.register(plugin)


def basic_sweeper() -> type[Sweeper]:
    """Return the class of Hydra's own sweeper, as it is after Hydra has executed its plugin modules."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    return BasicSweeper
