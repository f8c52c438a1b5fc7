"""The scalar engine against an independent implementation in PyTorch, finite differences and torch.optim."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from lion_pytorch import Lion
from support.models import (
    ADAM,
    OPTIONS,
    SGD,
    assert_close,
    assert_identical,
    bigram,
    cyclic_order,
    each_optimizer,
    engine_of,
    examples_of,
    gpt,
    random_state,
    shown,
    with_options,
    workload,
)
from support.program import mostly_slow
from support.torch_reference import Parameters, mean_loss, parameters_of

from microgpt.engines.base import Arrays, Engine, EngineState
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.scalar.engine import ScalarModel
from microgpt.engines.scalar.model import FORWARD, WITH_GRADIENTS, Cache
from microgpt.model.spec import ModelSpec

Examples = list[list[int]]

TOGGLES = [{"tie_lm_head": tied, "input_rmsnorm": normed} for tied in (False, True) for normed in (False, True)]
SPECS = [
    *[
        gpt(**toggles, activation=activation, n_layer=n_layer)
        for toggles in TOGGLES
        for activation in ("relu", "relu_squared")
        for n_layer in (1, 2)
    ],
    *[bigram(**toggles) for toggles in TOGGLES],
]
LARGE = gpt(vocab_size=27, n_embd=32, n_head=8, n_layer=2, block_size=12)
OTHER_SIZES = [
    LARGE,
    replace(LARGE, tie_lm_head=True, input_rmsnorm=False, activation="relu_squared"),
    gpt(n_head=1),
    gpt(n_head=6),
    gpt(n_embd=2, n_head=1, block_size=3, vocab_size=3),
    gpt(n_layer=3),
]


def scalar_engine(
    spec: ModelSpec,
    state: EngineState,
    examples: Examples | None = None,
    batch_size: int = 1,
    optimizer: OptimizerSpec = SGD,
) -> Engine:
    """Return an engine whose replica r reads the examples from number r on."""
    starts = tuple(range(state.replicas))
    work = workload(examples, batch_size, starts) if examples else None
    return engine_of("python", spec, optimizer, work, state)


def rates(*factors: float, replicas: int = 1) -> np.ndarray:
    return np.array([[factor] * replicas for factor in factors])


def loss_and_gradients(spec: ModelSpec, state: EngineState, examples: Examples) -> tuple[float, Arrays]:
    """Train one step with sgd without momentum, after which `m` is the gradient."""
    engine = scalar_engine(spec, state, examples, len(examples), OptimizerSpec("sgd"))
    loss = engine.advance(0, rates(0.0))[0, 0]
    return float(loss), engine.state().m


def reference_loss_and_gradients(spec: ModelSpec, state: EngineState, examples: Examples) -> tuple[float, Arrays]:
    parameters = parameters_of(state.parameters)
    loss = mean_loss(spec, parameters, examples)
    loss.backward()
    gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in parameters.items()}
    return loss.item(), {name: gradient.numpy()[np.newaxis] for name, gradient in gradients.items()}


def assert_reference(spec: ModelSpec, state: EngineState, examples: Examples) -> None:
    loss, gradients = loss_and_gradients(spec, state, examples)
    expected, expected_gradients = reference_loss_and_gradients(spec, state, examples)
    assert loss == pytest.approx(expected, rel=1e-10)
    assert_close(gradients, expected_gradients, 1e-10)


# Loss and gradients


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("spec", [*SPECS, *OTHER_SIZES], ids=shown)
def test_loss_and_gradients_equal_the_reference(spec: ModelSpec, batch_size: int) -> None:
    assert_reference(spec, random_state(spec), examples_of(spec, batch_size))


@pytest.mark.parametrize("toggles", TOGGLES, ids=str)
@pytest.mark.parametrize("model", [gpt, bigram], ids=lambda model: model.__name__)
def test_loss_and_gradients_of_documents_of_one_character(
    model: Callable[..., ModelSpec], toggles: dict[str, bool]
) -> None:
    spec = model(**toggles)
    bos = spec.vocab_size - 1
    for examples in ([[bos, 0, bos]], [[bos, 0], [bos, 1]]):  # a block of 1 cuts the end off
        assert_reference(spec, random_state(spec, seed=1), examples)


@pytest.mark.parametrize("name", OPTIONS)
def test_loss_and_gradients_with_an_option_equal_the_reference(name: str) -> None:
    spec = with_options(name)
    assert_reference(spec, random_state(spec, seed=4), examples_of(spec, 3, seed=4))


COMBINED = ["everything", "gpt2", "llama", "nanochat"]
SINGLE = [name for name in OPTIONS if name not in COMBINED]


@mostly_slow(6, "spec", [
    *SPECS[-4::2], *map(with_options, [*COMBINED, *SINGLE]), *SPECS[:-4], *SPECS[-3::2],
], ids=shown)  # fmt: skip
def test_gradients_equal_finite_differences(spec: ModelSpec) -> None:
    """Three parameters of every tensor, chosen at random among those that have a gradient."""
    state, examples = random_state(spec, seed=2), examples_of(spec, 2, seed=2)
    _, gradients = loss_and_gradients(spec, state, examples)
    rng, h = np.random.default_rng(3), 1e-5
    chosen = [
        (name, *place) for name in spec.shapes() for place in rng.permutation(np.argwhere(gradients[name][0]))[:3]
    ]
    shifted = {name: array.repeat(2 * len(chosen), axis=0) for name, array in state.parameters.items()}
    for i, (name, row, column) in enumerate(chosen):  # all shifted models as replicas of one engine
        shifted[name][2 * i, row, column] += h
        shifted[name][2 * i + 1, row, column] -= h
    losses = scalar_engine(spec, EngineState(shifted)).evaluate(examples)
    slopes = (losses[0::2] - losses[1::2]) / (2 * h)
    found = [gradients[name][0, row, column] for name, row, column in chosen]
    np.testing.assert_allclose(found, slopes, rtol=1e-6, atol=1e-8)


def test_the_gradient_of_a_tied_matrix_is_the_sum_of_both_uses() -> None:
    tied, untied = gpt(tie_lm_head=True), gpt()
    state, examples = random_state(tied), examples_of(tied, 2)
    same_values = EngineState(state.parameters | {"lm_head": state.parameters["wte"]})
    loss, gradients = loss_and_gradients(tied, state, examples)
    untied_loss, apart = loss_and_gradients(untied, same_values, examples)
    assert loss == untied_loss
    np.testing.assert_allclose(gradients["wte"], apart["wte"] + apart["lm_head"], rtol=1e-12, atol=1e-14)


def test_rows_that_a_step_does_not_use_have_no_gradient() -> None:
    spec = gpt()
    _, gradients = loss_and_gradients(spec, random_state(spec), [[4, 1, 4]])  # tokens 4 and 1 at positions 0 and 1
    assert np.flatnonzero(gradients["wte"][0].any(axis=1)).tolist() == [1, 4]
    assert np.flatnonzero(gradients["wpe"][0].any(axis=1)).tolist() == [0, 1]


# Training


def decay_groups(optimizer: OptimizerSpec, parameters: Parameters) -> list[dict[str, Any]]:
    groups = [
        {
            "params": [p for name, p in parameters.items() if (name in ("wte", "wpe")) == embeddings],
            "weight_decay": 0.0 if embeddings else optimizer.weight_decay,
        }
        for embeddings in (True, False)
    ]
    return [group for group in groups if group["params"]]


def torch_adamw(optimizer: OptimizerSpec, parameters: Parameters) -> torch.optim.Optimizer:
    betas = (optimizer.beta1, optimizer.beta2)
    return torch.optim.AdamW(decay_groups(optimizer, parameters), betas=betas, eps=optimizer.eps)


def torch_lion(optimizer: OptimizerSpec, parameters: Parameters) -> torch.optim.Optimizer:
    return Lion(decay_groups(optimizer, parameters), lr=1.0, betas=(optimizer.beta1, optimizer.beta2))


class TorchMuon:
    """torch.optim.Muon for the matrices of the blocks and torch.optim.AdamW for the rest."""

    def __init__(self, optimizer: OptimizerSpec, parameters: Parameters):
        hidden = {name: p for name, p in parameters.items() if name.startswith("layer")}
        rest = {name: p for name, p in parameters.items() if name not in hidden}
        self.parts = [torch_adamw(optimizer, rest)]
        if hidden:
            muon = torch.optim.Muon(hidden.values(), momentum=optimizer.momentum, weight_decay=optimizer.weight_decay)
            self.parts.append(muon)
        self.ratios = [optimizer.adam_lr_ratio, 1.0]
        self.param_groups = [{"lr": 0.0}]

    def zero_grad(self, set_to_none: bool) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        for part, ratio in zip(self.parts, self.ratios, strict=False):
            for group in part.param_groups:
                group["lr"] = self.param_groups[0]["lr"] * ratio
                # adamw decays by the product of both, our muon by lr alone
                group["weight_decay"] = group.setdefault("decay", group["weight_decay"]) / ratio
            part.step()

    @property
    def state(self) -> dict[torch.Tensor, dict[str, torch.Tensor]]:
        return {p: state for part in self.parts for p, state in part.state.items()}


TORCH_OPTIMIZERS: dict[str, Callable[[OptimizerSpec, Parameters], Any]] = {
    "sgd": lambda o, parameters: torch.optim.SGD(parameters.values(), momentum=o.momentum),
    "adam": lambda o, parameters: torch.optim.Adam(parameters.values(), betas=(o.beta1, o.beta2), eps=o.eps),
    "adamw": torch_adamw,
    "lion": torch_lion,
    "muon": TorchMuon,
}
FIRST_MOMENTS, SECOND_MOMENTS = ("momentum_buffer", "exp_avg"), ("exp_avg_sq",)


def moment_of(state: dict[str, torch.Tensor], names: tuple[str, ...], like: torch.Tensor) -> np.ndarray:
    """Return the moment of that name, or zeros: muon's v of a matrix."""
    return next((state[name] for name in names if name in state), torch.zeros_like(like)).numpy()


