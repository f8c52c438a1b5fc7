"""The console line that ends a run."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microgpt.training.console import console_line
from microgpt.training.progress import SweepProgressDisplay

repeatable = settings(derandomize=True, deadline=None)


def test_console_line_formats_each_kind_of_value() -> None:
    facts = {
        "model": "gpt",
        "using_gpu": False,
        "tie_lm_head": True,
        "params": 4192,
        "final_loss": 2.6497331,
        "val_loss": None,
        "steps_per_sec": 107.934,
        "tokens_per_sec": 751.0,
    }
    assert console_line(facts) == (
        "model=gpt using_gpu=false tie_lm_head=true params=4192 final_loss=2.649733 val_loss=none "
        "steps_per_sec=107.93 tokens_per_sec=751.00"
    )


@repeatable
@given(loss=st.floats(0, 100), rate=st.floats(0, 1e6))
def test_console_line_has_six_decimals_of_a_loss_and_two_of_a_rate(loss: float, rate: float) -> None:
    facts = dict(part.split("=") for part in console_line({"loss": loss, "x_per_sec": rate}).split(" "))
    assert facts == {"loss": f"{loss:.6f}", "x_per_sec": f"{rate:.2f}"}


def test_the_time_left_of_a_sweep_does_not_count_what_came_before_the_first_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    display = SweepProgressDisplay(jobs=4, steps=400)
    display.start(models=4, first=0, last=100)
    for second, step in ((60.0, 1), (63.0, 26), (66.0, 51)):  # the kernels are compiled for a minute
        now[0] = second
        display.log(step, 2.5, None, 8.0)
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("eta ")[2] for line in lines] == ["-:--:--", "0:00:09", "0:00:06"]
