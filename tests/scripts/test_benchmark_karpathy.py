"""The comparison with Karpathy's programs: every way that a run can end, with programs that simulate training."""

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from karpathy import benchmark as karpathy
from karpathy import processes, sources
from karpathy.comparison import COMPLETED, FAILED, FELL_BACK, TIMED_OUT, BaselineComparison, Run, exit_code
from karpathy.machine import choose_device
from karpathy.workloads import BASELINES, make_setup
from support.fake_programs import GPU, MICROGPT, NANOGPT, Stage, make_stage, see_gpu, write

NO_REPORT = Path(__file__).parents[1] / "golden" / "k2_seed42.json"  # a JSON document of something else


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Stage:
    return make_stage(tmp_path, monkeypatch, capsys)


# Results of a successful benchmark


@pytest.mark.slow
def test_three_completed_comparisons_end_with_0_and_leave_reports_and_logs(stage: Stage) -> None:
    assert stage("--baseline", "all", repeats=2) == 0
    report = stage.report()
    assert [comparison["baseline"] for comparison in report["comparisons"]] == list(BASELINES)
    assert report["exit_code"] == 0
    assert not report["interrupted"]
    assert report["hardware"]["cores"] >= 1
    for comparison in report["comparisons"]:
        labels = {contestant["label"] for contestant in comparison["contestants"]}
        assert {run["round"] for run in comparison["runs"]} == {0, 1, 2}
        assert len(comparison["runs"]) == 3 * len(labels)
        for run in comparison["runs"]:
            assert run["status"] == COMPLETED, run["reason"]
            assert "[exit code 0" in Path(run["log"]).read_text()
    assert stage.markdown() in stage.out
    assert "round 2 of 2" in stage.err


@pytest.mark.slow
def test_rounds_are_interleaved_and_every_other_one_is_reversed(stage: Stage) -> None:
    assert stage("--baseline", "nanogpt", repeats=2) == 0
    (comparison,) = stage.report()["comparisons"]
    order = [[run["contestant"] for run in comparison["runs"] if run["round"] == n] for n in range(3)]
    assert order[0] == order[2] == order[1][::-1]
    assert len(set(order[0])) == 3


@pytest.mark.slow
def test_a_round_goes_through_all_comparisons_before_the_next_one_and_all_warm_up_first(stage: Stage) -> None:
    assert stage("--baseline", "all", repeats=2) == 0
    said = re.findall(r"^(\w+), (warm-up|round \d of 2): ", stage.err, re.MULTILINE)
    turns = [turn for turn, _ in itertools.groupby(said)]
    assert turns == [(name, turn) for turn in ("warm-up", "round 1 of 2", "round 2 of 2") for name in BASELINES]


@pytest.mark.slow
def test_an_earlier_report_is_compared_with(stage: Stage) -> None:
    assert stage("--baseline", "nanogpt", repeats=2) == 0
    first = stage.report()
    (file,) = (stage.folder / "here" / "results").glob("*.json")
    earlier = file.rename(stage.folder / "earlier.json")
    assert stage("--baseline", "nanogpt", "--earlier", str(earlier), repeats=2) == 0
    found = stage.report()["earlier"]
    assert found["started_at"] == first["started_at"]
    rows = {row["label"]: row for row in found["rows"]}
    assert rows.keys() == {"microgpt torch, float32", "microgpt native, float32"}
    for contestant in first["comparisons"][0]["contestants"][1:]:
        row = rows[contestant["label"]]
        low, high = contestant["ratio"]["expected"]
        assert row["agrees"] == (low <= row["now"] <= high)
    assert f"{sum(row['agrees'] for row in rows.values())} of 2 ratios are as that run expected" in stage.out


