"""Sweepers that know their jobs in advance: stages, job numbers, batches, plans."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from support.sweep_runs import composed, composer, jobs_of

from microgpt.errors import UserError
from microgpt.model.spec import ModelSpec
from microgpt.sweeps import duration
from microgpt.sweeps.checks import JobChecker
from microgpt.sweeps.ladder import LadderSweeper, nearest_width
from microgpt.sweeps.lifecycle import proposes_jobs
from microgpt.sweeps.screening import ScreeningSweeper
from microgpt.sweeps.sweepers import GridSweeper, PlannedSweeper, Stage, Stages
from microgpt.training.run_inputs import InputReader


class BestOfThree(PlannedSweeper):
    """Tries three learning rates, then the best one with two other seeds."""

    def stages(self, overrides: list[Override]) -> Stages:
        rates = ["0.1", "0.2", "0.3"]
        results = yield Stage([[f"optim.lr={rate}"] for rate in rates], ["3 learning rates"])
        best = rates[min(range(3), key=lambda n: results[n].return_value)]
        yield Stage([[f"optim.lr={best}", f"seed={seed}"] for seed in (7, 8)], [f"the best of them is {best}"])


class Launcher:
    """Returns |lr - 0.2|, or the result of `value_of`, without training."""

    def __init__(self) -> None:
        self.value_of: Callable[[Sequence[str]], float] = lambda job: abs(learning_rate(job) - 0.2)
        self.launched: list[tuple[int, list[list[str]]]] = []

    def launch(self, jobs: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        self.launched.append((first, [list(job) for job in jobs]))
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=self.value_of(job)) for job in jobs]


def prepare(sweeper: PlannedSweeper, folder: Path) -> Launcher:
    """Set up a sweeper as the program does, with a launcher that does not train."""
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
    [({"max_batch_size": 0}, "it must be at least 1, or null"), ({"params": "seed=1"}, "it must map each key")],
)
def test_options_of_a_sweeper_are_checked(options: dict[str, Any], allowed: str, tmp_path: Path) -> None:
    sweeper = GridSweeper(**options)
    prepare(sweeper, tmp_path)
    with pytest.raises(UserError, match=f"is not allowed: {allowed}"):
        sweeper.sweep([])


def test_jobs_are_trials_if_the_sweeper_proposes_them() -> None:
    names = ("microgpt.GridSweeper", "a.BasicSweeper", "microgpt.OptunaSweeper", "hydra_ax_sweeper.AxSweeper")
    assert [proposes_jobs(f"hydra_plugins.{name}") for name in names] == [False, False, True, True]


def experiment(sweeper: PlannedSweeper, folder: Path, *overrides: str) -> Launcher:
    """Give a sweeper the configuration of these overrides, as the program composes it."""
    loader = composer().loader
    launcher = prepare(sweeper, folder)
    sweeper.master = loader.load_configuration("config", list(overrides), RunMode.MULTIRUN)
    return launcher


def test_the_width_of_equal_size_is_the_nearest() -> None:
    spec = ModelSpec("gpt", vocab_size=27, n_embd=16, n_head=4, n_layer=2, block_size=16, gated_mlp=True, bias=True)
    width = nearest_width(spec, 5000)
    assert width is not None
    off = {w: abs(replace(spec, mlp_width=w).parameter_count() - 5000) for w in (width - 1, width, width + 1)}
    assert min(off, key=off.__getitem__) == width
    assert nearest_width(spec, spec.parameter_count()) is None
    assert nearest_width(replace(spec, kind="bigram", n_layer=0), 5000) is None


LADDER = "ladder.rungs=['model=gpt','model.norm_gain=true','model=gpt2 model.gated_mlp=true']"


def test_a_ladder_adds_a_change_to_those_before_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweeper = LadderSweeper(params={"seed": "range(2)"})
    launcher = experiment(sweeper, tmp_path, "mode=tensor", LADDER)
    sweeper.sweep(["optim.lr=0.02"])
    ((_, jobs),) = launcher.launched
    assert jobs[:2] == [["model=gpt", "optim.lr=0.02", "ladder.rung=0", f"seed={seed}"] for seed in (0, 1)]
    assert jobs[4] == [
        "model=gpt2", "model.norm_gain=true", "model.gated_mlp=true", "optim.lr=0.02", "ladder.rung=2", "seed=0",
    ]  # fmt: skip
    # Two gains of 16 are one feature of the MLP
    assert jobs[6] == ["model=gpt", "model.norm_gain=true", *jobs[2][2:4], "model.mlp_width=63", "ladder.resized=true",
                       "seed=0"]  # fmt: skip
    assert capsys.readouterr().out == (
        "ladder of 2 changes: 3 models, 2 of them again with about 4,256 parameters (model.mlp_width); "
        "2 seeds each: 10 runs\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rungs", "given", "sentence"),
    [
        ("['model=gpt']", [], "give a model and one or more changes"),
        ("['model=gpt','model.bias=false']", [], "it gives the same model as ladder.rungs[0]"),
        ("['model=gpt','model.position=rope model.n_head=16']", [], "it rotates pairs"),
        ("['model=gpt','model.bias=true']", ["model.bias=true"], "a rung of the ladder changes model.bias"),
        ("['model=gpt','model.bias=true']", ["optim.lr=0.1,0.2"], "can only have a list of seeds"),
        ("['model=gpt','model.bias=true']", ["screening.max_runs=9"], "its keys require hydra/sweeper=screening"),
    ],
)
def test_a_ladder_that_is_not_possible_is_refused(rungs: str, given: list[str], sentence: str, tmp_path: Path) -> None:
    sweeper = LadderSweeper()
    experiment(sweeper, tmp_path, "mode=tensor", f"ladder.rungs={rungs}")
    with pytest.raises(UserError, match=re.escape(sentence)):
        sweeper.sweep(given)


FACTORS = {"model.bias": "false,true", "model.norm": "rmsnorm,layernorm", "model.qk_norm": "false,true"}


def test_learning_rates_are_chosen_on_other_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweeper = ScreeningSweeper(params={**FACTORS, "seed": "3,5"})
    options = "screening.tune_lr=true", "screening.lr=[0.1,0.2,0.3]", "screening.tuning_seeds=2"
    launcher = experiment(sweeper, tmp_path, "mode=tensor", *options, "screening.factors=[model.bias,model.norm]")
    launcher.value_of = lambda job: abs(learning_rate(job) - (0.3 if "model.bias=True" in job else 0.1))
    sweeper.sweep([])
    (_, tuning), (start, jobs) = launcher.launched
    assert (len(tuning), start, len(jobs)) == (4 * 3 * 2, 24, 8)
    assert {job[-1] for job in tuning} == {"seed=6", "seed=7"}
    factors = ["model.qk_norm=False", "model.bias=False", "model.norm=rmsnorm"]
    assert jobs[0] == [*factors, "report.nuisance=[optim.lr]", "optim.lr=0.1", "seed=3"]
    assert [learning_rate(job) for job in jobs[::2]] == [0.1, 0.3, 0.1, 0.3]
    assert capsys.readouterr().out == (
        "screening of 2 factors: all 4 combinations, 2 seeds each: 8 runs\n"
        "before that: 3 learning rates, 2 other seeds each: 24 runs\n"
        "learning rates chosen: 0.1 for 2, 0.2 for 0, 0.3 for 2 of 4 combinations\n"
    )


def learning_rate(job: Sequence[str]) -> float:
    return next(float(one.partition("=")[2]) for one in job if one.startswith("optim.lr="))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["model.position=learned,rope", "model.n_head=4,16"], "model.position=rope with model.n_head=16 cannot be"),
        (["train.log_every=1,2"], "train.log_every=1 and train.log_every=2 train the same model"),
        (["optim.lr=0.1,0.2,0.3"], "optim.lr has 3 values: a factor of a screening must have two"),
        (["screening.factors=[model.bias,model.tie_lm_head]"], "model.tie_lm_head does not have two values"),
        (["screening.max_runs=8", "seed=range(4)"], "with 4 seeds it leaves 2 combinations, too few for 3 factors"),
    ],
)
def test_a_screening_that_is_not_possible_is_refused(given: list[str], sentence: str, tmp_path: Path) -> None:
    sweeper = ScreeningSweeper(params=FACTORS)
    launcher = experiment(sweeper, tmp_path, "mode=tensor", *(one for one in given if one.startswith("screening")))
    with pytest.raises(UserError, match=re.escape(sentence)):
        sweeper.sweep(given)
    assert launcher.launched == []


def test_the_duration_of_jobs_grows_with_their_steps_and_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duration, "seconds_per_example", lambda jobs, reader: 1e-6)
    common = "mode=tensor", "style=classic", "data.val_fraction=0"
    (short, long), (wide,) = (
        jobs_of(*common, "train.steps=1000|3000"),
        jobs_of(*common, "train.steps=1000", "model.n_embd=32"),
    )
    seconds = [duration.about([job], InputReader()) - duration.PER_JOB for job in (short, long, wide)]
    assert seconds == pytest.approx([1000 * 4192e-6, 3000 * 4192e-6, 1000 * 14528e-6])
    assert [duration.in_words(one) for one in (0.2, 89, 200)] == ["a second", "89 seconds", "3 minutes"]


def test_a_grid_has_a_plan_if_it_has_a_question(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweeper = GridSweeper(params={"optim.lr": "0.1,0.2", "seed": "range(3)", "train.steps": "5"})
    launcher = experiment(sweeper, tmp_path, "mode=tensor", "report.question='Which?'")
    sweeper.sweep([])
    assert len(launcher.launched[0][1]) == 6
    assert capsys.readouterr().out == "6 runs: 2 optim.lr x 3 seed\n"


@pytest.mark.parametrize("preset", ["gpt2", "llama", "nanochat"])
def test_the_ladder_of_the_architectures_passes_through_the_presets(preset: str, tmp_path: Path) -> None:
    """A preset differs from model=gpt in exactly the changes of the rungs before its own rung."""
    sweeper = LadderSweeper()
    experiment(sweeper, tmp_path, "experiment=architecture")
    names = list(sweeper.master.ladder.rungs)
    (place,) = [number for number, name in enumerate(names) if f"model={preset} " in name]
    overrides = sweeper.rungs({})[place]
    by_hand = ["model=gpt", *overrides[1:], f"model.name={preset}"]
    assert composed(by_hand).model == composed([f"model={preset}"]).model
    assert composed(overrides).model == composed([f"model={preset}"]).model
