"""The parts that run other programs: the doctor and the compliance suite."""

import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from harness import available_cores

from gpu_check.measuring import Check
from gpu_check.pytest_results import VARIABLE
from gpu_check.results import OutOfTimeError
from microgpt.errors import MicrogptError

ROOT = Path(__file__).resolve().parents[2]
LISTED = 10  # failures
MOST_PROCESSES = 8  # of pytest; each process has its own CUDA context
# With --device cpu, the same cases run on the CPU; --quick selects the cases of one test.
SELECTED = {("cuda", False): "cuda", ("cpu", False): "torch-cpu", ("cuda", True): "masked and torch-cuda"}
SELECTED["cpu", True] = "masked and torch-cpu"
SUITES = ("test_compliance.py", "test_compliance_options.py", "test_torch_engine.py", "test_torch_cuda_graphs.py")


def doctor(check: Check) -> None:
    """Run nvidia_doctor.sh; each row is a line of its output."""
    required = check.device == "cuda"
    variables = {"REQUIRE_GPU": str(int(required)), "PYTHON": sys.executable, "DOCTOR_TIMEOUT": "45"}
    script = ["bash", str(ROOT / "scripts" / "nvidia_doctor.sh")]
    done = subprocess.run(script, env=os.environ | variables, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines() or done.stderr.splitlines() or ["no output"]
    for line in lines[:-1]:
        check.results.add_row(
            "doctor", {"check": line[:10].strip(), "result": line[10:21].strip(), "found": line[21:].strip()}
        )
    if required and done.returncode:
        raise MicrogptError(lines[-1])
    check.results.add_note("doctor", lines[-1])


def compliance(check: Check) -> None:
    """Run the tests that compare the PyTorch engine on this device with the scalar engine."""
    selected = SELECTED[check.device, check.quick]
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "tests"
        lines.touch()
        code = run_pytest(check, selected, lines)
        tests = [json.loads(line) for line in lines.read_text().splitlines()]
    found = {outcome: [t for t in tests if t["outcome"] == outcome] for outcome in ("passed", "failed", "skipped")}
    counts = {outcome: len(some) for outcome, some in found.items()}
    check.results.add_row("compliance", {"tests": selected, **counts, "seconds": time.monotonic() - start})
    for test in found["failed"][:LISTED]:
        check.results.add_note("compliance", f"{test['name']}: {test['message'][:200]}")
    for reason in sorted({test["message"] for test in found["skipped"]}):
        check.results.add_note("compliance", reason)
    if found["failed"]:
        raise MicrogptError(f"{counts['failed']} tests failed")
    if check.device == "cuda" and found["skipped"]:
        raise MicrogptError(f"{counts['skipped']} tests were skipped")
    if code is None:
        raise OutOfTimeError(f"stopped after {len(tests)} tests")
    if code or not found["passed"]:
        raise MicrogptError(f"pytest ended with exit code {code} after {counts['passed']} tests passed")


def run_pytest(check: Check, selected: str, lines: Path) -> int | None:
    """Run the suites until the deadline; return the exit code, or None if they were killed at the deadline."""
    command = [
        sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-m", "not slow", "-p", "no:cacheprovider",
        "--noconftest", "-p", "gpu_check.pytest_results", "-k", selected,
        *(f"tests/engines/{name}" for name in (SUITES[:1] if check.quick else SUITES)),
    ]  # fmt: skip
    if not check.quick and find_spec("xdist") is not None:
        command += ["-p", "xdist.plugin", "-n", str(min(MOST_PROCESSES, len(available_cores()) or 1))]
    # Do not load other plugins that happen to be installed.
    variables = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", VARIABLE: str(lines)}
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | variables)
    try:
        return process.wait(max(0.0, check.deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()  # its workers end with the process group of the part
        process.wait()
        return None
