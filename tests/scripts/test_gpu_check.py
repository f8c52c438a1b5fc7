"""gpu_check.sh on the CPU in a GPU's place: its parts, its files, its limits of time, its exit codes."""

import json
import subprocess
import sys
import time
import tomllib
import zipfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_check import __main__ as program
from gpu_check import beside_nanogpt, checks, replicas, wheels
from gpu_check.measuring import Check, seconds_a_step
from gpu_check.parts import PARTS
from gpu_check.results import COMPLETED, FAILED, NOT_RUN, TIMED_OUT, OutOfTimeError, PartResult, RestartError, Results
from support.fake_cuda_graphs import use_fake_graphs
from support.fake_gpu import ROOT, SCRIPTS

from microgpt.benchmarks.reference import names_corpus
from microgpt.errors import MicrogptError

STUB = """
import dataclasses
import torch
@dataclasses.dataclass
class GPTConfig:
    vocab_size: int; block_size: int; n_layer: int; n_head: int; n_embd: int; dropout: float; bias: bool
class Optimizer:
    def step(self):
        pass
    def zero_grad(self, set_to_none):
        pass
class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.wte = torch.nn.Embedding(config.vocab_size, config.vocab_size)
    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return Optimizer()
    def forward(self, tokens, targets):
        return None, torch.nn.functional.cross_entropy(self.wte(tokens).flatten(0, 1), targets.flatten())
    def generate(self, tokens, count):
        return tokens
"""