def train_reference(
    spec: ModelSpec, parameters: Parameters, batches: Sequence[Examples], optimizer: OptimizerSpec, lrs: Sequence[float]
) -> tuple[Any, list[float], list[float]]:
    """Train in place; return the optimizer, the losses, and the gradients' norms before clipping."""
    torchs, losses, norms = TORCH_OPTIMIZERS[optimizer.name](optimizer, parameters), [], []
    for examples, lr in zip(batches, lrs, strict=True):
        torchs.zero_grad(set_to_none=False)
        loss = mean_loss(spec, parameters, examples)
        loss.backward()
        grads = [p.grad for p in parameters.values() if p.grad is not None]
        norm = math.sqrt(sum(float(grad.square().sum()) for grad in grads))
        if optimizer.grad_clip is not None and norm > optimizer.grad_clip:  # torch's own adds 1e-6 to the norm
            for grad in grads:
                grad.mul_(optimizer.grad_clip / norm)
        for group in torchs.param_groups:
            group["lr"] = lr
        torchs.step()
        losses.append(loss.item())
        norms.append(norm)
    return torchs, losses, norms


TRAINED = [
    gpt(),
    gpt(tie_lm_head=True, activation="relu_squared", n_layer=2),
    gpt(input_rmsnorm=False),
    bigram(),
    bigram(tie_lm_head=True),
]


