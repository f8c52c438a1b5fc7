"""Workers of joblib, submitit and Ray write the same files as one process, even after they were stopped or lost."""

import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.program import TIMEOUT, Program, read_record, wait_for
from support.sweep_runs import FOLDER, SMALL, TINY, folders, jobs_of, names, written_by

from microgpt.config.schema import Config
from microgpt.errors import UserError
from microgpt.installation import install_command
from microgpt.sweeps import executors
from microgpt.sweeps.executors import gpus_per_worker, share_out, train_jobs
from microgpt.sweeps.folder import SweepFolder
from microgpt.sweeps.groups import Job, shape_of
from microgpt.sweeps.runner import Outcome
from microgpt.sweeps.workers import FollowedFile, LostWorkerError

slow = pytest.mark.slow


def run(folder: Path, jobs: list[Job], executor: str = "joblib", **options: Any) -> dict[int, Outcome]:
    return train_jobs(executor, 2, options, folder / FOLDER, jobs, None)


def all_written(folder: Path) -> dict[str, Any]:
    return {name: written_by(path) for name, path in folders(folder).items()}


# Shares


@cache
def configurations() -> tuple[Config, ...]:
    return tuple(job.config for job in jobs_of("model.n_embd=8|16|32"))


@settings(deadline=None)  # the first example composes the configurations
@given(shapes=st.lists(st.integers(0, 2), max_size=40), count=st.integers(1, 12))
def test_each_job_is_in_one_share_and_each_shape_is_divided_evenly(shapes: list[int], count: int) -> None:
    jobs = [Job(number, configurations()[shape], ()) for number, shape in enumerate(shapes)]
    shares = share_out(jobs, count)
    assert sorted(job.number for share in shares for job in share) == list(range(len(jobs)))
    assert len(shares) == min(count, len(jobs))
    assert all(shares)
    for config in configurations():
        sizes = [sum(shape_of(job.config) == shape_of(config) for job in share) for share in shares]
        assert not sizes or max(sizes) - min(sizes) <= 1
    assert not shares or max(map(len, shares)) - min(map(len, shares)) <= 1


@given(gpus=st.integers(0, 20), workers=st.integers(1, 50))
def test_all_workers_fit_on_the_gpus_at_the_same_time(gpus: int, workers: int) -> None:
    part = gpus_per_worker(float(gpus), workers)
    if gpus == 0:
        assert part == 0
    elif part >= 1:
        assert part == int(part)
        assert workers <= gpus // part
    else:
        assert workers <= gpus * int(1 / part + 1e-9)


# Output of workers


@given(
    lines=st.lists(st.text("aé \t", max_size=5), min_size=1),
    cuts=st.lists(st.integers(0, 99), max_size=5),
    data=st.data(),
)
def test_a_growing_file_is_printed_line_by_line_wherever_it_was_cut(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], cuts: list[int], data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "output"
    path.unlink(missing_ok=True)
    content = "\n".join(lines).encode() + data.draw(st.sampled_from([b"", b"\n"]))
    file, printed = FollowedFile(path, "worker 1: ", "out"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda line, **_: printed.append(line))
        file.print_new(is_last=False)
        for end in [*sorted(min(cut, len(content)) for cut in cuts), len(content)]:
            path.write_bytes(content[:end])
            file.print_new(is_last=False)
            assert len(printed) == content[:end].count(b"\n")
        file.print_new(is_last=True)
    assert printed == [f"worker 1: {line}" for line in content.decode().splitlines()]


# Errors of configuration


@pytest.mark.parametrize(
    ("executor", "workers", "options", "most", "sentence"),
    [
        ("nix", 1, {}, None, "hydra.launcher.executor=nix is not allowed: hydra.launcher.executor must be one of "),
        ("joblib", 0, {}, None, "hydra.launcher.workers=0 is not allowed: hydra.launcher.workers must be at least 1"),
        ("process", 1, {}, 0, "hydra.launcher.max_group=0 is not allowed: hydra.launcher.max_group must be at least 1"),
        ("joblib", 2, {"n_jobs": 3}, None, "hydra.launcher.options={'n_jobs': 3} is not allowed: "),
        ("submitit", 2, {"cluster": "nix"}, None,
         "hydra.launcher.options.cluster=nix is not allowed: it must be slurm or local"),
        ("submitit", None, {}, None, "hydra.launcher.workers=null is not allowed: set the number of jobs"),
        ("submitit", 2, {"cluster": "local", "nix": 1}, None,
         "hydra.launcher.options={'cluster': 'local', 'nix': 1} is not allowed: "),
    ],
)  # fmt: skip
def test_an_invalid_value_is_named_and_nothing_is_written(
    tmp_path: Path, executor: str, workers: int | None, options: dict[str, Any], most: int | None, sentence: str
) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir(parents=True)
    with pytest.raises(UserError) as refused:
        train_jobs(executor, workers, options, folder, [], most)
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)
    assert list(folder.iterdir()) == []


