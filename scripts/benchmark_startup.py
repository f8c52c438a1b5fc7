"""Time how long the program and the native engine take to start, and to compile the native kernels.

    python scripts/benchmark_startup.py
    python scripts/benchmark_startup.py --repeats 7 --skip-compile

First the kernels are compiled for float32 and for float64, each once and into an empty folder: the seconds that the
engine itself tells. Then come the rounds, everything once in each, every time in a fresh process:

- wall time of whole commands, in an empty folder. The run of mode=tensor finds its kernels on disk.
- seconds inside a process: importing the native engine (numpy and numba with it), and then getting its kernels from
  the disk. Both leave out the start of the interpreter.

Printed are medians with the smallest and the largest value. --skip-compile leaves the first part out and uses the
kernels where they are kept (NUMBA_CACHE_DIR or the user's cache), compiled before the rounds where they are not there.

Exit codes: 0 measured; 1 one of the commands failed; 2 a mistake in the command.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from _arguments import at_least_1

DTYPES = ("float32", "float64")
KERNELS = "NUMBA_CACHE_DIR"
COMMANDS = (
    ("--help",),
    ("--cfg", "job"),
    ("mode=scalar", "train.steps=1"),
    ("mode=tensor", "backend=native", "train.steps=1"),
)
# Prints: seconds of importing the engine, of making its kernels ready, and how many of these were for compiling.
ENGINE = """
import sys, time
start = time.perf_counter()
import microgpt.engines.native.engine
imported = time.perf_counter()
from microgpt.engines.native.kernel_cache import compile_kernels
compiled = compile_kernels(sys.argv[1], lambda text: None)
print(imported - start, time.perf_counter() - imported, compiled)
"""


class FailedError(Exception):
    """Which command failed, and its error."""


def run(*arguments: str, kernels: Path | None) -> tuple[float, str]:
    """Python in an empty folder, to its end: seconds of wall time, and standard output."""
    environment = os.environ | ({KERNELS: str(kernels)} if kernels else {})
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - began
    if done.returncode != 0:
        last = next((line for line in reversed(done.stderr.splitlines()) if "rror:" in line), "it said nothing")
        shown = "starting the engine" if arguments[0] == "-c" else f"python {' '.join(arguments)}"
        raise FailedError(f"{shown} failed with exit code {done.returncode}: {last}")
    return seconds, done.stdout


def start_engine(dtype: str, kernels: Path | None) -> tuple[float, float, float]:
    """Seconds of importing the native engine, of making its kernels ready, and of compiling among these."""
    imported, ready, compiled = map(float, run("-c", ENGINE, dtype, kernels=kernels)[1].split())
    return imported, ready, compiled


def compile_all(folder: Path) -> dict[str, float]:
    """Seconds of compiling for each kind of float."""
    found = {}
    for dtype in DTYPES:
        say(f"compiling the native kernels for {dtype}")
        found[dtype] = start_engine(dtype, folder)[2]
    return found


def measure(repeats: int, kernels: Path | None) -> dict[str, list[float]]:
    """Seconds of every round, by what was started."""
    say("once before the rounds: files are read, kernels compiled where they are not there")
    for command in COMMANDS:
        run("-m", "microgpt", *command, kernels=kernels)
    start_engine(DTYPES[0], kernels)
    times: dict[str, list[float]] = {}
    for number in range(repeats):
        say(f"round {number + 1} of {repeats}")
        for command in COMMANDS:
            name = f"`python -m microgpt {' '.join(command)}`"
            times.setdefault(name, []).append(run("-m", "microgpt", *command, kernels=kernels)[0])
        imported, ready, compiled = start_engine(DTYPES[0], kernels)
        if compiled:
            raise FailedError("the kernels were not kept on disk, or the sources have changed: no warm start")
        times.setdefault("importing the native engine", []).append(imported)
        times.setdefault("its kernels from disk", []).append(ready)
    return times


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def show(heading: str, rows: dict[str, str]) -> None:
    columns = heading.count("|") - 1
    lines = [f"| {name} | {row} |" for name, row in rows.items()]
    print("\n".join([heading, "|---" * columns + "|", *lines, ""]), flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        usage=argparse.SUPPRESS, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=at_least_1, default=7, help="rounds (7)")
    parser.add_argument("--skip-compile", action="store_true", help="do not compile the kernels anew")
    parsed = parser.parse_args(arguments)
    print(f"Python {sys.version.split()[0]}; wall time, median of {parsed.repeats}\n")
    try:
        with tempfile.TemporaryDirectory() as folder:
            kernels = None if parsed.skip_compile else Path(folder)
            if kernels:
                seconds = compile_all(kernels)
                show("| compiling the native kernels | s |", {d: f"{s:.1f}" for d, s in seconds.items()})
            times = measure(parsed.repeats, kernels)
    except FailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    rows = {name: f"{median(s):.2f} | {min(s):.2f} | {max(s):.2f}" for name, s in times.items()}
    show("| start | s: median | min | max |", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
