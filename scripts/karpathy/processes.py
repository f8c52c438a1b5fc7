"""Run the commands of a benchmark with a time limit and a log; record the time of each line and the peak memory."""

import contextlib
import os
import re
import shlex
import signal
import site
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

POLL_SECONDS = 0.1  # between two measurements of the memory
STOP_SECONDS = 10.0  # between SIGTERM and SIGKILL
GPU_POLLS = 5  # the memory of the GPU is measured at every fifth poll
FIND_MISSING = "import importlib.util, sys; print(*(n for n in sys.argv[1:] if importlib.util.find_spec(n) is None))"
INSTALL_SECONDS = 1800.0


class UnavailableError(Exception):
    """A baseline is not available, for this reason."""


@dataclass(frozen=True)
class Command:
    """A command, its folder, and the variables to add to the environment."""

    arguments: Sequence[str]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)

    def shown(self) -> str:
        """Return the command as it would be typed in its folder."""
        variables = [f"{key}={shlex.quote(value)}" for key, value in self.env.items()]
        return " ".join([*variables, shlex.join(self.arguments)])


@dataclass(frozen=True)
class OutputLine:
    seconds: float  # since the start of the command
    text: str


@dataclass
class Finished:
    """The outcome of a command. Memory is in bytes: that of its process, and that of the GPU."""

    exit_code: int | None = None  # None: the command ran out of time or could not be started
    seconds: float = 0.0
    lines: list[OutputLine] = field(default_factory=list)
    timed_out: bool = False
    peak_memory: int = 0
    peak_gpu_memory: int | None = None
    problem: str = ""  # why the command could not be started

    def last_line(self) -> str:
        """Return the last non-empty line, which is the error of a Python program that failed."""
        return next((line.text.strip() for line in reversed(self.lines) if line.text.strip()), "no output")


def run_command(
    command: Command, log: Path, timeout: float, gpu_memory: Callable[[], int | None] = lambda: None
) -> Finished:
    """Run a command to its end or, after `timeout` seconds, kill it with the processes that it started.

    `gpu_memory` returns the bytes in use on the GPU; the value before the start is subtracted. Standard output and
    error are one stream, which is also written to the log. Lines end with \\n or \\r.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", **command.env}
    in_use = gpu_memory()
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as file:
        file.write(f"$ cd {command.cwd}\n$ {command.shown()}\n")
        file.flush()
        try:
            process = subprocess.Popen(
                list(command.arguments), cwd=command.cwd, env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            problem = f"cannot be started: {error.strerror}"
            file.write(f"[{problem}]\n")
            return Finished(problem=problem)
        done = Finished()
        reader = threading.Thread(target=read_lines, args=(process.stdout, start, done.lines, file), daemon=True)
        reader.start()
        try:
            watch(process, done, start + timeout, in_use, gpu_memory)
        finally:  # even after Ctrl-C
            end_group(process)
            reader.join(STOP_SECONDS)
        done.seconds = time.perf_counter() - start
        file.write(f"[exit code {done.exit_code}{', out of time' * done.timed_out}, {done.seconds:.1f} s]\n")
    return done


def watch(
    process: subprocess.Popen[bytes], done: Finished, deadline: float, in_use: int | None,
    gpu_memory: Callable[[], int | None],
) -> None:  # fmt: skip
    """Record the memory of a process until it ends or its time is up."""
    polls = 0
    while process.poll() is None:
        done.peak_memory = max(done.peak_memory, peak_memory(process.pid))
        polls += 1
        if in_use is not None and polls % GPU_POLLS == 0:
            done.peak_gpu_memory = max(done.peak_gpu_memory or 0, (gpu_memory() or 0) - in_use)
        if time.perf_counter() > deadline:
            done.timed_out = True
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL_SECONDS)
    done.exit_code = process.returncode


def read_lines(stream: IO[bytes], start: float, lines: list[OutputLine], file: IO[str]) -> None:
    """Append each line with its time as soon as it is complete, and write it to the log."""

    def keep(*parts: bytes) -> None:
        for part in filter(None, parts):
            lines.append(OutputLine(time.perf_counter() - start, part.decode(errors="replace")))
            file.write(f"{lines[-1].text}\n")

    rest = b""
    while chunk := os.read(stream.fileno(), 1 << 16):
        *complete, rest = re.split(rb"[\r\n]", rest + chunk)
        keep(*complete)
    keep(rest)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Stop a process and the processes that it started, first with SIGTERM."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        # PermissionError: raised by macOS for a process group that has ended
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            return


def peak_memory(pid: int) -> int:
    """Return the maximum resident memory of a process so far in bytes; without /proc, its current memory."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
        return int(found.group(1)) * 1024 if found else 0
    except OSError:
        with contextlib.suppress(psutil.Error):
            return psutil.Process(pid).memory_info().rss
        return 0


def captured(arguments: Sequence[str], timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a short command. Raises UnavailableError if it cannot be started or takes longer than `timeout` seconds."""
    try:
        return subprocess.run(arguments, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(f"{arguments[0]} cannot be run: {error}") from error


# A Python with the packages of a baseline


def missing(python: str, packages: Mapping[str, str]) -> list[str]:
    """Return the names to install of the packages (import name -> name to install) that a Python lacks."""
    done = captured([python, "-c", FIND_MISSING, *packages])
    if done.returncode != 0:
        raise UnavailableError(f"{python} cannot list its packages: {done.stderr.strip()[-200:]}")
    return [packages[name] for name in done.stdout.split()]


def python_for(baseline: str, packages: Mapping[str, str], install: bool, scratch: Path, logs: Path) -> str:
    """Return the Python to run a baseline with. Raises UnavailableError with the names of missing packages.

    Packages are installed into a virtual environment in the scratch folder, which also has the packages of this Python:
    both programs use the same PyTorch, and this Python is not changed.
    """
    lacking = missing(sys.executable, packages)
    if not lacking:
        return sys.executable
    if not install:
        raise UnavailableError(
            f"{baseline} needs {', '.join(lacking)}, which this Python lacks: install these or use --install-deps"
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
            raise UnavailableError(f"{', '.join(lacking)} cannot be installed: {done.last_line()} ({log})")
    return python


def make_environment(folder: Path, scratch: Path, logs: Path) -> None:
    command = Command([sys.executable, "-m", "venv", str(folder)], scratch)
    done = run_command(command, logs / "venv.log", INSTALL_SECONDS)
    packages = next(folder.glob("lib/python*/site-packages"), None)
    if done.exit_code != 0 or packages is None:
        raise UnavailableError(f"no virtual environment can be created: {done.problem or done.last_line()}")
    (packages / "beside.pth").write_text("".join(f"{path}\n" for path in site.getsitepackages()))
