"""Which engines there are. Adding one is a line in `make_engine`, which imports the engine that is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from microgpt.errors import UserError

if TYPE_CHECKING:  # the scalar engine's lesson is to be importable without numpy
    from microgpt.engines.base import Engine, EngineState, Workload
    from microgpt.engines.optimizer import OptimizerSpec
    from microgpt.model.spec import ModelSpec

BUILT = ("python",)


def make_engine(
    backend: str, spec: ModelSpec, optimizer: OptimizerSpec, workload: Workload | None, state: EngineState
) -> Engine:
    """An engine that holds the models of `state`; without a workload it only evaluates and decodes.

    Raises UserError for a backend that does not exist or is not built yet.
    """
    if backend == "python":
        from microgpt.engines.scalar.engine import ScalarEngine

        return ScalarEngine(spec, optimizer, workload, state)
    raise UserError(f"backend={backend} is not built yet; what runs today is {', '.join(BUILT)} (mode=scalar)")
