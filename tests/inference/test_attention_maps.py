"""Attention maps agree with the scalar engine and with a model that is small enough to compute by hand."""

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import OPTIONS, with_options

from microgpt.engines.base import EngineState
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.engines.scalar import model
from microgpt.engines.scalar.engine import ScalarEngine
from microgpt.errors import UserError
from microgpt.inference.attention_maps import ACTIVATIONS, MODELS, NORMS, POSITIONS, ForwardPass, forward
from microgpt.model import spec as model_spec
from microgpt.model.init import init_parameters
from microgpt.model.spec import MODEL_KINDS, RMSNORM_EPSILON, ModelSpec

SPEC = ModelSpec("gpt", vocab_size=5, n_embd=6, n_head=2, n_layer=1, block_size=7)
GPTS = [
    replace(SPEC, tie_lm_head=tied, input_rmsnorm=normed, activation=activation, n_layer=layers)
    for tied in (False, True)
    for normed in (False, True)
    for activation in ("relu", "relu_squared")
    for layers in (0, 1, 3)
]
BIGRAMS = [
    ModelSpec("bigram", 5, 5, 1, 0, 7, tie_lm_head=tied, input_rmsnorm=normed)
    for tied in (False, True)
    for normed in (False, True)
]


def name_of(spec: ModelSpec) -> str:
    return f"{spec.kind}-{spec.activation}-{spec.n_layer}-tied:{spec.tie_lm_head}-normed:{spec.input_rmsnorm}"


