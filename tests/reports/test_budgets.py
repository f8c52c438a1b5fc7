"""Loss at equal time, steps and parameters, and the sentences if there is none."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.report_rows import Sweep, only_family, read

from microgpt.reports.budgets import at_equal_parameters, at_equal_steps, at_equal_time, evaluations, on_axis
from microgpt.reports.curves import Curve
from microgpt.reports.paired_statistics import Verdict
from microgpt.reports.run_families import family_of
from microgpt.reports.tables import budget_rows
from microgpt.reports.variant_comparisons import comparisons

CURVE = [(0, 3.0), (50, 2.0), (100, 1.0)]
OFTEN = [(0, 3.0), (25, 2.5), (50, 2.0), (100, 1.0)]


def test_at_equal_time_a_fast_variant_is_interpolated_at_the_end_of_the_slow_one(sweep):
    for seed in range(2):
        sweep.add(seed, evaluations=OFTEN, steps_per_sec=100.0, train__steps=100, model__n_layer=2)  # 1 s
        sweep.add(seed, evaluations=OFTEN, steps_per_sec=200.0 + seed, train__steps=100)  # half of that
    budget = at_equal_time(only_family(sweep), read)
    assert budget.axis == "seconds"
    assert budget.at == pytest.approx(100 / 201)
    assert budget.samples["model.n_layer=2"] == {s: pytest.approx(3.0 - 100 / 201 * 100 / 50) for s in (0, 1)}
    assert budget.samples["model.n_layer=1"] == {0: pytest.approx(3 - 4 * 100 / 201), 1: pytest.approx(1.0)}
    assert budget.sentence.startswith("val_loss after 0.498 s of training, which every run reached")


def test_a_time_before_the_first_evaluation_of_a_variant_is_not_compared(sweep):
    for seed in range(2):
        sweep.add(seed, evaluations=CURVE, steps_per_sec=40.0, train__steps=100, model__n_layer=2)
        sweep.add(seed, evaluations=CURVE, steps_per_sec=100.0 + seed, train__steps=100)
    budget = at_equal_time(only_family(sweep), read)
    assert budget.samples == {}
    assert budget.sentence == (
        "Not compared at equal time: after 0.99 s some variants were before their first evaluation: "
        "model.n_layer=2 at about step 40."
    )


def test_runs_of_less_than_a_second_are_not_compared_at_equal_time(sweep):
    for seed in range(2):
        for lr in (0.01, 0.02):
            sweep.add(seed, evaluations=CURVE, steps_per_sec=1001.0 + seed, optim__lr=lr)
    budget = at_equal_time(only_family(sweep), read)
    assert budget.samples == {}
    assert "trained for less than 1 s" in budget.sentence


def test_runs_that_were_timed_one_by_one_are_compared_at_equal_time(sweep):
    for seed in range(3):
        for lr in (0.01, 0.02):
            sweep.add(seed, evaluations=CURVE, steps_per_sec=100.0 + seed + 10 * lr, optim__lr=lr)
    budget = at_equal_time(only_family(sweep), read)
    assert budget.independent
    assert {"p (adjusted)", "verdict", "95 % interval"} <= set(budget_rows(budget)[0])


@pytest.mark.parametrize("rates", [(100.0, 100.0), (100.0, 120.0)], ids=["one group", "a group for each variant"])
def test_runs_that_were_trained_side_by_side_have_no_test_at_equal_time(sweep, rates):
    """Seeds do not repeat their measurement of time, so a slow moment would look like an effect."""
    for seed in range(3):
        for lr, rate in zip((0.01, 0.02), rates, strict=True):
            sweep.add(seed, evaluations=CURVE, steps_per_sec=rate, optim__lr=lr)
    budget = at_equal_time(only_family(sweep), read)
    assert not budget.independent
    assert "share one measurement of time" in budget.sentence
    for line in budget_rows(budget):
        assert set(line) == {"variant", "seeds", "mean", "against optim.lr=0.01"}


@given(st.floats(1, 1000), st.integers(2, 20))
def test_interpolation_is_exact_at_an_evaluation(rate, points):
    step = np.arange(points) * 10.0
    curve = Curve(step, step, np.full(points, np.nan), 3 - step / 1000, rate)
    x, losses = evaluations(curve, "seconds")
    assert float(np.interp(x[-1], x, losses)) == losses[-1]
    assert list(x) == sorted(x)


def test_without_validation_there_is_no_loss_at_equal_time(sweep):
    for lr in (0.01, 0.02):
        sweep.add(val_loss=None, optim__lr=lr)
    budget = at_equal_time(only_family(sweep), read)
    assert (budget.at, budget.samples) == (None, {})
    assert budget.sentence == "Loss at equal time is not available: not every run was validated."


def test_without_histories_there_is_no_loss_at_equal_time(sweep):
    for lr in (0.01, 0.02):
        sweep.add(optim__lr=lr, evaluations=CURVE if lr == 0.01 else ())
    assert "histories with evaluations are missing" in at_equal_time(only_family(sweep), read).sentence


def test_a_missing_history_is_counted(sweep):
    for seed in range(3):
        for lr in (0.01, 0.02):
            sweep.add(seed, optim__lr=lr, evaluations=() if (seed, lr) == (1, 0.02) else CURVE)
    budget = at_equal_time(only_family(sweep), read)
    assert budget.sentence.count("Runs without a history: 1.") == 1
    assert sorted(budget.samples["optim.lr=0.02"]) == [0, 2]
    (comparison,) = comparisons(budget.family, budget.samples)
    assert (comparison.difference.n, comparison.difference.left_out) == (2, 1)
    assert comparison.difference.verdict is Verdict.ZERO


def test_two_evaluations_are_not_interpolated(sweep):
    for rate, lr in ((100.0, 0.01), (200.0, 0.02)):
        sweep.add(optim__lr=lr, evaluations=[(0, 3.0), (100, 1.0)], steps_per_sec=rate)
    assert "only before the first step and after the last" in at_equal_time(only_family(sweep), read).sentence


def test_at_equal_steps_runs_of_equal_length_keep_their_own_loss(sweep):
    for lr in (0.01, 0.02):
        sweep.add(val_loss=2 + lr, optim__lr=lr)
    budget = at_equal_steps(only_family(sweep), read)
    assert (budget.at, budget.sentence) == (1000, "Every run has 1000 steps.")
    assert budget.samples == only_family(sweep).samples()


def test_at_equal_steps_a_longer_run_is_interpolated_at_the_end_of_the_shorter(sweep):
    sweep.add(val_loss=1.0, train__steps=100, evaluations=CURVE)
    sweep.add(val_loss=0.5, train__steps=200, evaluations=[(0, 3.0), (80, 2.0), (120, 1.5), (200, 0.5)])
    budget = at_equal_steps(only_family(sweep), read)
    assert (budget.axis, budget.at) == ("steps", 100)
    assert budget.samples == {"train.steps=100": {1: 1.0}, "train.steps=200": {1: pytest.approx(1.75)}}
    assert "learning rate of a longer run" in budget.sentence


def test_at_equal_parameters_losses_are_interpolated_in_the_logarithm_of_the_size(sweep):
    """Losses that are linear in log(parameters) are interpolated exactly."""
    sizes = {True: (1000, 4000, 16000), False: (1500, 5000, 20000)}
    for seed in range(3):
        for tied in (True, False):
            for n_embd, size in zip((8, 16, 32), sizes[tied], strict=True):
                loss = 4 - 0.2 * math.log(size) + 0.1 * tied + seed / 100
                sweep.add(seed, loss, parameters=size, model__n_embd=n_embd, model__tie_lm_head=tied)
    budget = at_equal_parameters(only_family(sweep))
    at = math.sqrt(1500 * 16000)
    assert budget.at == pytest.approx(at)
    for tied in (True, False):
        expected = {seed: pytest.approx(4 - 0.2 * math.log(at) + 0.1 * tied + seed / 100) for seed in range(3)}
        assert budget.samples[f"tie_lm_head={str(tied).lower()}"] == expected
    (comparison,) = comparisons(budget.family, budget.samples)
    assert (comparison.a.name, comparison.b.name) == ("tie_lm_head=true", "tie_lm_head=false")
    assert comparison.difference.mean == pytest.approx(0.1)


def test_sizes_that_do_not_overlap_cannot_be_compared(sweep):
    for tied, sizes in ((True, (1000, 2000)), (False, (3000, 4000))):
        for n_embd, size in zip((8, 16), sizes, strict=True):
            sweep.add(parameters=size, model__n_embd=n_embd, model__tie_lm_head=tied)
    budget = at_equal_parameters(only_family(sweep))
    assert budget.samples == {}
    assert budget.sentence.endswith("(1000, 2000, 3000, 4000), and the ranges of sizes do not overlap.")


def test_variants_of_equal_size_keep_their_own_losses(sweep):
    for lr in (0.01, 0.02):
        sweep.add(optim__lr=lr, val_loss=lr)
    budget = at_equal_parameters(only_family(sweep))
    assert budget.sentence == "All variants have 4192 parameters."
    assert budget.samples == {"optim.lr=0.01": {1: 0.01}, "optim.lr=0.02": {1: 0.02}}


def test_variants_of_equal_size_are_named(sweep):
    for tied in (True, False):
        for normed in (True, False):
            sweep.add(model__tie_lm_head=tied, model__input_rmsnorm=normed, parameters=3760 if tied else 4192)
    sentence = at_equal_parameters(only_family(sweep)).sentence
    assert "tied_no_input_rmsnorm and tied_input_rmsnorm (3760)" in sentence
    assert "untied_no_input_rmsnorm and untied_input_rmsnorm (4192)" in sentence


def test_two_different_sizes_cannot_be_compared(sweep):
    for tied in (True, False):
        sweep.add(model__tie_lm_head=tied, parameters=3760 if tied else 4192)
    sentence = at_equal_parameters(only_family(sweep)).sentence
    assert sentence.startswith("No two variants have the same number of parameters (3760, 4192).")


def test_histories_are_read_only_if_needed_and_once_per_run(sweep):
    for seed in range(3):
        for lr in (0.01, 0.02):
            sweep.add(seed, optim__lr=lr, evaluations=CURVE)
    family, asked = only_family(sweep), []

    def made_up(row):
        asked.append(row.path)
        step = np.array([0.0, 10.0, 20.0])
        return Curve(step, step, step, 3 - step / 10, row.steps_per_sec)

    at_equal_steps(family, made_up)  # all have the same
    assert asked == []
    on_axis(family, "seconds", made_up)
    assert sorted(asked) == sorted(row.path for row in sweep.rows)


def test_many_parameter_counts_are_not_listed(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    for number in range(14):
        sweep.add(1, 2.0 + number, parameters=4000 + 10 * (number // 2), optim__lr=0.001 * (1 + number))
    sentence = at_equal_parameters(family_of(sweep.rows)).sentence
    assert sentence == "The variants have 7 parameter counts from 4,000 to 4,060, which are in their table."
