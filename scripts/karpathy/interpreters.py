"""A Python that has what a baseline needs: this one, or a virtual environment of its own beside it."""

import site
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from karpathy.commands import Command, run_command
from karpathy.sources import UnavailableError

PROBE = "import importlib.util, sys; print(*(n for n in sys.argv[1:] if importlib.util.find_spec(n) is None))"
CUDA_PROBE = "import torch; print(torch.cuda.is_available())"
INSTALL_SECONDS = 1800.0


def missing(python: str, packages: Mapping[str, str]) -> list[str]:
    """Which of the packages (import name -> name to install) a Python lacks; the names to install."""
    try:
        done = subprocess.run([python, "-c", PROBE, *packages], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(f"{python} cannot be run: {error}") from error
    if done.returncode != 0:
        raise UnavailableError(f"{python} cannot say which packages it has: {done.stderr.strip()[-200:]}")
    return [packages[name] for name in done.stdout.split()]


def python_for(baseline: str, packages: Mapping[str, str], install: bool, scratch: Path, logs: Path) -> str:
    """The Python to run a baseline with. Raises UnavailableError, which says what is missing.

    What is installed goes into a virtual environment in the scratch folder that sees this Python's packages too: so
    both sides use one PyTorch, and nothing here is changed.
    """
    lacking = missing(sys.executable, packages)
    if not lacking:
        return sys.executable
    if not install:
        raise UnavailableError(
            f"{baseline} needs {', '.join(lacking)}, and this Python lacks them: install them, or say --install-deps"
        )
    folder = scratch / "venv"
    python = str(folder / "bin" / "python")
    if not Path(python).exists():
        make_environment(folder, scratch, logs)
    lacking = missing(python, packages)
    if lacking:
        command = Command([python, "-m", "pip", "install", "--disable-pip-version-check", *lacking], scratch)
        log = logs / f"{baseline}_install.log"
        done = run_command(command, log, INSTALL_SECONDS)
        if done.exit_code != 0 or missing(python, packages):
            raise UnavailableError(f"{', '.join(lacking)} cannot be installed: {done.last_words()} ({log})")
    return python


def make_environment(folder: Path, scratch: Path, logs: Path) -> None:
    command = Command([sys.executable, "-m", "venv", str(folder)], scratch)
    done = run_command(command, logs / "venv.log", INSTALL_SECONDS)
    packages = next(folder.glob("lib/python*/site-packages"), None)
    if done.exit_code != 0 or packages is None:
        raise UnavailableError(f"no virtual environment can be made: {done.last_words() or done.problem}")
    (packages / "beside.pth").write_text("".join(f"{path}\n" for path in site.getsitepackages()))


def sees_cuda(python: str = sys.executable) -> bool:
    """Whether its PyTorch finds a GPU; not where it has none."""
    try:
        done = subprocess.run([python, "-c", CUDA_PROBE], capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.stdout.strip() == "True"
