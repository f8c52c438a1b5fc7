"""Jobs trained side by side write the same files as jobs trained alone; values, tasks and launchers of a sweep."""

import json
from pathlib import Path

import psutil
import pytest
from support.program import Program, mostly_slow, read_history, read_record
from support.sweep_runs import SMALL, TINY, folders, jobs_of, names, run, run_alone, written_by

from microgpt.runs.checkpoint import load_checkpoint
from microgpt.sweeps.folder import lockable
from microgpt.sweeps.groups import Job
from microgpt.sweeps.runner import SweepRunner

EQUAL = {
    "seeds, rates, schedules": (
        *TINY, "optim.lr=0.01|0.1", "schedule=linear|cosine", "seed=1|2", "schedule.warmup_steps=3",
        "train.keep_checkpoints=9",
    ),
    "toggles": (*TINY, "model.tie_lm_head=true|false", "model.input_rmsnorm=true|false", "seed=1|2"),
    "styles": (*TINY, "style=classic|futuristic", "seed=1|2", "sample.seed=5", "train.batch_size=3"),
    "events": (*TINY, "train.eval_every=null|5", "train.checkpoint_every=null", "seed=1|2", "train.eval_documents=3"),
    "optimizers": (*TINY, "optim=adamw|sgd", "optim.grad_clip=0.5", "seed=1|2"),
    "bigram without validation": ("model=bigram", "seed=1|2|3", "data.val_fraction=0", "train.batch_size=3"),
    "untrained": (*TINY, "train.steps=0", "seed=1|2"),
    "float64": (*TINY, "backend.dtype=float64", "seed=1|2|3"),
}  # fmt: skip


def jobs_on(folder: Path, *overrides: str) -> list[Job]:
    """Return jobs that train on a small file in the folder."""
    chosen = {override.split("=")[0] for override in overrides}
    kept = [override for override in SMALL if override.split("=")[0] not in chosen]
    return jobs_of(*kept, "data=text", f"data.path={names(folder)}", *overrides)


def run_all(folder: Path, jobs: list[Job], most: int | None = None) -> None:
    outcomes = run(folder, jobs, most)
    assert [outcomes[job.number].error for job in jobs] == [None] * len(jobs)
    assert list(folders(folder)) == sorted(str(job.number) for job in jobs)


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
@mostly_slow(1, "overrides", EQUAL.values(), ids=EQUAL)
def test_a_job_writes_exactly_what_the_run_alone_writes(tmp_path: Path, overrides: tuple[str, ...], every: int) -> None:
    jobs = jobs_on(tmp_path, *overrides)
    run_all(tmp_path, jobs)
    for job in jobs[::every]:
        assert written_by(folders(tmp_path)[str(job.number)]) == written_by(run_alone(tmp_path / "alone", job))


def test_a_leg_in_a_sweep_is_the_leg_alone(tmp_path: Path) -> None:
    (first,) = jobs_on(tmp_path, *TINY, "seed=7")
    begun = run_alone(tmp_path / "first", first)
    jobs = jobs_on(tmp_path, *TINY, "seed=1|2", f"train.resume={begun}")
    run_all(tmp_path, jobs)
    for job in jobs:
        assert written_by(folders(tmp_path)[str(job.number)]) == written_by(run_alone(tmp_path / "alone", job))


