"""The code and the machine of a run: git commit, versions, processor."""

import os
import platform
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from microgpt import __version__

REPORTED_VERSIONS = ("hydra-core", "omegaconf", "numpy", "torch", "numba")


@dataclass(frozen=True)
class GitState:
    """The commit of the source tree, and whether the tree has changes. None for an installed package."""

    commit: str | None = None
    dirty: bool | None = None


@dataclass(frozen=True)
class Environment:
    """Interpreter, machine and package versions. `gpu` is None: see `device` and `using_gpu` of the record."""

    python: str
    platform: str
    cpu: str
    cores: int | None
    gpu: str | None
    versions: dict[str, str]


@cache
def git_state() -> GitState:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return GitState()

    # Inside a git hook, the environment variables point to another repository.
    variables = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, env=variables
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain")
    return GitState(git("rev-parse", "HEAD"), None if status is None else bool(status))


@cache
def environment() -> Environment:
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        cpu=cpu_model(),
        cores=os.cpu_count(),
        gpu=None,
        versions={"microgpt": __version__, **{name: v for name in REPORTED_VERSIONS if (v := version_of(name))}},
    )


def version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def load_average() -> list[float] | None:
    """Return the load averages of the last 1, 5 and 15 minutes, or None if the system does not provide them."""
    return [round(mean, 2) for mean in os.getloadavg()] if hasattr(os, "getloadavg") else None
