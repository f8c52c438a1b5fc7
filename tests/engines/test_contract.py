"""The interface of engines/base.py, for every engine: replicas, states, continued training, non-finite losses."""

import math

import numpy as np
import pytest
from support.models import (
    ADAM,
    SGD,
    assert_identical,
    bigram,
    each_optimizer,
    engine_of,
    examples_of,
    gpt,
    learning_rates,
    random_state,
    shown,
    workload,
)

from microgpt.engines.base import EngineState
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.model.spec import ModelSpec

ENGINES = ["python-float64", "native-float64", "native-float32", "torch-float64", "torch-float32"]
HUGE = {"float64": 1e100, "float32": 1e15}  # its square is finite, as in the root mean square


@pytest.fixture(params=ENGINES)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param.partition("-")[0]


@pytest.fixture
def dtype(request: pytest.FixtureRequest, backend: str) -> str:
    return request.node.callspec.params["backend"].partition("-")[2]


# Continued training


@each_optimizer
def test_loading_a_state_continues_training_bit_for_bit(backend: str, dtype: str, optimizer: OptimizerSpec) -> None:
    spec, rates = gpt(tie_lm_head=True, n_layer=2), learning_rates(6, 0.05, 0.02)
    work, state = workload(examples_of(spec, 5), 2, (0, 1)), random_state(spec, replicas=2)
    straight, stopped = (engine_of(backend, spec, optimizer, work, state, dtype=dtype) for _ in range(2))
    losses = straight.advance(0, rates)
    first = stopped.advance(0, rates[:3])
    saved = stopped.state()
    loaded = engine_of(backend, spec, optimizer, work, random_state(spec, seed=9, replicas=2), dtype=dtype)
    loaded.advance(0, rates[:1])  # gives it moments, which loading replaces
    loaded.load(saved)
    made = engine_of(backend, spec, optimizer, work, saved, dtype=dtype)
    for resumed in (loaded, made):
        assert_identical(resumed.state(), saved)
        assert np.array_equal(np.concatenate([first, resumed.advance(3, rates[3:])]), losses)
        assert_identical(resumed.state(), straight.state())


@each_optimizer
def test_many_steps_at_once_equal_one_at_a_time(backend: str, dtype: str, optimizer: OptimizerSpec) -> None:
    spec, rates = gpt(activation="relu_squared"), learning_rates(5, 0.05)
    work, state = workload(examples_of(spec, 5), 2), random_state(spec)
    at_once, one_by_one = (engine_of(backend, spec, optimizer, work, state, dtype=dtype) for _ in range(2))
    losses = at_once.advance(0, rates)
    assert losses.dtype == np.float64
    assert losses[:, 0].tolist() == [one_by_one.advance(step, rates[step : step + 1])[0, 0] for step in range(5)]
    assert_identical(one_by_one.state(), at_once.state())
    assert one_by_one.advance(5, np.zeros((0, 1))).shape == (0, 1)


@each_optimizer
def test_a_learning_rate_of_zero_changes_no_weight(backend: str, dtype: str, optimizer: OptimizerSpec) -> None:
    spec = gpt()
    engine = engine_of(backend, spec, optimizer, workload(examples_of(spec, 2), 1), random_state(spec), dtype=dtype)
    before = engine.state()
    engine.advance(0, np.zeros((2, 1)))
    assert_identical(EngineState(engine.state().parameters), EngineState(before.parameters))


# States


@each_optimizer
def test_missing_moments_start_at_zero(backend: str, dtype: str, optimizer: OptimizerSpec) -> None:
    spec = bigram()
    engine = engine_of(backend, spec, optimizer, workload(examples_of(spec, 3), 1), random_state(spec), dtype=dtype)
    engine.advance(0, learning_rates(2, 0.05))
    assert all(moments.any() for moments in engine.state().m.values())
    engine.load(EngineState(engine.state().parameters))
    after = engine.state()
    assert set(after.m) == set(spec.shapes())
    assert set(after.v) == (set(spec.shapes()) if optimizer.moments == 2 else set())
    assert not any(moments.any() for moments in [*after.m.values(), *after.v.values()])


def test_a_state_is_a_copy_in_the_model_s_shapes_and_the_engine_s_dtype(backend: str, dtype: str) -> None:
    spec = gpt(tie_lm_head=True, n_layer=2, n_head=3)
    given = random_state(spec, replicas=2)
    work = workload(examples_of(spec, 3), 1, (0, 1))
    engine = engine_of(backend, spec, ADAM, work, given, dtype=dtype)
    assert all(np.array_equal(a, given.parameters[n].astype(dtype)) for n, a in engine.state().parameters.items())
    engine.advance(0, learning_rates(1, 0.01, 0.01))
    before, taken = engine.state(), engine.state()
    for part in (taken.parameters, taken.m, taken.v):
        assert [(name, a.shape, a.dtype) for name, a in part.items()] == [
            (name, (2, *shape), np.dtype(dtype)) for name, shape in spec.shapes().items()
        ]
    for part in (given.parameters, taken.parameters, taken.m, taken.v):
        for array in part.values():
            array += 1
    assert_identical(engine.state(), before)


