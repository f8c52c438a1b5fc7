"""nvidia_doctor.sh: its verdict and its exit code are right on every kind of machine."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import time
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest
from support.fake_gpu import SCRIPTS, SMI, TRAINED, VERSION, VISIBLE, Machine, microgpt_run, wait_until_gone
from support.program import mostly_slow

DOCTOR = "nvidia_doctor.sh"
# The driver's behaviour, and its part of the verdict if the GPU is not usable.
DRIVERS = {
    "ok": (SMI, ""),
    "missing": (None, "no NVIDIA driver was found (nvidia-smi is not on PATH)"),
    "failing": ("echo 'NVIDIA-SMI has failed'; exit 9", "nvidia-smi fails (exit code 9)"),
    "no GPU": ("echo 'No devices were found'", "the NVIDIA driver lists no GPU"),
    "silent": ("true", "the NVIDIA driver lists no GPU"),
}
CPU_BUILD = VERSION.replace("cuda 12.8", "cpu")
# Output and exit code of the probe, and the reason in the verdict.
TORCHES = {
    "ok": (VERSION + VISIBLE + TRAINED, 0, ""),
    "missing": ("python=3.11.9\ntorch_error=not installed\n", 1, "PyTorch is not installed"),
    "broken": ("python=3.11.9\ntorch_error=OSError: no libcudart\n", 1, "cannot be imported (OSError: no libcudart)"),
    "crashes at import": ("python=3.11.9\n", 139, "the import of PyTorch does not come to an end (exit code 139)"),
    "Python prints nothing": ("", 0, "python does not run the probe (exit code 0)"),
    "Python too old": ("", 1, "python does not run the probe (exit code 1)"),
    "CPU-only": (CPU_BUILD + "visible=0\n", 1, "this PyTorch (2.9.0) is built without CUDA"),
    "AMD": (VERSION.replace("cuda 12.8", "rocm 6.4") + VISIBLE + TRAINED, 0, "built for AMD GPUs"),
    "no visible GPU": (VERSION + "visible=0\n", 1, "PyTorch sees no GPU"),
    "detection fails": (
        VERSION + "probe=failed\nprobe_says=RuntimeError: x\n",
        1,
        "the probe failed (RuntimeError: x)",
    ),
    "detection crashes": (VERSION, 134, "the probe did not come to an end (exit code 134)"),
    "invisible, yet ok": (VERSION + TRAINED, 0, "the probe failed"),
    "probe fails": (VERSION + VISIBLE + "probe=failed\nprobe_says=no kernel image\n", 1, "failed (no kernel image)"),
    "probe crashes": (VERSION + VISIBLE, 134, "the probe did not come to an end (exit code 134)"),
    "probe on CPU": (VERSION + VISIBLE + "probe_device=cpu\nprobe=elsewhere\n", 1, "the probe ran on cpu instead"),
    "ok on CPU": (VERSION + VISIBLE + TRAINED.replace("cuda:0", "cpu"), 0, "the probe failed"),
    "ok, then fails": (VERSION + VISIBLE + TRAINED, 1, "the probe failed"),
}
RUNS = {
    "on GPU": (microgpt_run(), ""),
    "on CPU": (microgpt_run("false", "false"), "microgpt's own run did not use the GPU"),
    "says GPU, recorded CPU": (microgpt_run("true", "false"), "microgpt's own run did not use the GPU"),
    "says CPU, recorded GPU": (microgpt_run("false", "true"), "microgpt's own run did not use the GPU"),
    "no record": (microgpt_run("true", ""), "microgpt's own run did not use the GPU"),
    "failed": (microgpt_run(status=1), "microgpt's own run failed (exit code 1)"),
}
# Each failure alone: it must be found although everything else works.
QUICK = [case for case in product(DRIVERS, TORCHES, RUNS) if sum(part not in ("ok", "on GPU") for part in case) <= 1]
SLOW = [  # every pair of a driver's, PyTorch's and microgpt's behaviour
    (driver, torch, ("on GPU", "on CPU", "failed")[(number + other) % 3])
    for number, driver in enumerate(DRIVERS)
    for other, torch in enumerate(TORCHES)
]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path).make()


def verdict(done: subprocess.CompletedProcess[str]) -> str:
    last = done.stdout.splitlines()[-1]
    assert last.startswith("verdict: "), done.stdout + done.stderr
    return last


def set_up(machine: Machine, driver: str, torch: str, run: str) -> str:
    """Set up a machine; return the reason of PyTorch or microgpt in its verdict, or ""."""
    body, _ = DRIVERS[driver]
    if body:
        machine.program("nvidia-smi", body)
    probe, status, reason = TORCHES[torch]
    machine.python(probe, status, RUNS[run][0])
    return reason or RUNS[run][1]


def check_verdict(machine: Machine, driver: str, torch: str, run: str) -> None:
    reason = set_up(machine, driver, torch, run)
    done = machine(DOCTOR)
    if reason:
        assert verdict(done).startswith("verdict: NOT USABLE: ")
        assert reason in verdict(done)
        assert DRIVERS[driver][1] in verdict(done)
        assert done.returncode == 1
    else:  # both trained on the GPU, whatever nvidia-smi prints
        assert verdict(done) == "verdict: OK: PyTorch and microgpt trained on Tesla T4"
        assert ("warning: " in done.stdout) == (driver != "ok")
        assert done.returncode == 0
    assert done.stderr == ""


@mostly_slow(len(QUICK[::3]), ("driver", "torch", "run"), [*QUICK[::3], *QUICK[1::3], *QUICK[2::3]])
def test_the_verdict_is_ok_only_if_probe_and_microgpt_used_the_gpu(
    machine: Machine, driver: str, torch: str, run: str
) -> None:
    check_verdict(machine, driver, torch, run)


@pytest.mark.slow
@pytest.mark.parametrize("driver", DRIVERS)
def test_the_verdict_is_right_if_several_parts_fail(tmp_path: Path, driver: str) -> None:
    for number, case in enumerate(case for case in SLOW if case[0] == driver):
        folder = tmp_path / str(number)
        folder.mkdir()
        check_verdict(Machine(folder).make(), *case)


@pytest.mark.parametrize("torch", ["ok", "CPU-only", "probe fails"])
def test_the_exit_code_is_0_if_no_gpu_is_required(machine: Machine, torch: str) -> None:
    reason = set_up(machine, "missing", torch, "on GPU")
    done = machine(DOCTOR, REQUIRE_GPU="0")
    assert done.returncode == 0
    assert verdict(done).startswith("verdict: NOT USABLE (for information only): " if reason else "verdict: OK: ")
    assert reason in verdict(done)


def test_the_warning_of_pytorch_is_shown(machine: Machine) -> None:
    set_up(machine, "ok", "no visible GPU", "on GPU")
    (machine.folder / "bin" / "python").rename(machine.folder / "bin" / "wrapped")
    machine.program("python", 'echo "UserWarning: the driver is too old (found version 11040)" >&2; exec wrapped "$@"')
    done = machine(DOCTOR, CUDA_VISIBLE_DEVICES="3")
    assert "PyTorch sees no GPU (CUDA_VISIBLE_DEVICES=3)" in done.stdout
    assert "UserWarning: the driver is too old (found version 11040)" in done.stdout
    assert "although nvidia-smi does: perhaps the driver is too old for cuda 12.8" in verdict(done)


def test_a_missing_python_is_the_reason(machine: Machine) -> None:
    machine.program("nvidia-smi", SMI)
    assert verdict(machine(DOCTOR)) == "verdict: NOT USABLE: Python was not found (python3 cannot be run)"
    other = machine(DOCTOR, PYTHON="nowhere/python", REQUIRE_GPU="0")
    assert "Python was not found (nowhere/python cannot be run)" in verdict(other)
    assert other.returncode == 0


def test_python3_and_a_named_python_are_used(machine: Machine) -> None:
    set_up(machine, "ok", "ok", "on GPU")
    (machine.folder / "bin" / "python").rename(machine.folder / "bin" / "python3")
    assert machine(DOCTOR).returncode == 0
    (machine.folder / "bin" / "python3").rename(machine.here / "mine")
    assert machine(DOCTOR).returncode == 1
    assert machine(DOCTOR, PYTHON="./mine").returncode == 0  # although it runs microgpt in another folder


@pytest.mark.slow
@pytest.mark.parametrize("hanging", ["driver", "probe", "run"])
def test_a_check_that_hangs_is_ended(machine: Machine, hanging: str) -> None:
    sleep = "exec sleep 60"
    machine.program("nvidia-smi", sleep if hanging == "driver" else SMI)
    machine.python(run=sleep if hanging == "run" else "")
    if hanging == "probe":
        machine.program("python", f'case "$*" in *gpu_probe.py) {sleep} ;; *) {microgpt_run()} ;; esac')
    done = machine(DOCTOR, DOCTOR_TIMEOUT="1")
    assert "no end within 1 s" in done.stdout
    assert verdict(done).startswith("verdict: OK" if hanging == "driver" else "verdict: NOT USABLE")
    assert done.stderr == ""


def test_sigterm_leaves_no_process_and_no_file(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    machine.program("nvidia-smi", f'echo $$ >"{tmp_path}/pid"; exec sleep 60')
    environment = {"PATH": f"{tmp_path}/bin", "TMPDIR": f"{tmp_path}/tmp"}
    doctor = subprocess.Popen(["bash", str(SCRIPTS / DOCTOR)], env=environment)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.01)
    doctor.terminate()
    assert doctor.wait(timeout=30) == 128 + signal.SIGTERM
    assert not list((tmp_path / "tmp").iterdir())
    wait_until_gone(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(
    ("arguments", "variables", "named"),
    [
        (["--gpu"], {}, "--gpu is not an option"),
        ([], {"REQUIRE_GPU": "yes"}, "REQUIRE_GPU=yes"),
        ([], {"DOCTOR_TIMEOUT": "2m"}, "DOCTOR_TIMEOUT=2m"),
    ],
)
def test_an_invalid_option_or_variable_is_exit_code_2(
    machine: Machine, arguments: list[str], variables: dict[str, str], named: str
) -> None:
    done = machine(DOCTOR, *arguments, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {named}")
    assert done.stderr.count("\n") == 1


# The probe itself, with a real Python


@pytest.fixture(scope="module")
def probe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_probe", SCRIPTS / "gpu_probe.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_probe_trains_and_compares(probe: ModuleType) -> None:
    found = probe.train_on(pytest.importorskip("torch"), "cpu")
    assert (found["probe"], found["probe_device"]) == ("ok", "cpu")
    first, last = map(float, re.findall(r"[\d.e-]+(?= to|$)", found["probe_says"]))
    assert 0 < last < first / 2


def test_the_probe_reports_another_device(probe: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    here = torch.device("cpu")
    monkeypatch.setattr(torch, "device", lambda kind: here)
    found = probe.train_on(torch, "cuda")
    assert (found["probe"], found["probe_device"]) == ("elsewhere", "cpu")


def test_the_probe_reports_wrong_results(probe: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "cpu", lambda tensor: 1.1 * tensor)
        assert "differs from the CPU's by 1.0e-01" in probe.train_on(torch, "cpu")["probe_says"]
    descent = torch.optim.SGD
    monkeypatch.setattr(torch.optim, "SGD", lambda parameters, lr: descent(parameters, lr=1e30))
    found = probe.train_on(torch, "cpu")
    assert found["probe"] == "failed"
    assert "did not fall" in found["probe_says"]


# A torch that is found before the real one. The simulated one is the real one with a fake GPU.
SIMULATED = """
import importlib, sys
del sys.modules["torch"]
sys.path.remove(__file__.rsplit("/", 1)[0])
torch = importlib.import_module("torch")
torch.version.cuda = "12.8"
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 1
torch.cuda.get_device_name = lambda *which: "Simulated GPU"
"""
STAYS = """
torch.Tensor.to = torch.nn.Module.to = lambda thing, device: thing
"""
STUBS = {
    "missing": ("raise ModuleNotFoundError('No module named torch', name='torch')", "PyTorch is not installed in "),
    "broken": ("raise OSError('libcudart.so.12: no such file')", "(OSError: libcudart.so.12: no such file)"),
    "crash": ("import os; os.kill(os.getpid(), 11)", "the import of PyTorch does not come to an end (exit code 139)"),
    "hang": ("import time; time.sleep(60)", "the import of PyTorch does not come to an end (no end within 5 s)"),
    "probe raises": (SIMULATED, "the probe failed ("),
    "probe on CPU": (SIMULATED + STAYS, "the probe ran on cpu instead of the GPU"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", STUBS)
def test_a_pytorch_that_does_not_work_is_the_reason(machine: Machine, kind: str) -> None:
    if kind.startswith("probe"):
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU: the simulated one would work")
    machine.real_python()
    machine.program("nvidia-smi", SMI)
    stub, reason = STUBS[kind]
    (machine.folder / "stub").mkdir()
    (machine.folder / "stub" / "torch.py").write_text(stub)
    limit = "5" if kind == "hang" else "100"
    done = machine(DOCTOR, PYTHONPATH=str(machine.folder / "stub"), DOCTOR_TIMEOUT=limit)
    assert done.returncode == 1
    assert reason in verdict(done)
    assert "microgpt  ok" not in done.stdout
    assert not list(machine.here.iterdir())


@pytest.mark.slow
def test_the_verdict_is_right_for_this_machine(machine: Machine) -> None:
    torch = pytest.importorskip("torch")
    machine.real_python()
    if smi := shutil.which("nvidia-smi"):
        machine.program("nvidia-smi", f'exec "{smi}" "$@"')
    done = machine(DOCTOR, **{key: os.environ[key] for key in ("LD_LIBRARY_PATH",) if key in os.environ})
    if torch.cuda.is_available():
        assert verdict(done) == f"verdict: OK: PyTorch and microgpt trained on {torch.cuda.get_device_name(0)}"
    else:
        missing = "is built without CUDA" if torch.version.cuda is None else "PyTorch sees no GPU"
        assert missing in verdict(done)
        assert "error: backend.device=cuda is not available" in done.stdout
    assert done.returncode == (0 if torch.cuda.is_available() else 1)