@pytest.mark.slow
def test_figures_are_those_of_training_alone(stage: Stage) -> None:
    assert stage("--baseline", "nanogpt", repeats=1) == 0
    (comparison,) = stage.report()["comparisons"]
    theirs, torch, _ = comparison["contestants"]
    # 2 ms a step, and 50 ms for each evaluation, which is left out; on a busy machine, both last longer.
    assert 0.001 <= theirs["seconds_per_step"]["median"] < 0.025
    assert torch["seconds_per_step"]["median"] == pytest.approx(0.01)
    assert torch["tokens_per_sec"]["median"] == pytest.approx(7 * 12 / 0.01)
    expected = torch["tokens_per_sec"]["median"] / theirs["tokens_per_sec"]["median"]
    assert torch["ratio"]["median"] == pytest.approx(expected)
    assert theirs["tokens_per_sec"]["median"] == pytest.approx(12 * 64 / theirs["seconds_per_step"]["median"])
    assert theirs["peak_memory"] > 1 << 20


@pytest.mark.slow
def test_differences_are_named_beside_each_figure_and_described_below(stage: Stage) -> None:
    assert stage("--baseline", "nanochat") == 0
    (comparison,) = stage.report()["comparisons"]
    page = stage.markdown()
    for contestant in comparison["contestants"]:
        assert "architecture, optimizer, vocabulary, init |" in page
        assert not {"bfloat16", "compile"} & set(contestant["differences"])
    assert f"- optimizer: {comparison['differences']['optimizer']}." in page
    assert "- bfloat16" not in page


@pytest.mark.slow
def test_time_to_a_loss_is_that_to_the_requested_loss(stage: Stage) -> None:
    assert stage("--baseline", "nanogpt", "--val-loss", "2.997") == 0
    (comparison,) = stage.report()["comparisons"]
    assert comparison["val_loss"] == 2.997
    assert comparison["contestants"][1]["seconds_to_val_loss"]["median"] == pytest.approx(
        4 * 0.01
    )  # an evaluation every 2
    assert "s to val loss 2.9970" in stage.markdown()


@pytest.mark.slow
def test_loss_that_nobody_reaches_leaves_its_time_empty(stage: Stage) -> None:
    assert stage("--baseline", "nanogpt", "--val-loss", "0.5") == 0
    (comparison,) = stage.report()["comparisons"]
    assert all(contestant["seconds_to_val_loss"] is None for contestant in comparison["contestants"])


@pytest.mark.slow
def test_microgpt_py_gets_the_validation_losses_of_the_float64_run_that_agrees_with_it(stage: Stage) -> None:
    assert stage("--baseline", "microgpt") == 0
    (comparison,) = stage.report()["comparisons"]
    assert comparison["contestants"][0]["final_val_loss"]["median"] == pytest.approx(3 - 10 / 1000)
    assert "agree to the four printed digits at 20 steps" in stage.markdown()


@pytest.mark.slow
def test_rising_validation_loss_is_noted(stage: Stage) -> None:
    astray = NANOGPT.replace("{3 - step / 1000:.4f}", "{3 + step:.4f}")
    write(stage.folder / "nanogpt" / "train.py", astray)
    assert stage("--baseline", "nanogpt") == 0
    (note,) = [one for one in stage.report()["comparisons"][0]["notes"] if "rose again" in one]
    assert note.startswith("the validation loss of nanoGPT, float32 rose again")


@pytest.mark.slow
def test_threads_limit_both_programs(stage: Stage) -> None:
    assert stage("--baseline", "nanogpt", "--threads", "3") == 0
    assert stage.runs("nanoGPT, float32")[0]["command"].startswith("OMP_NUM_THREADS=3 ")
    assert "backend.threads=3" in stage.runs("microgpt native, float32")[0]["command"]


# Failures