def test_a_missing_library_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape(f"executor=submitit needs submitit: {install_command('slurm')}")):
        run(tmp_path, [], "submitit")


# Workers


def short(folder: Path, *overrides: str) -> list[Job]:
    chosen = {override.split("=")[0] for override in overrides}
    kept = [each for each in SMALL if each.split("=")[0] not in chosen]
    return jobs_of(*kept, *TINY, "backend.threads=1", "data=text", f"data.path={names(folder)}", *overrides)


@pytest.mark.parametrize("executor", [pytest.param(name, marks=slow) for name in ("joblib", "submitit", "ray")])
def test_workers_write_what_one_process_writes(
    tmp_path: Path, executor: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A group of two for each worker, and a model of another shape that diverges."""
    pytest.importorskip(executor)
    failing = short(tmp_path, "optim.lr=1e30", "train.checkpoint_every=5")[0]
    jobs = [*short(tmp_path, "seed=1|2|3|4"), Job(4, failing.config, failing.overrides)]
    expected = run(tmp_path / "alone", jobs, "process")
    capsys.readouterr()
    outcomes = run(tmp_path, jobs, executor, **({"cluster": "local"} if executor == "submitit" else {}))
    assert all_written(tmp_path) == all_written(tmp_path / "alone")
    assert [read_record(path)["group"] for path in folders(tmp_path).values()] == [2, 2, 2, 2, 1]
    assert {number: outcomes[number] for number in range(4)} == {number: expected[number] for number in range(4)}
    assert str(outcomes[4].error).startswith("the loss of step ")
    printed = capsys.readouterr()
    for worker, count in ((1, 3), (2, 2)):
        assert f"worker {worker}: sweep {tmp_path / FOLDER}: {count} jobs, 0 completed before, " in printed.out
    assert "worker 1: job 4: error: the loss of step " in printed.err
    assert not (tmp_path / FOLDER / ".workers").exists()


@slow
def test_one_worker_of_joblib_is_a_process_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = short(tmp_path, "seed=1|2")
    outcomes = train_jobs("joblib", 1, {}, tmp_path / FOLDER, jobs, None)
    assert [outcomes[number].error for number in (0, 1)] == [None, None]
    lines = capsys.readouterr().out.splitlines()
    assert sum(f"sweep {tmp_path / FOLDER}: 2 jobs" in line for line in lines) == 1
    assert all(line.count("worker 1: ") == 1 for line in lines)


@contextmanager
def once_a_run_trains(folder: Path, act: Callable[[], None]) -> Iterator[None]:
    """Call `act` in another thread once the first run trains, because this thread waits for the workers."""

    def watch() -> None:
        wait_for(folder, "**/history.jsonl", TIMEOUT)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    thread.join()


def kill_a_worker_of_joblib() -> None:
    workers = [child for child in psutil.Process().children() if "popen_loky_posix" in " ".join(child.cmdline())]
    workers[0].kill()


@pytest.mark.slow
def test_a_lost_worker_is_reported_in_a_sentence_and_its_jobs_are_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = short(tmp_path, "train.steps=50000", "train.eval_every=null", "train.checkpoint_every=null", "seed=1|2")
    sentence = r"a joblib worker ended before its jobs finished: [^\n]*; the same command continues from there$"
    with once_a_run_trains(tmp_path, kill_a_worker_of_joblib), pytest.raises(LostWorkerError, match=sentence):
        run(tmp_path, jobs)
    assert "running" in {read_record(path.parent)["status"] for path in (tmp_path / FOLDER).glob("*/run.json")}
    capsys.readouterr()
    outcomes = run(tmp_path, jobs, "process")  # a launcher is no part of a sweep's name
    assert [outcomes[number].error for number in (0, 1)] == [None, None]
    assert " 0 to resume, " not in capsys.readouterr().out
    assert {read_record(path.parent)["status"] for path in (tmp_path / FOLDER).glob("*/run.json")} == {"completed"}


# The command is stopped


LONG = (
    *(each for each in SMALL if not each.startswith("train.")), *TINY, "data=text", "data.path=names.txt",
    "train.steps=100000", "train.log_every=100", "train.eval_every=null", "train.checkpoint_every=10000",
    "backend.threads=1", "seed=range(4)", "hydra.launcher.max_group=1", "hydra.launcher.workers=2",
    "optim.lr=0.001",  # with 0.01, Adam's loss has peaks that may be infinite in float32
)  # fmt: skip
COMMANDS = {
    "joblib": ["hydra/launcher=vectorized_joblib"],
    "submitit": ["hydra/launcher=vectorized_slurm", "hydra.launcher.options.cluster=local"],
    "ray": ["hydra/launcher=vectorized_ray"],
}


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def uninterrupted(shared_program: Program) -> list[dict[str, Any]]:
    """Return the files of the sweep's jobs as written by one process without interruption."""
    names(shared_program.folder)
    shared_program("-m", *LONG)
    return [written_by(job) for job in shared_program.jobs()]


@slow
@pytest.mark.parametrize(
    ("executor", "number"),
    [
        ("joblib", signal.SIGKILL), ("submitit", signal.SIGTERM),
        ("ray", signal.SIGKILL), ("ray", signal.SIGINT), ("ray", signal.SIGTERM),
    ],
)  # fmt: skip
def test_workers_of_a_stopped_sweep_stop_and_the_same_command_completes_it(
    microgpt: Program, uninterrupted: list[dict[str, Any]], executor: str, number: signal.Signals
) -> None:
    """This includes a killed starting process: its workers detect this, or Ray kills them first."""
    pytest.importorskip(executor)
    names(microgpt.folder)
    command = "-m", *COMMANDS[executor], *LONG
    process = microgpt.start(*command)
    sweep = SweepFolder(wait_for(microgpt.folder, "outputs/sweeps/*/*/history.jsonl", TIMEOUT).parents[1])
    process.send_signal(number)
    if number == signal.SIGKILL:  # joblib's workers keep the pipe open for a while
        process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
        output = ""
    else:
        output = process.communicate(timeout=60)[0]
    wait_until(lambda: not sweep.is_held())  # until the last worker has noticed
    statuses = {read_record(job)["status"] for job in microgpt.jobs()}
    if number == signal.SIGKILL:
        assert statuses <= {"completed", "interrupted", *(["running"] if executor == "ray" else [])}
    else:
        assert process.returncode == 128 + number
        assert "\ninterrupted: " in output
        assert statuses <= {"completed", "interrupted"}
    assert statuses != {"completed"}
    microgpt(*command)
    assert [written_by(job) for job in microgpt.jobs()] == uninterrupted


@slow
@pytest.mark.parametrize("executor", COMMANDS)
def test_an_idle_worker_does_not_prevent_the_others_from_saving_checkpoints(microgpt: Program, executor: str) -> None:
    """If the idle worker's process ended, joblib would kill all of them."""
    pytest.importorskip(executor)
    names(microgpt.folder)
    quick = [each for each in LONG if not each.startswith(("seed", "train.steps", "optim"))]
    process = microgpt.start("-m", *COMMANDS[executor], *quick, "train.steps=10,300000", "optim.lr=0.001")
    record = wait_for(microgpt.folder, "outputs/sweeps/*/0/run.json", TIMEOUT)
    wait_until(lambda: json.loads(record.read_text())["status"] == "completed")
    wait_for(microgpt.folder, "outputs/sweeps/*/1/history.jsonl", TIMEOUT)
    time.sleep(0.3)  # until joblib has its result
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert [read_record(job)["status"] for job in microgpt.jobs()] == ["completed", "interrupted"]
    assert "\ninterrupted: 1 of 2 jobs are completed; the same command continues from there\n" in output
