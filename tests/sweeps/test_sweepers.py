"""Sweepers that know their jobs beforehand: stages, numbers, batches, plans."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from support.sweep_runs import composer

from microgpt.errors import UserError
from microgpt.sweeps.checks import JobChecker
from microgpt.sweeps.lifecycle import proposes_jobs
from microgpt.sweeps.sweepers import GridSweeper, PlannedSweeper, Stage, Stages


class BestOfThree(PlannedSweeper):
    """Tries three learning rates, then the best one with two other seeds."""

    def stages(self, overrides: list[Override]) -> Stages:
        rates = ["0.1", "0.2", "0.3"]
        results = yield Stage([[f"optim.lr={rate}"] for rate in rates], ["3 learning rates"])
        best = rates[min(range(3), key=lambda n: results[n].return_value)]
        yield Stage([[f"optim.lr={best}", f"seed={seed}"] for seed in (7, 8)], [f"the best of them is {best}"])


class Launcher:
    """Returns |lr - 0.2| without training."""

    def __init__(self) -> None:
        self.launched: list[tuple[int, list[list[str]]]] = []

    def launch(self, jobs: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        self.launched.append((first, [list(job) for job in jobs]))
        values = [abs(float(job[0].partition("=")[2]) - 0.2) for job in jobs]
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=value) for value in values]


def prepare(sweeper: PlannedSweeper, folder: Path) -> Launcher:
    """Give a sweeper what its `setup` gives it in the program, with a launcher that trains nothing."""
    sweeper.loader, sweeper.master, sweeper.folder = composer().loader, composer().master, folder
    sweeper.job_launcher = launcher = Launcher()  # pyright: ignore[reportAttributeAccessIssue]
    sweeper.checker = JobChecker(composer(), folder, trains_here=True)
    return launcher


def test_a_stage_may_depend_on_the_results_before_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweeper = BestOfThree(max_batch_size=2)
    launcher = prepare(sweeper, tmp_path / "sweep")
    returned = sweeper.sweep([])
    assert launcher.launched == [
        (0, [["optim.lr=0.1"], ["optim.lr=0.2"]]),
        (2, [["optim.lr=0.3"]]),
        (3, [["optim.lr=0.2", "seed=7"], ["optim.lr=0.2", "seed=8"]]),
    ]
    assert [len(batch) for batch in returned] == [2, 1, 2]
    assert capsys.readouterr().out == "3 learning rates\nthe best of them is 0.2\n"
    assert (tmp_path / "sweep" / "multirun.yaml").exists()


def test_nothing_is_written_or_run_if_a_job_cannot_be_composed(tmp_path: Path) -> None:
    sweeper = GridSweeper(params={"optim.lr": "0.1,0.2"})
    launcher = prepare(sweeper, tmp_path / "sweep")
    with pytest.raises(UserError, match="model=gtp is not an option"):
        sweeper.sweep(["model=gpt,gtp"])
    assert launcher.launched == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "allowed"),
    [({"max_batch_size": 0}, "it is at least 1, or null"), ({"params": "seed=1"}, "it must map each key")],
)
def test_options_of_a_sweeper_are_checked(options: dict[str, Any], allowed: str, tmp_path: Path) -> None:
    sweeper = GridSweeper(**options)
    prepare(sweeper, tmp_path)
    with pytest.raises(UserError, match=f"is not allowed: {allowed}"):
        sweeper.sweep([])


def test_jobs_are_trials_if_the_sweeper_proposes_them() -> None:
    names = ("microgpt.GridSweeper", "a.BasicSweeper", "microgpt.OptunaSweeper", "hydra_ax_sweeper.AxSweeper")
    assert [proposes_jobs(f"hydra_plugins.{name}") for name in names] == [False, False, True, True]