def test_evaluation_and_decoding_change_nothing(backend: str, dtype: str) -> None:
    spec = gpt()
    examples = examples_of(spec, 3)
    engine = engine_of(backend, spec, ADAM, workload(examples, 1), random_state(spec), dtype=dtype)
    engine.advance(0, learning_rates(1, 0.01))
    before = engine.state()
    engine.evaluate(examples)
    engine.decoder(0).feed(4)
    assert_identical(engine.state(), before)


def test_decoders_of_one_engine_are_independent(backend: str, dtype: str) -> None:
    spec, tokens = gpt(n_layer=2), (4, 1, 2)
    engine = engine_of(backend, spec, SGD, None, random_state(spec, replicas=2), dtype=dtype)
    first, second, other = engine.decoder(0), engine.decoder(0), engine.decoder(1)
    logits = [first.feed(token) for token in tokens]
    assert [second.feed(token) for token in tokens] == logits
    assert [other.feed(token) for token in tokens] != logits
    assert engine.decoder(0).feed(4) == logits[0]


# Non-finite losses


@each_optimizer
@pytest.mark.parametrize(
    "spec", [gpt(), gpt(activation="relu_squared"), gpt(tie_lm_head=True, input_rmsnorm=False), bigram()], ids=shown
)
def test_a_replica_with_a_non_finite_loss_stops_unchanged_and_alone(
    backend: str, dtype: str, spec: ModelSpec, optimizer: OptimizerSpec
) -> None:
    work, state = workload(examples_of(spec, 3), 1, (0, 1, 2)), random_state(spec, replicas=3)
    rates = np.full((6, 3), 0.01)
    diverging = rates.copy()
    diverging[1, 1] = HUGE[dtype]
    calm_engine, engine, until_then = (engine_of(backend, spec, optimizer, work, state, dtype=dtype) for _ in range(3))
    calm, losses = calm_engine.advance(0, rates), engine.advance(0, diverging)
    until_then.advance(0, diverging[:2])
    assert np.isfinite(losses).tolist() == [[True] * 3] * 2 + [[True, False, True]] * 4
    assert np.isnan(losses[3:, 1]).all()
    assert np.array_equal(losses[:, [0, 2]], calm[:, [0, 2]])
    for r in (0, 2):
        assert_identical(engine.state().replica(r), calm_engine.state().replica(r))
    assert_identical(engine.state().replica(1), until_then.state().replica(1))

    again = engine.advance(3, diverging[3:])[:, 1]  # no gradient is left over that would change the weights now
    assert not math.isfinite(again[0])
    assert_identical(engine.state().replica(1), until_then.state().replica(1))


@pytest.mark.parametrize("spec", [gpt(), bigram()], ids=shown)
def test_the_loss_of_a_probability_that_underflows_is_infinite(backend: str, dtype: str, spec: ModelSpec) -> None:
    """A log-softmax would give a finite loss."""
    work, state = workload(examples_of(spec, 3), 2), random_state(spec)
    state.parameters[spec.output_tensor][:] = np.where(np.arange(spec.vocab_size)[:, np.newaxis] == 1, 1e4, -1e4)
    state.parameters["wte"][:] = 1.0
    engine = engine_of(backend, spec, ADAM, work, state, dtype=dtype)
    before = engine.state()
    losses = engine.advance(0, np.full((3, 1), 0.01))[:, 0]
    assert losses[0] == math.inf
    assert np.isnan(losses[1:]).all()
    assert engine.evaluate(work.examples)[0] == math.inf
    assert_identical(engine.state(), before)


@pytest.mark.parametrize("spec", [gpt(), gpt(activation="relu_squared"), bigram()], ids=shown)
def test_the_loss_of_weights_that_overflow_is_not_finite_and_no_exception(
    backend: str, dtype: str, spec: ModelSpec
) -> None:
    state, examples = random_state(spec), examples_of(spec, 3)
    for array in state.parameters.values():
        array *= HUGE[dtype]
    engine = engine_of(backend, spec, SGD, workload(examples, 1), state, dtype=dtype)
    before = engine.state()
    assert not np.isfinite(engine.evaluate(examples)).any()
    assert not math.isfinite(engine.advance(0, learning_rates(1, 0.01))[0, 0])
    assert_identical(EngineState(engine.state().parameters), EngineState(before.parameters))
