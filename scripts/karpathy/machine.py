"""What a benchmark ran on. Knows nothing of what is measured."""

import os
import shutil
import subprocess
from dataclasses import asdict
from typing import Any

from microgpt.runs.environment import environment, git_state, version_of

VERSIONS = ("torch", "numpy", "numba", "hydra-core")
SECONDS = 20.0  # that nvidia-smi may take


def nvidia_smi(query: str) -> list[list[str]]:
    """A row of fields for each GPU; none where there is no nvidia-smi or it fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, f"--query-gpu={query}", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []
    if done.returncode != 0:
        return []
    return [[field.strip() for field in line.split(",")] for line in done.stdout.splitlines() if line.strip()]


def visible_gpus() -> list[dict[str, Any]]:
    """What nvidia-smi lists: name, memory in MiB, driver."""
    rows = nvidia_smi("name,memory.total,driver_version")
    return [{"name": r[0], "memory_mib": r[1], "driver": r[2]} for r in rows if len(r) == 3]


def gpu_memory_in_use() -> int | None:
    """Bytes in use on the first GPU, by whatever program; None where nobody says."""
    rows = nvidia_smi("memory.used")
    return int(rows[0][0]) << 20 if rows and rows[0][0].isdigit() else None


def hardware(gpus: list[dict[str, Any]]) -> dict[str, Any]:
    import psutil

    found = environment()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "platform": found.platform,
        "cpu": found.cpu,
        "cores": usable,
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": gpus,
        "python": found.python,
        "versions": {name: version for name in VERSIONS if (version := version_of(name))},
        "microgpt": {"version": found.versions["microgpt"], **asdict(git_state())},
    }