@pytest.mark.parametrize("grad_clip", [pytest.param(None, marks=pytest.mark.slow), 1.5], ids=["unclipped", "clipped"])
@each_optimizer
@mostly_slow(2, "spec", TRAINED, ids=shown)
def test_training_equals_an_independent_optimizer(
    spec: ModelSpec, optimizer: OptimizerSpec, grad_clip: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if optimizer.name not in TORCH_OPTIMIZERS:
        pytest.skip(f"there is no other implementation of {optimizer.name} here")
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)  # of torch.optim.Muon's iteration
    optimizer = replace(optimizer, grad_clip=grad_clip)
    state, examples, batch_size, steps = random_state(spec, seed=5), examples_of(spec, 7, seed=5), 2, 10
    lrs = [0.05 * (1 - s / steps) for s in range(steps)]
    order = cyclic_order(len(examples), batch_size)
    batches = [[examples[i] for i in order.batch(step)] for step in range(steps)]

    engine = scalar_engine(spec, state, examples, batch_size, optimizer)
    losses = engine.advance(0, rates(*lrs))
    parameters = parameters_of(state.parameters)
    torchs, expected, norms = train_reference(spec, parameters, batches, optimizer, lrs)
    if grad_clip is not None:
        assert max(norms) > grad_clip, "no step was clipped"

    after = engine.state()
    assert losses[:, 0].tolist() == pytest.approx(expected, rel=1e-9)
    assert_close(after.parameters, {n: p.detach().numpy()[np.newaxis] for n, p in parameters.items()}, 1e-9)
    for found, names in ((after.m, FIRST_MOMENTS), (after.v, SECOND_MOMENTS)):
        moments = {n: moment_of(torchs.state[p], names, p)[np.newaxis] for n, p in parameters.items()}
        assert_close(found, moments if found else {}, 1e-9)