@pytest.mark.slow
@pytest.mark.parametrize(
    ("behave", "label", "code", "status", "reason"),
    [
        ("nanogpt:fail", "nanoGPT, float32", 1, FAILED, "exit code 1: RuntimeError: out of luck"),
        ("ours_torch:fail", "microgpt torch, float32", 1, FAILED, "out of luck"),
        ("nanogpt:quiet", "nanoGPT, float32", 1, FAILED, "no times of steps"),
        ("ours_native:quiet", "microgpt native, float32", 1, FAILED, "it left 0 run.json"),
        ("nanogpt:nan", "nanoGPT, float32", 1, FAILED, "a loss became non-finite"),
    ],
)
def test_failed_run_is_recorded_and_not_repeated_and_the_others_go_on(
    stage: Stage, behave: str, label: str, code: int, status: str, reason: str
) -> None:
    assert stage("--baseline", "nanogpt", behave=behave, repeats=2) == code
    (run,) = stage.runs(label)
    assert run["status"] == status
    assert reason in run["reason"]
    assert f"{label}" in stage.markdown()
    assert f"**{status}**" in stage.markdown()
    (comparison,) = stage.report()["comparisons"]
    assert {len(stage.runs(c["label"])) for c in comparison["contestants"] if c["label"] != label} == {3}


@pytest.mark.slow
def test_run_out_of_time_is_killed_with_what_it_started_and_ends_with_124(stage: Stage) -> None:
    assert stage("--baseline", "nanogpt", "--timeout", "3", behave="nanogpt:hang") == 124
    (run,) = stage.runs("nanoGPT, float32")
    assert run["status"] == TIMED_OUT
    assert run["reason"] == "it ran longer than --timeout=3 seconds"
    (child,) = [line.split()[1] for line in Path(run["log"]).read_text().splitlines() if line.startswith("child ")]
    assert is_gone(int(child))


def is_gone(pid: int) -> bool:
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("who", ["nanogpt", "ours_torch"])
def test_run_that_falls_back_to_the_cpu_is_recorded_and_ends_with_3(stage: Stage, who: str) -> None:
    see_gpu(stage, usable=True)
    assert stage("--baseline", "nanogpt", "--profile", "quick", behave=f"{who}:cpu") == 3
    label = "nanoGPT, float32, compiled" if who == "nanogpt" else "microgpt torch, float32, compiled"
    (run,) = stage.runs(label)
    assert run["status"] == FELL_BACK
    assert "a GPU was requested, but the run computed on cpu" in run["reason"]


def test_nanochat_that_falls_back_to_the_cpu_ends_with_3(stage: Stage) -> None:
    see_gpu(stage, usable=True)
    assert stage("--baseline", "nanochat", "--profile", "quick", behave="nanochat:cpu") == 3


@pytest.mark.slow
def test_runs_on_a_gpu_complete_in_both_precisions(stage: Stage) -> None:
    see_gpu(stage, usable=True)
    assert stage("--baseline", "nanogpt", "--profile", "full") == 0
    report = stage.report()
    labels = {contestant["label"] for contestant in report["comparisons"][0]["contestants"]}
    both = [f"{dtype}{compiled}" for dtype in ("float32", "bfloat16") for compiled in ("", ", compiled")]
    assert labels == {f"{program}, {kind}" for program in ("nanoGPT", "microgpt torch") for kind in both}
    assert report["gpu_required"]
    w = report["comparisons"][0]["workload"]
    assert (w["n_layer"], w["n_head"], w["n_embd"], w["block_size"], w["batch_size"]) == (4, 4, 128, 128, 32)
    assert "NVIDIA_TF32_OVERRIDE=0" in stage.runs("nanoGPT, float32")[0]["command"]
    assert "NVIDIA_TF32_OVERRIDE" not in stage.runs("nanoGPT, bfloat16")[0]["command"]


def test_missing_required_gpu_ends_with_3_before_any_run(stage: Stage) -> None:
    assert stage("--baseline", "nanogpt", "--require-gpu") == 3
    assert "nvidia-smi lists none: nothing is run" in stage.err
    assert not list(stage.folder.joinpath("here").iterdir())


