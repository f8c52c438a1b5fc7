"""The scalar engine against a second implementation (torch_twin.py), finite differences, torch.optim, its contract."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.program import mostly_slow
from support.torch_reference import Parameters, mean_loss, parameters_of

from microgpt.data.batches import BatchOrder
from microgpt.engines.base import Arrays, EngineState, Workload
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.engines.scalar.engine import ScalarEngine, ScalarModel
from microgpt.engines.scalar.model import FORWARD, WITH_GRADIENTS, Cache
from microgpt.model.spec import ModelSpec

Examples = list[list[int]]


def gpt(**changes: Any) -> ModelSpec:
    return replace(ModelSpec("gpt", vocab_size=5, n_embd=6, n_head=2, n_layer=1, block_size=7), **changes)


def bigram(**changes: Any) -> ModelSpec:
    return replace(ModelSpec("bigram", vocab_size=7, n_embd=7, n_head=1, n_layer=0, block_size=7), **changes)


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


def shown(thing: Any) -> str:
    if isinstance(thing, ModelSpec):
        tied, normed = "tied" if thing.tie_lm_head else "untied", "normed" if thing.input_rmsnorm else "unnormed"
        return f"{thing.kind}-{tied}-{normed}-{thing.activation}-{thing.n_layer}x{thing.n_embd}h{thing.n_head}"
    return str(thing)


def random_state(spec: ModelSpec, seed: int = 0, replicas: int = 1) -> EngineState:
    """Larger than initial values are, so that attention is not nearly uniform."""
    rng = np.random.default_rng(seed)
    return EngineState({name: rng.normal(0, 0.4, (replicas, *shape)) for name, shape in spec.shapes().items()})


def examples_of(spec: ModelSpec, count: int, seed: int = 0) -> Examples:
    """As the corpus makes them: the first document fills the block, the second has one character, the others vary."""
    rng = np.random.default_rng(seed)
    bos = spec.vocab_size - 1
    lengths = [spec.block_size, 1, *rng.integers(1, spec.block_size, count).tolist()][:count]
    return [[bos, *rng.integers(0, bos, length).tolist(), bos][: spec.block_size + 1] for length in lengths]


def in_turn(examples: Examples, batch_size: int, start: int = 0) -> BatchOrder:
    order = [(start + i) % len(examples) for i in range(len(examples))]
    return BatchOrder(corpus=order, style=(), style_share=0.0, batch_size=batch_size)


def engine_of(
    spec: ModelSpec, state: EngineState, examples: Examples, batch_size: int, optimizer: OptimizerSpec
) -> ScalarEngine:
    replicas = len(next(iter(state.parameters.values())))
    orders = [in_turn(examples, batch_size, start=r) for r in range(replicas)]
    return ScalarEngine(EngineOptions("python"), spec, optimizer, Workload(examples, orders), state)


def rates(*factors: float, replicas: int = 1) -> np.ndarray:
    return np.array([[factor] * replicas for factor in factors])


def loss_and_gradients(spec: ModelSpec, state: EngineState, examples: Examples) -> tuple[float, Arrays]:
    """By the engine's contract: after one step of sgd without momentum, `m` is the gradient."""
    engine = engine_of(spec, state, examples, len(examples), OptimizerSpec("sgd"))
    loss = engine.advance(0, rates(0.0))[0, 0]
    return float(loss), engine.state().m


def assert_close(found: Arrays, expected: Arrays, tolerance: float) -> None:
    assert set(found) == set(expected)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=tolerance, atol=tolerance, err_msg=name)


def assert_identical(found: EngineState, expected: EngineState) -> None:
    for part in ("parameters", "m", "v"):
        first, second = getattr(found, part), getattr(expected, part)
        assert set(first) == set(second), part
        for name in second:
            assert first[name].shape == second[name].shape
            assert first[name].tobytes() == second[name].tobytes(), f"{part} of {name}"


def replica_of(state: EngineState, r: int) -> EngineState:
    return EngineState(*[{n: a[r : r + 1] for n, a in part.items()} for part in (state.parameters, state.m, state.v)])


