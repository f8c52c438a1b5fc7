"""run.json: what was run, where, with what result. Written when a run starts and, whole, however it ends."""

import json
import math
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from microgpt import __version__
from microgpt.atomic import write_json
from microgpt.distributed import processes

RECORD = "run.json"
SCHEMA_VERSION = 1
STYLE_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"  # it becomes part of the name of a table
REPORTED_VERSIONS = ("hydra-core", "omegaconf", "numpy", "torch", "numba")


@dataclass(frozen=True)
class Invocation:
    """How the program was called, as Hydra sees it."""

    overrides: tuple[str, ...] = ()
    job: tuple[str, int] | None = None  # of a sweep: its folder and the job's number

    def keys(self) -> list[str]:
        """What the user chose or set: `style` for style=classic, `style.bias` for style.bias=2."""
        return [override.lstrip("+~").split("=")[0].split("@")[0] for override in self.overrides]

    def touches(self, group: str) -> bool:
        """Whether the user chose or changed something of a group."""
        return any(key.split(".")[0] == group for key in self.keys())


def new_record(config: dict[str, Any], digest: str | None, invocation: Invocation) -> dict[str, Any]:
    """A record with all its keys, and with what is known before the run has read its data.

    `config` is the whole configuration as plain dictionaries; `digest` is its hash, None where it is at fault.
    """
    named = {key: (config.get(key) or {}).get("name") for key in ("task", "mode", "style", "backend")}
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": None,
        "status": "running",
        "task": named["task"],
        "started_at": timestamp(),
        "finished_at": None,
        "command": command_line(),
        "overrides": list(invocation.overrides),
        "config": config,
        "config_hash": digest,
        "seed": config.get("seed"),
        "git": git_state(),
        "data": None,
        "model": None,
        "mode": named["mode"],
        "style": named["style"],
        "backend": named["backend"],
        "device": None,
        "using_gpu": None,
        "dtype": None,
        "kernel": None,
        "threads": None,
        "processes": processes().count,
        "backend_reason": None,
        "group": None,
        "environment": environment(),
        "metrics": None,
        "timings": None,
        "samples": [],
        "error": None,
    }


def command_line() -> str:
    """The command as it was given; of a job of a sweep that is the sweep's, and `overrides` has the job's own part."""
    return shlex.join([*processes().launcher(), *sys.argv[1:]])


def write_record(path: Path, record: dict[str, Any]) -> None:
    write_json(path, without_non_finite(record))


def without_non_finite(value: Any) -> Any:
    """NaN and infinity, which JSON does not have, as text: a configuration at fault may hold them."""
    if isinstance(value, dict):
        return {key: without_non_finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_non_finite(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def timestamp() -> str:
    """Now, as ISO 8601 in UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@cache
def git_state() -> dict[str, Any]:
    """Commit of the source tree that runs and whether it was changed since; nulls where the package is installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}

    # Inside a git hook the environment names another repository.
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, env=clean
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


@cache
def environment() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "gpu": None,
        "versions": {"microgpt": __version__, **{name: v for name in REPORTED_VERSIONS if (v := version_of(name))}},
    }


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


def make_unique(parent: Path, name: str) -> Path:
    """Make parent/name, or parent/name-2, ...: `mkdir` decides between two processes that ask for one name."""
    attempt = 1
    while True:
        path = parent / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            path.mkdir()
            return path
        except FileExistsError:
            attempt += 1


def record_failed_job(config: Any, invocation: Invocation, error: Exception) -> None:
    """Record a job of a sweep that failed before it made a folder. `config` is as composed, and may be at fault."""
    assert invocation.job is not None
    sweep, number = Path(invocation.job[0]), str(invocation.job[1])
    record = new_record(config, None, invocation)
    record |= {"status": "failed", "finished_at": timestamp(), "error": str(error)}
    folder = sweep / number
    if not is_failed_before_it_began(folder):
        sweep.mkdir(parents=True, exist_ok=True)
        folder = make_unique(sweep, number)
    record["run_id"] = f"{sweep.parent.name}/{sweep.name}/{folder.name}"
    write_record(folder / RECORD, record)


def is_failed_before_it_began(folder: Path) -> bool:
    """Whether a folder holds nothing but the record of such a failure, which the next one may replace."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError):
        return False
    return record.get("status") == "failed" and record.get("config_hash") is None
