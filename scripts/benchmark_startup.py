"""Time the start of the program and of the native engine, and the compilation of the native kernels.

    python scripts/benchmark_startup.py
    python scripts/benchmark_startup.py --repeats 7 --skip-compile

First, the kernels are compiled once for float32 and once for float64, into an empty folder; the seconds are those that
the engine reports. The rounds follow. In each round, everything runs once, in a new process:

- Whole commands in an empty folder, as wall time. mode=tensor finds its kernels on disk.
- Inside a process, importing the native engine (with numpy and llvmlite), then loading its kernels from disk, without
  the start of the interpreter.

The figures are medians with the smallest and the largest value. --skip-compile leaves the first part out and uses the
kernels in NUMBA_CACHE_DIR or the user's cache, which are compiled before the rounds if they are missing.

Exit codes: 0 measured; 1 a command failed; 2 an error in the command.
"""

import sys
import tempfile
import time

import harness

from microgpt.errors import MicrogptError

DTYPES = ("float32", "float64")
COMMANDS = (
    ("--help",),
    ("--cfg", "job"),
    ("mode=scalar", "train.steps=1"),
    ("mode=tensor", "backend=native", "train.steps=1"),
)
# Prints the seconds of importing the engine, of loading or compiling its kernels, and of only compiling.
ENGINE = """
import sys, time
start = time.perf_counter()
import microgpt.engines.native.engine
imported = time.perf_counter()
from microgpt.engines.native.machine_code import compile_kernels
compiled = compile_kernels(sys.argv[1], lambda text: None)
print(imported - start, time.perf_counter() - imported, compiled)
"""


def run(*arguments: str, kernels: str | None, name: str = "") -> tuple[float, str]:
    """Run Python in an empty folder; return the seconds of wall time, and standard output."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        options = {"folder": folder, "environment": {"NUMBA_CACHE_DIR": kernels} if kernels else None}
        out = harness.run_python(*arguments, **options, **({"name": name} if name else {}))
        return time.perf_counter() - start, out


def start_engine(dtype: str, kernels: str | None) -> tuple[float, float, float]:
    """Return the seconds of importing the native engine, of preparing its kernels, and of compiling as part of that."""
    imported, ready, compiled = map(float, run("-c", ENGINE, dtype, kernels=kernels, name="the engine")[1].split())
    return imported, ready, compiled


def measure(repeats: int, kernels: str | None) -> dict[str, list[float]]:
    """Return the seconds of each round, keyed by the command or the import that was timed."""
    harness.say("warm-up: files are read, kernels compiled if they are missing")
    for command in COMMANDS:
        run("-m", "microgpt", *command, kernels=kernels)
    start_engine(DTYPES[0], kernels)
    times: dict[str, list[float]] = {}
    for number in range(repeats):
        harness.say(f"round {number + 1} of {repeats}")
        for command in COMMANDS:
            name = f"`python -m microgpt {' '.join(command)}`"
            times.setdefault(name, []).append(run("-m", "microgpt", *command, kernels=kernels)[0])
        imported, ready, compiled = start_engine(DTYPES[0], kernels)
        if compiled:
            raise MicrogptError("the kernels were compiled again: they were not kept on disk, or the sources changed")
        times.setdefault("importing the native engine", []).append(imported)
        times.setdefault("its kernels from disk", []).append(ready)
    return times


def measure_all(repeats: int, skip_compile: bool) -> None:
    print(f"Python {sys.version.split()[0]}; wall time, median of {repeats}\n")
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for dtype in () if skip_compile else DTYPES:
            harness.say(f"compiling the native kernels for {dtype}")
            rows.append([dtype, f"{start_engine(dtype, folder)[2]:.1f}"])
        if rows:
            print(harness.table(["compiling the native kernels", "s"], rows) + "\n", flush=True)
        times = measure(repeats, None if skip_compile else folder)
    rows = [[name, *harness.cells(seconds, ".2f")] for name, seconds in times.items()]
    print(harness.table(["start", "s: median", "min", "max"], rows) + "\n")


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--repeats", type=harness.at_least(1), default=7, help="rounds (7)")
    parser.add_argument("--skip-compile", action="store_true", help="do not compile the kernels again")
    chosen = parser.parse_args(arguments)
    return harness.finish(lambda: measure_all(chosen.repeats, chosen.skip_compile))


if __name__ == "__main__":
    sys.exit(main())