@pytest.mark.parametrize("spec", [gpt(), gpt(tie_lm_head=True), bigram(), bigram(tie_lm_head=True)], ids=shown)
def test_adamw_decays_matrices_and_no_embedding(spec: ModelSpec) -> None:
    state, examples, lr = random_state(spec), examples_of(spec, 2), 0.01
    plain, decayed = (
        scalar_engine(spec, state, examples, 2, replace(ADAM, name=name, weight_decay=decay))
        for name, decay in (("adam", 0.0), ("adamw", 0.5))
    )
    plain.advance(0, rates(lr))
    decayed.advance(0, rates(lr))
    for name, before in state.parameters.items():
        expected = plain.state().parameters[name] - (0 if name in ("wte", "wpe") else lr * 0.5 * before)
        np.testing.assert_allclose(decayed.state().parameters[name], expected, rtol=1e-12, atol=1e-14, err_msg=name)


def test_a_gradient_within_the_limit_is_not_scaled() -> None:
    spec = gpt()
    state, examples = random_state(spec), examples_of(spec, 2)
    _, gradients = loss_and_gradients(spec, state, examples)
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
    found = {}
    for limit in (norm / 2, norm * 2):
        engine = scalar_engine(spec, state, examples, 2, OptimizerSpec("sgd", grad_clip=limit))
        engine.advance(0, rates(0.0))
        found[limit] = engine.state().m
    assert_close(found[norm / 2], {name: g / 2 for name, g in gradients.items()}, 1e-12)
    assert all(np.array_equal(found[norm * 2][name], g) for name, g in gradients.items())


# Evaluation and decoding


@pytest.mark.parametrize("spec", [gpt(), gpt(tie_lm_head=True, activation="relu_squared"), bigram()], ids=shown)
def test_evaluate_is_the_mean_over_all_target_tokens(spec: ModelSpec) -> None:
    state, examples = random_state(spec, replicas=2), examples_of(spec, 5)
    engine = scalar_engine(spec, state)
    for r in range(2):
        alone = [loss_and_gradients(spec, state.replica(r), [example])[0] for example in examples]
        targets = [len(example) - 1 for example in examples]
        mean = sum(loss * n for loss, n in zip(alone, targets, strict=True)) / sum(targets)
        assert engine.evaluate(examples)[r] == pytest.approx(mean, rel=1e-12)
        assert abs(mean - sum(alone) / len(alone)) > 1e-3, "a mean of means would pass as well"
    assert engine.evaluate(examples).shape == (2,)