def test_visible_gpu_is_required(stage: Stage) -> None:
    see_gpu(stage, usable=False)
    assert stage("--baseline", "nanogpt") == 3
    assert "required, as it is visible (unless --no-require-gpu is given), but PyTorch cannot use" in stage.err


@pytest.mark.slow
def test_unusable_gpu_is_allowed_with_no_require_gpu(stage: Stage) -> None:
    see_gpu(stage, usable=False)
    assert stage("--baseline", "nanogpt", "--no-require-gpu") == 0
    report = stage.report()
    assert "PyTorch cannot use Simulated GPU, all runs are on the CPU" in report["gpu"]
    assert report["comparisons"][0]["workload"]["device"] == "cpu"
    assert "backend.device=cpu" in stage.runs("microgpt torch, float32")[0]["command"]


@pytest.mark.parametrize("require", [None, True, False])
@pytest.mark.parametrize("usable", [True, False])
@pytest.mark.parametrize("visible", [True, False])
@pytest.mark.parametrize("baselines", [["microgpt"], ["nanogpt"], list(BASELINES)])
def test_gpu_is_used_if_usable_and_refused_only_if_required(
    require: bool | None, usable: bool, visible: bool, baselines: list[str]
) -> None:
    found = choose_device(require, GPU if visible else [], baselines, lambda: usable)
    assert (found.device == "cuda") == (visible and usable and (require is True or baselines != ["microgpt"]))
    wanted = require or (require is None and visible and baselines != ["microgpt"])
    assert found.refused == bool(wanted and not (visible and usable))
    assert found.required == bool(wanted)


@pytest.mark.slow
def test_missing_baseline_is_recorded_and_the_others_are_compared(stage: Stage) -> None:
    assert stage("--baseline", "all", "--nanogpt-dir", str(stage.folder / "absent")) == 1
    first, second, third = stage.report()["comparisons"]
    assert second["baseline"] == "nanogpt"
    assert "cannot be copied" in second["problem"]
    assert second["runs"] == []
    assert first["problem"] is third["problem"] is None
    assert "**Not run**" in stage.markdown()


def test_folder_of_another_program_is_not_a_checkout(stage: Stage) -> None:
    assert stage("--baseline", "nanogpt", "--nanogpt-dir", str(stage.folder / "nanochat")) == 1
    assert "is not a checkout of nanogpt: it has no train.py" in stage.report()["comparisons"][0]["problem"]


def test_unexpected_microgpt_py_is_rejected_by_the_missing_line(stage: Stage) -> None:
    write(stage.folder / "microgpt.py", MICROGPT.replace("num_steps = 1000", "steps = 1000"))
    assert stage("--baseline", "microgpt") == 1
    assert "`num_steps = <number>`" in stage.report()["comparisons"][0]["problem"]


def test_failure_to_write_the_data_of_nanochat_is_recorded(stage: Stage) -> None:
    assert stage("--baseline", "nanochat", behave="data:fail") == 1
    assert "its data cannot be written: exit code 1" in stage.report()["comparisons"][0]["problem"]


def test_missing_packages_are_named_with_the_option_that_installs_them(stage: Stage) -> None:
    stage.monkeypatch.setitem(karpathy.PACKAGES, "nanogpt", {"absent_for_sure": "absent-for-sure", "json": "json"})
    assert stage("--baseline", "nanogpt") == 1
    problem = stage.report()["comparisons"][0]["problem"]
    assert problem == "nanogpt needs absent-for-sure, which this Python lacks: install these or use --install-deps"


