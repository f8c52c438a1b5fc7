"""Measure the memory of training: many small models on the native engine, one large model on native and torch.

    python scripts/benchmark_memory.py
    python scripts/benchmark_memory.py --models 256 --steps 100,2000 --large-steps 5

Small models: --models replicas of the default size (n_embd 16, 4 heads, one layer, block 16, vocabulary 27, batch 1,
Adam) in one native engine. The table has the resident memory after each number of steps, and the maximum until then.

Large model: n_embd 256, 8 layers of 8 heads, block 512, vocabulary 500, batch 2 of 512 tokens each, Adam, float32. The
table has the seconds per step (wall time; median, smallest and largest of --large-steps, after a warm-up step) and the
maximum memory. --large-steps 0 leaves the large model out.

Memory is in MiB in excess of the bare interpreter: numpy, numba or torch, the engine, and the models. Each number comes
from a new process with kernels that were compiled earlier. Linux only: memory is read from /proc/self/status.

Exit codes: 0 measured; 1 a measurement failed; 2 an error in the command.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np

from microgpt.benchmarks.reference import ADAM
from microgpt.data.batches import BatchOrder
from microgpt.engines import make_engine
from microgpt.engines.base import EngineState, Workload
from microgpt.engines.options import EngineOptions
from microgpt.errors import MicrogptError
from microgpt.model.spec import ModelSpec

STATUS = Path("/proc/self/status")
DTYPES = ("float32", "float64")
SMALL = {"vocab_size": 27, "n_embd": 16, "n_head": 4, "n_layer": 1, "block_size": 16}
LARGE = {"vocab_size": 500, "n_embd": 256, "n_head": 8, "n_layer": 8, "block_size": 512}
LARGE_BATCH = 2
# Prints the result of `train` and the memory as JSON. The memory of the bare interpreter is measured before any import.
WORKER = """
def resident(kind):  # VmRSS: now; VmHWM: maximum so far; bytes
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(kind))
bare = resident("VmRSS")
import json, sys
sys.path.insert(0, sys.argv[1])
import benchmark_memory
found = benchmark_memory.train(*json.loads(sys.argv[2]))
print(json.dumps({"now": resident("VmRSS") - bare, "most": resident("VmHWM") - bare, **found}))
"""


def train(size: dict[str, Any], backend: str, dtype: str, replicas: int, batch: int, calls: list[int]) -> dict:
    """Train in this process with one call of `advance` for each number of steps; return the seconds of each call."""
    spec = ModelSpec("gpt", **size)
    rng = np.random.default_rng(0)
    bos, block = spec.vocab_size - 1, spec.block_size
    lengths = rng.integers(1, block - 1, 500) if size == SMALL else np.full(2 * batch, block)
    examples = [[bos, *rng.integers(0, bos, length).tolist(), bos][: block + 1] for length in lengths]
    orders = [BatchOrder(rng.permutation(len(examples)), (), 0.0, batch) for _ in range(replicas)]
    state = EngineState({name: rng.normal(0, 0.08, (replicas, *shape)) for name, shape in spec.shapes().items()})
    options = EngineOptions(backend, device="cpu", dtype=dtype)
    engine = make_engine(options, spec, ADAM, Workload(examples, orders), state, harness.say)
    seconds, step = [], 0
    for count in calls:
        start = time.perf_counter()
        losses = engine.advance(step, np.full((count, replicas), 0.01 if size == SMALL else 1e-4))
        seconds.append(time.perf_counter() - start)
        step += count
        if not np.isfinite(losses).all():
            raise MicrogptError(f"a loss became non-finite within {step} steps")
    return {"seconds": seconds, "compiling": engine.compile_seconds}


def measure(
    size: dict[str, Any], backend: str, dtype: str, replicas: int, batch: int, calls: list[int], warm: bool = True
) -> dict:
    """Run `train` in a fresh process; return its result with the current and the maximum memory in bytes.

    Raises MicrogptError if the process fails or, unless `warm` is false, compiles kernels.
    """
    chosen = json.dumps([size, backend, dtype, replicas, batch, calls])
    name = f"training {replicas} on {backend}, {dtype},"
    found = json.loads(harness.run_python("-c", WORKER, str(Path(__file__).parent), chosen, name=name).splitlines()[-1])
    if warm and found["compiling"]:
        raise MicrogptError("the kernels were compiled again, which needs memory, because they were not kept on disk")
    return found


def mib(count: float) -> str:
    return f"{count / 2**20:,.0f}"


def small_rows(replicas: int, steps: list[int]) -> list[list[object]]:
    rows: list[list[object]] = []
    for dtype in DTYPES:
        harness.say(f"{dtype}: compiling the kernels if they are not on disk")
        measure(SMALL, "native", dtype, 1, 1, [1], warm=False)
        for count in steps:
            harness.say(f"{replicas} models, {dtype}, {count} steps")
            found = measure(SMALL, "native", dtype, replicas, 1, [count])
            rows.append([f"{replicas} models, {dtype}", count, mib(found["now"]), mib(found["most"])])
    return rows


def large_row(backend: str, steps: int) -> list[str]:
    harness.say(f"the large model on {backend}: {steps} steps after a warm-up step")
    found = measure(LARGE, backend, "float32", 1, LARGE_BATCH, [1] * (steps + 1))
    return [backend, *harness.cells(found["seconds"][1:]), mib(found["most"])]


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--models", type=harness.at_least(1), default=256, help="number of small models (256)")
    whole = harness.at_least(1)
    parser.add_argument(
        "--steps", type=lambda text: [whole(each) for each in text.split(",")], default=[100, 2000],
        help="steps after which the memory of the small models is measured, separated by commas (100,2000)",
    )  # fmt: skip
    parser.add_argument("--large-steps", type=harness.at_least(0), default=5, help="steps of the large model (5)")
    chosen = parser.parse_args(arguments)
    if not STATUS.exists():
        parser.error(f"memory cannot be measured: this system has no {STATUS}")
    return harness.finish(lambda: measure_all(chosen.models, chosen.steps, chosen.large_steps))


def measure_all(replicas: int, steps: list[int], large_steps: int) -> None:
    print(f"Python {sys.version.split()[0]}; memory in MiB above the bare interpreter's\n")
    heading = ["small models, native engine", "steps", "memory", "at most"]
    print(harness.table(heading, small_rows(replicas, steps)) + "\n", flush=True)
    if large_steps:
        rows = [large_row(backend, large_steps) for backend in ("native", "torch")[: 1 + harness.has_torch()]]
        heading = ["large model, float32", "s a step: median", "min", "max", "memory at most"]
        print(harness.table(heading, rows) + "\n")


if __name__ == "__main__":
    sys.exit(main())
