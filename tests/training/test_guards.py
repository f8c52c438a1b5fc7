"""Guards of a running process: memory growth and signals."""

import os
import signal
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microgpt.errors import MemoryDriftError
from microgpt.training.guards import MemoryDriftGuard, StopRequest, resident_memory, stop_on_signals

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
