"""Learning-rate schedules by their formulas."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microgpt.config.choices import WITHOUT_HORIZON
from microgpt.training.schedules import SCHEDULES, Schedule

repeatable = settings(derandomize=True, deadline=None)

NAMES = sorted(SCHEDULES)
horizons = st.integers(1, 3000)
widths = st.none() | st.integers(1, 4000)


def half(total: int) -> int:
    """floor(T/2 + 1/2), in whole numbers."""
    return (total + 1) // 2


def factors(schedule: Schedule) -> list[float]:
    return [schedule.factor(step) for step in range(schedule.total_steps)]


def test_names() -> None:
    assert NAMES == ["constant", "cosine", "linear", "sqrt", "warmdown"]


@repeatable
@given(total=horizons)
def test_linear_is_the_remaining_share_of_the_horizon(total: int) -> None:
    assert factors(Schedule("linear", total)) == [1 - s / total for s in range(total)]


@repeatable
@given(total=horizons)
def test_cosine_is_half_a_period(total: int) -> None:
    expected = [0.5 * (1 + math.cos(math.pi * s / total)) for s in range(total)]
    assert factors(Schedule("cosine", total)) == expected


@repeatable
@given(total=horizons)
def test_constant_is_one(total: int) -> None:
    assert set(factors(Schedule("constant", total))) == {1.0}


@repeatable
@given(total=horizons, width=widths)
def test_warmdown_is_one_and_then_linear(total: int, width: int | None) -> None:
    w = half(total) if width is None else width
    expected = [1.0 if s <= total - w else (total - s) / w for s in range(total)]
    assert factors(Schedule("warmdown", total, warmdown_steps=width)) == expected


@repeatable
@given(total=horizons, width=widths)
def test_sqrt_is_one_and_then_falls_with_the_square_root(total: int, width: int | None) -> None:
    w = half(total) if width is None else width
    expected = [1.0 if s <= total - w else 1 - math.sqrt((s - (total - w)) / w) for s in range(total)]
    assert factors(Schedule("sqrt", total, warmdown_steps=width)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", [1.0, 0.75, 0.5, 0.25]),
        ("cosine", [1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]),
        ("warmdown", [1.0, 1.0, 1.0, 0.5]),
        ("sqrt", [1.0, 1.0, 1.0, 1 - math.sqrt(0.5)]),
        ("constant", [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_four_steps_by_hand(name: str, expected: list[float]) -> None:
    assert factors(Schedule(name, 4)) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(("total", "warmdown"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)])
def test_default_warmdown_is_half_the_horizon_rounded_up(total: int, warmdown: int) -> None:
    assert Schedule("warmdown", total).warmdown == warmdown


@pytest.mark.parametrize("name", NAMES)
@repeatable
@given(total=horizons, warmup=st.integers(1, 4000))
def test_warm_up_multiplies_the_schedule(name: str, total: int, warmup: int) -> None:
    plain = factors(Schedule(name, total))
    expected = [min(1, (s + 1) / warmup) * factor for s, factor in enumerate(plain)]
    assert factors(Schedule(name, total, warmup_steps=warmup)) == expected


@pytest.mark.parametrize("name", NAMES)
@repeatable
@given(total=horizons, warmup=st.integers(0, 4000), width=widths)
def test_every_factor_is_finite_and_between_zero_and_one(name: str, total: int, warmup: int, width: int | None) -> None:
    schedule = Schedule(name, total, warmup, width)
    assert all(0 <= factor <= 1 for factor in [*factors(schedule), schedule.factor(total)])  # false for NaN too


@pytest.mark.parametrize("name", NAMES)
@repeatable
@given(total=horizons, width=widths)
def test_factors_never_rise_without_warm_up(name: str, total: int, width: int | None) -> None:
    schedule = Schedule(name, total, warmdown_steps=width)
    assert factors(schedule) == sorted(factors(schedule), reverse=True)


@pytest.mark.parametrize("name", ["linear", "cosine", "warmdown", "sqrt"])
def test_warmdown_reaches_zero_after_the_last_step(name: str) -> None:
    schedule = Schedule(name, 10)
    assert schedule.factor(10) == 0
    assert schedule.factor(9) > 0


def test_schedules_without_a_horizon_are_those_that_do_not_depend_on_it() -> None:
    constant = {name for name in SCHEDULES if Schedule(name, 10, 0, 2).factor(9) == Schedule(name, 20, 0, 2).factor(9)}
    assert {name for name in constant if Schedule(name, 10).factor(9) == Schedule(name, 20).factor(9)} == set(
        WITHOUT_HORIZON
    )
