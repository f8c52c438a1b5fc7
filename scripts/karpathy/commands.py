"""Run a command of a benchmark: with a time limit, a time for each line it prints, its peak memory, and a log.

Knows nothing of what is run.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

POLL_SECONDS = 0.1  # between two looks at whether it has ended, and at its memory
PATIENCE = 10.0  # seconds that a command which is told to stop has before it is killed
GPU_POLLS = 5  # memory of the GPU is asked for at every fifth look


@dataclass(frozen=True)
class Command:
    """What is run, and where. `env` is added to the environment of this process."""

    arguments: Sequence[str]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)

    def shown(self) -> str:
        """As one would type it in its folder."""
        variables = [f"{key}={shlex.quote(value)}" for key, value in self.env.items()]
        return " ".join([*variables, shlex.join(self.arguments)])


@dataclass(frozen=True)
class Line:
    seconds: float  # since the command was started
    text: str


@dataclass
class Finished:
    """How a command ended. Memory in bytes: of its own process, and of the GPU."""

    exit_code: int | None  # None: it ran out of time, or could not be started
    seconds: float
    lines: list[Line]
    timed_out: bool = False
    peak_memory: int = 0
    peak_gpu_memory: int | None = None
    problem: str = ""  # why it could not be started

    def last_words(self) -> str:
        """The last line that is not empty: of a Python program that failed, the error."""
        return next((line.text.strip() for line in reversed(self.lines) if line.text.strip()), "it printed nothing")


def run_command(
    command: Command, log: Path, timeout: float, gpu_memory: Callable[[], int | None] = lambda: None
) -> Finished:
    """Run to its end, or until `timeout` seconds have passed: then it and all that it started are killed.

    `gpu_memory` says how many bytes of the GPU are in use; what was in use before is subtracted. Standard output and
    error are one stream, in the log too. Lines end with \\n or \\r.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", **command.env}
    in_use = gpu_memory()
    began = time.perf_counter()
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
            return Finished(None, 0.0, [], problem=problem)
        done = Finished(None, 0.0, [])
        reader = threading.Thread(target=read_lines, args=(process.stdout, began, done.lines, file), daemon=True)
        reader.start()
        try:
            watch(process, done, began + timeout, in_use, gpu_memory)
        finally:  # on Ctrl-C too: nothing that this started outlives it
            end_group(process)
            reader.join(PATIENCE)
        done.seconds = time.perf_counter() - began
        file.write(f"[exit code {done.exit_code}{', out of time' * done.timed_out}, {done.seconds:.1f} s]\n")
    return done


def watch(
    process: subprocess.Popen[bytes], done: Finished, deadline: float, in_use: int | None,
    gpu_memory: Callable[[], int | None],
) -> None:  # fmt: skip
    """Until it ends or its time is up: note its memory."""
    looks = 0
    while process.poll() is None:
        done.peak_memory = max(done.peak_memory, peak_memory(process.pid))
        looks += 1
        if in_use is not None and looks % GPU_POLLS == 0:
            done.peak_gpu_memory = max(done.peak_gpu_memory or 0, (gpu_memory() or 0) - in_use)
        if time.perf_counter() > deadline:
            done.timed_out = True
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL_SECONDS)
    done.exit_code = process.returncode


def read_lines(stream: IO[bytes], began: float, lines: list[Line], file: IO[str]) -> None:
    """Each line with its time, as it comes. The log has them as lines, however they ended."""
    rest = b""
    while chunk := os.read(stream.fileno(), 1 << 16):
        now = time.perf_counter() - began
        *complete, rest = re.split(rb"[\r\n]", rest + chunk)
        for part in filter(None, complete):
            lines.append(Line(now, part.decode(errors="replace")))
            file.write(f"{lines[-1].text}\n")
    if rest:
        lines.append(Line(time.perf_counter() - began, rest.decode(errors="replace")))
        file.write(f"{lines[-1].text}\n")


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End it and what it started, first by asking."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: of a group that has ended
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
            return


def peak_memory(pid: int) -> int:
    """Largest resident memory so far of a process, in bytes. Linux keeps it; elsewhere it is what is resident now."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
        return int(found.group(1)) * 1024 if found else 0
    except OSError:
        with contextlib.suppress(psutil.Error):
            return psutil.Process(pid).memory_info().rss
        return 0
