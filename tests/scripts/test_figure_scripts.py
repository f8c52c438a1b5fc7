"""scripts/measure_fidelity.py, benchmark_startup.py and benchmark_memory.py: their tables, and their error messages."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from support.program import load_script

ROOT = Path(__file__).parents[2]
SCRIPTS = ("measure_fidelity", "benchmark_startup", "benchmark_memory")
needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="this system has no /proc/self/status to read"
)
# Replaces microgpt.py: it has the lines that the script edits, and takes losses and samples from mode=scalar.
REFERENCE = """
import json, random, subprocess, sys
from pathlib import Path
from types import SimpleNamespace
random.seed(42)
seed = 42 if random.getstate() == random.Random(42).getstate() else 7
n_embd = 16
n_head = 4
n_layer = 1
block_size = 16
learning_rate, beta1, beta2, eps_adam = 0.01, 0.85, 0.99, 1e-8
num_steps = 1000
model = [f"model.{key}={globals()[key]}" for key in ("n_embd", "n_head", "n_layer", "block_size")]
command = [sys.executable, "-m", "microgpt", "experiment=karpathy", "data=text", "data.path=input.txt"]
command += [f"seed={seed}", f"train.steps={num_steps}", "outputs_dir=theirs", *model]
subprocess.run(command, check=True, capture_output=True)
(run,) = Path("theirs").glob("*/*/run.json")
for step, line in enumerate(run.with_name("history.jsonl").read_text().splitlines()):
    loss = SimpleNamespace(data=json.loads(line)["loss"] + ADDED)
    print(f"step {step+1:4d} / {num_steps:4d} | loss {loss.data:.4f}")
samples = json.loads(run.read_text())["samples"]
for sample_idx in range(20):
    print(f"sample {sample_idx+1:2d}: {samples[sample_idx]}")
