"""The plugins of Hydra that conf/hydra/ names as hydra_plugins.microgpt.<name>."""

from microgpt.sweeps.launcher import VectorizedLauncher
from microgpt.sweeps.sweepers import GridSweeper, OptunaSweeper

PLUGINS = (VectorizedLauncher, GridSweeper, OptunaSweeper)
