"""The program as a user runs it, in a folder of its own: in a process of its own, or in that of the test."""

import contextlib
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from microgpt.app import main

TIMEOUT = 120  # seconds that no command here comes near
# DESIGN: "Runs"
RECORD_KEYS = {
    "schema_version", "run_id", "status", "task", "started_at", "finished_at", "command", "overrides", "config",
    "config_hash", "seed", "git", "data", "model", "mode", "style", "backend", "device", "using_gpu", "dtype",
    "kernel", "threads", "processes", "backend_reason", "group", "environment", "metrics", "timings", "samples",
    "error",
}  # fmt: skip


ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
GOLDEN = ROOT / "tests" / "golden"


def mostly_slow(
    quick: int, names: str | tuple[str, ...], values: Iterable[Any], ids: Any = None
) -> pytest.MarkDecorator:
    """pytest.mark.parametrize, where all but the first few values are for the slow suite: each starts the program."""
    found = []
    for number, value in enumerate(values):
        parts = (value,) if isinstance(names, str) else value
        found.append(pytest.param(*parts, marks=[pytest.mark.slow] if number >= quick else []))
    return pytest.mark.parametrize(names, found, ids=ids)


@dataclass(frozen=True)
class Program:
    """`program(*arguments)` runs `python -m microgpt *arguments` in its folder, in the process of the test.

    Nothing is imported and no kernel is loaded again, which takes most of the time of a short run. What depends on the
    process, such as imports, environment variables and signals, is tested with `process` and `start`.
    """

    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __call__(self, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """Run to the end in this process; the exit code must be the expected one."""
        return as_expected(run_here(command(*arguments), self.folder), expect)

    def process(self, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """Run to the end in a new process; the exit code must be the expected one."""
        done = subprocess.run(
            command(*arguments), cwd=self.folder, capture_output=True, text=True, timeout=TIMEOUT, env=environment()
        )
        return as_expected(done, expect)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start and return at once; what still runs when the test ends is killed."""
        process = subprocess.Popen(
            command(*arguments),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        self.started.append(process)
        return process

    def kill_after(self, seconds: float, *arguments: str, from_first_step: bool = False) -> bool:
        """SIGKILL a run after so long, counted from its start or from its first line. Whether it was still alive."""
        process = self.start(*arguments)
        if from_first_step:
            assert process.stdout is not None
            next((line for line in process.stdout if line.startswith("step ")), None)
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate(timeout=TIMEOUT)
            return True
        return False

    def stop(self, process: subprocess.Popen[str], after: str, number: signal.Signals) -> str:
        """Send a signal once a line of standard output holds `after`; returns what the program says from there on."""
        assert process.stdout is not None
        assert any(after in line for line in process.stdout), f"no line has {after!r}"
        process.send_signal(number)
        rest = process.stdout.read()
        process.wait(timeout=TIMEOUT)
        return rest

    def runs(self, outputs: str = "outputs") -> list[Path]:
        """Folders of single runs, oldest first."""
        return sorted(path.parent for path in (self.folder / outputs).glob("????-??-??/*/run.json"))

    def only_run(self, outputs: str = "outputs") -> Path:
        (run,) = self.runs(outputs)
        return run

    def jobs(self) -> list[Path]:
        """Folders of a sweep's jobs, by number; there must be one sweep."""
        assert len(list((self.folder / "outputs" / "sweeps").iterdir())) == 1
        return sorted(path.parent for path in (self.folder / "outputs" / "sweeps").glob("*/*/run.json"))

    def files(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}


def run_here(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the program in this process: its output is captured, and its warnings are printed, as in a new one."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
    before = sys.argv
    sys.argv = command[2:]
    try:
        with (
            contextlib.chdir(folder), contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]),
            warnings.catch_warnings(),
        ):  # fmt: skip
            warnings.showwarning = lambda *warning: print(warnings.formatwarning(*warning[:4]), file=sys.stderr, end="")
            warnings.simplefilter("default")
            for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
                warnings.simplefilter("ignore", category)  # Python's own defaults
            code = main()
    except SystemExit as end:  # of --help
        code = int(end.code or 0)
    finally:
        sys.argv = before
    stdout, stderr = (stream.buffer.getvalue().decode() for stream in streams)
    return subprocess.CompletedProcess(command, code, stdout, stderr)


def as_expected(done: subprocess.CompletedProcess[str], code: int) -> subprocess.CompletedProcess[str]:
    shown = f"{' '.join(done.args[3:])}\n--- stdout\n{done.stdout[-3000:]}\n--- stderr\n{done.stderr[-3000:]}"
    assert done.returncode == code, f"exit code {done.returncode}, not {code}: {shown}"
    return done


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "microgpt", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def make_program(folder: Path) -> Iterator[Program]:
    program = Program(folder)
    yield program
    for process in program.started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=TIMEOUT)


def read_record(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


def read_history(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def checkpoint_files(run: Path, step: int) -> dict[str, bytes]:
    """What training decides in a checkpoint: weights and moments."""
    return {path.name: path.read_bytes() for path in (run / "checkpoint" / f"step_{step:08d}").glob("*.safetensors")}


def results_of(run: Path, step: int) -> dict[str, Any]:
    """Everything that two runs of one configuration must share, bit for bit, however they came to their last step."""
    record = read_record(run)
    rates = ("steps_per_sec", "tokens_per_sec")
    return {
        "status": record["status"],
        "metrics": {key: value for key, value in record["metrics"].items() if key not in rates},
        "samples": record["samples"],
        "samples.txt": (run / "samples.txt").read_bytes(),
        "history": (run / "history.jsonl").read_bytes(),
        "checkpoint": checkpoint_files(run, step),
        "best": (run / "checkpoint" / "best").readlink() if (run / "checkpoint" / "best").is_symlink() else None,
    }


def wait_for(folder: Path, pattern: str, seconds: float = 30) -> Path:
    """The first file of that pattern below a folder, once there is one."""
    end = time.monotonic() + seconds
    while not (found := next(folder.glob(pattern), None)):
        assert time.monotonic() < end, f"no {pattern} appeared in {folder}"
        time.sleep(0.005)
    return found


def load_script(name: str) -> ModuleType:
    """scripts/<name>.py as a module of its own, made anew by each call; it finds its neighbours."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPTS))
    return module


HEAVY = ("torch", "numba", "pandas", "scipy", "matplotlib")
# Runs the program on the arguments that follow, then says which of the heavy libraries it has loaded.
SPY = f"""
import sys
from microgpt.app import main
try:
    code = main()
except SystemExit as exit:
    code = exit.code
print("loaded:", *[name for name in {HEAVY} if name in sys.modules])
sys.exit(code)
"""
