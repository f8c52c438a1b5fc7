"""The sentences of a report: about failed runs, effects of both signs, and keys that belong to an option."""

import re
from typing import Any

import numpy as np
import pytest
from support.report_rows import Sweep

from microgpt.reports.analyses import analysed
from microgpt.reports.budgets import at_equal_parameters, at_equal_steps
from microgpt.reports.run_families import Family, family_of
from microgpt.reports.sections import subject


def add(sweep: Sweep, mean: float, *, failed: bool = False, **keys: Any) -> None:
    """Add eight runs of a setting, whose losses have a standard deviation of 0.01."""
    noise = np.random.default_rng(len(sweep.rows)).normal(0, 0.01, 8)
    for seed in range(8):
        sweep.add(seed, None if failed else mean + noise[seed], status="failed" if failed else "completed", **keys)


def findings(family: Family) -> str:
    return "\n".join(sentence for one in analysed(family, None).values() for sentence in (*one.findings, *one.last))


def test_a_setting_without_results_is_not_said_to_be_worse(sweep: Sweep) -> None:
    add(sweep, 2.3, optim__lr=0.01)
    add(sweep, 2.5, optim__lr=0.02)
    family = family_of(sweep.rows)
    assert "; the other variant is shown to be worse, by 0.1" in findings(family)
    assert at_equal_steps(family, lambda row: pytest.fail(row.path)).sentence == "Every run has 1000 steps."
    assert at_equal_parameters(family).sentence == "All variants have 4192 parameters."
    add(sweep, 0.0, failed=True, optim__lr=9.0)
    family = family_of(sweep.rows)
    assert "; the other variant with results is shown to be worse, by 0.1" in findings(family)
    assert at_equal_steps(family, lambda row: pytest.fail(row.path)).sentence == "Every completed run has 1000 steps."
    assert at_equal_parameters(family).sentence == "All variants with results have 4192 parameters."


def test_an_effect_that_depends_on_another_key_is_given_at_each_of_its_values(sweep: Sweep) -> None:
    for lr, means in ((0.01, (2.3, 2.5)), (0.03, (2.4, 2.35))):
        for beta1, mean in zip((0.8, 0.9), means, strict=True):
            add(sweep, mean, optim__lr=lr, optim__beta1=beta1)
    found = findings(family_of(sweep.rows))
    assert "The effect of optim.beta1 depends on optim.lr. optim.beta1=0.9 against 0.8: +0.1" in found
    assert " with optim.lr=0.01 and -0.0" in found
    assert "on average" not in found


def test_learning_rates_that_belong_to_optimizers_are_all_stated(sweep: Sweep) -> None:
    add(sweep, 2.3, optim__name="adam", optim__lr=0.01)
    add(sweep, 2.5, optim__name="sgd", optim__lr=0.1)
    family = family_of(sweep.rows)
    assert "lr 0.01 (adam) or 0.1 (sgd), " in subject(family)
    assert "Each optimizer has one learning rate (adam 0.01, sgd 0.1): " in findings(family)
    for name, lr in (("adam", 0.02), ("sgd", 0.2)):
        add(sweep, 2.6, optim__name=name, optim__lr=lr)
    assert "Each optimizer has one learning rate" not in findings(family_of(sweep.rows))


def test_a_course_with_a_turn_is_neither_a_line_nor_a_power_law(sweep: Sweep) -> None:
    for width, mean, parameters in ((8, 2.48, 1328), (16, 2.44, 4192), (32, 2.40, 14528), (64, 2.46, 53632)):
        add(sweep, mean, model__n_embd=width, parameters=parameters)
    found = findings(family_of(sweep.rows))
    assert "No power law describes the loss at 7,000 tokens (mean over seeds): it rises from 14,528 to 53,632." in found
    assert "val_loss does not follow a straight line in the logarithm of model.n_embd: " in found
    assert "falls as N^" not in found


def test_a_power_law_that_misses_the_last_step_is_not_to_be_extrapolated(sweep: Sweep) -> None:
    sizes = ((8, 2.6, 1328), (12, 2.5, 2568), (16, 2.45, 4192), (24, 2.4, 8592), (32, 2.4, 14528))
    for width, mean, parameters in sizes:
        add(sweep, mean, model__n_embd=width, parameters=parameters)
    found = findings(family_of(sweep.rows))
    assert re.search(
        r"The curve falls by 0\.0\d+ from 8,592 to 14,528 parameters, where a change of .0\.00\d+ \[-.*\], its own "
        r"95 % interval, was measured: do not extrapolate it\.", found,
    )  # fmt: skip
