"""The Python API: the public names of the package microgpt. Heavy libraries are imported only when needed."""

from microgpt.api.model import Model, load
from microgpt.api.run import Run, Runs, runs
from microgpt.api.training import sweep, train
from microgpt.errors import UserError

__all__ = ["Model", "Run", "Runs", "UserError", "load", "runs", "sweep", "train"]
