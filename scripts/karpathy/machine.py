"""The hardware of a benchmark, and the choice between CPU and GPU."""

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import harness
import psutil

from karpathy.processes import UnavailableError, captured
from microgpt.runs.environment import environment, git_state, version_of

VERSIONS = ("torch", "numpy", "numba", "hydra-core")


def nvidia_smi(query: str) -> list[list[str]]:
    """Return a row of fields for each GPU; no rows if nvidia-smi is missing or fails."""
    program = shutil.which("nvidia-smi")
    try:
        done = program and captured([program, f"--query-gpu={query}", "--format=csv,noheader,nounits"], 20.0)
    except UnavailableError:
        return []
    if not done or done.returncode != 0:
        return []
    return [[field.strip() for field in line.split(",")] for line in done.stdout.splitlines() if line.strip()]


def visible_gpus() -> list[dict[str, Any]]:
    """Return the name, memory in MiB and driver of each GPU that nvidia-smi lists."""
    rows = nvidia_smi("name,memory.total,driver_version")
    return [{"name": r[0], "memory_mib": r[1], "driver": r[2]} for r in rows if len(r) == 3]


def gpu_memory_in_use() -> int | None:
    """Return the bytes in use by all programs on the first GPU; None if unknown."""
    rows = nvidia_smi("memory.used")
    return int(rows[0][0]) << 20 if rows and rows[0][0].isdigit() else None


def sees_cuda() -> bool:
    """Return whether PyTorch finds a GPU."""
    try:
        done = captured([sys.executable, "-c", "import torch; print(torch.cuda.is_available())"], 120.0)
    except UnavailableError:
        return False
    return done.stdout.strip() == "True"


def hardware(gpus: list[dict[str, Any]]) -> dict[str, Any]:
    found = environment()
    return {
        "platform": found.platform,
        "cpu": found.cpu,
        "cores": len(harness.available_cores()) or found.cores,
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": gpus,
        "python": found.python,
        "versions": {name: version for name in VERSIONS if (version := version_of(name))},
        "microgpt": {"version": found.versions["microgpt"], **asdict(git_state())},
    }


@dataclass(frozen=True)
class DeviceChoice:
    device: str  # cpu | cuda
    required: bool
    reason: str
    refused: bool = False  # a GPU is required but cannot be used: nothing is run


def choose_device(
    require: bool | None, gpus: Sequence[dict[str, Any]], baselines: Sequence[str], usable: Callable[[], bool]
) -> DeviceChoice:
    """Choose CPU or GPU. With `require` None, a visible GPU is required. `usable` returns whether PyTorch finds one."""
    if list(baselines) == ["microgpt"] and not require:
        return DeviceChoice("cpu", False, "not used: microgpt.py computes only on the CPU")
    if not gpus:
        if require:
            return DeviceChoice("cpu", True, "--require-gpu, but nvidia-smi lists none: nothing is run", refused=True)
        why = "--no-require-gpu" if require is False else "not required, because no GPU is visible to nvidia-smi"
        return DeviceChoice("cpu", False, f"{why}: all runs are on the CPU")
    name = gpus[0]["name"]
    if usable():
        why = {True: "--require-gpu", None: "required, as it is visible", False: "--no-require-gpu"}[require]
        note = "; microgpt.py computes on the CPU nevertheless" if "microgpt" in baselines else ""
        return DeviceChoice("cuda", require is not False, f"{name}: {why}{note}")
    if require is False:
        return DeviceChoice("cpu", False, f"--no-require-gpu: PyTorch cannot use {name}, all runs are on the CPU")
    why = "--require-gpu" if require else "required, as it is visible (unless --no-require-gpu is given)"
    return DeviceChoice("cpu", True, f"{why}, but PyTorch cannot use {name}: nothing is run", refused=True)
