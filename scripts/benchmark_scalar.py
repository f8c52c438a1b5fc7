"""Time a training step of scalar mode against microgpt.py, unchanged and with Python's cycle collector off.

    python scripts/benchmark_scalar.py --reference path/to/microgpt.py
    python scripts/benchmark_scalar.py --reference path/to/microgpt.py --steps 60 --repeats 5

All three programs train on the same names in the same order. In each round, each of them runs once in a new process on
the same CPU core. The figure is the CPU time of only the training loop. For microgpt.py, this is the loop
`for step in range(num_steps)`, run from the file with only the number of steps changed.
"""

import argparse
import ast
import gc
import json
import random
import re
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import harness
import numpy as np

from microgpt.benchmarks.reference import names_corpus, reference_engine
from microgpt.data.sources import read_source
from microgpt.engines.options import EngineOptions
from microgpt.errors import MicrogptError
from microgpt.training.schedules import Schedule

PROGRAMS = ("microgpt", "reference", "reference, gc.disable()")


def time_reference(source: Path, steps: int, collector: bool) -> tuple[float, float]:
    """Run the training of microgpt.py in this process; return the seconds per step and the last loss."""
    tree = ast.parse(source.read_text(), str(source))
    body = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "num_steps":
            node.value = ast.Constant(steps)
        if isinstance(node, ast.For) and ast.unparse(node.iter) == "range(num_steps)":
            start, end = ast.parse("benchmark_start = clock()\nbenchmark_seconds = clock() - benchmark_start").body
            body += [start, node, end]
            break
        body.append(node)
    else:
        raise MicrogptError(f"{source} has no loop `for step in range(num_steps)`")
    tree.body = body
    names: dict = {"clock": time.process_time, "__name__": "__main__"}
    if not collector:
        gc.disable()
    exec(compile(ast.fix_missing_locations(tree), str(source), "exec"), names)
    return names["benchmark_seconds"] / steps, names["loss"].data


def time_scalar(data: Path, steps: int) -> tuple[float, float]:
    """Train the same model with the scalar engine; return the seconds per step and the last loss."""
    engine = reference_engine(EngineOptions("python"), names_corpus("text", str(data)))
    schedule = Schedule("linear", steps)
    rates = np.array([[0.01 * schedule.factor(step)] for step in range(steps)])
    start = time.process_time()
    losses = engine.advance(0, rates)
    return (time.process_time() - start) / steps, float(losses[-1, 0])


def compare(reference: Path, steps: int, repeats: int) -> None:
    core = random.choice(harness.available_cores() or [None])
    pinned = None if core is None else {core}
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    losses = {}
    with tempfile.TemporaryDirectory() as folder:
        names = read_source(harness.names_source(), None)
        (Path(folder) / "input.txt").write_text(names.text)
        print(f"data: {names.origin}; {steps} steps, {repeats} rounds, Python {sys.version.split()[0]}, core {core}")
        worker = [sys.executable, str(Path(__file__).resolve()), "--reference", str(reference), "--steps", str(steps)]
        for _ in range(repeats):
            for name in PROGRAMS:
                done = harness.run([*worker, "--worker", name], folder, name, pinned)
                seconds, losses[name] = json.loads(done.stderr.strip().splitlines()[-1])  # microgpt.py prints to stdout
                times[name].append(1e3 * seconds)
    print(f"{'':26}{'ms a step: median':>18}{'min':>9}{'max':>9}{'times ours':>12}   loss of the last step")
    for name, figures in times.items():
        middle, low, high = harness.cells(figures, ".2f")
        ratio = median(figures) / median(times["microgpt"])
        print(f"{name:26}{middle:>18}{low:>9}{high:>9}{ratio:12.1f}   {losses[name]:.12f}")
    if max(losses.values()) - min(losses.values()) > 1e-12:
        raise MicrogptError("the losses differ: the programs do not train the same model")


def main() -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--reference", type=Path, required=True, help="the current microgpt.py (n_embd 16, block 16)")
    parser.add_argument("--steps", type=int, default=40, help="training steps per measurement (40)")
    parser.add_argument("--repeats", type=int, default=3, help="number of rounds (3)")
    parser.add_argument("--worker", choices=PROGRAMS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    reference = chosen.reference.resolve()
    if not reference.is_file() or not re.search(r"^num_steps\s*=", reference.read_text(), re.MULTILINE):
        harness.say(f"error: --reference={chosen.reference} is not microgpt.py: no line sets num_steps")
        return 2
    if chosen.worker == "microgpt":
        harness.say(json.dumps(time_scalar(Path("input.txt"), chosen.steps)))
    elif chosen.worker:
        has_collector = chosen.worker == "reference"
        harness.say(json.dumps(time_reference(reference, chosen.steps, has_collector)))
    else:
        compare(reference, chosen.steps, chosen.repeats)
    return 0


if __name__ == "__main__":
    sys.exit(harness.finish(main))