"""


def table(out: str, heading: str) -> dict[str, list[str]]:
    """Return the rows below a heading that begins with this text, by their first column."""
    lines = out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {heading}"))
    columns = lines[start].count("|")
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        assert line.count("|") == columns, "a row has as many cells as the heading"
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rows[name] = cells
    assert set(lines[start + 1]) == {"|", "-"}
    return rows


def numbers(cells: list[str]) -> list[float]:
    found = [float(cell.replace(",", "")) for cell in cells]
    assert all(math.isfinite(number) and number > 0 for number in found), found
    return found


# Mistakes


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("measure_fidelity", ["--engines", "scalar,gpu"], "'gpu' is not allowed: choose one of scalar, native, torch"),
        ("measure_fidelity", ["--steps", "0"], "'0' is not allowed: it must be a whole number of at least 1"),
        ("measure_fidelity", ["--reference", "nowhere.py"], "--reference=nowhere.py cannot be read: No such file"),
        ("measure_fidelity", ["--reference", "other.py"], "lines that begin with `random.seed(<number>)`"),
        ("benchmark_startup", ["--repeats", "many"], "'many' is not allowed: it must be a whole number of at least 1"),
        ("benchmark_memory", ["--models", "-1"], "is not allowed: it must be a whole number of at least 1"),
        ("benchmark_memory", ["--steps", "100,x"], "'x' is not allowed: it must be a whole number of at least 1"),
        ("benchmark_memory", ["--large-steps", "1.5"], "'1.5' is not allowed: it must be a whole number of at least 0"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    name: str,
    arguments: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.py").write_text("print('something else')\n")
    try:
        code = load_script(name).main(arguments)
    except SystemExit as ended:
        code = ended.code
    shown = capsys.readouterr()
    assert code == 2
    last = shown.err.splitlines()[-1]
    assert sentence in last
    assert not shown.out


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_shows_the_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        load_script(name).main(["--help"])
    assert f"python scripts/{name}.py" in capsys.readouterr().out


# measure_fidelity.py


@pytest.mark.slow
def test_the_scalar_engine_has_the_golden_losses(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("measure_fidelity")
    monkeypatch.setattr(script, "EXPERIMENTS", {"k1": "karpathy_first"})
    assert script.main(["--engines", "scalar", "--steps", "3"]) == 0
    rows = table(capsys.readouterr().out, "golden trace")
    ((name, (steps, apart, printed, samples)),) = rows.items()
    assert (name, steps, printed, samples) == ("k1, scalar float64", "3", "3 of 3", "-")
    assert 0 <= float(apart) < 1e-12


def test_without_names_only_the_engines_are_compared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("measure_fidelity")
    monkeypatch.delenv("MICROGPT_DATA_DIR", raising=False)
    monkeypatch.setattr(script, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(script, "MODELS", dict(list(script.MODELS.items())[:1]))
    assert script.main(["--engines", "scalar,torch"]) == 0
    out = capsys.readouterr().out
    assert "There is no names.txt in MICROGPT_DATA_DIR or in the cache: no golden trace is compared." in out
    assert "golden trace |" not in out
    rows = table(out, "against the scalar engine")
    assert [name.rpartition(", ")[2] for name in rows] == ["torch float64", "torch float32"]
    exact, rounded = ([float(cell) for cell in cells] for cells in rows.values())
    assert all(0 <= apart < 1e-9 for apart in exact)
    assert all(1e-9 < apart < 1e-3 for apart in rounded), "float32 is not float64"


def test_without_pytorch_its_engine_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("measure_fidelity")
    monkeypatch.setattr(script.harness, "find_spec", lambda name: None)
    monkeypatch.setattr(script, "has_names", lambda: False)
    assert script.main(["--engines", "scalar,torch"]) == 0
    assert "PyTorch is not installed: its engine is left out." in capsys.readouterr().out


def test_a_large_difference_of_float64_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("measure_fidelity")
    far = [(["a model, native float64", "1.0e-08", "0.0e+00"], 1e-8), (["a model, native float32", "1", "1"], 1.0)]
    monkeypatch.setattr(script, "has_names", lambda: False)
    monkeypatch.setattr(script, "against_scalar", lambda model, engines: far)
    assert script.main(["--engines", "native"]) == 1
    assert "error: float64 differs by 1.0e-08, more than 1e-09" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("added", "code"), [("0", 0), ("1e-3", 1)])
def test_a_reference_with_other_constants_is_compared_to_the_last_digit(
    added: str, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("measure_fidelity")
    (tmp_path / "microgpt.py").write_text(REFERENCE.replace("ADDED", added))
    monkeypatch.setattr(script, "OTHER", replace(script.OTHER, steps=3, n_embd=8, n_head=2))
    monkeypatch.setattr(script, "has_names", lambda: False)
    assert script.main(["--engines", "scalar", "--reference", str(tmp_path / "microgpt.py")]) == code
    rows = table(capsys.readouterr().out, "microgpt.py against mode=scalar")
    ((name, (steps, apart, samples)),) = rows.items()
    assert name == "seed 7, n_layer 2, n_embd 8, n_head 2, block 12"
    assert (steps, samples) == ("3", "yes, 20")
    assert float(apart) == pytest.approx(float(added))


@pytest.mark.slow
def test_an_engine_against_the_golden_traces(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_script("measure_fidelity").main(["--engines", "native", "--steps", "5"]) == 0
    out = capsys.readouterr().out
    rows = table(out, "golden trace")
    assert len(rows) == 4
    for name, cells in (rows | table(out, "against the scalar engine")).items():
        apart = float(cells[1 if name in rows else 0])
        assert 0 <= apart < (1e-9 if "float64" in name else 1e-4), name


# benchmark_startup.py


def test_a_command_that_fails_ends_the_measurement_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("benchmark_startup")
    monkeypatch.setattr(script, "COMMANDS", (("seed=none",),))
    assert script.main(["--repeats", "1", "--skip-compile"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: python -m microgpt seed=none failed with exit code 2: error: ")


def test_a_warm_start_that_compiles_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("benchmark_startup")
    monkeypatch.setattr(script, "COMMANDS", ())
    monkeypatch.setattr(script, "start_engine", lambda dtype, kernels: (0.3, 20.0, 19.9))
    assert script.main(["--repeats", "1", "--skip-compile"]) == 1
    assert "they were not kept on disk" in capsys.readouterr().err


def test_the_compilation_of_kernels_is_timed_in_an_empty_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, compiled = load_script("benchmark_startup"), set()

    def start_engine(dtype: str, kernels: str) -> tuple[float, float, float]:
        seconds = 0.0 if (dtype, kernels) in compiled else 19.9
        assert compiled or not list(Path(kernels).iterdir())
        compiled.add((dtype, kernels))
        return 0.3, 0.1 + seconds, seconds

    monkeypatch.setattr(script, "COMMANDS", ())
    monkeypatch.setattr(script, "start_engine", start_engine)
    assert script.main(["--repeats", "1"]) == 0
    assert table(capsys.readouterr().out, "compiling") == {"float32": ["19.9"], "float64": ["19.9"]}


@pytest.mark.slow
def test_start_up_is_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = load_script("benchmark_startup")
    monkeypatch.setattr(script, "COMMANDS", script.COMMANDS[-1:])
    monkeypatch.chdir(tmp_path)
    assert script.main(["--repeats", "2", "--skip-compile"]) == 0
    rows = table(capsys.readouterr().out, "start")
    assert len(rows) == len(script.COMMANDS) + 2
    for name, cells in rows.items():
        middle, least, most = numbers(cells)
        assert least <= middle <= most, name
    assert list(tmp_path.iterdir()) == [], "nothing is left in the folder it was called from, nor in the user's cache"


# benchmark_memory.py


@needs_proc
def test_memory_and_times_come_from_a_fresh_process() -> None:
    script = load_script("benchmark_memory")
    found = script.measure(script.SMALL, "python", "float64", 2, 1, [2, 1])
    assert 5e6 < found["now"] <= found["most"] < 1e9, "bytes above the bare interpreter, numpy included"
    assert len(numbers([str(seconds) for seconds in found["seconds"]])) == 2
    assert found["compiling"] == 0


@needs_proc
def test_a_failed_measurement_names_its_error() -> None:
    script = load_script("benchmark_memory")
    with pytest.raises(script.MicrogptError, match=r"^training 1 on python, float64, failed with exit code 1: .*heads"):
        script.measure(script.SMALL | {"heads": 3}, "python", "float64", 1, 1, [1])


def test_a_system_without_proc_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("benchmark_memory")
    monkeypatch.setattr(script, "STATUS", tmp_path / "status")
    with pytest.raises(SystemExit, match="2"):
        script.main([])
    assert f"this system has no {tmp_path / 'status'}" in capsys.readouterr().err


@needs_proc
@pytest.mark.slow
def test_small_and_large_models_are_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("benchmark_memory")
    monkeypatch.setattr(script, "LARGE", script.LARGE | {"n_embd": 32, "n_layer": 1, "block_size": 64})
    assert script.main(["--models", "4", "--steps", "2,5", "--large-steps", "2"]) == 0
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("| 4 models")]
    assert len(lines) == 4
    for line in lines:
        steps, now, most = numbers([cell.strip() for cell in line.strip("|").split("|")[1:]])
        assert steps in (2, 5)
        assert 50 < now <= most < 1000, "MiB"
    rows = table(out, "large model, float32")
    assert list(rows) == ["native", "torch"]
    for cells in rows.values():
        middle, least, most, memory = numbers(cells)
        assert least <= middle <= most < 60
        assert 50 < memory < 4000
