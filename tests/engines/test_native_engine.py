"""The native engine: replicas, threads, training in pieces, training states, choices without an implementation."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.models import OPTIONS, with_options

from microgpt.data.batches import BatchOrder
from microgpt.engines import make_engine
from microgpt.engines.base import Arrays, Engine, EngineState, Workload
from microgpt.engines.native import engine as native
from microgpt.engines.native import layout
from microgpt.engines.native.layout import ACTIVATIONS as NATIVE_ACTIVATIONS
from microgpt.engines.native.layout import KINDS
from microgpt.engines.native.optimizer_settings import CODES
from microgpt.engines.optimizer import OPTIMIZERS, OptimizerChoice, OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.errors import UserError
from microgpt.model.spec import ACTIVATIONS, MODEL_KINDS, NORMS, POSITIONS, ModelSpec

ADAM = OptimizerSpec("adam", beta1=0.85, beta2=0.99, eps=1e-8)
ADAMW = OptimizerSpec("adamw", beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.3, grad_clip=1.0)
SGD = OptimizerSpec("sgd", momentum=0.9)
each_optimizer = pytest.mark.parametrize("optimizer", [ADAM, ADAMW, SGD], ids=lambda o: o.name)
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
EXAMPLES = 75


def gpt(**changes: Any) -> ModelSpec:
    return replace(ModelSpec("gpt", vocab_size=5, n_embd=6, n_head=2, n_layer=1, block_size=7), **changes)


def bigram(**changes: Any) -> ModelSpec:
    return replace(ModelSpec("bigram", vocab_size=7, n_embd=7, n_head=1, n_layer=0, block_size=7), **changes)


def random_state(spec: ModelSpec, replicas: int, seed: int = 0) -> EngineState:
    """Replica r is the same for any number of replicas."""
    rngs = [np.random.default_rng([seed, r]) for r in range(replicas)]
    return EngineState({n: np.array([rng.normal(0, 0.4, s) for rng in rngs]) for n, s in spec.shapes().items()})


def examples_of(spec: ModelSpec, count: int = EXAMPLES) -> list[list[int]]:
    """The first document fills the block, the second has one character, the others vary in length."""
    rng, bos = np.random.default_rng(1), spec.vocab_size - 1
    lengths = [spec.block_size, 1, *rng.integers(1, spec.block_size + 1, count).tolist()][:count]
    return [[bos, *rng.integers(0, bos, length).tolist(), bos][: spec.block_size + 1] for length in lengths]


def order_of(replica: int, batch_size: int, count: int = EXAMPLES) -> BatchOrder:
    return BatchOrder(np.random.default_rng(replica).permutation(count), (), 0.0, batch_size)


def engine_of(
    spec: ModelSpec,
    state: EngineState,
    batch_size: int = 1,
    optimizer: OptimizerSpec = ADAM,
    chosen: list[int] | None = None,
    **options: Any,
) -> Engine:
    """Make an engine with the `chosen` replicas of a state (default: all), each with its own order."""
    chosen = list(range(replicas_of(state))) if chosen is None else chosen
    work = Workload(examples_of(spec), [order_of(r, batch_size) for r in chosen])
    where = replace(EngineOptions("native", dtype="float32", threads=1), **options)
    return make_engine(where, spec, optimizer, work, pick(state, chosen), say=lambda text: None)


def replicas_of(state: EngineState) -> int:
    return len(next(iter(state.parameters.values())))


def pick(state: EngineState, replicas: list[int]) -> EngineState:
    return EngineState(*[{n: a[replicas] for n, a in part.items()} for part in (state.parameters, state.m, state.v)])


def own_rates(steps: int, replicas: int) -> np.ndarray:
    """(steps, R): falling learning rates that differ between replicas"""
    return np.outer(1 - np.arange(steps) / steps, 0.002 + 0.001 * (np.arange(replicas) % 20))


def assert_identical(found: EngineState, expected: EngineState) -> None:
    for part in ("parameters", "m", "v"):
        first: Arrays = getattr(found, part)
        second: Arrays = getattr(expected, part)
        assert set(first) == set(second), part
        for name in second:
            assert first[name].tobytes() == second[name].tobytes(), f"{part} of {name}"


def assert_close(found: Arrays, expected: Arrays, tolerance: float) -> None:
    assert set(found) == set(expected)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=tolerance, atol=tolerance, err_msg=name)


# Replicas and threads


@pytest.mark.parametrize("batch_size", [1, 3, 20, 70])
@pytest.mark.parametrize(
    "spec",
    [
        gpt(n_layer=2, activation="relu_squared"),
        bigram(),
        pytest.param(with_options("everything", n_layer=2), marks=pytest.mark.slow),
    ],
    ids=["gpt", "bigram", "everything"],
)
def test_results_of_a_replica_are_the_same_alone_and_in_any_group(spec: ModelSpec, batch_size: int) -> None:
    steps, watched = 3, [0, 1, 2, 63, 128, 256]
    state, rates = random_state(spec, 257), own_rates(steps, 257)
    groups = [[0, 1, 2], list(range(64)), [*range(256, -1, -1)]]  # the last one in reverse order
    alone = {}
    for r in watched:
        one = engine_of(spec, state, batch_size, chosen=[r])
        alone[r] = one.advance(0, rates[:, [r]])[:, 0], one.state(), one.evaluate(examples_of(spec))[0]
    assert len({losses.tobytes() for losses, _, _ in alone.values()}) == len(watched), "the replicas differ"
    for group in groups:
        engine = engine_of(spec, state, batch_size, chosen=group, threads=2)
        losses, after, evaluated = (
            engine.advance(0, rates[:, group]),
            engine.state(),
            engine.evaluate(examples_of(spec)),
        )
        for place, r in enumerate(group):
            if r in alone:
                assert losses[:, place].tobytes() == alone[r][0].tobytes()
                assert_identical(pick(after, [place]), alone[r][1])
                assert evaluated[place] == alone[r][2]


@each_dtype
@each_optimizer
@pytest.mark.parametrize("batch_size", [1, 20])
def test_a_diverging_replica_does_not_affect_the_others(batch_size: int, optimizer: OptimizerSpec, dtype: str) -> None:
    spec = gpt(n_layer=2)
    state, rates = random_state(spec, 4), own_rates(6, 4)
    wild = rates.copy()
    wild[1, 1] = 1e30 if dtype == "float64" else 1e100  # infinite in float32
    calm_engine, engine, until_then = (engine_of(spec, state, batch_size, optimizer, dtype=dtype) for _ in range(3))
    calm, losses = calm_engine.advance(0, rates), engine.advance(0, wild)
    until_then.advance(0, wild[:2])
    assert np.isfinite(losses[:2]).all()
    assert not math.isfinite(losses[2, 1])
    assert np.isnan(losses[3:, 1]).all()
    others = [0, 2, 3]  # the same thread computes 2 after 1
    assert losses[:, others].tobytes() == calm[:, others].tobytes()
    assert_identical(pick(engine.state(), others), pick(calm_engine.state(), others))
    assert_identical(pick(engine.state(), [1]), pick(until_then.state(), [1]))
    again = engine.advance(6, rates)
    assert again[:, others].tobytes() == calm_engine.advance(6, rates)[:, others].tobytes()
    assert not np.isfinite(again[:, 1]).any()
    assert_identical(pick(engine.state(), others), pick(calm_engine.state(), others))


@pytest.mark.parametrize("batch_size", [1, 20, 70])
@pytest.mark.parametrize("replicas", [1, 2, 5])
def test_results_do_not_depend_on_the_number_of_threads(
    replicas: int, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads take whole replicas, or parts of one replica's batch."""
    spec = gpt(n_layer=2)
    state, rates = random_state(spec, replicas), own_rates(4, replicas)
    rates[0, replicas // 2] = 1e30  # this one diverges
    expected = engine_of(spec, state, batch_size)
    losses, examples = expected.advance(0, rates), examples_of(spec)
    assert np.isnan(losses).any()
    for shared_work in (math.inf, 0.0):
        monkeypatch.setattr(native, "SHARED_WORK", shared_work)
        for threads in (2, 3):
            engine = engine_of(spec, state, batch_size, threads=threads)
            assert isinstance(engine, native.NativeEngine)
            assert engine.is_shared(batch_size) == (shared_work == 0 and batch_size > 16)
            assert engine.advance(0, rates).tobytes() == losses.tobytes()
            assert_identical(engine.state(), expected.state())
            assert engine.evaluate(examples).tobytes() == expected.evaluate(examples).tobytes()


# Training in pieces


@each_dtype
@each_optimizer
@pytest.mark.parametrize("batch_size", [1, 20])
def test_many_steps_in_one_call_equal_one_step_a_call(batch_size: int, optimizer: OptimizerSpec, dtype: str) -> None:
    spec = gpt(activation="relu_squared", tie_lm_head=True)
    state, rates = random_state(spec, 3), own_rates(7, 3)
    at_once, one_by_one = (engine_of(spec, state, batch_size, optimizer, dtype=dtype) for _ in range(2))
    losses = at_once.advance(0, rates)
    singles = np.concatenate([one_by_one.advance(step, rates[step : step + 1]) for step in range(7)])
    assert singles.tobytes() == losses.tobytes()
    assert_identical(one_by_one.state(), at_once.state())


@each_dtype
@each_optimizer
@pytest.mark.parametrize("batch_size", [1, 20])
def test_subnormal_moments_become_zero_at_the_same_steps_for_any_division_of_training(
    batch_size: int, optimizer: OptimizerSpec, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens 5 to 8 are in no document: their rows of wte have no gradient, and moments that only decay."""
    spec, used = gpt(vocab_size=9), examples_of(gpt())
    state = random_state(spec, 2)
    shapes = {name: array.shape for name, array in state.parameters.items()}
    state = replace(state, m={name: np.full(shape, 2.0**-124) for name, shape in shapes.items()})
    if optimizer.moments == 2:
        state = replace(state, v={name: np.full(shape, 2.0**-125.8) for name, shape in shapes.items()})
    found = []
    for cuts, threads in (([0, 40], 1), ([0, 31, 40], 1), ([0, 20, 40], 2)):
        monkeypatch.setattr(native, "SHARED_WORK", 0.0 if threads > 1 else math.inf)
        work = Workload(used, [order_of(r, batch_size) for r in range(2)])
        options = EngineOptions("native", dtype=dtype, threads=threads)
        engine = make_engine(options, spec, optimizer, work, state, say=lambda text: None)
        for begin, end in itertools.pairwise(cuts):
            engine.advance(begin, np.full((end - begin, 2), 0.01))
        found.append(engine.state())
    assert_identical(found[1], found[0])
    assert_identical(found[2], found[0])
    for moments in filter(None, (found[0].m, found[0].v)):
        assert not moments["wte"][:, 5:].any()
        assert moments["wte"][:, :5].any()


def test_a_limit_on_indices_in_memory_does_not_change_results(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = gpt()
    state, rates = random_state(spec, 3), own_rates(7, 3)
    rates[1, 1] = 1e30  # diverges within a piece and is left out of the following ones
    whole, pieces = engine_of(spec, state, 3), engine_of(spec, state, 3)
    losses = whole.advance(0, rates)
    monkeypatch.setattr(native, "LISTED_INDICES", 20)  # two steps of three models
    assert pieces.advance(0, rates).tobytes() == losses.tobytes()
    assert np.isnan(losses[3:, 1]).all()
    assert_identical(pieces.state(), whole.state())


@each_dtype
@each_optimizer
def test_training_from_a_loaded_state_equals_training_without_a_stop(optimizer: OptimizerSpec, dtype: str) -> None:
    spec, rates = gpt(n_layer=2), own_rates(6, 2)
    state = random_state(spec, 2)
    straight, stopped = (engine_of(spec, state, 3, optimizer, dtype=dtype) for _ in range(2))
    losses = straight.advance(0, rates)
    first = stopped.advance(0, rates[:3])
    saved = stopped.state()
    resumed = engine_of(spec, random_state(spec, 2, seed=9), 3, optimizer, dtype=dtype)
    resumed.advance(0, rates[:1])  # makes moments, which loading replaces
    resumed.load(saved)
    assert_identical(resumed.state(), saved)
    assert np.concatenate([first, resumed.advance(3, rates[3:])]).tobytes() == losses.tobytes()
    assert_identical(resumed.state(), straight.state())
    made = engine_of(spec, saved, 3, optimizer, dtype=dtype)
    made.advance(3, rates[3:])
    assert_identical(made.state(), straight.state())


@pytest.mark.slow
@each_optimizer
@pytest.mark.parametrize("second_backend", ["python", "native", "torch"])
@pytest.mark.parametrize("first_backend", ["python", "native", "torch"])
def test_a_state_of_any_engine_can_be_loaded_in_any_other(
    first_backend: str, second_backend: str, optimizer: OptimizerSpec
) -> None:
    spec, rates = gpt(tie_lm_head=True), own_rates(8, 2)
    state = random_state(spec, 2)

    def engine(backend: str, state: EngineState) -> Engine:
        return engine_of(spec, state, 3, optimizer, backend=backend, device="cpu", dtype="float64")

    straight = engine("python", state)
    losses = straight.advance(0, rates)
    first = engine(first_backend, state)
    first.advance(0, rates[:4])
    second = engine(second_backend, first.state())
    np.testing.assert_allclose(second.advance(4, rates[4:]), losses[4:], rtol=1e-9)
    for part in ("parameters", "m", "v"):
        assert_close(getattr(second.state(), part), getattr(straight.state(), part), 1e-9)


# Training states


@each_optimizer
def test_missing_moments_start_at_zero_and_one_moment_means_no_v(optimizer: OptimizerSpec) -> None:
    spec = gpt()
    engine = engine_of(spec, random_state(spec, 2), 1, optimizer)
    engine.advance(0, own_rates(2, 2))
    assert all(moments.any() for moments in engine.state().m.values())
    engine.load(EngineState(engine.state().parameters))
    after = engine.state()
    assert set(after.m) == set(spec.shapes())
    assert set(after.v) == (set(spec.shapes()) if optimizer.moments == 2 else set())
    assert not any(moments.any() for moments in [*after.m.values(), *after.v.values()])


@each_dtype
def test_state_returns_copies_with_the_shapes_of_the_tensors(dtype: str) -> None:
    spec = gpt(n_layer=2, n_head=3)
    original = random_state(spec, 2)
    engine = engine_of(spec, original, dtype=dtype)
    before, taken = engine.state(), engine.state()
    for name, shape in spec.shapes().items():
        for part in (taken.parameters, taken.m, taken.v):
            assert part[name].shape == (2, *shape)
            assert part[name].dtype == dtype
            part[name] += 1
        assert np.array_equal(before.parameters[name], original.parameters[name].astype(dtype))
        original.parameters[name] += 1
    assert_identical(engine.state(), before)


def test_decoders_do_not_share_what_they_have_read() -> None:
    spec = gpt(n_layer=2)
    engine = engine_of(spec, random_state(spec, 2))
    first, second, other = engine.decoder(0), engine.decoder(0), engine.decoder(1)
    at_once = [first.feed(token) for token in (4, 1, 2)]
    assert [second.feed(token) for token in (4, 1, 2)] == at_once
    assert [other.feed(token) for token in (4, 1, 2)] != at_once
    assert at_once[1] != engine.decoder(0).feed(1)


def test_evaluating_and_decoding_do_not_change_the_state() -> None:
    spec = gpt()
    engine = engine_of(spec, random_state(spec, 2), 20)
    engine.advance(0, own_rates(3, 2))
    before = engine.state()
    engine.evaluate(examples_of(spec))
    engine.decoder(1).feed(4)
    assert_identical(engine.state(), before)


def test_another_device_than_the_cpu_raises() -> None:
    with pytest.raises(UserError, match=r"^backend\.device=cuda is not allowed: backend=native runs only on the cpu$"):
        engine_of(gpt(), random_state(gpt(), 1), device="cuda")


# Choices without an implementation


def test_optimizers_activations_and_kinds_of_the_tables_are_all_implemented() -> None:
    assert set(CODES) == set(OPTIMIZERS)
    assert set(NATIVE_ACTIVATIONS) == set(ACTIVATIONS)
    assert len(set(NATIVE_ACTIVATIONS.values())) == len(ACTIVATIONS)
    assert set(KINDS) == set(MODEL_KINDS)
    assert set(layout.POSITIONS) == set(POSITIONS)
    assert set(layout.NORMS) == set(NORMS)


def test_an_optimizer_without_a_kernel_raises_when_the_engine_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIMIZERS, "newton", OptimizerChoice(("beta1", "beta2"), moments=1))
    with pytest.raises(
        UserError, match=r"^optim\.name=newton is not .*: add it to CODES in engines/native/optimizer_settings\.py$"
    ):
        engine_of(gpt(), random_state(gpt(), 1), optimizer=OptimizerSpec("newton"))


def test_an_optimizer_whose_code_no_branch_handles_gives_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would silently train nothing."""
    monkeypatch.setitem(OPTIMIZERS, "newton", OptimizerChoice(("beta1", "beta2"), moments=1))
    monkeypatch.setitem(CODES, "newton", 99)
    engine = engine_of(gpt(), random_state(gpt(), 1), optimizer=OptimizerSpec("newton"))
    losses = engine.advance(0, np.full((2, 1), 0.01))
    assert np.isfinite(losses[0, 0])
    assert np.isnan(losses[1, 0])


def test_an_activation_without_a_kernel_raises_when_the_engine_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microgpt.model.spec.ACTIVATIONS", (*ACTIVATIONS, "step"))
    spec = gpt(activation="step")
    place = r"add it to ACTIVATIONS in engines/native/layout\.py$"
    with pytest.raises(UserError, match=rf"^model\.activation=step is not .*: {place}"):
        engine_of(spec, random_state(spec, 1))


def test_a_kind_of_model_without_a_kernel_raises_when_the_engine_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODEL_KINDS, "llama", MODEL_KINDS["gpt"])
    spec = gpt(kind="llama")
    with pytest.raises(UserError, match=r"^model\.kind=llama is not .*: add it to KINDS in engines/native/layout\.py$"):
        engine_of(spec, random_state(spec, 1))


@pytest.mark.parametrize("gated", [False, True])
def test_an_activation_whose_code_no_branch_handles_gives_nan(gated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NATIVE_ACTIVATIONS, "relu", 99)
    spec = gpt(gated_mlp=gated)
    assert np.isnan(engine_of(spec, random_state(spec, 1)).advance(0, np.ones((1, 1)))[0, 0])


@pytest.mark.parametrize(("option", "table"), [("position", POSITIONS), ("norm", NORMS)])
def test_a_choice_of_the_model_without_a_kernel_raises(
    option: str, table: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(table, "invented", next(iter(table.values())))
    spec = gpt(**{option: "invented"})
    place = rf"add it to {option.upper()}S in engines/native/layout\.py$"
    with pytest.raises(UserError, match=rf"^model\.{option}=invented is not .*: {place}"):
        engine_of(spec, random_state(spec, 1))


# The padding


@each_dtype
@pytest.mark.parametrize("sizes", [(12, 6, 3), (40, 2, 1)], ids=str)
def test_the_padding_of_weights_and_moments_stays_zero(sizes: tuple[int, int, int], dtype: str) -> None:
    """With every option; heads of 2 features with gaps between them, and of 20 in two vectors.

    The rows behind the vocabulary are not part of it: their logits are masked.
    """
    n_embd, n_head, n_kv_head = sizes
    options = OPTIONS["everything"] | {"n_kv_head": n_kv_head}
    spec = gpt(n_embd=n_embd, n_head=n_head, n_layer=2, **options)
    engine = engine_of(spec, random_state(spec, 2), 20, dtype=dtype)
    assert isinstance(engine, native.NativeEngine)
    assert np.isfinite(engine.advance(0, np.full((3, 2), 0.01))).all()
    for flat in (engine.weights.parameters, engine.m, engine.v):
        models = flat.reshape(2, -1).copy()
        for indices in engine.weights.indices.values():
            assert models[:, indices].any()
            models[:, indices] = 0
        assert not models[:, engine.weights.layout.layer_vectors : engine.weights.layout.lm_head].any()
        assert not models[:, engine.weights.layout.layers :].any()


@pytest.mark.parametrize(
    ("n_embd", "block_size", "batch_size", "part"),
    [(16, 16, 16, 16), (16, 16, 40, 14), (128, 64, 12, 6), (128, 64, 1, 1), (128, 256, 20, 5), (128, 256, 3, 2)],
)
def test_the_parts_of_a_batch_depend_on_sizes_alone(n_embd: int, block_size: int, batch_size: int, part: int) -> None:
    spec = gpt(n_embd=n_embd, n_layer=4, block_size=block_size)
    for threads in (1, 2, 5):
        engine = engine_of(spec, random_state(spec, 1), batch_size, threads=threads)
        assert isinstance(engine, native.NativeEngine)
        assert engine.part_size(batch_size) == part
