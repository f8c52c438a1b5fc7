"""Properties of the native and the PyTorch engine beyond the cases of test_compliance.py."""

from dataclasses import replace

import numpy as np
import pytest
from test_compliance import QUICK_WORK, Case, case_of, each_dtype, options_of, results

from microgpt.data.batches import BatchOrder
from microgpt.engines import make_engine
from microgpt.engines.base import EngineState, Workload
from microgpt.engines.options import EngineOptions


def test_losses_of_a_pytorch_replica_do_not_depend_on_its_group() -> None:
    """To 1e-5 in float32; on the native engine bit for bit (test_native_engine.py)."""
    case = case_of("gpt-2 untied normed relu heads-of-3 adam unclipped linear batch-3", 400_000)
    rng = np.random.default_rng(1)
    parameters = {n: rng.normal(0, 0.3, (257, *shape)) for n, shape in case.spec.shapes().items()}
    orders = [BatchOrder(rng.permutation(len(case.workload.examples)), (), 0.0, 3) for _ in range(257)]
    rates = np.outer(case.rates[:, 0], rng.uniform(0.1, 2, 257))

    def losses(models: range) -> np.ndarray:
        work = Workload(case.workload.examples, [orders[r] for r in models])
        state = EngineState({name: array[models] for name, array in parameters.items()})
        options = EngineOptions("torch", device="cpu", dtype="float32", threads=1)
        return make_engine(options, case.spec, case.optimizer, work, state).advance(0, rates[:, models])

    together = losses(range(257))
    assert np.isfinite(together).all()
    for models in (range(1), range(256, 257), range(3), range(64)):
        np.testing.assert_allclose(losses(models), together[:, models], rtol=1e-5)


@each_dtype
@pytest.mark.parametrize(
    "engine",
    [
        "native",
        "torch-cpu",
        "torch-cuda",
    ],
)
def test_the_loss_of_a_probability_that_underflows_is_infinite(engine: str, dtype: str) -> None:
    """As on the scalar engine: training ends there instead of continuing with a loss of 1e16."""
    case = case_of("bigram tied normed relu heads-of-1 plain-sgd unclipped constant batch-3", QUICK_WORK)
    expected = results(case_with_a_wild_step(case), EngineOptions("python"))
    found = results(case_with_a_wild_step(case), options_of(engine, dtype))
    assert expected.losses[2].tolist()[0] == np.inf
    assert found.losses[2].tolist()[0] == np.inf
    assert np.isnan(found.losses[3:, 0]).all()
    assert np.isinf(found.evaluated[0])


def case_with_a_wild_step(case: Case) -> Case:
    rates = case.rates[:5].copy()
    rates[1, 0] = 1e5
    return replace(case, rates=rates)


@pytest.mark.parametrize("engine", ["native", "torch-cpu"])
def test_decoding_beyond_the_block_raises(engine: str) -> None:
    case = case_of("gpt-1 tied normed relu heads-of-3 adam unclipped linear batch-1", 1000)
    decoder = make_engine(options_of(engine, "float64"), case.spec, case.optimizer, None, case.state).decoder(0)
    for _ in range(case.spec.block_size):
        decoder.feed(0)
    with pytest.raises(IndexError):
        decoder.feed(0)