ADAM = OptimizerSpec("adam", beta1=0.85, beta2=0.99, eps=1e-8)
ADAMW = OptimizerSpec("adamw", beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.3)
SGD = OptimizerSpec("sgd", momentum=0.9)
OPTIMIZERS = [ADAM, ADAMW, SGD]
each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o.name)


# Loss and gradients


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("spec", [*SPECS, *OTHER_SIZES], ids=shown)
def test_loss_and_gradients_equal_the_torch_twin(spec: ModelSpec, batch_size: int) -> None:
    state, examples = random_state(spec), examples_of(spec, batch_size)
    loss, gradients = loss_and_gradients(spec, state, examples)
    twin = parameters_of(state.parameters)
    expected = mean_loss(spec, twin, examples)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-10)
    assert_close(gradients, gradients_of(twin), 1e-10)


@pytest.mark.parametrize("toggles", TOGGLES, ids=str)
@pytest.mark.parametrize("model", [gpt, bigram], ids=lambda model: model.__name__)
def test_documents_of_one_character_equal_the_torch_twin(
    model: Callable[..., ModelSpec], toggles: dict[str, bool]
) -> None:
    spec = model(**toggles)
    bos = spec.vocab_size - 1
    for examples in ([[bos, 0, bos]], [[bos, 0], [bos, 1]]):  # a block of 1 cuts the end off
        state = random_state(spec, seed=1)
        loss, gradients = loss_and_gradients(spec, state, examples)
        twin = parameters_of(state.parameters)
        expected = mean_loss(spec, twin, examples)
        expected.backward()
        assert loss == pytest.approx(expected.item(), rel=1e-10)
        assert_close(gradients, gradients_of(twin), 1e-10)


def gradients_of(twin: Parameters) -> Arrays:
    """With the replica axis; a tensor that the loss does not depend on has gradient zero."""
    return {name: (torch.zeros_like(p) if p.grad is None else p.grad).numpy()[np.newaxis] for name, p in twin.items()}


@mostly_slow(6, "spec", SPECS, ids=shown)
def test_gradients_equal_finite_differences(spec: ModelSpec) -> None:
    """Three parameters of every tensor, chosen at random among those that have a gradient."""
    state, examples = random_state(spec, seed=2), examples_of(spec, 2, seed=2)
    _, gradients = loss_and_gradients(spec, state, examples)
    rng, h = np.random.default_rng(3), 1e-5
    chosen = [
        (name, *place) for name in spec.shapes() for place in rng.permutation(np.argwhere(gradients[name][0]))[:3]
    ]
    shifted = {name: array.repeat(2 * len(chosen), axis=0) for name, array in state.parameters.items()}
    for i, (name, row, column) in enumerate(chosen):  # all shifted models side by side, each evaluated once
        shifted[name][2 * i, row, column] += h
        shifted[name][2 * i + 1, row, column] -= h
    losses = ScalarEngine(EngineOptions("python"), spec, OptimizerSpec("sgd"), None, EngineState(shifted)).evaluate(
        examples
    )
    slopes = (losses[0::2] - losses[1::2]) / (2 * h)
    found = [gradients[name][0, row, column] for name, row, column in chosen]
    np.testing.assert_allclose(found, slopes, rtol=1e-6, atol=1e-8)


def test_a_tied_output_matrix_takes_the_sum_of_both_gradients() -> None:
    tied, untied = gpt(tie_lm_head=True), gpt()
    state, examples = random_state(tied), examples_of(tied, 2)
    same_values = EngineState(state.parameters | {"lm_head": state.parameters["wte"]})
    loss, gradients = loss_and_gradients(tied, state, examples)
    untied_loss, apart = loss_and_gradients(untied, same_values, examples)
    assert loss == untied_loss
    np.testing.assert_allclose(gradients["wte"], apart["wte"] + apart["lm_head"], rtol=1e-12, atol=1e-14)