WITHOUT = """
import sys
from importlib.machinery import PathFinder
class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in {} else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""


def results_in(folder: Path, *names: str) -> Results:
    parts = [PartResult(name, PARTS[name].title, PARTS[name].columns) for name in names]
    results = Results(folder, {"device": "cpu"}, "bash scripts/gpu_check.sh", parts)
    results.write()
    return results


def check_of(results: Results, seconds: float = 60.0) -> Check:
    return Check("cpu", True, [3, 5], None, time.monotonic() + seconds, results)


# Parts


def test_every_kind_of_kernel_trains_the_same_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fake_graphs(monkeypatch)
    (tmp_path / "names").write_text("anna\nbo\nclara\n" * 5)
    corpus = names_corpus("text", str(tmp_path / "names"))
    monkeypatch.setattr(replicas, "names_corpus", lambda: corpus)
    monkeypatch.setattr(Check, "why_left_out", lambda self, kernel: "compiled" if "compiled" in kernel else None)
    monkeypatch.setattr(Check, "seconds", 0.01)
    results = results_in(tmp_path, "replicas")
    replicas.measure(check_of(results))
    rows = Results.load(tmp_path).part("replicas").rows
    assert [(row["R"], row["kernel"]) for row in rows[:4]] == [
        (3, "eager"), (5, "eager"), (3, "cuda_graph"), (5, "cuda_graph"),
    ]  # fmt: skip
    for row in rows[:4]:
        assert row["us a model's step"] == pytest.approx(1e3 * row["ms a step"] / row["R"])
        assert row["MiB"] > 0
    assert [row["left_out"] for row in rows[4:]] == ["compiled"] * 2

    real = replicas.engine_of

    def other_weights(*arguments: Any) -> Any:
        engine = real(*arguments)
        state = engine.state()
        engine.load(type(state)({name: array * 1.1 for name, array in state.parameters.items()}))
        return engine if arguments[0].kernel == "cuda_graph" else real(*arguments)

    monkeypatch.setattr(replicas, "engine_of", other_weights)
    results.part("replicas").rows.clear()
    with pytest.raises(MicrogptError, match=r"^2 of 6 measurements failed$"):
        replicas.measure(check_of(results))
    assert "its losses differ by" in results.part("replicas").rows[2]["problem"]


def test_both_programs_are_measured_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.py").write_text(STUB)
    monkeypatch.setattr(Check, "seconds", 0.01)
    monkeypatch.setattr(beside_nanogpt, "loss_difference", lambda *arguments: 1e-6)
    results = results_in(tmp_path, "nanogpt")
    beside_nanogpt.measure(replace(check_of(results), nanogpt_dir=str(tmp_path)))
    rows = [row for row in results.part("nanogpt").rows if "left_out" not in row]
    assert [(row["program"], row["dtype"]) for row in rows] == [
        ("nanoGPT", "bfloat16"), ("microgpt", "bfloat16"), ("nanoGPT", "float32"), ("microgpt", "float32"),
    ]  # fmt: skip
    for theirs, ours in (rows[:2], rows[2:]):
        assert ours["tokens a second"] == pytest.approx(32e3 / ours["ms a step"])
        assert ours["times nanoGPT"] == ours["tokens a second"] / theirs["tokens a second"]
    assert "the losses differ by 1.0e-06" in (tmp_path / "report.md").read_text()
    results.part("nanogpt").rows.clear()
    beside_nanogpt.measure(check_of(results))
    assert {row["program"] for row in results.part("nanogpt").rows} == {"microgpt"}
    assert "nanoGPT is left out: --nanogpt-dir is not set." in (tmp_path / "report.md").read_text()


def test_a_failed_measurement_stops_no_other_and_time_is_not_exceeded(tmp_path: Path) -> None:
    results = results_in(tmp_path, "replicas", "doctor")

    def out_of_memory() -> dict[str, float]:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried")

    measurements = [({"R": 1}, out_of_memory), ({"R": 2}, lambda: {"ms a step": 1.5})]
    with pytest.raises(MicrogptError, match=r"^1 of 2 measurements failed$"):
        check_of(results).measure_all("replicas", measurements)
    problem, good = results.part("replicas").rows
    assert (problem["problem"], good["ms a step"]) == ("CUDA out of memory.", 1.5)
    results.part("replicas").rows.clear()
    on_gpu = replace(check_of(results), device="cuda")  # a failure there ends the process; the next one goes on
    with pytest.raises(RestartError, match=r"^1 failed$"):
        on_gpu.measure_all("replicas", measurements)
    with pytest.raises(MicrogptError, match=r"^1 of 2 measurements failed$"):
        on_gpu.measure_all("replicas", measurements)
    assert results.part("replicas").rows == [problem, good | {"MiB": results.part("replicas").rows[1]["MiB"]}]
    late = check_of(results, seconds=-1)
    with pytest.raises(OutOfTimeError, match=r"^no time for 1 of 1 measurements$"):
        late.measure_all("doctor", [({"check": "late"}, out_of_memory)])
    report = (tmp_path / "report.md").read_text()
    assert "| 2 |  | 1.5 |" in report
    assert "problem: CUDA out of memory. |" in report
    assert "left out: no time |" in report


def test_the_time_of_a_step_is_a_median_without_the_warm_up() -> None:
    calls = []

    def advance(steps: int) -> None:
        calls.append(steps)
        time.sleep(0.05 if len(calls) == 1 else 0.001 * steps)

    assert 0.001 <= seconds_a_step(advance, 0.01) < 0.01
    assert calls[:2] == [3, 3]
    assert len(calls) == 5


@pytest.mark.parametrize(
    ("ended", "code", "message"),
    [
        (["passed", "failed"], 1, "1 tests failed"),
        (["passed", "skipped"], 0, "1 tests were skipped"),
        (["passed"], None, "stopped after 1 tests"),
        ([], 5, "pytest ended with exit code 5 after 0 tests passed"),
        (["passed"], 0, None),
    ],
)
def test_the_compliance_suite_must_have_passed_on_the_gpu(
    ended: list[str], code: int | None, message: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_pytest(check: Check, selected: str, lines: Path) -> int | None:
        tests = [{"name": "test_x", "outcome": outcome, "message": "why"} for outcome in ended]
        lines.write_text("".join(f"{json.dumps(test)}\n" for test in tests))
        return code

    monkeypatch.setattr(checks, "run_pytest", run_pytest)
    results = results_in(tmp_path, "compliance")
    with nullcontext() if message is None else pytest.raises(MicrogptError, match=f"^{message}$"):
        checks.compliance(replace(check_of(results), device="cuda"))
    (row,) = results.part("compliance").rows
    assert [row[outcome] for outcome in ("passed", "failed", "skipped")] == [
        ended.count(outcome) for outcome in ("passed", "failed", "skipped")
    ]


# The whole check


@pytest.mark.slow
def test_a_check_on_the_cpu(tmp_path: Path) -> None:
    """It needs nothing beyond PyTorch and the collected wheels; a part that fails stops no other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {line.split("~")[0].split(">")[0] for line in project["dependencies"]}
    unneeded = declared - set(wheels.NEEDED)
    assert {"numba", "scipy", "pandas"} <= unneeded
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(WITHOUT.format(sorted(unneeded)))
    (tmp_path / "model.py").write_text(STUB)
    arguments = ["--device", "cpu", "--quick", "--nanogpt-dir", str(tmp_path), "--out", "out"]
    done = subprocess.run(
        ["bash", str(SCRIPTS / "gpu_check.sh"), *arguments], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHON": sys.executable, "PYTHONPATH": str(site)},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    status = {part["name"]: (part["status"], part["reason"]) for part in found["parts"]}
    reason = "1/2/16, block 16, batch 2: the programs do not compute the same model"
    assert status == dict.fromkeys(PARTS, (COMPLETED, "")) | {"nanogpt": (FAILED, reason)}
    assert f"nanogpt: failed: {reason}\nverdict: 5 of 6 parts completed\n" in done.stdout
    rows = {part["name"]: part["rows"] for part in found["parts"]}
    assert rows["compliance"][0]["passed"] > 0
    assert [row["R"] for row in rows["replicas"] if "ms a step" in row] == [4, 64]
    assert "aten::" in rows["profile"][0]["longest, us a step"]
    assert {row["program"] for row in rows["sampling"] if row["tokens a second"] > 0} == {"nanoGPT", "microgpt"}
    assert (tmp_path / "out" / "report.md").read_text().startswith("# GPU check\n")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["log.txt", "report.md", "results.json"]


def test_a_part_is_killed_at_the_end_of_its_time(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        start = time.monotonic()
        assert program.run_limited(["bash", "-c", "sleep 60 & sleep 60"], log, 0.2) is None
        assert time.monotonic() - start < 10
        assert program.run_limited([sys.executable, "-c", "raise SystemExit(7)"], log, 20) == 7


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ([COMPLETED, COMPLETED], 0),
        ([TIMED_OUT, FAILED], 1),
        ([COMPLETED, TIMED_OUT], 124),
        ([NOT_RUN, COMPLETED], 124),
    ],
)
def test_the_exit_code_names_the_worst_part(
    statuses: list[str], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = results_in(tmp_path, "doctor", "compliance")
    for part, status in zip(results.parts, statuses, strict=True):
        part.status, part.reason = status, "a reason"
    assert program.conclude(results) == code
    said = capsys.readouterr().out
    for part in results.parts:
        assert (f"{part.name}: {part.status}: a reason\n" in said) == (part.status != COMPLETED)
    assert f"verdict: {statuses.count(COMPLETED)} of 2 parts completed\n" in said


def test_how_a_part_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("error: of an earlier part\nTraceback\nRuntimeError: CUDA error\nlast line\n")
    part = PartResult("doctor", "Doctor", [])
    for code, expected in (
        (0, (COMPLETED, "")),
        (None, (TIMED_OUT, "it was stopped after 9 s")),
        (124, (TIMED_OUT, "RuntimeError: CUDA error")),
        (1, (FAILED, "RuntimeError: CUDA error")),
    ):
        part.status, part.reason = NOT_RUN, ""
        program.finish_part(part, code, 3.0, 9.0, log, len("error: of an earlier part\n"))
        assert (part.status, part.reason, part.seconds) == (*expected, 3.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nanogpt-dir", "nowhere"], "--nanogpt-dir=nowhere is not a checkout of nanoGPT: it has no model.py"),
        (["--replicas", "4,0"], "--replicas=4,0 is not allowed: it must be whole numbers of at least 1, as in 64,1024"),
    ],
)
def test_an_invalid_option_is_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu_check", *arguments])
    assert program.main() == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert list(tmp_path.iterdir()) == []


# Wheels


def test_wheels_are_collected_for_another_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        (tmp_path / "a_package-1.0-py3-none-any.whl").write_bytes(bytes(1_500_000))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    assert wheels.main(["collect", str(tmp_path), "--python", "3.13"]) == 0
    download, build = commands
    assert {"--python-version=3.13", "--platform=manylinux_2_28_x86_64", "hydra-core"} <= set(download)
    assert build[-1] == "antlr4-python3-runtime"
    assert capsys.readouterr().out == f"1 wheels for Python 3.13 on Linux x86_64, 1.5 MB: {tmp_path}\n"
    constrained = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert constrained >= {name.lower() for name in (*wheels.NEEDED, *wheels.WITHOUT_WHEEL)}


def test_only_missing_packages_are_unpacked(tmp_path: Path) -> None:
    folder, site = tmp_path / "wheels", tmp_path / "site"
    folder.mkdir()
    assert wheels.main(["unpack", str(folder), str(site)]) == 2
    for name in ("numpy", "surely_not_there"):
        with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{name}/__init__.py", "")
    assert wheels.main(["unpack", str(folder), str(site)]) == 0
    assert [path.name for path in site.iterdir()] == ["surely_not_there"]
