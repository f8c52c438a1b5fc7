"""hydra/sweeper=precision: its stages, output and errors, and the resulting intervals in the report."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from support.program import Program
from support.report_rows import Sweep
from support.sweep_runs import SMALL, TINY, composer, names

from microgpt.errors import UserError
from microgpt.reports.analyses import analysed
from microgpt.reports.run_families import sweep_family
from microgpt.reports.two_stage import first_stage
from microgpt.sweeps.checks import JobChecker
from microgpt.sweeps.precision import PrecisionSweeper

RATES = ("0.1", "0.2", "0.3")


def planted(rate: str, seed: int) -> float | None:
    """Return a loss that differs by 0.01 between learning rates, with noise of 0.01 per run; None for a failed run."""
    return 2.4 + float(rate) / 10 + np.random.default_rng([seed, int(rate[-1])]).normal(0, 0.01)


class Launcher:
    """Writes the records of the jobs without training. A job with a record is not run again."""

    def __init__(self, outputs: Path, loss_of: Callable[[str, int], float | None], **keys: Any):
        self.loss_of = loss_of
        self.keys = keys
        self.sweep = Sweep(outputs)
        self.ran: list[str] = []
        self.stages: list[int] = []

    def launch(self, jobs: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        self.stages.append(len(jobs))
        returns = []
        for number, job in enumerate(jobs, first):
            given = dict(one.split("=") for one in job)
            loss = self.loss_of(given["optim.lr"], int(given["seed"]))
            if str(number) not in self.ran:
                self.ran.append(str(number))
                self.sweep.add(
                    seed=int(given["seed"]), val_loss=loss, status="failed" if loss is None else "completed",
                    optim__lr=float(given["optim.lr"]), precision__half_width=float(given["precision.half_width"]),
                    precision__first_seeds=int(given["precision.first_seeds"]), **self.keys,
                )  # fmt: skip
            status = JobStatus.FAILED if loss is None else JobStatus.COMPLETED
            returns.append(JobReturn(status=status, _return_value=RuntimeError("nan") if loss is None else loss))
        return returns


def prepared(
    sweeper: PrecisionSweeper,
    folder: Path,
    loss_of: Callable[[str, int], float | None] = planted,
    **keys: Any,
) -> Launcher:
    launcher = Launcher(folder, loss_of, **keys)
    sweeper.loader, sweeper.folder = composer().loader, launcher.sweep.folder
    sweeper.master = sweeper.loader.load_configuration("config", [], RunMode.MULTIRUN)
    sweeper.job_launcher = launcher  # pyright: ignore[reportAttributeAccessIssue]
    sweeper.checker = JobChecker(composer(), sweeper.folder, trains_here=True)
    return launcher


def losses(rates: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
    return np.array([[planted(rate, seed) for seed in seeds] for rate in rates], dtype=float)


PAIRS = np.array([[-1.0, 1, 0], [-1, 0, 1], [0, -1, 1]])


def test_the_second_stage_has_the_seeds_that_the_first_one_asks_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweeper = PrecisionSweeper(half_width=0.005, max_seeds=256, params={"optim.lr": ",".join(RATES)})
    launcher = prepared(sweeper, tmp_path)
    sweeper.sweep(["seed=7"])
    stage = first_stage(losses(RATES, range(7, 39)), PAIRS)
    needed = stage.seeds_needed(0.005)
    assert 32 < needed < 256
    assert launcher.stages == [96, 3 * (needed - 32)]
    assert sorted({row.seed for row in launcher.sweep.rows}) == list(range(7, 7 + needed))
    printed = capsys.readouterr().out
    assert "first stage: 3 variants, 32 seeds each: 96 runs;" in printed
    assert "at most 256 seeds each: 768 runs" in printed
    assert f"(95 %, the widest of 3 simultaneous intervals); 0.005 needs {needed} seeds" in printed
    assert f"second stage: {needed - 32} more seeds of each variant: {3 * (needed - 32)} runs" in printed
    means = PAIRS @ losses(RATES, range(7, 7 + needed)).mean(axis=1)
    halves = stage.half_widths(needed)
    assert halves.max() <= 0.005
    assert f"  lr=0.2 against lr=0.1: {means[0]:+.5f} +- {halves[0]:.5f}\n" in printed.replace("optim.", "")

    # The same command: the same stages from the records, and the same final lines
    sweeper.sweep(["seed=7"])
    assert launcher.stages == [96, 3 * (needed - 32)] * 2
    assert capsys.readouterr().out.splitlines()[-4:] == printed.splitlines()[-4:]

    data = analysed(sweep_family(launcher.sweep.rows), None)["precision"].data
    assert (data["seeds"], data["seeds_needed"], data["first_seeds"]) == (needed, needed, 32)
    assert [one["estimate"] for one in data["contrasts"]] == pytest.approx(means.tolist())
    assert [(one["high"] - one["low"]) / 2 for one in data["contrasts"]] == pytest.approx(halves.tolist())


def test_reaching_max_seeds_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweeper = PrecisionSweeper(half_width=0.002, max_seeds=40, params={"optim.lr": "0.1,0.2"})
    launcher = prepared(sweeper, tmp_path)
    sweeper.sweep([])
    stage = first_stage(losses(RATES[:2], range(42, 74)), PAIRS[:1, :2])
    needed = stage.seeds_needed(0.002)
    assert needed > 40
    assert launcher.stages == [64, 16]
    printed = capsys.readouterr().out
    width = stage.half_widths(40).max()
    assert f"0.002 needs {needed} seeds, more than hydra.sweeper.max_seeds=40, which gives {width:.3g}" in printed
    assert f"half-width above {width:.3g}; 0.002 was stated and needs {needed} seeds." in printed


CONTRASTS = {
    "report__control": ("optim.lr=0.2", [[1.0, -1, 0], [0, -1, 1]]),
    "report__contrasts": (["optim.lr=0.3 - optim.lr=0.1"], [[-1.0, 0, 1]]),
}


@pytest.mark.parametrize("key", CONTRASTS)
def test_only_the_contrasts_of_the_plan_count(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value, weights = CONTRASTS[key]
    sweeper = PrecisionSweeper(half_width=0.003, max_seeds=256, params={"optim.lr": ",".join(RATES)})
    launcher = prepared(sweeper, tmp_path, **{key: value})
    sweeper.sweep([])
    needed = first_stage(losses(RATES, range(42, 74)), np.array(weights)).seeds_needed(0.003)
    assert launcher.stages == [96, 3 * (needed - 32)]
    assert capsys.readouterr().out.count(" +- ") == len(weights)


def test_a_variant_with_a_failed_run_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweeper = PrecisionSweeper(half_width=0.005, max_seeds=256, params={"optim.lr": ",".join(RATES)})
    launcher = prepared(
        sweeper, tmp_path, loss_of=lambda rate, seed: None if (rate, seed) == ("0.3", 50) else planted(rate, seed)
    )
    sweeper.sweep([])
    needed = first_stage(losses(RATES[:2], range(42, 74)), PAIRS[:1, :2]).seeds_needed(0.005)
    assert launcher.stages == [96, 2 * (needed - 32)]
    printed = capsys.readouterr().out
    assert "lr=0.3 has a failed run: contrasts with it are left out." in printed
    assert printed.count(" against ") == 1
    findings = analysed(sweep_family(launcher.sweep.rows), None)["precision"].findings
    assert any("lr=0.3 has a failed run" in sentence for sentence in findings)


def test_nothing_follows_if_no_two_variants_are_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweeper = PrecisionSweeper(half_width=0.005, max_seeds=256, params={"optim.lr": "0.1,0.2"})
    launcher = prepared(sweeper, tmp_path, loss_of=lambda rate, seed: None if rate == "0.2" else planted(rate, seed))
    sweeper.sweep([])
    assert launcher.stages == [64]
    assert "no contrast can be estimated" in capsys.readouterr().out


def test_killed_runs_of_the_second_stage_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweeper = PrecisionSweeper(half_width=0.005, max_seeds=256, params={"optim.lr": "0.1,0.2"})
    launcher = prepared(sweeper, tmp_path)
    sweeper.sweep([])
    printed = capsys.readouterr().out
    rows = launcher.sweep.rows
    for row in rows[64:]:  # as a process leaves them that is killed before it has chosen the engine and read the data
        path = row.folder / "run.json"
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "status": "running", "backend": "auto", "data": None, "metrics": None}))
    found = sweeper.found()
    assert found is not None
    assert (found.seeds, found.seeds_needed) == (32, len(rows) // 2)
    assert f"0.005 needs {found.seeds_needed} seeds" in printed


@pytest.mark.parametrize(
    ("options", "given", "sentence"),
    [
        ({"half_width": None}, [], "hydra.sweeper.half_width=null is not allowed: it must be a number above 0"),
        ({"half_width": 0}, [], "hydra.sweeper.half_width=0 is not allowed: it must be a number above 0"),
        ({"half_width": float("nan")}, [], "hydra.sweeper.half_width=nan is not allowed"),
        ({"max_seeds": 1.5}, [], "hydra.sweeper.max_seeds=1.5 is not allowed: it must be a whole number of at least 2"),
        ({"max_seeds": 20}, [], "hydra.sweeper.max_seeds=20 is not allowed: the first stage has 32 seeds"),
        ({"first_seeds": 1}, [], "hydra.sweeper.first_seeds=1 is not allowed: it must be a whole number of at least 2"),
        ({"first_seeds": 4}, ["seed=range(8)"], "hydra.sweeper.first_seeds=4 is not allowed: seed lists the first 8"),
        ({"params": {}}, [], "needs two or more variants that train differently"),
        ({}, ["optim.lr=0.1,0.1"], "needs two or more variants that train differently"),
        ({}, ["precision.half_width=1"], "precision.half_width=1 is not allowed: the sweeper sets it"),
        ({}, ["seed=a"], "seed=a is not allowed: seed must be an integer"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(
    options: dict[str, object], given: list[str], sentence: str, tmp_path: Path
) -> None:
    sweeper = PrecisionSweeper(**{"half_width": 0.01, "max_seeds": 256, "params": {"optim.lr": "0.1,0.2"}, **options})
    launcher = prepared(sweeper, tmp_path / "outputs")
    with pytest.raises(UserError, match=re.escape(sentence)):
        sweeper.sweep(given)
    assert launcher.stages == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_trains_both_stages_once(microgpt: Program) -> None:
    names(microgpt.folder)
    command = (
        "-m", "hydra/sweeper=precision", "hydra.sweeper.half_width=0.01", "hydra.sweeper.max_seeds=12",
        "hydra.sweeper.first_seeds=4", *SMALL, *TINY, "data=text", "data.path=names.txt", "optim.lr=0.01,0.03",
    )  # fmt: skip
    first, again = microgpt(*command).stdout, microgpt(*command).stdout
    assert "16 jobs" in first or "second stage" in first
    assert "0 new" in again
    assert [line for line in first.splitlines() if " against " in line] == [
        line for line in again.splitlines() if " against " in line
    ]
    assert "Intervals of the two-stage procedure" in (microgpt.folder / "results" / "report.html").read_text()
