"""Measure how much memory training takes: many small models on the native engine, and a large one on native and torch.

    python scripts/benchmark_memory.py
    python scripts/benchmark_memory.py --models 256 --steps 100,2000 --large-steps 5

Small models: so many of the default size (n_embd 16, 4 heads, one layer, block 16, vocabulary 27, batch 1, Adam) in one
native engine. Told is the resident memory after each number of steps, and the most until then.

Large model: n_embd 256, 8 layers of 8 heads, block 512, vocabulary 500, batch 2 of 512 tokens each, Adam, float32. Told
are the seconds of a step (wall time; median, smallest and largest of --large-steps, after one that is not counted) and
the most memory. --large-steps 0 leaves it out.

All memory is in MiB above that of the bare interpreter: numpy, numba or torch, the engine, the models. Every number
comes from a fresh process, whose kernels were compiled before. Linux only: it is read from /proc/self/status.

Exit codes: 0 measured; 1 a measurement failed; 2 a mistake in the command.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

STATUS = Path("/proc/self/status")
DTYPES = ("float32", "float64")
SMALL = {"vocab_size": 27, "n_embd": 16, "n_head": 4, "n_layer": 1, "block_size": 16}
LARGE = {"vocab_size": 500, "n_embd": 256, "n_head": 8, "n_layer": 8, "block_size": 512}
LARGE_BATCH = 2
# Prints what the worker found, as JSON. What is there before the first import is the bare interpreter.
WORKER = """
def resident(kind):  # VmRSS: now; VmHWM: at most so far; bytes
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(kind))
bare = resident("VmRSS")
import json, sys
sys.path.insert(0, sys.argv[1])
import benchmark_memory
found = benchmark_memory.work(*json.loads(sys.argv[2]))
print(json.dumps({"now": resident("VmRSS") - bare, "most": resident("VmHWM") - bare, **found}))
"""


class FailedError(Exception):
    """Which measurement failed, and its error."""


def work(size: dict[str, Any], backend: str, dtype: str, models: int, batch: int, calls: list[int]) -> dict:
    """Train in this process, in calls of `advance` of so many steps: how many seconds each took, and compiling."""
    import numpy as np

    from microgpt.data.batches import BatchOrder
    from microgpt.engines import make_engine
    from microgpt.engines.base import EngineState, Workload
    from microgpt.engines.optimizer import OptimizerSpec
    from microgpt.engines.options import EngineOptions
    from microgpt.model.spec import ModelSpec

    spec = ModelSpec("gpt", **size)
    rng = np.random.default_rng(0)
    bos, block = spec.vocab_size - 1, spec.block_size
    lengths = rng.integers(1, block - 1, 500) if size == SMALL else np.full(2 * batch, block)
    examples = [[bos, *rng.integers(0, bos, length).tolist(), bos][: block + 1] for length in lengths]
    orders = [BatchOrder(rng.permutation(len(examples)), (), 0.0, batch) for _ in range(models)]
    state = EngineState({name: rng.normal(0, 0.08, (models, *shape)) for name, shape in spec.shapes().items()})
    options = EngineOptions(backend, device="cpu", dtype=dtype)
    adam = OptimizerSpec("adam", beta1=0.85, beta2=0.99, eps=1e-8)
    engine = make_engine(options, spec, adam, Workload(examples, orders), state, say)
    seconds, step = [], 0
    for count in calls:
        began = time.perf_counter()
        losses = engine.advance(step, np.full((count, models), 0.01 if size == SMALL else 1e-4))
        seconds.append(time.perf_counter() - began)
        step += count
        if not np.isfinite(losses).all():
            raise FailedError(f"a loss is not finite within {step} steps")
    return {"seconds": seconds, "compiling": engine.compile_seconds}


def measure(
    size: dict[str, Any], backend: str, dtype: str, models: int, batch: int, calls: list[int], warm: bool = True
) -> dict:
    """`work` in a fresh process, with bytes of memory now and at most. Raises FailedError."""
    chosen = json.dumps([size, backend, dtype, models, batch, calls])
    command = [sys.executable, "-c", WORKER, str(Path(__file__).resolve().parent), chosen]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        last = next((line for line in reversed(done.stderr.splitlines()) if "rror:" in line), "it said nothing")
        raise FailedError(f"training {models} on {backend}, {dtype}, failed with exit code {done.returncode}: {last}")
    found = json.loads(done.stdout.splitlines()[-1])
    if warm and found["compiling"]:
        raise FailedError("the kernels were not kept on disk, or the sources have changed: compiling takes memory too")
    return found


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def mib(count: float) -> str:
    return f"{count / 2**20:,.0f}"


def small(models: int, dtype: str, steps: list[int]) -> list[str]:
    """Rows of the table of small models."""
    rows = []
    for count in steps:
        say(f"{models} models, {dtype}, {count} steps")
        found = measure(SMALL, "native", dtype, models, 1, [count])
        rows.append(f"| {models} models, {dtype} | {count} | {mib(found['now'])} | {mib(found['most'])} |")
    return rows


def large(backend: str, steps: int) -> str:
    """A row of the table of the large model."""
    say(f"the large model on {backend}: {steps} steps and one before")
    found = measure(LARGE, backend, "float32", 1, LARGE_BATCH, [1] * (steps + 1))
    seconds = found["seconds"][1:]
    times = " | ".join(f"{s:.3g}" for s in (median(seconds), min(seconds), max(seconds)))
    return f"| {backend} | {times} | {mib(found['most'])} |"


def show(heading: str, rows: list[str]) -> None:
    print("\n".join([heading, "|---" * (heading.count("|") - 1) + "|", *rows, ""]), flush=True)


def whole(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: it is a whole number of at least {least}")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        usage=argparse.SUPPRESS, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=lambda text: whole(text, 1), default=256, help="small models (256)")
    parser.add_argument(
        "--steps", type=lambda text: [whole(each, 1) for each in text.split(",")], default=[100, 2000],
        help="after how many their memory is measured, separated by commas (100,2000)",
    )  # fmt: skip
    parser.add_argument("--large-steps", type=lambda text: whole(text, 0), default=5, help="of the large model (5)")
    parsed = parser.parse_args(arguments)
    if not STATUS.exists():
        parser.error(f"this system has no {STATUS}, which memory is read from")
    print(f"Python {sys.version.split()[0]}; memory in MiB above the bare interpreter's\n")
    try:
        rows = []
        for dtype in DTYPES:
            say(f"once before, {dtype}: kernels are compiled where they are not there")
            measure(SMALL, "native", dtype, 1, 1, [1], warm=False)
            rows += small(parsed.models, dtype, parsed.steps)
        show("| small models, native engine | steps | memory | at most |", rows)
        if not parsed.large_steps:
            return 0
        has_torch = importlib.util.find_spec("torch") is not None
        if not has_torch:
            print("PyTorch is not installed: its engine is left out.\n")
        rows = [large(backend, parsed.large_steps) for backend in ("native", "torch")[: 1 + has_torch]]
        show("| large model, float32 | s a step: median | min | max | memory at most |", rows)
    except FailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
