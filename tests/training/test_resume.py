"""A run that is stopped at any instant and resumed gives the results of an uninterrupted run."""

import json
import random
import signal
import time
from typing import Any

import pytest
from support.program import Program, make_program, mostly_slow, read_history, read_record, results_of, wait_for

from microgpt.runs.checkpoint import load_checkpoint

STEPS = 100
RUN = ("experiment=debug", f"train.steps={STEPS}", "train.checkpoint_every=10", "train.eval_every=25",
       "train.eval_documents=5", "train.log_every=5", "sample.num_samples=5", "model.n_embd=8")  # fmt: skip
FAST = ("experiment=debug", "train.eval_documents=5", "sample.num_samples=1", "style=classic")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float]:
    """Return the results of RUN without interruption, and its duration in seconds."""
    for program in make_program(tmp_path_factory.mktemp("uninterrupted")):
        start = time.monotonic()
        program(*RUN)
        seconds = time.monotonic() - start
        assert "resumed" not in read_record(program.only_run())
        return results_of(program.only_run(), STEPS), seconds
    raise AssertionError


def is_completed(program: Program) -> bool:
    """Return whether a run completed, as one killed at exit may have: the same command would start a new run."""
    return any(read_record(run)["status"] == "completed" for run in program.runs())


@pytest.mark.slow
def test_run_killed_at_random_moments_has_the_results_of_an_uninterrupted_run(
    microgpt: Program, uninterrupted: tuple[dict[str, Any], float]
) -> None:
    expected, seconds = uninterrupted
    rng = random.Random(7)
    for _ in range(3):
        assert microgpt.kill_after(rng.uniform(0, seconds / 8), *RUN, from_first_step=True)
    microgpt(*RUN)
    run = microgpt.only_run()
    assert results_of(run, STEPS) == expected
    resumed = read_record(run)["resumed"]
    assert len(resumed) == 3
    assert [leg["step"] for leg in resumed] == sorted(leg["step"] for leg in resumed)
    assert resumed[-1]["step"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_run_killed_many_times_from_its_start_has_the_results_of_an_uninterrupted_run(
    microgpt: Program, uninterrupted: tuple[dict[str, Any], float], seed: int
) -> None:
    """Five kills in each of three runs, a fifth of them before the first step."""
    expected, seconds = uninterrupted
    rng = random.Random(seed)
    microgpt.kill_after(rng.uniform(0, 0.5 * seconds), *RUN)
    for _ in range(4):
        if not is_completed(microgpt):
            microgpt.kill_after(rng.uniform(0, seconds / 8), *RUN, from_first_step=True)
    if not is_completed(microgpt):
        microgpt(*RUN)
    # A kill between the creation of a folder and its first record may leave a folder without a record.
    assert results_of(microgpt.only_run(), STEPS) == expected


@pytest.mark.slow
def test_kills_while_checkpoints_are_written_leave_complete_checkpoints(microgpt: Program) -> None:
    """With a checkpoint at every step, most of the time is spent on writing them."""
    run = *FAST, "train.steps=60", "train.checkpoint_every=1", "model=bigram", "train.log_every=1"
    microgpt(*run, "outputs_dir=uninterrupted")
    rng = random.Random(11)
    for _ in range(8):
        if is_completed(microgpt):
            break
        microgpt.kill_after(rng.uniform(0, 0.1), *run, from_first_step=True)
        for step in (microgpt.only_run() / "checkpoint").glob("step_*"):
            load_checkpoint(step)
    if not is_completed(microgpt):
        microgpt(*run)
    assert results_of(microgpt.only_run(), 60) == results_of(microgpt.only_run("uninterrupted"), 60)
    assert not list(microgpt.only_run().glob("checkpoint/.*")), "incomplete checkpoints are removed"


@mostly_slow(1, ("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_stops_at_a_checkpoint_and_the_same_command_finishes(
    microgpt: Program, uninterrupted: tuple[dict[str, Any], float], number: signal.Signals, exit_code: int
) -> None:
    process = microgpt.start(*RUN)
    output = microgpt.stop(process, "step   60", number)
    assert process.returncode == exit_code
    assert process.stderr is not None
    assert process.stderr.read() == ""
    run = microgpt.only_run()
    record = read_record(run)
    assert (record["status"], record["error"]) == ("interrupted", f"stopped by signal {int(number)}")
    where = run.relative_to(microgpt.folder)
    assert f"interrupted: the last checkpoint is in {where}; the same command continues from there" in output
    step = record["metrics"]["steps"]
    assert 60 <= step < STEPS
    assert load_checkpoint((run / "checkpoint" / "latest").resolve()).progress.step == step

    microgpt(*RUN)
    assert [leg["step"] for leg in read_record(microgpt.only_run())["resumed"]] == [step]
    assert results_of(run, STEPS) == uninterrupted[0]


@pytest.mark.slow
def test_interrupted_leg_is_finished_by_the_same_command(microgpt: Program) -> None:
    """The message of an interrupted run must also be true of a leg."""
    microgpt(*FAST, "train.steps=2", "outputs_dir=first")
    leg = *FAST, "train.steps=60", f"train.resume={microgpt.only_run('first')}"
    microgpt.stop(microgpt.start(*leg), "step   20", signal.SIGTERM)
    microgpt(*leg)
    microgpt(*leg, "outputs_dir=uninterrupted")
    assert results_of(microgpt.only_run(), 60) == results_of(microgpt.only_run("uninterrupted"), 60)


@pytest.mark.slow
def test_resume_never_starts_a_new_run(microgpt: Program) -> None:
    run = *FAST, "train.steps=40"
    microgpt.stop(microgpt.start(*run), "step   20", signal.SIGTERM)
    (stopped,) = microgpt.runs()
    before = (stopped / "run.json").read_bytes()
    microgpt(*run, "train.resume=never")
    assert len(microgpt.runs()) == 2
    assert (stopped / "run.json").read_bytes() == before
    (other,) = set(microgpt.runs()) - {stopped}
    assert "resumed" not in read_record(other)
    assert read_history(other)[0]["step"] == 0


@pytest.mark.slow
def test_other_configuration_does_not_resume_a_stopped_run(microgpt: Program) -> None:
    microgpt.stop(microgpt.start(*FAST, "train.steps=40"), "step   20", signal.SIGTERM)
    microgpt(*FAST, "train.steps=4", "optim.lr=0.02")
    assert sorted(read_record(run)["status"] for run in microgpt.runs()) == ["completed", "interrupted"]


@pytest.mark.slow
def test_other_data_under_the_same_name_does_not_resume_a_stopped_run(microgpt: Program) -> None:
    text = microgpt.folder / "input.txt"
    run = *FAST, "data=text", "data.path=input.txt", "train.steps=60"
    text.write_text("".join(f"{a}{b}\n" for a in "abcdefgh" for b in "abcdefgh"))
    microgpt.stop(microgpt.start(*run), "step   20", signal.SIGTERM)
    text.write_text("".join(f"{a}{b}{a}\n" for a in "abcdefgh" for b in "abcdefgh"))
    microgpt(*run)
    assert sorted(read_record(run)["status"] for run in microgpt.runs()) == ["completed", "interrupted"]


@pytest.mark.slow
def test_live_run_is_not_resumed_by_the_same_command(microgpt: Program) -> None:
    run = *FAST, "train.steps=30"
    first = microgpt.start(*run)
    wait_for(microgpt.folder, "outputs/*/*/checkpoint/latest")
    first.send_signal(signal.SIGSTOP)  # paused, but alive
    microgpt(*run)
    first.send_signal(signal.SIGCONT)
    first.communicate()
    one, other = microgpt.runs()
    assert first.returncode == 0
    assert results_of(one, 30) == results_of(other, 30)
    assert not any("resumed" in read_record(run) for run in (one, other))


@pytest.mark.slow
def test_killed_run_is_resumed_by_one_of_two_processes(microgpt: Program) -> None:
    run = *FAST, "train.steps=40"
    microgpt.kill_after(0.1, *run, from_first_step=True)
    (killed,) = microgpt.runs()
    both = [microgpt.start(*run) for _ in range(2)]
    for process in both:
        process.communicate()
    assert [process.returncode for process in both] == [0, 0]
    one, other = microgpt.runs()
    assert [run for run in (one, other) if "resumed" in read_record(run)] == [killed]
    assert results_of(one, 40) == results_of(other, 40)


@pytest.mark.slow
def test_damaged_newest_checkpoint_is_skipped_and_rewritten(microgpt: Program) -> None:
    run = *FAST, "train.steps=40", "train.checkpoint_every=10"
    microgpt(*run, "outputs_dir=uninterrupted")
    microgpt.stop(microgpt.start(*run), "step   30", signal.SIGKILL)
    folder = microgpt.only_run()
    newest = max((folder / "checkpoint").glob("step_*"))
    (newest / "weights.safetensors").write_bytes(b"damaged")
    microgpt(*run)
    assert results_of(microgpt.only_run(), 40) == results_of(microgpt.only_run("uninterrupted"), 40)
    for checkpoint in (folder / "checkpoint").glob("step_*"):
        load_checkpoint(checkpoint)


@pytest.mark.slow
def test_stopped_sweep_resumes_at_its_last_checkpoint(microgpt: Program) -> None:
    sweep = "-m", "seed=1,2,3", *FAST, "train.steps=60"
    process = microgpt.start(*sweep)
    second = wait_for(microgpt.folder, "outputs/sweeps/*/1/checkpoint/latest").parents[1]
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert [read_record(job)["status"] for job in microgpt.jobs()] == ["completed", "interrupted"]
    assert process.returncode == 130
    first = second.with_name("0") / "run.json"
    before = first.read_bytes()

    done = microgpt(*sweep)
    assert ": 3 jobs, 1 completed before, 1 to resume, 0 failed before and run again, 1 new" in done.stdout
    assert first.read_bytes() == before
    records = [read_record(job) for job in microgpt.jobs()]
    assert [record["status"] for record in records] == ["completed"] * 3
    assert [record["seed"] for record in records] == [1, 2, 3]
    assert ["resumed" in record for record in records] == [False, True, False]
    assert len((microgpt.folder / "results" / "runs_style-classic.jsonl").read_text().splitlines()) == 3
    assert json.loads((second / "checkpoint" / "latest" / "train_state.json").read_text())["step"] == 60
