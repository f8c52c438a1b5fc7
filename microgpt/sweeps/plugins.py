"""The Hydra plugins to which conf/hydra/ refers as hydra_plugins.microgpt.<name>."""

from microgpt.sweeps.ladder import LadderSweeper
from microgpt.sweeps.launcher import VectorizedLauncher
from microgpt.sweeps.optuna_sweeper import OptunaSweeper
from microgpt.sweeps.precision import PrecisionSweeper
from microgpt.sweeps.screening import ScreeningSweeper
from microgpt.sweeps.sweepers import GridSweeper

PLUGINS = (VectorizedLauncher, GridSweeper, OptunaSweeper, LadderSweeper, ScreeningSweeper, PrecisionSweeper)
