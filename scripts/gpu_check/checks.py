"""The parts that run other programs: the doctor and the compliance suite."""

import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from harness import available_cores

from gpu_check.measuring import Check
from microgpt.errors import MicrogptError

ROOT = Path(__file__).resolve().parents[2]
MOST_PROCESSES = 8  # of pytest: each has its own CUDA context
# For the CPU: the same cases on the CPU; the quick ones are those of one test.
SELECTED = {("cuda", False): "cuda", ("cpu", False): "torch-cpu", ("cuda", True): "masked and torch-cuda"}
SELECTED["cpu", True] = "masked and torch-cpu"
SUITES = ("test_compliance.py", "test_compliance_options.py", "test_torch_engine.py", "test_torch_cuda_graphs.py")


def doctor(check: Check) -> None:
    """Run nvidia_doctor.sh; a row is one of its lines."""
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
    """Run the tests that compare the torch engine on this device with the scalar engine."""
    selected = SELECTED[check.device, check.quick]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-m", "not slow", "-p", "no:cacheprovider",
            "--noconftest", "-k", selected, f"--junitxml={report}",
            *(f"tests/engines/{name}" for name in (SUITES[:1] if check.quick else SUITES)),
        ]  # fmt: skip
        if not check.quick and find_spec("xdist") is not None:
            command += ["-p", "xdist.plugin", "-n", str(min(MOST_PROCESSES, len(available_cores()) or 1))]
        start = time.monotonic()
        variables = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # whatever else is installed there
        done = subprocess.run(command, cwd=ROOT, env=os.environ | variables, check=False)
        seconds = time.monotonic() - start
        if not report.exists():
            raise MicrogptError(f"pytest ended with exit code {done.returncode} and no report")
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    bad = {
        case.get("name", ""): found
        for case in cases
        for tag in ("failure", "error")
        if (found := case.find(tag)) is not None
    }
    skipped = [found.get("message", "") for case in cases if (found := case.find("skipped")) is not None]
    passed = len(cases) - len(bad) - len(skipped)
    check.results.add_row(
        "compliance",
        {"tests": selected, "passed": passed, "failed": len(bad), "skipped": len(skipped), "seconds": seconds},
    )
    for name, found in list(bad.items())[:10]:
        check.results.add_note("compliance", f"{name}: {found.get('message', '').splitlines()[0][:200]}")
    if skipped:
        check.results.add_note("compliance", f"skipped: {', '.join(sorted(set(skipped)))}")
    if bad or not passed:
        raise MicrogptError(f"{len(bad)} tests failed" if bad else "no test ran")