def test_what_a_step_does_not_read_has_no_gradient() -> None:
    spec = gpt()
    _, gradients = loss_and_gradients(spec, random_state(spec), [[4, 1, 4]])  # tokens 4 and 1 at positions 0 and 1
    assert np.flatnonzero(gradients["wte"][0].any(axis=1)).tolist() == [1, 4]
    assert np.flatnonzero(gradients["wpe"][0].any(axis=1)).tolist() == [0, 1]


# Training


def torch_optimizer(optimizer: OptimizerSpec, twin: Parameters) -> torch.optim.Optimizer:
    betas = (optimizer.beta1, optimizer.beta2)
    if optimizer.name == "sgd":
        return torch.optim.SGD(twin.values(), lr=0.0, momentum=optimizer.momentum)
    if optimizer.name == "adam":
        return torch.optim.Adam(twin.values(), lr=0.0, betas=betas, eps=optimizer.eps)
    embeddings = [p for name, p in twin.items() if name in ("wte", "wpe")]
    others = [p for name, p in twin.items() if name not in ("wte", "wpe")]
    groups = [{"params": embeddings, "weight_decay": 0.0}, {"params": others, "weight_decay": optimizer.weight_decay}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, betas=betas, eps=optimizer.eps)


def train_twin(
    spec: ModelSpec, twin: Parameters, batches: Sequence[Examples], optimizer: OptimizerSpec, lrs: Sequence[float]
) -> tuple[torch.optim.Optimizer, list[float], list[float]]:
    """Train in place. Returns the optimizer, the losses, and the gradients' norms before clipping."""
    torchs, losses, norms = torch_optimizer(optimizer, twin), [], []
    for examples, lr in zip(batches, lrs, strict=True):
        torchs.zero_grad(set_to_none=False)
        loss = mean_loss(spec, twin, examples)
        loss.backward()
        grads = [p.grad for p in twin.values() if p.grad is not None]
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
def test_training_equals_torch_optim(spec: ModelSpec, optimizer: OptimizerSpec, grad_clip: float | None) -> None:
    optimizer = replace(optimizer, grad_clip=grad_clip)
    state, examples, batch_size, steps = random_state(spec, seed=5), examples_of(spec, 7, seed=5), 2, 10
    lrs = [0.05 * (1 - s / steps) for s in range(steps)]
    order = in_turn(examples, batch_size)
    batches = [[examples[i] for i in order.batch(step)] for step in range(steps)]

    engine = engine_of(spec, state, examples, batch_size, optimizer)
    losses = engine.advance(0, rates(*lrs))
    twin = parameters_of(state.parameters)
    torchs, expected, norms = train_twin(spec, twin, batches, optimizer, lrs)
    if grad_clip is not None:
        assert max(norms) > grad_clip, "no step was clipped"

    after = engine.state()
    assert losses[:, 0].tolist() == pytest.approx(expected, rel=1e-9)
    assert_close(after.parameters, {n: p.detach().numpy()[np.newaxis] for n, p in twin.items()}, 1e-9)
    m, v = ("momentum_buffer", None) if optimizer.name == "sgd" else ("exp_avg", "exp_avg_sq")
    assert_close(after.m, {n: torchs.state[p][m].numpy()[np.newaxis] for n, p in twin.items()}, 1e-9)
    assert_close(after.v, {n: torchs.state[p][v].numpy()[np.newaxis] for n, p in twin.items()} if v else {}, 1e-9)


