"""Errors in a sweep: an error of all jobs is raised and nothing is written; any other error fails only its job."""

from pathlib import Path

import pytest
from support.program import Program, read_record
from support.sweep_runs import FOLDER, SMALL, TINY, composer, folders, jobs_of, names, run_alone

from microgpt.errors import MicrogptError, UserError
from microgpt.sweeps.checks import CheckedJobs, JobChecker
from microgpt.sweeps.failures import ranges, record_failures, report_by_cause, report_first
from microgpt.sweeps.folder import SweepFolder

# A mistake -> the sentence about it, from its beginning. {here} is the test's folder.
MISTAKES = {
    "seed=-1": "seed=-1 is not allowed: seed must be at least 0",  # a key's constraint
    "sample.temperature=nan": "sample.temperature: temperature must be finite",
    "style.name=a/b": "style.name=a/b is not allowed: it becomes part of a file name",
    "model.n_head=3": "model.n_embd=8 is not allowed: it must be a multiple of model.n_head=3",  # a rule between keys
    "schedule.total_steps=3": "schedule.total_steps=3 is not allowed: the schedule must cover",
    "checkpoint=x": "checkpoint=x is not allowed: task=train does not use a checkpoint",
    "optim=lamb": "optim=lamb is not an option: optim must be one of",  # composition
    "seed=abc": "seed=abc is not allowed: seed must be an integer",
    "train.step=3": "train.step is not a key: train has",
    "+foo=1": "foo is not a key: the configuration has",
    "data.path={here}/nowhere.txt": "data.path={here}/nowhere.txt cannot be read",  # what the run reads
    "train.resume={here}/nowhere": "train.resume={here}/nowhere is not a checkpoint",
    "train.resume={here}/earlier": "checkpoint {here}/earlier",  # of another model: does not fit
    "train.resume=latest": "train.resume=latest is not allowed in a sweep: each job",
    "sample.prompt=Z": "sample.prompt='Z' has characters that the model does not know",  # the vocabulary
    "logger=missing": "logger=wandb needs wandb: pip install",  # what the machine lacks
    "backend=torch": "backend=torch needs PyTorch: pip install",
    "task=info": "checkpoint=null is not allowed: task=info needs checkpoint=",  # other tasks
}  # fmt: skip


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without PyTorch and wandb."""
    monkeypatch.setattr("microgpt.engines.auto_backend.find_spec", lambda name: None)
    monkeypatch.setattr("microgpt.training.loggers.is_installed", lambda name: False)


def checker(folder: Path, *, trains_here: bool = True) -> JobChecker:
    return JobChecker(composer(), folder / FOLDER, trains_here=trains_here)


def check(folder: Path, *jobs: tuple[str, ...], trains_here: bool = True) -> CheckedJobs:
    common = (*SMALL, *TINY, "data=text", f"data.path={names(folder)}")
    return checker(folder, trains_here=trains_here).check({number: (*common, *own) for number, own in enumerate(jobs)})


@pytest.mark.slow
def test_every_kind_of_mistake_is_found_before_anything_is_written(tmp_path: Path, bare_machine: None) -> None:
    (small,) = jobs_of(*SMALL, "model.n_embd=4", "model.n_head=2", "data=text", f"data.path={names(tmp_path)}")
    run_alone(tmp_path / "out", small).rename(tmp_path / "earlier")
    before = set(tmp_path.rglob("*"))
    overrides = [mistake.format(here=tmp_path).replace("logger=missing", "logger=wandb") for mistake in MISTAKES]
    checked = check(tmp_path, ("seed=9",), *((override,) for override in overrides), ("seed=3",))
    assert list(checked.jobs) == [0, len(MISTAKES) + 1]
    for number, sentence in enumerate(MISTAKES.values(), 1):
        of_all = CheckedJobs(failed=dict.fromkeys((0, 1), checked.failed[number]))
        with pytest.raises(MicrogptError) as raised:
            of_all.require_runnable()
        assert str(raised.value).startswith(sentence.format(here=tmp_path))
        assert "\n" not in str(raised.value)
    assert set(tmp_path.rglob("*")) == before


def test_what_this_machine_lacks_is_no_mistake_of_jobs_for_other_machines(tmp_path: Path, bare_machine: None) -> None:
    jobs = ("backend=torch",), ("logger=wandb",), ("sample.prompt=Z",)
    assert list(check(tmp_path, *jobs, trains_here=False).failed) == [2]


def test_jobs_are_checked_once_and_completed_ones_are_not_read_again(tmp_path: Path) -> None:
    one = checker(tmp_path)
    jobs = {0: ("seed=-1",), 1: ("seed=1", "data=text", f"data.path={names(tmp_path)}")}
    first = one.check(jobs).jobs[1]
    assert one.check(jobs).jobs[1] is first
    assert list(one.check({2: ("seed=2",)}).jobs) == [1, 2]


def test_different_mistakes_of_all_jobs_are_each_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checked = check(tmp_path, *[(f"seed={seed}",) for seed in (-1, -2, -1, -1)])
    with pytest.raises(UserError, match="4 of 4 jobs cannot run, so no job was started"):
        checked.require_runnable()
    allowed = "is not allowed: seed must be at least 0"
    assert capsys.readouterr().err == f"3 jobs (0, 2-3): error: seed=-1 {allowed}\njob 1: error: seed=-2 {allowed}\n"


def test_jobs_that_cannot_be_composed_refuse_the_sweep_and_others_do_not(tmp_path: Path) -> None:
    check(tmp_path, ("seed=1",), ("seed=-1",)).require_runnable()
    with pytest.raises(UserError, match="seed=abc is not allowed: seed must be an integer"):
        check(tmp_path, ("seed=1",), ("seed=abc",), ("seed=-1",)).require_runnable()


def test_failed_jobs_are_recorded_with_their_own_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checked = check(tmp_path, ("seed=1",), ("seed=-1",), ("sample.prompt=Z",), ("optim=lamb",))
    with SweepFolder(tmp_path / FOLDER).creating_folders():
        record_failures(checked.failed.values())
    records = {name: read_record(path) for name, path in folders(tmp_path).items()}
    assert list(records) == ["1", "2"]  # a job that cannot be composed has no configuration to record
    assert (records["1"]["config"]["seed"], records["2"]["config"]["sample"]["prompt"]) == (-1, "Z")
    assert {record["status"] for record in records.values()} == {"failed"}
    report_by_cause(checked.errors([1, 2, 3]))
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_of_a_group_the_first_failures_are_printed_and_the_others_counted(capsys: pytest.CaptureFixture[str]) -> None:
    errors = {number: UserError(f"it is {number}") for number in (9, 1, 2, 5, 10)}
    report_first(errors)
    assert capsys.readouterr().err.splitlines() == [
        "job 1: error: it is 1", "job 2: error: it is 2", "job 5: error: it is 5",
        "2 more jobs of its group failed (9-10): see run.json in the job's folder",
    ]  # fmt: skip
    report_first({1: errors[1]})
    assert capsys.readouterr().err == "job 1: error: it is 1\n"


def test_numbers_of_jobs_are_written_as_ranges() -> None:
    assert ranges([3]) == "3"
    assert ranges([0, 1, 2, 4, 6, 7]) == "0-2, 4, 6-7"
    assert ranges(range(0, 40, 2)) == "0, 2, 4, 6, 8, 10, 12, ..., 38"


@pytest.mark.slow
def test_a_mistake_of_all_jobs_of_the_command_is_one_sentence(microgpt: Program) -> None:
    done = microgpt("experiment=ablation", "mode=tensor", "model.n_embd=15", expect=2)
    assert done.stderr == "error: model.n_embd=15 is not allowed: it must be a multiple of model.n_head=4\n"
    assert (done.stdout, microgpt.files()) == ("", set())
