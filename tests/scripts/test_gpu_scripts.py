"""profile_gpu.sh: its output and exit codes; checks of every shell script."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.fake_gpu import SCRIPTS, Machine, wait_until_gone

PROFILE = "profile_gpu.sh"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path).make()


def out_of(machine: Machine) -> str:
    """Return the shell code of a Python that writes the files of a profile to the folder after --out."""
    return f"""
while [ $# -gt 0 ]; do [ "$1" != --out ] || out=$2; shift; done
while [ -e "{machine.folder}/wait" ] && [ ! -s "{machine.folder}/sampled" ]; do sleep 0.02; done
mkdir -p "$out"; echo "{{}}" >"$out/profile.json"; exit 0"""


def test_a_profile_has_the_samples_of_nvidia_smi(machine: Machine) -> None:
    pid = machine.folder / "sampled"
    (machine.folder / "wait").touch()
    machine.recording("nvidia-smi", f'echo "utilization.gpu [%]"; echo "97 %"; echo $$ >"{pid}"; exec sleep 60')
    machine.python(other=out_of(machine))
    done = machine(PROFILE, "mine", "--steps", "7")
    assert (done.returncode, done.stdout, done.stderr) == (0, "files: mine\n", "")
    assert (machine.here / "mine" / "gpu.csv").read_text().endswith("97 %\n")
    wait_until_gone(int(pid.read_text()))
    (call,) = [call for call in machine.calls() if call.startswith("python")]
    assert call.endswith("profile_training.py --out mine --require-gpu --steps 7")


def test_a_profile_is_in_results_and_needs_no_nvidia_smi(machine: Machine) -> None:
    machine.python(other=out_of(machine))
    done = machine(PROFILE, REQUIRE_GPU="0")
    assert done.returncode == 0
    (folder,) = (machine.here / "results").iterdir()
    assert re.fullmatch(r"profile_\d{8}T\d{6}Z", folder.name)
    assert [path.name for path in folder.iterdir()] == ["profile.json"]
    assert "--no-require-gpu" in machine.calls()[0]


@pytest.mark.parametrize(("status", "expected"), [(1, 1), (2, 2), (139, 1)])
def test_a_failed_profile_is_reported_and_leaves_nothing(machine: Machine, status: int, expected: int) -> None:
    machine.python(other=f"exit {status}")
    done = machine(PROFILE)
    assert done.returncode == expected
    assert done.stderr == f"error: not profiled (exit code {status})\n"
    assert "files:" not in done.stdout
    assert not list(machine.here.rglob("profile_*"))


def test_nsys_profiles_a_run_without_the_torch_profiler(machine: Machine) -> None:
    machine.python(other=out_of(machine))
    missing = machine(PROFILE, PROFILER="nsys")
    assert (missing.returncode, machine.calls()) == (1, [])
    assert missing.stderr == "error: PROFILER=nsys needs NVIDIA Nsight Systems: nsys is not on PATH\n"
    machine.recording("nsys", 'while [ "$1" != python ]; do shift; done; "$@"')
    assert machine(PROFILE, "mine", PROFILER="nsys").returncode == 0
    nsys, python = machine.calls()
    assert nsys.startswith("nsys profile --output mine/nsys ")
    assert python.endswith("--out mine --require-gpu --profiler none")


@pytest.mark.parametrize("profiler", ["torch", "nsys"])
def test_a_dry_profile_starts_nothing(machine: Machine, profiler: str) -> None:
    machine.no_network()
    machine.python()
    machine.recording("nsys")
    machine.recording("nvidia-smi")
    done = machine(PROFILE, "my folder", DRY_RUN="1", PROFILER=profiler)
    assert done.returncode == 0
    assert "--out my\\ folder" in done.stdout
    assert machine.calls() == []
    assert not list(machine.here.iterdir())


@pytest.mark.parametrize("variable", ["REQUIRE_GPU", "DRY_RUN", "PROFILER"])
def test_an_invalid_variable_is_exit_code_2(machine: Machine, variable: str) -> None:
    done = machine(PROFILE, **{variable: "maybe"})
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {variable}=maybe is not allowed")


def test_without_python_there_is_no_profile(machine: Machine) -> None:
    done = machine(PROFILE)
    assert (done.returncode, done.stderr) == (1, "error: Python was not found: python3 cannot be run\n")


@pytest.mark.slow
def test_a_profile_states_its_device(machine: Machine) -> None:
    torch = pytest.importorskip("torch")
    machine.real_python()
    small = ["--n-layer=1", "--n-embd=16", "--block-size=16", "--batch-size=4"]
    required = machine(PROFILE, "required", *small)
    done = machine(PROFILE, "mine", *small, REQUIRE_GPU="0")
    assert done.returncode == 0, done.stderr
    found = json.loads((machine.here / "mine" / "profile.json").read_text())
    assert found["using_gpu"] == torch.cuda.is_available()
    assert found["operators"][0]["calls"] > 0
    assert found["ms_per_step"] == pytest.approx(1e3 * found["seconds"] / found["steps"])
    assert "aten::" in (machine.here / "mine" / "operators.txt").read_text()
    assert json.loads((machine.here / "mine" / "trace.json").read_text())["traceEvents"]
    if torch.cuda.is_available():
        assert required.returncode == 0
        assert found["kernels"] > 0
    else:
        assert required.returncode == 1
        assert "sees no CUDA GPU, so there is none to profile" in required.stderr
        assert not (machine.here / "required").exists()
        assert found["kernels"] == 0
        assert "no GPU was used: this is a profile of the CPU" in done.stdout


# All shell scripts


def test_shellcheck_finds_nothing() -> None:
    shellcheck = shutil.which("shellcheck") or shutil.which("shellcheck", path=Path(sys.executable).parent)
    if not shellcheck:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, *SCRIPTS.glob("*.sh")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_shell_scripts_run_on_bash_3(script: Path) -> None:
    newer = (
        r"\b(mapfile|readarray|coproc|wait -n|local -n|declare -[Agn]|nameref)\b|\$\{\w+(,|\^|@[A-Z])|&>>|\|&|;;&|;&"
    )
    assert re.findall(newer, script.read_text()) == []


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_the_help_of_a_shell_script_names_its_variables_and_exit_codes(script: Path, machine: Machine) -> None:
    machine.python(other="exit 0")
    done = machine(script.name, "--help")
    assert done.returncode == 0
    assert "Exit codes: 0 " in done.stdout
    for variable in set(re.findall(r"=\$\{([A-Z_]+):-", script.read_text())):
        assert variable in done.stdout