def test_ctrl_c_writes_the_results_so_far_and_ends_with_130(stage: Stage) -> None:
    assert stage("--baseline", "nanogpt", behave="ours_native:stop") == 130
    report = stage.report()
    assert report["interrupted"]
    assert report["exit_code"] == 130
    assert [run["contestant"] for run in report["comparisons"][0]["runs"]] == [
        "nanoGPT, float32",
        "microgpt torch, float32",
    ]
    assert "interrupted" in stage.markdown()
    assert stage.markdown().count("**not run**") == 3  # a warm-up does not count
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--steps", "12"], "--steps=12 is not allowed"),
        (["--steps", "5"], "--steps=5 is not allowed"),
        (["--repeats", "0"], "--repeats=0 is not allowed: it must be at least 1"),
        (["--threads", "0"], "--threads=0 is not allowed"),
        (["--timeout", "0"], "--timeout=0 is not allowed"),
        (["--timeout", "nan"], "--timeout=nan is not allowed"),
        (["--seed", "-1"], "--seed=-1 is not allowed"),
        (["--val-loss", "-1"], "--val-loss=-1 is not allowed"),
        (["--data", "absent.txt"], "--data=absent.txt cannot be read"),
        (
            ["--baseline", "microgpt", "--nanogpt-dir", "x"],
            "--nanogpt-dir=x cannot be combined with --baseline microgpt",
        ),
        (["--nanogpt-dir", "x", "--nanogpt-ref", "y"], "--nanogpt-ref cannot be combined with --nanogpt-dir"),
        (["--nanochat-dir", ""], "--nanochat-dir is empty"),
        (["--earlier", "absent.json"], "--earlier=absent.json cannot be read"),
        (["--earlier", os.devnull], f"--earlier={os.devnull} cannot be read"),
        (["--earlier", str(NO_REPORT)], f"--earlier={NO_REPORT} is not a report of this script with schema_version 2"),
    ],
)
def test_mistake_is_one_sentence_and_leaves_nothing(stage: Stage, arguments: list[str], sentence: str) -> None:
    assert karpathy.main(arguments) == 2
    assert f"error: {sentence}" in stage.capsys.readouterr().err
    assert not list(Path.cwd().iterdir())


def test_results_that_cannot_be_written_are_a_mistake(stage: Stage) -> None:
    write(Path("results"), "a file")
    assert stage("--baseline", "nanogpt") == 2
    assert "cannot be written" in stage.err


@pytest.mark.parametrize("found", [{FAILED, FELL_BACK, TIMED_OUT}, {FELL_BACK, TIMED_OUT}, {TIMED_OUT}, {COMPLETED}])
def test_exit_code_is_that_of_the_gravest_status(found: set[str]) -> None:
    runs = [Run("x", 1, status) for status in sorted(found)]
    one = BaselineComparison("nanogpt", make_setup("nanogpt", "quick", "cpu", 1), [], {}, runs=runs)
    expected = 1 if FAILED in found else 3 if FELL_BACK in found else 124 if TIMED_OUT in found else 0
    assert exit_code([one]) == expected
    one.problem = "it is not available"
    assert exit_code([one]) == 1


# Copies of the baselines