def test_a_completed_job_keeps_its_moments_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By default, it keeps only its weights. Another run can continue from both.

    checkpoint_every has its default value here, because whoever changes it chooses the checkpoints that are kept.
    """
    common = *TINY, "train.checkpoint_every=250", "seed=1"
    run_all(tmp_path / "without", jobs_on(tmp_path, *common))
    run_all(tmp_path / "with", jobs_on(tmp_path, *common, "train.keep_optimizer_state=true"))
    (without,), (kept,) = (folders(tmp_path / name).values() for name in ("without", "with"))
    first, second = (load_checkpoint(job / "checkpoint" / "latest").state for job in (without, kept))
    assert (first.m, first.v) == ({}, {})
    assert second.m.keys() == second.v.keys() == first.parameters.keys()
    for name, weights in first.parameters.items():
        assert weights.tobytes() == second.parameters[name].tobytes()
    for job, first_step in ((without, 0), (kept, 20)):
        (leg,) = jobs_on(tmp_path, *TINY, f"train.resume={job}", "seed=1")
        capsys.readouterr()
        recorded = read_record(run_alone(tmp_path / "legs", leg))["leg"]
        assert (recorded["first_step"], recorded["optimizer_state"]) == (first_step, first_step > 0)
        line = (
            "moments start at zero, and steps are counted from 0; a sweep keeps it with train.keep_optimizer_state=true"
        )
        assert (line in capsys.readouterr().out) == (first_step == 0)


@pytest.mark.slow
def test_how_jobs_are_grouped_changes_nothing(tmp_path: Path) -> None:
    jobs = jobs_on(tmp_path, *TINY, "seed=1|2|3|4|5|6", "train.batch_size=3")
    run_all(tmp_path, jobs)
    together = {name: written_by(path) for name, path in folders(tmp_path).items()}
    assert {read_record(path)["group"] for path in folders(tmp_path).values()} == {6}
    for most, sizes in ((1, {1}), (4, {4, 2})):
        run_all(tmp_path / str(most), jobs, most)
        found = folders(tmp_path / str(most))
        assert {read_record(path)["group"] for path in found.values()} == sizes
        assert {name: written_by(path) for name, path in found.items()} == together


@pytest.mark.slow
def test_torch_trains_a_group_like_single_runs(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    jobs = jobs_on(tmp_path, *TINY, "backend=torch", "seed=1|2|3", "optim.lr=0.01|0.1")
    run_all(tmp_path, jobs)
    for job in jobs[::2]:
        lines = read_history(run_alone(tmp_path / "alone", job))
        for line, alone in zip(read_history(folders(tmp_path)[str(job.number)]), lines, strict=True):
            assert line == pytest.approx(alone, abs=1e-5)


def test_jobs_in_plain_python_run_one_after_the_other(tmp_path: Path) -> None:
    jobs = jobs_on(tmp_path, *TINY, "mode=scalar", "backend=python", "seed=1|2", "train.steps=3")
    run_all(tmp_path, jobs)
    for job in jobs:
        assert written_by(folders(tmp_path)[str(job.number)]) == written_by(run_alone(tmp_path / "alone", job))


def test_a_value_given_twice_is_run_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = jobs_on(tmp_path, *TINY, "seed=1|1|2|1")
    outcomes = run(tmp_path, jobs)
    assert list(folders(tmp_path)) == ["0", "2"]
    assert outcomes[0] == outcomes[1] == outcomes[3] != outcomes[2]
    counts = "4 jobs, 0 completed before, 0 to resume, 0 failed before and run again, 2 new, 2 the same as another"
    assert f": {counts}\n" in capsys.readouterr().out
    run(tmp_path, jobs)
    assert ": 4 jobs, 2 completed before, " in capsys.readouterr().out


def test_jobs_in_another_order_are_the_same_jobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = jobs_on(tmp_path, *TINY, "seed=1|2", "optim.lr=0.1|0.2")
    run_all(tmp_path, jobs)
    capsys.readouterr()
    reordered = jobs_on(tmp_path, *TINY, "optim.lr=0.1|0.2", "seed=1|2")
    outcomes = run(tmp_path, reordered)
    assert ": 4 jobs, 4 completed before, " in capsys.readouterr().out
    assert [outcomes[number].objective for number in range(4)] == [
        read_record(folders(tmp_path)[name])["metrics"]["val_loss"] for name in ("0", "2", "1", "3")
    ]
    assert len(folders(tmp_path)) == 4


def test_resume_never_runs_all_jobs_again_in_new_folders(tmp_path: Path) -> None:
    jobs = jobs_on(tmp_path, *TINY, "seed=1|2")
    run_all(tmp_path, jobs)
    run(tmp_path, jobs_on(tmp_path, *TINY, "seed=1|2", "train.resume=never"))
    assert list(folders(tmp_path)) == ["0", "0-2", "1", "1-2"]
    before = {name: written_by(path)["files"] for name, path in folders(tmp_path).items()}
    assert (before["0"], before["1"]) == (before["0-2"], before["1-2"])
    run(tmp_path, jobs)
    assert len(folders(tmp_path)) == 4


def test_a_process_can_lock_more_jobs_than_its_default_limit_of_open_files() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (500, hard))
        assert lockable(64) == 64
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (500, hard)
        assert lockable(1000) == 1000
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 1200
        assert lockable(hard) < hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
def test_a_sweep_s_memory_does_not_grow_with_its_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """60 groups of 5, whose largest objects are the orders of 30,000 examples."""
    sizes, train = [], SweepRunner.train_group

    def measured(self: SweepRunner, *arguments: object) -> object:
        sizes.append(psutil.Process().memory_info().rss)
        return train(self, *arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(SweepRunner, "train_group", measured)
    monkeypatch.setattr("microgpt.training.run_inputs.MAX_ORDERS", 1)
    jobs = jobs_of(*SMALL, *TINY, "seed=" + "|".join(map(str, range(300))), "train.eval_documents=20")
    run_all(tmp_path, jobs, most=5)
    assert len(sizes) == 60
    assert sizes[-1] - sizes[15] < 20e6


# The command


COMMAND = (*SMALL, *TINY, "data=text", "data.path=names.txt")


def sweep(program: Program, *arguments: str, expect: int = 0) -> str:
    names(program.folder)
    return program("-m", *COMMAND, *arguments, expect=expect).stdout


@pytest.mark.slow
def test_every_launcher_and_the_run_alone_write_the_same(microgpt: Program) -> None:
    sweep(microgpt, "seed=1,2", "hydra.launcher.max_group=1", "outputs_dir=one")
    sweep(microgpt, "seed=1,2", "outputs_dir=together")
    sweep(microgpt, "seed=1,2", "outputs_dir=basic", "hydra/launcher=basic")
    output = sweep(microgpt, "seed=1,2", "outputs_dir=basic", "hydra/launcher=basic")
    assert output.count("1 job, 1 completed before, ") == 2
    for number, seed in enumerate((1, 2)):
        microgpt(*COMMAND, f"seed={seed}", f"outputs_dir=alone{seed}")
        runs = [microgpt.only_run(f"alone{seed}")]
        for outputs in ("one", "together", "basic"):
            runs += microgpt.folder.glob(f"{outputs}/sweeps/*/{number}")
        written = [written_by(run) for run in runs]
        overrides = [each["record"].pop("overrides") for each in written]
        assert written == [written[0]] * 4
        assert {frozenset(those[:-1]) for those in overrides} == {frozenset((*COMMAND, f"seed={seed}"))}


@pytest.mark.slow
def test_fresh_archives_the_earlier_sweep(microgpt: Program) -> None:
    sweep(microgpt, "seed=1,2")
    first = microgpt.jobs()[0]
    before = (first / "run.json").read_bytes()
    output = sweep(microgpt, "seed=1,2", "sweep.fresh=true")
    archived = first.parent.with_name(f"{first.parent.name}.1")
    assert f"the earlier sweep is now in {archived.relative_to(microgpt.folder)}\n" in output
    assert (archived / "0" / "run.json").read_bytes() == before
    assert (first / "run.json").read_bytes() != before
    assert ": 2 jobs, 0 completed before, 0 to resume, 0 failed before and run again, 2 new\n" in output
    output = sweep(microgpt, "seed=1,2")
    assert f"sweep {first.parent.relative_to(microgpt.folder)}: 2 jobs, 2 completed before, " in output


@pytest.mark.slow
def test_the_archived_sweep_is_restored_if_the_new_one_cannot_be_composed(microgpt: Program) -> None:
    sweep(microgpt, "seed=1,2")
    files = microgpt.files()
    output = microgpt("-m", *COMMAND, "seed=1,2", "sweep.fresh=true", "hydra.launcher.executor=nix", expect=2)
    assert output.stderr.startswith("error: hydra.launcher.executor=nix is not allowed: ")
    assert microgpt.files() == files


@pytest.mark.slow
def test_a_sweep_of_another_task(microgpt: Program) -> None:
    sweep(microgpt, "seed=1,2")
    one, other = (str(job.relative_to(microgpt.folder)) for job in microgpt.jobs())
    done = microgpt("-m", "task=info", f"checkpoint={one},nix,{other}", expect=2)
    assert [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("seed:")] == ["1", "2"]
    assert "job 1: error: checkpoint=nix is not a checkpoint" in done.stderr
    table = (microgpt.folder / "results" / "runs_style-classic.jsonl").read_text().splitlines()
    assert [json.loads(row)["status"] for row in table] == ["completed"] * 2
