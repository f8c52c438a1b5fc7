"""Creation of engines by backend name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from microgpt.engines.options import BACKENDS, missing_option
from microgpt.errors import UserError

if TYPE_CHECKING:  # numpy must not be imported: the scalar model runs with the standard library alone
    from collections.abc import Callable

    from microgpt.data.batches import Shuffle
    from microgpt.engines.base import Engine, EngineState, Workload
    from microgpt.engines.optimizer import OptimizerSpec
    from microgpt.engines.options import EngineOptions
    from microgpt.model.init import Normals
    from microgpt.model.spec import ModelSpec

ENGINES = {  # backend -> module and class, imported when an engine is created
    "python": ("microgpt.engines.scalar.engine", "ScalarEngine"),
    "native": ("microgpt.engines.native.engine", "NativeEngine"),
    "torch": ("microgpt.engines.torch.engine", "TorchEngine"),
}

# Backends that shuffle and draw random numbers in compiled code, with the same results as Python's random generator
RANDOM = {"native": ("microgpt.engines.native.engine", "random_functions")}


def random_functions(options: EngineOptions) -> tuple[Shuffle, Normals]:
    """Return the implementations of `shuffled` and `standard_normals` for these options."""
    if options.backend in RANDOM:
        module, name = RANDOM[options.backend]
        return getattr(import_module(module), name)(options.dtype)
    from microgpt.data.batches import shuffled
    from microgpt.model.init import standard_normals

    return shuffled, standard_normals


def make_engine(
    options: EngineOptions,
    spec: ModelSpec,
    optimizer: OptimizerSpec,
    workload: Workload | None,
    state: EngineState,
    say: Callable[[str], None] = print,
) -> Engine:
    """Return an engine that holds the models of `state`. Without a workload, it can only evaluate and decode.

    `say` prints messages about slow steps such as compiling. Raises UserError if this machine or the engine does not
    support the options.
    """
    if options.backend not in ENGINES:
        known = options.backend in BACKENDS and options.backend != "auto"
        place = ": add it to ENGINES in engines/__init__.py" if known else ""
        raise UserError(f"backend={options.backend} is not one of the engines {', '.join(ENGINES)}{place}")
    if missing := missing_option(options.backend, spec):
        place = "its model_options in engines/options.py"
        raise UserError(
            f"{missing} is not implemented by backend={options.backend}: implement it and add it to {place}"
        )
    module, name = ENGINES[options.backend]
    return getattr(import_module(module), name)(options, spec, optimizer, workload, state, say)
