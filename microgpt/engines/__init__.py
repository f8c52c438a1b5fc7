"""Which engines there are. Adding one is a line in `make_engine`."""

from microgpt.engines.base import Engine, EngineState, OptimizerSpec, Workload
from microgpt.errors import UserError
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