def refuse_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("install", [[], ["--install-deps"]])
def test_dry_run_shows_the_commands_and_touches_neither_network_nor_disk(
    stage: Stage, local: bool, install: list[str]
) -> None:
    refuse_network(stage.monkeypatch)
    for name in ("git", "pip", "curl"):
        write(stage.folder / "bin" / name, f"#!/bin/sh\ntouch {stage.folder}/called_{name}\n").chmod(0o755)
    stage.monkeypatch.setenv("PATH", f"{stage.folder / 'bin'}:{os.environ['PATH']}")
    stage.monkeypatch.setitem(karpathy.PACKAGES, "nanochat", {"absent_for_sure": "absent-for-sure"})
    before = sorted(stage.folder.rglob("*"))
    assert stage("--baseline", "all", "--dry-run", *install, local=local) == 0
    assert sorted(stage.folder.rglob("*")) == before
    assert "--num-iterations=10" in stage.out
    assert "--max_iters=10" in stage.out
    assert "train.steps=10" in stage.out
    assert ("would copy" if local else "would clone https://github.com/karpathy/nanoGPT.git at 3adf61e1") in stage.out
    assert f"would {'install' if install else 'fail without'} absent-for-sure" in stage.out


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_clone_has_the_pinned_or_the_requested_commit(stage: Stage) -> None:
    origin = stage.folder / "nanogpt"
    git(origin, "init", "--quiet")
    commits = []
    for number in range(3):
        write(origin / "train.py", f"{NANOGPT}# {number}\n")
        git(origin, "add", ".")
        git(origin, "commit", "--quiet", "-m", "x")
        commits.append(git(origin, "rev-parse", "HEAD"))
    stage.monkeypatch.setitem(sources.REPOSITORIES, "nanogpt", (str(origin), commits[0], "train.py"))
    for wanted in (sources.Origin("nanogpt"), sources.Origin("nanogpt", ref=commits[1])):
        copy, source = wanted.obtain(stage.folder / "scratch")
        ref = wanted.ref or commits[0]
        assert source["ref"] == ref
        assert (copy / "train.py").read_text() == f"{NANOGPT}# {commits.index(ref)}\n"
    with pytest.raises(
        processes.UnavailableError, match=r"cannot be cloned .* use a local checkout with --nanogpt-dir"
    ):
        sources.Origin("nanogpt", ref="absent").obtain(stage.folder / "scratch")


def test_clone_without_network_is_recorded(stage: Stage) -> None:
    stage.monkeypatch.setitem(sources.REPOSITORIES, "nanogpt", (str(stage.folder / "absent.git"), "x", "train.py"))
    assert stage("--baseline", "nanogpt", local=False) == 1
    assert "use a local checkout with --nanogpt-dir" in stage.report()["comparisons"][0]["problem"]


@pytest.mark.slow
def test_local_checkout_is_identified_and_not_changed(stage: Stage) -> None:
    origin = stage.folder / "nanogpt"
    git(origin, "init", "--quiet")
    git(origin, "add", ".")
    git(origin, "commit", "--quiet", "-m", "x")
    commit = git(origin, "rev-parse", "HEAD")
    assert stage("--baseline", "nanogpt") == 0
    assert stage.report()["comparisons"][0]["source"]["ref"] == commit
    assert git(origin, "status", "--porcelain", "--untracked-files=all") == ""
    write(origin / "train.py", NANOGPT + "# changed")
    assert sources.head_of(origin) == f"{commit}-dirty"


def test_microgpt_py_that_cannot_be_fetched_is_recorded(stage: Stage) -> None:
    def fail(*arguments: Any, **named: Any) -> None:
        raise urllib.error.URLError("no route to host")

    stage.monkeypatch.setattr(urllib.request, "urlopen", fail)
    assert stage("--baseline", "microgpt", local=False) == 1
    problem = stage.report()["comparisons"][0]["problem"]
    assert "no route to host" in problem
    assert "use a copy with --microgpt-file" in problem


def tiny_wheel(folder: Path) -> Path:
    """A package that can be installed without a network."""
    import zipfile

    file = folder / "tiny_for_test-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr("tiny_for_test.py", "")
        info = "tiny_for_test-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-for-test\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return file


@pytest.mark.slow
def test_missing_packages_are_installed_without_changing_this_python(tmp_path: Path) -> None:
    packages = {"tiny_for_test": str(tiny_wheel(tmp_path)), "numpy": "numpy"}
    python = processes.python_for("x", packages, install=True, scratch=tmp_path, logs=tmp_path / "logs")
    assert python != sys.executable
    assert processes.missing(python, packages) == []  # numpy is this Python's
    assert processes.missing(sys.executable, packages) == [packages["tiny_for_test"]]
    absent = {"absent_for_sure": str(tmp_path / "absent-1.0-py3-none-any.whl")}
    with pytest.raises(processes.UnavailableError, match="cannot be installed"):
        processes.python_for("x", absent, install=True, scratch=tmp_path, logs=tmp_path / "logs")
