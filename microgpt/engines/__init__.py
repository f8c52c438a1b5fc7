"""Which engines there are. Adding one is a line in `make_engine`, which imports the engine that is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from microgpt.errors import UserError

if TYPE_CHECKING:  # the scalar engine's lesson is to be importable without numpy
    from collections.abc import Callable

    from microgpt.engines.base import Engine, EngineState, Workload
    from microgpt.engines.optimizer import OptimizerSpec
    from microgpt.engines.options import EngineOptions
    from microgpt.model.spec import ModelSpec


def make_engine(
    options: EngineOptions,
    spec: ModelSpec,
    optimizer: OptimizerSpec,
    workload: Workload | None,
    state: EngineState,
    say: Callable[[str], None] = print,
) -> Engine:
    """An engine that holds the models of `state`; without a workload it only evaluates and decodes.

    `say` is told what takes long, such as compiling. Raises UserError for what this machine cannot do.
    """
    if options.backend == "python":
        from microgpt.engines.scalar.engine import ScalarEngine

        return ScalarEngine(spec, optimizer, workload, state)
    if options.backend == "native":
        from microgpt.engines.native.engine import NativeEngine

        return NativeEngine(options, spec, optimizer, workload, state, say)
    if options.backend == "torch":
        from microgpt.engines.torch.engine import TorchEngine

        return TorchEngine(options, spec, optimizer, workload, state, say)
    raise UserError(f"backend={options.backend} is not allowed: it is one of python, native, torch")
