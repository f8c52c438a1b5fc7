"""Steps recorded as CUDA graphs: the same training as one operation at a time. The CPU takes the place of the GPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.fake_cuda_graphs import use_fake_graphs
from support.models import (
    ADAM,
    ADAMW,
    EACH_OPTIMIZER,
    SGD,
    assert_states_close,
    bigram,
    engine_of,
    examples_of,
    gpt,
    learning_rates,
    random_state,
    workload,
)

from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.engines.torch import cuda_graphs
from microgpt.engines.torch.batch_tensors import Batch
from microgpt.engines.torch.engine import TorchEngine
from microgpt.engines.torch.model import has_fused_attention
from microgpt.errors import UserError
from microgpt.model.spec import ModelSpec

LONG = gpt(block_size=70, n_embd=4, n_head=1)


@pytest.fixture
def fake_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fake_graphs(monkeypatch)


@pytest.mark.usefixtures("fake_graphs")
@pytest.mark.parametrize(
    ("spec", "optimizer", "batch_size", "micro_batch"),
    [
        (gpt(n_layer=2), replace(ADAMW, grad_clip=0.5), 3, None),
        (gpt(tie_lm_head=True, activation="relu_squared"), SGD, 4, 3),
        (bigram(), ADAM, 1, None),
        (LONG, ADAM, 2, None),
    ],
    ids=["gpt", "passes", "bigram", "long"],
)
def test_recorded_steps_train_the_same(
    spec: ModelSpec, optimizer: OptimizerSpec, batch_size: int, micro_batch: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graphs, "STEPS_AT_ONCE", 4)  # several parts of an `advance`
    work, state = workload(examples_of(spec, 9), batch_size, (0, 4, 2)), random_state(spec, replicas=3)
    rates = learning_rates(11, 0.02, 0.01, 1e100)  # the last replica's loss becomes non-finite
    options = {"micro_batch": micro_batch, "kernel": "cuda_graph"}
    eager, recorded = (engine_of("torch", spec, optimizer, work, state, **o) for o in ({}, options))
    expected = np.concatenate([eager.advance(0, rates[:6]), eager.advance(6, rates[6:])])
    assert np.isfinite(expected[:, :2]).all()
    assert not np.isfinite(expected[:, 2]).all()
    first = recorded.advance(0, rates[:6])
    spent = recorded.compile_seconds
    found = np.concatenate([first, recorded.advance(6, rates[6:])])
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert_states_close(recorded.state(), eager.state(), 1e-11)
    assert (recorded.info.kernel, recorded.compile_seconds) == ("cuda_graph", spent)
    np.testing.assert_allclose(recorded.evaluate(work.examples)[:2], eager.evaluate(work.examples)[:2], rtol=1e-10)
    recorded.load(state)  # other tensors: they are recorded anew
    np.testing.assert_allclose(recorded.advance(0, rates[:2]), expected[:2], rtol=1e-12)


@pytest.mark.usefixtures("fake_graphs")
def test_every_optimizer_and_dtype_can_be_recorded() -> None:
    spec = gpt()
    work, state, rates = workload(examples_of(spec, 5), 2), random_state(spec), learning_rates(4, 0.01)
    cases = [("float64", optimizer, 1e-11) for optimizer in EACH_OPTIMIZER.values()]
    for dtype, optimizer, tolerance in [*cases, ("float32", ADAM, 1e-5), ("bfloat16", ADAM, 0.02)]:
        eager, recorded = (
            engine_of("torch", spec, optimizer, work, state, dtype=dtype, kernel=kernel)
            for kernel in ("eager", "cuda_graph")
        )
        np.testing.assert_allclose(recorded.advance(0, rates), eager.advance(0, rates), rtol=tolerance)


@pytest.mark.usefixtures("fake_graphs")
def test_an_operation_that_waits_for_the_device_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = bigram()
    ours = engine_of("torch", spec, SGD, workload(examples_of(spec, 3), 1), random_state(spec), kernel="cuda_graph")
    assert isinstance(ours, TorchEngine)
    real = ours.loss_and_gradients

    def waits(batch: Batch) -> torch.Tensor:
        loss = real(batch)
        return loss if loss.isfinite().all() else loss + 1

    monkeypatch.setattr(ours, "loss_and_gradients", waits)
    with pytest.raises(
        UserError, match=r"^backend\.kernel=cuda_graph does not work for this model \(.*capturing: .*eager$"
    ):
        ours.advance(0, learning_rates(2, 0.1))


def test_cuda_graphs_need_a_cuda_device_and_one_process() -> None:
    spec = bigram()
    with pytest.raises(
        UserError, match=r"^backend\.kernel=cuda_graph needs backend\.device=cuda, but this run is on cpu: "
    ):
        engine_of("torch", spec, SGD, None, random_state(spec), kernel="cuda_graph")
    with pytest.raises(UserError, match=r"^backend\.kernel=cuda_graph is not possible with 2 processes: "):
        cuda_graphs.check_kernel(EngineOptions("torch", kernel="cuda_graph", world_size=2), torch.device("cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this PyTorch finds no CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("spec", [gpt(n_layer=2), LONG], ids=["gpt", "long"])
def test_recorded_steps_train_the_same_on_cuda(spec: ModelSpec, compiled: bool) -> None:
    work, state = workload(examples_of(spec, 9), 3, (0, 4, 2)), random_state(spec, replicas=3)
    rates = learning_rates(11, 0.02, 0.01, 1e100)
    eager, recorded = (
        engine_of(
            "torch", spec, ADAM, work, state, device="cuda", compile=kernel == "cuda_graph" and compiled, kernel=kernel
        )
        for kernel in ("eager", "cuda_graph")
    )
    np.testing.assert_allclose(recorded.advance(0, rates), eager.advance(0, rates), rtol=1e-8)
    assert_states_close(recorded.state().replica(0), eager.state().replica(0), 1e-6)


@pytest.mark.parametrize(
    ("heads_of", "dtype", "autocast", "is_fused"),
    [
        (4, torch.float32, False, True),
        (3, torch.float32, False, False),
        (4, torch.float32, True, False),
        (8, torch.float32, True, True),
        (8, torch.float64, False, False),
    ],
)
def test_cuda_has_fused_attention_for_some_heads(
    heads_of: int, dtype: torch.dtype, autocast: bool, is_fused: bool
) -> None:
    spec = gpt(n_embd=2 * heads_of, n_head=2)
    assert has_fused_attention(spec, torch.device("cuda"), dtype, autocast) is is_fused
    assert not has_fused_attention(spec, torch.device("cpu"), dtype, autocast)
