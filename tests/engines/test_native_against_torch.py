"""Properties of the native and the PyTorch engine beyond the cases of test_compliance.py."""

from dataclasses import replace

import numpy as np
import pytest
from support.models import OPTIONS, gpt
from test_compliance import QUICK_WORK, Case, case_of, each_dtype, options_of, results

from microgpt.data.batches import BatchOrder
from microgpt.engines import make_engine
from microgpt.engines.base import EngineState, Workload
from microgpt.engines.native import engine as native
from microgpt.engines.optimizer import OptimizerSpec
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


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ((144, 3, 1, 150), "default"),  # products of 4, 4 and 1 vectors, of more than 128 rows; heads of 3 vectors
        ((40, 1, 2, 70), "everything"),  # a head of 20 + 20 features in 2 vectors of 32 lanes
        ((33, 3, 1, 50), "default"),  # heads of 11 features in a vector; attention weights are kept
        ((48, 2, 1, 20), "default"),  # heads of 24 features, with padding
    ],
    ids=str,
)
def test_heads_of_whole_vectors_and_products_of_odd_sizes_equal_pytorch(
    sizes: tuple[int, int, int, int], options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps on documents of 1 to block_size positions, in float64; threads share the batch and the update."""
    monkeypatch.setattr(native, "SPLIT_WORK", 0.0)
    monkeypatch.setattr(native, "SHARED_WORK", 0.0)
    n_embd, n_head, n_layer, block_size = sizes
    chosen = OPTIONS.get(options, {}) | ({"n_kv_head": n_head} if options == "everything" else {})
    spec = gpt(vocab_size=21, n_embd=n_embd, n_head=n_head, n_layer=n_layer, block_size=block_size, **chosen)
    rng = np.random.default_rng(3)
    lengths = [block_size, 1, 17, block_size - 1, 2, block_size // 2]
    examples = [rng.integers(0, 21, min(length, block_size) + 1).tolist() for length in lengths]
    work = Workload(examples, [BatchOrder(rng.permutation(len(lengths)), (), 0.0, 5)])
    state = EngineState({name: rng.normal(0, 0.1, (1, *shape)) for name, shape in spec.shapes().items()})
    found = []
    for backend, threads in (("native", 1), ("native", 2), ("torch", 1)):
        made = EngineOptions(backend, device="cpu", dtype="float64", threads=threads)
        engine = make_engine(made, spec, OptimizerSpec("sgd", grad_clip=0.5), work, state, say=lambda text: None)
        losses = engine.advance(0, np.full((2, 1), 0.1))
        found.append((losses, engine.state().parameters))
    (losses, parameters), (threaded, same), (expected, right) = found
    assert losses.tobytes() == threaded.tobytes()
    np.testing.assert_allclose(losses, expected, rtol=1e-11)
    for name, array in right.items():
        assert parameters[name].tobytes() == same[name].tobytes()
        np.testing.assert_allclose(parameters[name], array, rtol=1e-9, atol=1e-12, err_msg=name)
