"""The command of a sweep that is killed, interrupted, started twice, out of disk space or partly failing."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.program import TIMEOUT, Program, environment, read_record, wait_for
from support.sweep_runs import SMALL, TINY, names, written_by

pytestmark = pytest.mark.slow

COMMAND = ("-m", *SMALL, *TINY, "data=text", "data.path=names.txt")
VARYING = {"steps_per_sec", "tokens_per_sec", "started_at", "finished_at", "git_commit", "git_dirty"}
LARGE = (*COMMAND, "seed=range(25)", "optim.lr=0.01,0.02", "model.tie_lm_head=true,false", "train.keep_checkpoints=9")
GO_ON = "the same command continues from there"


def prepared(program: Program, name: str = "") -> Program:
    """Return the program in a subfolder with the training documents."""
    folder = program.folder / name
    folder.mkdir(exist_ok=True)
    names(folder)
    return Program(folder, program.started)


def tables(program: Program) -> list[dict[str, Any]]:
    """Return the rows of results/runs without times and rates; the CSV and the JSONL must have the same runs."""
    stem = program.folder / "results" / "runs_style-classic"
    rows = [json.loads(line) for line in Path(f"{stem}.jsonl").read_text().splitlines()]
    with Path(f"{stem}.csv").open() as file:
        assert [row["run_id"] for row in csv.DictReader(file)] == [row["run_id"] for row in rows]
    return [{key: value for key, value in row.items() if key not in VARYING} for row in rows]


def statuses(program: Program) -> list[str]:
    return [read_record(job)["status"] for job in program.jobs()]


def all_written(program: Program) -> dict[str, Any]:
    return {job.name: written_by(job) for job in program.jobs()}


def files(program: Program) -> int:
    """Return the number of files and folders. os.walk tolerates concurrent changes."""
    return sum(len(folders) + len(files) for _, folders, files in os.walk(program.folder))


def kill_at(program: Program, count: int, *arguments: str) -> bool:
    """Send SIGKILL to the command once there are `count` files. Returns whether it was still running."""
    process = program.start(*arguments)
    end = time.monotonic() + TIMEOUT
    while process.poll() is None and files(program) < count:
        assert time.monotonic() < end
        time.sleep(0.01)
    was_alive = process.poll() is None
    process.kill()
    process.communicate()
    return was_alive


def test_a_sweep_of_100_jobs_killed_at_random_moments_has_the_same_table(
    microgpt: Program,
) -> None:
    whole, killed = prepared(microgpt, "whole"), prepared(microgpt, "killed")
    whole(*LARGE)
    expected = tables(whole)
    assert [row["status"] for row in expected] == ["completed"] * 100
    parts = sorted(random.Random(200).uniform(0.05, 0.97) for _ in range(5))
    kills = [kill_at(killed, int(part * files(whole)), *LARGE) for part in parts]
    assert sum(kills) >= 3
    output = killed(*LARGE).stdout
    assert ": 100 jobs, " in output
    assert ", 100 new" not in output
    assert tables(killed) == expected
    assert all_written(killed) == all_written(whole)


def test_a_sweep_killed_while_it_collects_has_the_whole_table_the_next_time(microgpt: Program) -> None:
    program = prepared(microgpt)
    process = microgpt.start(*COMMAND, "seed=range(8)")
    wait_for(microgpt.folder, "results/*")
    process.kill()
    process.communicate()
    assert ": 8 jobs, 8 completed before, " in program(*COMMAND, "seed=range(8)").stdout
    assert len(tables(program)) == 8
    written = {path.name for path in (program.folder / "results").iterdir() if not path.name.startswith(".")}
    assert written == {"runs_style-classic.csv", "runs_style-classic.jsonl", "report.html", "report.md", "report.json"}


def test_commands_started_at_once_share_the_jobs_of_one_that_is_killed(microgpt: Program) -> None:
    whole, shared = prepared(microgpt, "whole"), prepared(microgpt, "shared")
    several = *COMMAND, "seed=range(30)", "hydra.launcher.max_group=2"
    whole(*several)
    processes = [shared.start(*several) for _ in range(3)]
    wait_for(shared.folder, "outputs/sweeps/*/*/checkpoint/latest")
    processes[0].kill()
    ended = [process.communicate(timeout=TIMEOUT) for process in processes]
    assert [process.returncode for process in processes[1:]] == [0, 0], ended
    assert tables(shared) == tables(whole)
    assert all_written(shared) == all_written(whole)
    assert sum("resumed" in read_record(job) for job in shared.jobs()) <= 2


def test_ctrl_c_stops_a_group_at_a_checkpoint_and_the_same_command_finishes(microgpt: Program) -> None:
    whole, stopped = prepared(microgpt, "whole"), prepared(microgpt, "stopped")
    command = [each for each in COMMAND if not each.startswith(("train.", "data"))]
    command += ["seed=1,2,3,4", "hydra.launcher.max_group=2", "train.steps=50000", "train.checkpoint_every=5000"]
    command += ["train.log_every=5000", "train.eval_every=25000", "train.eval_documents=50"]
    whole(*command)
    process = stopped.start(*command)
    wait_for(stopped.folder, "outputs/sweeps/*/2/checkpoint/step_00005000", seconds=TIMEOUT)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    assert f"interrupted: 2 of 4 jobs are completed; {GO_ON}\n" in output
    assert errors == ""
    assert statuses(stopped) == ["completed"] * 2 + ["interrupted"] * 2
    reached = {(job / "checkpoint" / "latest").readlink().name for job in stopped.jobs()[2:]}
    assert len(reached) == 1
    assert "step_00005000" <= reached.pop() < "step_00050000"
    assert (
        ": 4 jobs, 2 completed before, 2 to resume, 0 failed before and run again, 0 new\n" in stopped(*command).stdout
    )
    assert tables(stopped) == tables(whole)


def test_a_full_disk_ends_the_sweep_with_a_sentence_and_the_same_command_finishes(microgpt: Program) -> None:
    """A limit on file sizes simulates a full disk: the write itself fails."""
    whole, full = prepared(microgpt, "whole"), prepared(microgpt, "full")
    command = [each for each in COMMAND if not each.startswith("train.")]
    command += ["seed=1,2,3", "model.tie_lm_head=true,false", "train.steps=600", "train.log_every=1"]
    command += ["train.checkpoint_every=50", "train.eval_every=null"]
    whole(*command)
    code = (
        "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY)); "
        "runpy.run_module('microgpt', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=full.folder, capture_output=True, text=True, timeout=TIMEOUT,
        env=environment(),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("error: outputs/sweeps/")
    assert "File too large; the last checkpoint is kept in outputs/sweeps/" in sentence
    assert statuses(full) == ["interrupted"] * 3
    assert ": 6 jobs, 0 completed before, 3 to resume, 0 failed before and run again, 3 new\n" in full(*command).stdout
    assert tables(full) == tables(whole)
    assert all_written(full) == all_written(whole)


def test_invalid_jobs_fail_alone_and_the_same_command_runs_only_the_failed_ones(microgpt: Program) -> None:
    program = prepared(microgpt)
    some = "-m", *SMALL, "model.n_head=2", "data=text", "data.path=names.txt,late.txt", "model.n_embd=8,9"
    done = program(*some, expect=2)
    rule = "model.n_embd=9 is not allowed: it must be a multiple of model.n_head=2"
    missing = "data.path=late.txt cannot be read: No such file or directory"
    assert done.stderr.splitlines()[:2] == [f"2 jobs (1, 3): error: {rule}", f"job 2: error: {missing}"]
    assert done.stderr.splitlines()[2].startswith("3 job(s) of the sweep failed; see run.json in their folders")
    assert statuses(program) == ["completed", "failed", "failed", "failed"]
    before = (program.jobs()[0] / "run.json").read_bytes()
    (program.folder / "late.txt").write_text("".join(f"{first}nn{last}\n" for first in "abcde" for last in "ai"))
    done = program(*some, expect=2)
    assert missing not in done.stderr
    assert done.stderr.count(rule) == 1
    assert statuses(program) == ["completed", "failed", "completed", "failed"]
    assert (program.jobs()[0] / "run.json").read_bytes() == before
    assert [row["status"] for row in tables(program)].count("completed") == 2
