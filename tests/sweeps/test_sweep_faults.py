"""A sweep that is killed, interrupted, shared, out of disk space or partly failing finally writes the same files."""

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.program import read_record
from support.sweep_runs import (
    FOLDER,
    SMALL,
    TINY,
    RunStages,
    SweepProcess,
    folders,
    jobs_of,
    names,
    run,
    run_alone,
    stage_runner,
    written_by,
)

from microgpt.errors import NonFiniteError
from microgpt.sweeps.groups import Job
from microgpt.training import runner as trainer

# Exit codes. -15: before there is anything to save. 2: no lock can be created.
CODES = {"SIGKILL": {-9}, "SIGTERM": {143, -15}, "full disk": {1, 2}}
PARTS = 4  # that the moments are divided into


LIKE_A_RUN = "train.keep_optimizer_state=true"  # a completed job keeps the moments, like a single run


class Four(NamedTuple):
    run_stages: RunStages
    jobs: list[Job]
    written: dict[str, Any]  # by folder, by a process that is not stopped
    operations: int  # on files, of that process


def quick(folder: Path, *overrides: str) -> list[Job]:
    """Return jobs of eight steps that use one thread."""
    kept = [each for each in SMALL if not each.startswith("train.")]
    own = ["data=text", f"data.path={names(folder)}", "train.steps=8", "train.eval_every=4", "backend.threads=1"]
    chosen = {override.split("=")[0] for override in overrides}
    return jobs_of(*kept, *TINY, *(each for each in own if each.split("=")[0] not in chosen), *overrides)


def all_written(folder: Path) -> dict[str, Any]:
    return {name: written_by(path) for name, path in folders(folder).items()}


def statuses(folder: Path) -> list[str]:
    return [read_record(path)["status"] for path in folders(folder).values() if (path / "run.json").exists()]


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Four]:
    """Four jobs in two groups, in each of which one diverges."""
    folder = tmp_path_factory.mktemp("four")
    jobs = quick(folder, "model.tie_lm_head=true|false", "optim.lr=0.01|1e30")
    with stage_runner(jobs) as run_stages:
        ((ended,),) = run_stages(jobs, [[SweepProcess(folder)]])
        assert ended.code == 0
        assert statuses(folder) == ["completed", "failed"] * 2
        yield Four(run_stages, jobs, all_written(folder), ended.operations)


# Stopped