def random_parameters(spec: ModelSpec, seed: int = 0) -> dict[str, np.ndarray]:
    """Return weights larger than initial weights, so that attention is not nearly uniform."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.4, (1, *shape)) for name, shape in spec.shapes().items()}


def random_text(spec: ModelSpec, length: int, seed: int = 0) -> list[int]:
    rng = np.random.default_rng(seed)
    return [spec.vocab_size - 1, *rng.integers(0, spec.vocab_size, length - 1).tolist()]


def scalar_logits(spec: ModelSpec, parameters: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    decoder = ScalarEngine(EngineOptions("python"), spec, OptimizerSpec("sgd"), None, EngineState(parameters)).decoder(
        0
    )
    return np.array([decoder.feed(token) for token in tokens])


def assert_equals_the_scalar_engine(spec: ModelSpec, seed: int, length: int) -> ForwardPass:
    parameters, tokens = random_parameters(spec, seed), random_text(spec, length, seed)
    found = forward(spec, parameters, tokens)
    expected = scalar_logits(spec, parameters, tokens)
    np.testing.assert_allclose(found.logits, expected, rtol=1e-12, atol=1e-12)
    losses = [model.plain_cross_entropy(row, token) for row, token in zip(expected.tolist(), tokens[1:], strict=False)]
    np.testing.assert_allclose(found.losses[1:], losses, rtol=1e-11, atol=1e-12)
    assert math.isnan(found.losses[0])
    return found


@pytest.mark.parametrize("spec", [*GPTS, *BIGRAMS, *map(with_options, OPTIONS)], ids=name_of)
def test_logits_and_losses_equal_the_scalar_engine_s(spec: ModelSpec) -> None:
    assert_equals_the_scalar_engine(spec, seed=1, length=spec.block_size)


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    n_head = draw(st.integers(1, 4))
    return ModelSpec(
        "gpt",
        vocab_size=draw(st.integers(2, 12)),
        n_embd=n_head * draw(st.integers(1, 4)),
        n_head=n_head,
        n_layer=draw(st.integers(0, 3)),
        block_size=draw(st.integers(1, 9)),
        tie_lm_head=draw(st.booleans()),
        input_rmsnorm=draw(st.booleans()),
        activation=draw(st.sampled_from(["relu", "relu_squared"])),
    )


@settings(max_examples=60, deadline=None)
@given(spec=specs(), seed=st.integers(0, 1000), data=st.data())
def test_any_model_and_text_gives_what_the_scalar_engine_does(spec: ModelSpec, seed: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, spec.block_size))
    found = assert_equals_the_scalar_engine(spec, seed, length)
    assert found.attention.shape == (spec.n_layer, spec.n_head, length, length)
    assert (found.attention >= 0).all()
    np.testing.assert_allclose(found.attention.sum(axis=-1), 1, rtol=1e-14)
    assert (np.triu(found.attention, k=1) == 0).all(), "no position attends to a later one"


@settings(max_examples=30, deadline=None)
@given(spec=specs(), seed=st.integers(0, 1000), data=st.data())
def test_later_tokens_change_nothing_at_earlier_positions(spec: ModelSpec, seed: int, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, spec.block_size))
    parameters, tokens = random_parameters(spec, seed), random_text(spec, spec.block_size, seed)
    whole, part = forward(spec, parameters, tokens), forward(spec, parameters, tokens[:cut])
    np.testing.assert_allclose(whole.logits[:cut], part.logits, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(whole.attention[:, :, :cut, :cut], part.attention, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spec", [spec for spec in GPTS if spec.n_layer], ids=name_of)
def test_attention_weights_equal_the_scalar_engine_s(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[list[float]] = []

    def softmax(logits: list[Any], ops: model.Arithmetic) -> list[Any]:
        used.append(original(logits, ops))
        return used[-1]

    original = model.softmax
    monkeypatch.setattr(model, "softmax", softmax)
    parameters, tokens = random_parameters(spec), random_text(spec, 5)
    scalar_logits(spec, parameters, tokens)
    attention = forward(spec, parameters, tokens).attention
    rows = [attention[layer, head, t, : t + 1] for t in range(5) for layer in range(spec.n_layer) for head in range(2)]
    assert len(rows) == len(used)
    for row, expected in zip(rows, used, strict=True):
        np.testing.assert_allclose(row, expected, rtol=1e-12)


def test_two_tokens_by_hand() -> None:
    """One head whose query matches its own token: with two different tokens, the second has the weights 1/4 and 3/4."""
    s = (1 + RMSNORM_EPSILON) ** -0.5  # rmsnorm of (1, 1) is (s, s)
    one, zero = np.eye(2), np.zeros((2, 2))
    spec = ModelSpec("gpt", vocab_size=2, n_embd=2, n_head=1, n_layer=1, block_size=3, input_rmsnorm=False)
    parameters = {
        "wte": np.array([[1.0, 1.0], [1.0, -1.0]]),
        "wpe": np.zeros((3, 2)),
        "lm_head": one,
        # q.k / sqrt(2) is 0 for different tokens and 2 s^2 a / sqrt(2) for equal ones: a such that this is log 3
        "layer0.attn_wq": one * math.log(3) / math.sqrt(2) / s**2,
        "layer0.attn_wk": one,
        "layer0.attn_wv": one,
        "layer0.attn_wo": one,
        "layer0.mlp_fc1": np.zeros((8, 2)),
        "layer0.mlp_fc2": np.zeros((2, 8)),
    }
    assert {name: array.shape for name, array in parameters.items()} == spec.shapes()
    found = forward(spec, {name: array[np.newaxis] for name, array in parameters.items()}, [0, 1])
    np.testing.assert_allclose(found.attention, [[[[1, 0], [1 / 4, 3 / 4]]]], rtol=1e-14, atol=0)
    np.testing.assert_allclose(found.logits, [[1 + s, 1 + s], [1 + s, -1 - s / 2]], rtol=1e-14)
    np.testing.assert_allclose(found.losses[1], math.log(2), rtol=1e-14)
    # With zero values the head adds nothing.
    parameters["layer0.attn_wv"] = zero
    found = forward(spec, {name: array[np.newaxis] for name, array in parameters.items()}, [0, 1])
    np.testing.assert_array_equal(found.logits, [[1, 1], [1, -1]])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_narrower_weights_are_converted_to_float64(dtype: type) -> None:
    parameters = {name: array.astype(dtype) for name, array in random_parameters(SPEC).items()}
    found = forward(SPEC, parameters, [4, 0, 1])
    wide = forward(SPEC, {name: array.astype(np.float64) for name, array in parameters.items()}, [4, 0, 1])
    assert found.logits.dtype == np.float64
    np.testing.assert_array_equal(found.logits, wide.logits)


def test_the_losses_of_a_new_model_are_about_those_of_a_uniform_one() -> None:
    spec = replace(SPEC, vocab_size=27, n_embd=16, n_head=4)
    tensors = init_parameters(spec, random.Random(0))
    parameters = {name: np.array(rows)[np.newaxis] for name, rows in tensors.items()}
    losses = forward(spec, parameters, random_text(spec, 7)).losses[1:]
    np.testing.assert_allclose(losses, math.log(27), atol=1.0)


@pytest.mark.parametrize("spec", [GPTS[-1], BIGRAMS[0]], ids=name_of)
def test_the_parameters_are_not_changed(spec: ModelSpec) -> None:
    parameters = random_parameters(spec)
    before = {name: array.copy() for name, array in parameters.items()}
    forward(spec, parameters, [0, 1, 2])
    for name, array in parameters.items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("tokens", [[], [0] * 8, [-1], [0, 5], [~3]], ids=str)
def test_texts_of_invalid_length_or_ids_are_errors(tokens: list[int]) -> None:
    with pytest.raises(ValueError, match=r"a text must have|token ids must be"):
        forward(SPEC, random_parameters(SPEC), tokens)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("factor", [1e308, math.nan], ids=str)
def test_an_overflow_gives_non_finite_numbers_without_a_warning(factor: float) -> None:
    parameters = random_parameters(SPEC)
    parameters["lm_head"] *= factor
    found = forward(SPEC, parameters, [0, 1])
    assert not np.isfinite(found.logits).all()
    assert not np.isfinite(found.losses[1])


def test_every_choice_of_a_table_is_implemented() -> None:
    assert set(MODELS) == set(MODEL_KINDS)
    assert set(ACTIVATIONS) == set(model_spec.ACTIVATIONS)
    assert set(POSITIONS) == set(model_spec.POSITIONS)
    assert set(NORMS) == set(model_spec.NORMS)


@pytest.mark.parametrize(("changes", "table"), [({"kind": "mamba"}, "MODELS"), ({"activation": "step"}, "ACTIVATIONS")])
def test_a_missing_implementation_is_an_error_that_names_the_table(
    changes: dict[str, str], table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODEL_KINDS, "mamba", MODEL_KINDS["gpt"])
    with pytest.raises(UserError, match=f"is not implemented .*: add it to {table} in inference/attention_maps.py"):
        forward(replace(SPEC, **changes), random_parameters(SPEC), [4, 0])