def test_evaluate_is_the_training_loss() -> None:
    for spec in SPECS:
        state, examples = random_state(spec), examples_of(spec, 3)
        loss, _ = loss_and_gradients(spec, state, examples)
        evaluated = scalar_engine(spec, state).evaluate(examples)
        assert evaluated.tolist() == pytest.approx([loss], rel=1e-12)


@pytest.mark.parametrize("spec", [*SPECS, *map(with_options, COMBINED)])
def test_decoder_s_logits_are_those_of_the_training_forward(spec: ModelSpec) -> None:
    state = random_state(spec, replicas=2)
    engine = scalar_engine(spec, state)
    (tokens,) = examples_of(spec, 1)
    for r in range(2):
        matrices = {name: array[r].tolist() for name, array in state.parameters.items()}
        model = ScalarModel(spec, OptimizerSpec("sgd"), matrices)
        decoder, cache = engine.decoder(r), Cache(spec.n_layer)
        for token in tokens[: spec.block_size]:
            logits = FORWARD[spec.kind](spec, model.weights, token, cache, WITH_GRADIENTS)
            assert decoder.feed(token) == pytest.approx([logit.data for logit in logits], rel=1e-13, abs=1e-13)


# Replicas and steps


@each_optimizer
def test_three_replicas_equal_three_engines_bit_for_bit(optimizer: OptimizerSpec) -> None:
    spec = gpt(n_layer=2)
    state, examples = random_state(spec, replicas=3), examples_of(spec, 5)
    lrs = np.random.default_rng(0).uniform(0.01, 0.05, (4, 3))
    together = scalar_engine(spec, state, examples, 2, optimizer)
    losses = together.advance(0, lrs)
    assert losses.shape == (4, 3)
    for r in range(3):
        alone = engine_of("python", spec, optimizer, workload(examples, 2, (r,)), state.replica(r))
        assert alone.advance(0, lrs[:, r : r + 1])[:, 0].tolist() == losses[:, r].tolist()
        assert_identical(alone.state(), together.state().replica(r))
        assert alone.evaluate(examples)[0] == together.evaluate(examples)[r]
        assert alone.decoder(0).feed(1) == together.decoder(r).feed(1)
    assert len(set(losses[-1].tolist())) == 3, "identical replicas would pass as well"


def test_a_step_s_batch_and_bias_correction_follow_its_number() -> None:
    spec = bigram()
    state, examples = random_state(spec), [[6, 0, 6], [6, 1, 6], [6, 2, 6]]
    engine = scalar_engine(spec, state, examples, 1, ADAM)
    engine.advance(2, rates(0.01))
    moved = engine.state()
    assert moved.m["wte"][0, 2].any()
    assert not moved.m["wte"][0, :2].any()
    m, v = moved.m["wte"] / (1 - 0.85**3), moved.v["wte"] / (1 - 0.99**3)
    expected = state.parameters["wte"] - 0.01 * m / (np.sqrt(v) + 1e-8)
    np.testing.assert_allclose(moved.parameters["wte"], expected, rtol=1e-14)


def test_an_overflow_error_is_an_infinite_loss_and_changes_nothing() -> None:
    spec = gpt(activation="relu_squared")
    state, examples = random_state(spec), examples_of(spec, 3)
    state.parameters["layer0.mlp_fc1"] *= 1e200  # Python raises OverflowError for its square
    engine = scalar_engine(spec, state, examples, 1, ADAM)
    before = engine.state()
    assert engine.evaluate(examples)[0] == math.inf
    assert np.isnan(engine.decoder(0).feed(4)).all()
    losses = engine.advance(0, rates(0.01, 0.01))[:, 0]
    assert losses[0] == math.inf
    assert math.isnan(losses[1])
    assert_identical(engine.state(), before)