def assert_stopped_sweeps_write_the_same(folder: Path, four: Four, moments: list[int], event: str) -> None:
    """Stop sweeps at each of the times and again at half of it, finish them, and compare their files."""
    sweeps = [folder / f"{event}_{moment}" for moment in moments]
    stages = [[SweepProcess(sweep, moment, event)] for sweep, moment in zip(sweeps, moments, strict=True)]
    again = [[replace(stage[0], after=stage[0].after // 2)] for stage in stages]
    ended = [one for (one,) in four.run_stages(four.jobs, [*stages, *again])]
    for one, moment in zip(ended, moments, strict=False):
        is_late = event != "SIGKILL" and moment > 0.8 * four.operations  # nothing is written or trained after that
        assert one.code in CODES[event] | ({0} if is_late else set()), one
    for one in ended:
        assert one.code in CODES[event] | {0}, one
        assert "Traceback" not in one.output, one
        if one.code in (1, 2):
            assert one.output.count("No space left on device") == 1, one
    for sweep, moment in zip(sweeps, moments, strict=True):
        run(sweep, four.jobs)
        assert all_written(sweep) == four.written, moment
        assert sorted(path.name for path in (sweep / FOLDER).iterdir()) == [".locks", "0", "1", "2", "3"]
        assert not any("earlier_failures" in read_record(folders(sweep)[name]) for name in ("0", "2"))


@pytest.mark.slow
def test_a_stopped_sweep_writes_the_same_in_the_end(tmp_path: Path, four: Four) -> None:
    for event, parts in (("SIGKILL", (0.3, 0.7)), ("SIGTERM", (0.5,)), ("full disk", (0.75,))):
        assert_stopped_sweeps_write_the_same(tmp_path, four, [int(part * four.operations) for part in parts], event)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize(("event", "stride"), [("SIGKILL", 5), ("SIGTERM", 12), ("full disk", 12)])
def test_a_sweep_stopped_before_any_operation_on_a_file_writes_the_same_in_the_end(
    tmp_path: Path, four: Four, event: str, stride: int, part: int
) -> None:
    moments = range(random.Random(event).randrange(stride), four.operations, stride)
    assert_stopped_sweeps_write_the_same(tmp_path, four, list(moments)[part::PARTS], event)


# Several processes


@pytest.fixture(scope="module")
def dozen(tmp_path_factory: pytest.TempPathFactory, four: Four) -> tuple[list[Job], dict[str, Any]]:
    """Return twelve jobs of one shape, one of which diverges, and the files that one process writes."""
    folder = tmp_path_factory.mktemp("dozen")
    jobs = quick(folder, "seed=1|2|3|4|5|6", "optim.lr=0.01|0.02", LIKE_A_RUN)
    jobs[7] = replace(jobs[7], config=replace(jobs[7].config, optim=replace(jobs[7].config.optim, lr=1e30)))
    run(folder, jobs)
    return jobs, all_written(folder)


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_share_a_sweep_and_no_job_is_trained_twice(
    tmp_path: Path, four: Four, dozen: tuple[list[Job], dict[str, Any]], count: int
) -> None:
    jobs, expected = dozen
    (ended,) = four.run_stages(jobs, [[SweepProcess(tmp_path, most=1)] * count])
    assert [one.code for one in ended] == [0] * count
    assert [one.failed for one in ended] == [[7]] * count
    assert all(one.trained for one in ended)
    assert sorted(name for one in ended for name in one.trained) == sorted(expected)
    assert all_written(tmp_path) == expected
    assert not any("resumed" in read_record(path) for path in folders(tmp_path).values())


@pytest.mark.slow
@pytest.mark.parametrize("event", CODES)
def test_jobs_of_a_process_that_ends_early_are_taken_over(
    tmp_path: Path, four: Four, dozen: tuple[list[Job], dict[str, Any]], event: str
) -> None:
    jobs, expected = dozen
    chosen = random.Random(event)
    sweeps = [
        SweepProcess(tmp_path / str(n), chosen.randrange(20, 300), event, chosen.randrange(1, 7)) for n in range(12)
    ]
    for early, other in four.run_stages(jobs, [[sweep, SweepProcess(sweep.folder, most=2)] for sweep in sweeps]):
        assert early.code in CODES[event] | {0}
        assert other.code == 0, other
        assert other.failed == [7]
    for sweep in sweeps:
        assert all_written(sweep.folder) == expected


# Failing jobs


def test_only_jobs_whose_file_was_missing_are_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    late = tmp_path / "late.txt"
    jobs = quick(tmp_path, f"data.path={names(tmp_path)}|{late}", "seed=1|2", LIKE_A_RUN)
    outcomes = run(tmp_path, jobs)
    missing = f"data.path={late} cannot be read: No such file or directory"
    assert [str(outcomes[number].error) for number in range(4)] == ["None"] * 2 + [missing] * 2
    assert capsys.readouterr().err == f"2 jobs (2-3): error: {missing}\n"
    assert statuses(tmp_path) == ["completed"] * 2 + ["failed"] * 2
    before = [(folders(tmp_path)[name] / "run.json").read_bytes() for name in "01"]
    late.write_text("".join(f"{first}nn{last}\n" for first in "abcde" for last in "ai"))
    run(tmp_path, jobs)
    counts = "4 jobs, 2 completed before, 0 to resume, 2 failed before and run again, 0 new"
    assert f": {counts}\n" in capsys.readouterr().out
    assert statuses(tmp_path) == ["completed"] * 4
    assert [(folders(tmp_path)[name] / "run.json").read_bytes() for name in "01"] == before
    assert written_by(folders(tmp_path)["3"]) == written_by(run_alone(tmp_path / "alone", jobs[3]))


def test_a_failed_job_starts_again_and_its_record_keeps_the_earlier_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = quick(tmp_path, "seed=1|2|3", LIKE_A_RUN)
    measure = trainer.final_evaluation

    def faulty(inputs: Any, *rest: Any) -> None:
        if inputs.config.seed == 2:
            raise NonFiniteError("a test failure")
        measure(inputs, *rest)

    for times in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(trainer, "final_evaluation", faulty)
            run(tmp_path, jobs)
        assert statuses(tmp_path) == ["completed", "failed", "completed"]
        assert len(read_record(folders(tmp_path)["1"]).get("earlier_failures", [])) == times - 1
    run(tmp_path, jobs)
    assert (
        capsys.readouterr().out.count(": 3 jobs, 2 completed before, 0 to resume, 1 failed before and run again") == 2
    )
    record = read_record(folders(tmp_path)["1"])
    assert [each["error"].split(";")[0] for each in record["earlier_failures"]] == ["after step 8 a test failure"] * 2
    assert all_written(tmp_path) == {str(job.number): written_by(run_alone(tmp_path / "alone", job)) for job in jobs}


@pytest.mark.parametrize(("steps", "failed_at"), [(1, [(1, "step 1"), (5, "step 1")]),
                                                  (20, [(1, "step 2"), (3, "step 4"), (5, "step 3")])])  # fmt: skip
def test_a_model_that_diverges_does_not_change_the_rest_of_its_group(
    tmp_path: Path, steps: int, failed_at: list[tuple[int, str]]
) -> None:
    jobs = quick(tmp_path, "optim=sgd", "optim.lr=0.1|1e3|0.2|10|0.3|1e30", f"train.steps={steps}", LIKE_A_RUN)
    outcomes = run(tmp_path, jobs)
    assert {read_record(path)["group"] for path in folders(tmp_path).values()} == {6}
    errors = [(number, str(outcome.error)) for number, outcome in sorted(outcomes.items()) if outcome.error]
    assert [(number, re.findall(r"step \d+", error)[0]) for number, error in errors] == failed_at
    run(tmp_path / "well", [jobs[number] for number in (0, 2, 4)])
    assert all_written(tmp_path / "well") == {name: written_by(folders(tmp_path)[name]) for name in "024"}
    assert all_written(tmp_path / "well")["2"] == written_by(run_alone(tmp_path / "alone", jobs[2]))