@pytest.mark.parametrize("spec", [gpt(), gpt(tie_lm_head=True), bigram(), bigram(tie_lm_head=True)], ids=shown)
def test_adamw_decays_matrices_and_no_embedding(spec: ModelSpec) -> None:
    state, examples, lr = random_state(spec), examples_of(spec, 2), 0.01
    plain, decayed = (
        engine_of(spec, state, examples, 2, replace(ADAM, name=name, weight_decay=decay))
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
        engine = engine_of(spec, state, examples, 2, OptimizerSpec("sgd", grad_clip=limit))
        engine.advance(0, rates(0.0))
        found[limit] = engine.state().m
    assert_close(found[norm / 2], {name: g / 2 for name, g in gradients.items()}, 1e-12)
    assert all(np.array_equal(found[norm * 2][name], g) for name, g in gradients.items())


# Evaluating and decoding


@pytest.mark.parametrize("spec", [gpt(), gpt(tie_lm_head=True, activation="relu_squared"), bigram()], ids=shown)
def test_evaluate_is_the_mean_over_all_target_tokens(spec: ModelSpec) -> None:
    state, examples = random_state(spec, replicas=2), examples_of(spec, 5)
    engine = ScalarEngine(EngineOptions("python"), spec, OptimizerSpec("sgd"), None, state)
    for r in range(2):
        alone = [loss_and_gradients(spec, replica_of(state, r), [example])[0] for example in examples]
        targets = [len(example) - 1 for example in examples]
        mean = sum(loss * n for loss, n in zip(alone, targets, strict=True)) / sum(targets)
        assert engine.evaluate(examples)[r] == pytest.approx(mean, rel=1e-12)
        assert abs(mean - sum(alone) / len(alone)) > 1e-3, "a mean of means would pass as well"
    assert engine.evaluate(examples).shape == (2,)


def test_evaluate_is_the_loss_that_training_sees() -> None:
    for spec in SPECS:
        state, examples = random_state(spec), examples_of(spec, 3)
        loss, _ = loss_and_gradients(spec, state, examples)
        evaluated = ScalarEngine(EngineOptions("python"), spec, OptimizerSpec("sgd"), None, state).evaluate(examples)
        assert evaluated.tolist() == pytest.approx([loss], rel=1e-12)


def test_evaluating_and_decoding_change_nothing() -> None:
    spec = gpt()
    state, examples = random_state(spec), examples_of(spec, 3)
    engine = engine_of(spec, state, examples, 1, ADAM)
    engine.advance(0, rates(0.01))
    before = engine.state()
    engine.evaluate(examples)
    engine.decoder(0).feed(0)
    assert_identical(engine.state(), before)


@pytest.mark.parametrize("spec", SPECS, ids=shown)
def test_decoder_s_logits_are_those_of_the_training_forward(spec: ModelSpec) -> None:
    state = random_state(spec, replicas=2)
    engine = ScalarEngine(EngineOptions("python"), spec, OptimizerSpec("sgd"), None, state)
    (tokens,) = examples_of(spec, 1)
    for r in range(2):
        matrices = {name: array[r].tolist() for name, array in state.parameters.items()}
        model = ScalarModel(spec, OptimizerSpec("sgd"), matrices)
        decoder, cache = engine.decoder(r), Cache(spec.n_layer)
        for token in tokens[: spec.block_size]:
            logits = FORWARD[spec.kind](spec, model.weights, token, cache, WITH_GRADIENTS)
            assert decoder.feed(token) == pytest.approx([logit.data for logit in logits], rel=1e-13, abs=1e-13)


def test_decoders_of_one_engine_do_not_share_what_they_have_read() -> None:
    spec = gpt()
    engine = ScalarEngine(EngineOptions("python"), spec, OptimizerSpec("sgd"), None, random_state(spec))
    first, second = engine.decoder(0), engine.decoder(0)
    at_once = [first.feed(token) for token in (4, 1, 2)]
    third = engine.decoder(0)
    assert [second.feed(token) for token in (4, 1, 2)] == at_once
    assert third.feed(4) == at_once[0]


# The contract: replicas, states, pieces


@each_optimizer
def test_three_replicas_equal_three_engines_bit_for_bit(optimizer: OptimizerSpec) -> None:
    spec = gpt(n_layer=2)
    state, examples = random_state(spec, replicas=3), examples_of(spec, 5)
    lrs = np.random.default_rng(0).uniform(0.01, 0.05, (4, 3))
    together = engine_of(spec, state, examples, 2, optimizer)
    losses = together.advance(0, lrs)
    assert losses.shape == (4, 3)
    for r in range(3):
        order = in_turn(examples, 2, start=r)
        alone = ScalarEngine(
            EngineOptions("python"), spec, optimizer, Workload(examples, [order]), replica_of(state, r)
        )
        assert alone.advance(0, lrs[:, r : r + 1])[:, 0].tolist() == losses[:, r].tolist()
        assert_identical(alone.state(), replica_of(together.state(), r))
        assert alone.evaluate(examples)[0] == together.evaluate(examples)[r]
        assert alone.decoder(0).feed(1) == together.decoder(r).feed(1)
    assert len(set(losses[-1].tolist())) == 3, "replicas that are all alike would pass as well"


@each_optimizer
def test_loading_a_state_goes_on_as_if_training_had_not_stopped(optimizer: OptimizerSpec) -> None:
    spec = gpt(tie_lm_head=True)
    state, examples = random_state(spec, replicas=2), examples_of(spec, 5)
    lrs = rates(0.05, 0.04, 0.03, 0.02, 0.01, 0.005, replicas=2)
    straight, stopped = (engine_of(spec, state, examples, 2, optimizer) for _ in range(2))
    losses = straight.advance(0, lrs)

    first_half = stopped.advance(0, lrs[:3])
    saved = stopped.state()
    resumed = engine_of(spec, random_state(spec, seed=9, replicas=2), examples, 2, optimizer)
    resumed.advance(0, lrs[:1])  # has moments of its own, which loading replaces
    resumed.load(saved)
    assert_identical(resumed.state(), saved)
    second_half = resumed.advance(3, lrs[3:])

    assert np.array_equal(np.concatenate([first_half, second_half]), losses)
    assert_identical(resumed.state(), straight.state())


@each_optimizer
def test_an_engine_made_from_a_state_takes_up_its_moments(optimizer: OptimizerSpec) -> None:
    spec, examples = bigram(), examples_of(bigram(), 3)
    engine = engine_of(spec, random_state(spec), examples, 1, optimizer)
    engine.advance(0, rates(0.05, 0.05))
    assert all(moments.any() for moments in engine.state().m.values())
    assert_identical(engine_of(spec, engine.state(), examples, 1, optimizer).state(), engine.state())


@each_optimizer
def test_moments_that_are_missing_start_at_zero(optimizer: OptimizerSpec) -> None:
    spec, examples = bigram(), examples_of(bigram(), 3)
    engine = engine_of(spec, random_state(spec), examples, 1, optimizer)
    engine.advance(0, rates(0.05, 0.05))
    engine.load(EngineState(engine.state().parameters))
    after = engine.state()
    assert set(after.m) == set(spec.shapes())
    assert set(after.v) == (set() if optimizer.name == "sgd" else set(spec.shapes()))
    assert not any(moments.any() for moments in [*after.m.values(), *after.v.values()])


def test_moments_have_the_shapes_of_their_tensors() -> None:
    spec = gpt()
    engine = engine_of(spec, random_state(spec, replicas=2), examples_of(spec, 3), 1, ADAM)
    engine.advance(0, rates(0.01, replicas=2))
    for part in (engine.state().parameters, engine.state().m, engine.state().v):
        assert {name: array.shape for name, array in part.items()} == {n: (2, *s) for n, s in spec.shapes().items()}


def test_a_state_is_a_copy() -> None:
    spec = gpt()
    given = random_state(spec)
    engine = engine_of(spec, given, examples_of(spec, 2), 1, ADAM)
    before, taken = engine.state(), engine.state()
    for state in (given, taken):
        for part in (state.parameters, state.m, state.v):
            for array in part.values():
                array += 1
    assert_identical(engine.state(), before)


@each_optimizer
def test_many_steps_at_once_equal_one_at_a_time(optimizer: OptimizerSpec) -> None:
    spec = gpt(activation="relu_squared")
    state, examples = random_state(spec), examples_of(spec, 5)
    lrs = rates(0.05, 0.04, 0.03, 0.02, 0.01)
    at_once, one_by_one = (engine_of(spec, state, examples, 2, optimizer) for _ in range(2))
    losses = at_once.advance(0, lrs)
    singles = [one_by_one.advance(step, lrs[step : step + 1])[0, 0] for step in range(5)]
    assert losses[:, 0].tolist() == singles
    assert_identical(one_by_one.state(), at_once.state())


def test_a_step_s_batch_and_bias_correction_follow_its_number() -> None:
    spec = bigram()
    state, examples = random_state(spec), [[6, 0, 6], [6, 1, 6], [6, 2, 6]]
    engine = engine_of(spec, state, examples, 1, ADAM)
    engine.advance(2, rates(0.01))
    moved = engine.state()
    assert moved.m["wte"][0, 2].any()
    assert not moved.m["wte"][0, :2].any()
    m, v = moved.m["wte"] / (1 - 0.85**3), moved.v["wte"] / (1 - 0.99**3)
    expected = state.parameters["wte"] - 0.01 * m / (np.sqrt(v) + 1e-8)
    np.testing.assert_allclose(moved.parameters["wte"], expected, rtol=1e-14)


def test_a_learning_rate_of_zero_moves_nothing() -> None:
    spec = gpt()
    for optimizer in OPTIMIZERS:
        state = random_state(spec)
        engine = engine_of(spec, state, examples_of(spec, 2), 1, optimizer)
        engine.advance(0, rates(0.0, 0.0))
        assert_identical(EngineState(engine.state().parameters), state)


# Losses that are not finite


@each_optimizer
@pytest.mark.parametrize(
    "spec", [gpt(), gpt(activation="relu_squared"), gpt(tie_lm_head=True, input_rmsnorm=False), bigram()], ids=shown
)
def test_a_step_without_a_finite_loss_changes_nothing_and_ends_the_training(
    spec: ModelSpec, optimizer: OptimizerSpec
) -> None:
    state, examples = random_state(spec), examples_of(spec, 3)
    lrs = rates(0.01, 1e100, 0.01, 0.01, 0.01)
    engine, until_then = (engine_of(spec, state, examples, 2, optimizer) for _ in range(2))
    losses = engine.advance(0, lrs)[:, 0]
    until_then.advance(0, lrs[:2])
    assert np.isfinite(losses[:2]).all()
    assert not math.isfinite(losses[2])
    assert np.isnan(losses[3:]).all()
    assert_identical(engine.state(), until_then.state())

    again = engine.advance(3, lrs[3:])[:, 0]  # no gradient has been left behind that would move it now
    assert not math.isfinite(again[0])
    assert_identical(engine.state(), until_then.state())


def test_a_step_that_overflows_has_no_finite_loss_and_changes_nothing() -> None:
    spec = gpt(activation="relu_squared")
    state, examples = random_state(spec), examples_of(spec, 3)
    state.parameters["layer0.mlp_fc1"] *= 1e200  # Python raises OverflowError for its square
    engine = engine_of(spec, state, examples, 1, ADAM)
    before = engine.state()
    losses = engine.advance(0, rates(0.01, 0.01))[:, 0]
    assert losses[0] == math.inf
    assert math.isnan(losses[1])
    assert_identical(engine.state(), before)


def test_a_replica_without_a_finite_loss_does_not_hold_up_the_others() -> None:
    spec = gpt()
    state, examples = random_state(spec, replicas=3), examples_of(spec, 3)
    lrs = rates(0.01, 0.01, 0.01, 0.01, replicas=3)
    wild = lrs.copy()
    wild[0, 1] = 1e100
    calm_engine, engine = (engine_of(spec, state, examples, 1, ADAM) for _ in range(2))
    calm, losses = calm_engine.advance(0, lrs), engine.advance(0, wild)
    assert np.isfinite(losses).tolist() == [[True, True, True]] + [[True, False, True]] * 3
    for r in (0, 2):
        assert losses[:, r].tolist() == calm[:, r].tolist()
        assert_identical(replica_of(engine.state(), r), replica_of(calm_engine.state(), r))


def test_evaluating_a_spoilt_model_gives_a_loss_that_is_not_finite() -> None:
    """Not an exception: the loop reports it with the step and the last checkpoint."""
    for spec in (gpt(), gpt(activation="relu_squared"), bigram()):
        state = random_state(spec)
        for array in state.parameters.values():
            array *= 1e100
        assert not np.isfinite(
            ScalarEngine(EngineOptions("python"), spec, ADAM, None, state).evaluate(examples_of(spec, 2))
        ).any()
