"""Histories of runs as curves, and the band over the curves of several runs."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microgpt.reports.curves import MOST_POINTS, Curve, over_runs, read_curve
from microgpt.reports.paired_statistics import summary


def curve(step: list[float], val_loss: list[float], steps_per_sec: float | None = 10.0, tokens: int = 7) -> Curve:
    nothing = np.full(len(step), np.nan)
    return Curve(np.array(step), np.array(step) * tokens, nothing, np.array(val_loss), steps_per_sec)


def write_history(folder: Path, *lines: object) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (folder / "history.jsonl").write_text(text)
    return folder


def test_a_history_is_read_as_arrays_with_nan_for_missing_values(tmp_path):
    write_history(
        tmp_path,
        {"step": 0, "tokens": 0, "val_loss": 3.3},
        {"step": 1, "loss": 3.25, "lr": 0.01, "tokens": 7},
        {"step": 2, "loss": math.nan, "lr": 0.01, "tokens": 15, "val_loss": 2.5},
    )
    found = read_curve(tmp_path, steps_per_sec=4.0)
    assert found.step.tolist() == [0, 1, 2]
    assert found.tokens.tolist() == [0, 7, 15]
    np.testing.assert_array_equal(found.loss, [np.nan, 3.25, np.nan])
    np.testing.assert_array_equal(found.val_loss, [3.3, np.nan, 2.5])
    assert found.seconds().tolist() == [0, 0.25, 0.5]


@pytest.mark.parametrize(
    ("content", "steps"),
    [
        ('{"step": 1}\n{"step": 2', [1]),  # a crash left part of a line
        ('{"step": 1}\nno line\n{"step": 3}\n', [1]),
        ('{"step": 3}\n{"step": 1}\n', [1, 3]),
        ('[1]\n{"step": 2}\n{"loss": 1}\n{"step": null}\n', [2]),
        ("", []),
        ("\0\xff", []),
        ("[" * 100_000, []),
    ],
)
def test_the_valid_lines_of_a_damaged_history_are_read(tmp_path, content, steps):
    write_history(tmp_path, content.rstrip("\n"))
    assert read_curve(tmp_path).step.tolist() == steps


def test_a_run_without_a_history_has_a_curve_without_points(tmp_path):
    found = read_curve(tmp_path)
    assert len(found.step) == len(found.loss) == 0
    assert over_runs([found], "val_loss") is None


def test_a_band_is_the_mean_over_runs_and_its_interval():
    runs = [curve([0, 10], [3.0, 2.0]), curve([0, 10], [3.5, 2.25]), curve([0, 10], [3.25, 2.0])]
    found = over_runs(runs, "val_loss")
    assert found is not None
    assert found.runs == 3
    for place, values in enumerate(([3.0, 3.5, 3.25], [2.0, 2.25, 2.0])):
        expected = summary(values)
        assert expected.interval is not None
        assert found.mean[place] == pytest.approx(expected.mean)
        assert (found.low[place], found.high[place]) == pytest.approx((expected.interval.low, expected.interval.high))


def test_a_band_is_over_the_steps_that_all_runs_have():
    found = over_runs([curve([0, 10, 20], [3, 2.5, 2]), curve([0, 20, 30], [3, 4, 5]), curve([], [])][:2], "val_loss")
    assert found is not None
    assert found.x.tolist() == [0, 20]
    assert found.mean.tolist() == [3, 3]
    assert over_runs([curve([0], [3]), curve([10], [2])], "val_loss") is None
    assert over_runs([], "val_loss") is None


def test_a_single_run_has_no_band():
    found = over_runs([curve([0, 10], [3, 2])], "val_loss")
    assert found is not None
    assert np.isnan(found.low).all()
    assert np.isnan(found.high).all()


def test_the_time_of_a_point_is_the_mean_over_runs():
    found = over_runs([curve([0, 10], [3, 2], 10.0), curve([0, 10], [3, 2], 5.0)], "val_loss", "seconds")
    assert found is not None
    assert found.x.tolist() == [0, 1.5]
    assert over_runs([curve([0, 10], [3, 2], None)], "val_loss", "seconds") is None


@given(st.integers(1, 700))
def test_a_thinned_band_keeps_its_ends(count):
    found = over_runs([curve(list(range(count)), [float(i) for i in range(count)])], "val_loss")
    assert found is not None
    assert len(found.x) == min(count, MOST_POINTS)
    assert (found.x[0], found.x[-1]) == (0, count - 1)
    assert found.mean.tolist() == found.x.tolist()
