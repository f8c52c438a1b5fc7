"""Guards of a running process: memory growth and signals."""

import math
import os
import signal
import threading
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microgpt.errors import MemoryDriftError
from microgpt.model.spec import ModelSpec
from microgpt.training.guards import MemoryDriftGuard, StopRequest, remedy, resident_memory, stop_on_signals
from microgpt.training.schedules import Schedule

property_test = settings(deadline=None, database=None, max_examples=60)


# Memory


def test_memory_drift_error_has_the_documented_message():
    guard = MemoryDriftGuard(max_growth_ratio=1.2)
    guard.observe(90)
    guard.observe(100)
    with pytest.raises(MemoryDriftError) as caught:
        guard.observe(150)
    assert str(caught.value) == (
        "eval memory drift detected: baseline=100B current=150B growth_ratio=1.500 max_growth_ratio=1.200"
    )


def test_growth_up_to_the_ratio_is_allowed():
    guard = MemoryDriftGuard(max_growth_ratio=1.25)
    for observed in (100, 100, 125, 1, 125):
        guard.observe(observed)
    with pytest.raises(MemoryDriftError, match=r"current=126B growth_ratio=1\.260 max_growth_ratio=1\.250"):
        guard.observe(126)


def test_baseline_is_the_largest_warm_up_observation():
    guard = MemoryDriftGuard(max_growth_ratio=1.2)
    for observed in (200, 100, 240):
        guard.observe(observed)
    assert guard.baseline == 200


def test_growth_during_warm_up_is_allowed():
    guard = MemoryDriftGuard(max_growth_ratio=1.0, warmup_observations=3)
    for observed in (1, 1000, 5, 1000):
        guard.observe(observed)
    with pytest.raises(MemoryDriftError):
        guard.observe(1001)


def test_later_observations_do_not_move_the_baseline():
    guard = MemoryDriftGuard(max_growth_ratio=1.2)
    for observed in (100, 100, 119, 120):
        guard.observe(observed)
    with pytest.raises(MemoryDriftError, match="baseline=100B current=130B"):
        guard.observe(130)


@property_test
@given(st.lists(st.integers(1, 10**12), min_size=3, max_size=8), st.floats(1, 3))
def test_guard_raises_exactly_beyond_the_ratio(observed, ratio):
    guard = MemoryDriftGuard(ratio)
    baseline = max(observed[:2])
    for i, size in enumerate(observed):
        if i >= 2 and size / baseline > ratio:
            with pytest.raises(MemoryDriftError):
                guard.observe(size)
            return
        guard.observe(size)


def test_resident_memory_is_in_bytes():
    assert 10**6 < resident_memory() < 10**11


# Signals


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_becomes_a_stop_request(number):
    with stop_on_signals() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
        assert stop.signal_number == number


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_raises_at_once(first, second):
    with stop_on_signals() as stop:
        os.kill(os.getpid(), first)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), second)
        assert stop.signal_number == first


def test_handlers_are_restored():
    before = handlers()
    with stop_on_signals():
        assert handlers() != before
    assert handlers() == before


def test_handlers_are_restored_after_an_error():
    before = handlers()
    with pytest.raises(ZeroDivisionError), stop_on_signals():
        raise ZeroDivisionError
    assert handlers() == before


def test_signal_after_the_context_is_handled_as_before():
    with stop_on_signals() as stop:
        pass
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert not stop


def test_handlers_do_not_change_outside_the_main_thread():
    before, found = handlers(), []

    def work() -> None:
        with stop_on_signals() as stop:
            found.append((handlers() == before, bool(stop)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(True, False)]


def test_new_request_is_false():
    assert not StopRequest()


# The remedy for a divergence

WIDE = ModelSpec("gpt", vocab_size=28, n_embd=384, n_head=4, n_layer=1, block_size=16)
INIT = (
    "lower model.init_std (now 0.08) and, if necessary, optim.lr (now 0.1): the loss before the first update was {}, "
    "but equal probabilities give 3.33, so the initial weights are too large for model.n_embd=384"
)


@pytest.mark.parametrize(("changes", "said"), [
    ({"untrained_loss": 12.8, "step": 1}, INIT.format("12.8")),
    ({"untrained_loss": math.inf, "step": 0}, INIT.format("inf")),
    ({"untrained_loss": math.nan, "step": 0}, INIT.format("nan")),
    ({"untrained_loss": 12.8, "step": 5000}, INIT.format("12.8")),
    ({"untrained_loss": 3.4, "step": 1},
     "lower optim.lr (now 0.1) or raise schedule.warmup_steps (now 0): "
     "the loss before the first update was normal (3.4)"),
    ({"untrained_loss": None, "step": 1}, "lower optim.lr (now 0.1) or raise schedule.warmup_steps (now 0)"),
    ({"untrained_loss": 3.4, "step": 101}, "lower optim.lr (now 0.1)"),
    ({"untrained_loss": 3.4, "step": 101, "schedule": Schedule("constant", 1000, 200)},
     "lower optim.lr (now 0.1) or raise schedule.warmup_steps (now 200): "
     "the loss before the first update was normal (3.4)"),
    ({"untrained_loss": 12.8, "step": 1, "spec": replace(WIDE, init="fan_in")},
     "lower optim.lr (now 0.1) or raise schedule.warmup_steps (now 0)"),
])  # fmt: skip
def test_remedy_names_the_keys_that_are_to_blame(changes, said):
    known = {"spec": WIDE, "lr": 0.1, "schedule": Schedule("linear", 1000)}
    assert remedy(**{**known, **changes}) == said


@pytest.mark.slow
def test_wide_model_that_diverges_is_told_which_key_to_change(microgpt):
    wide = "mode=tensor", "backend=torch", "style=classic", "model.n_embd=384", "optim.lr=0.1", "data.val_fraction=0"
    done = microgpt(*wide, "train.steps=3", expect=1)
    assert (
        "(lr 0.0666667); lower model.init_std (now 0.08) and, if necessary, optim.lr (now 0.1): the loss before"
        in done.stderr
    )
