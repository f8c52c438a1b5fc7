"""Time a training step of scalar mode against microgpt.py, as it stands and with Python's cycle collector off.

    python scripts/benchmark_scalar.py --reference path/to/microgpt.py
    python scripts/benchmark_scalar.py --reference path/to/microgpt.py --steps 60 --repeats 5

All three train on the same names in the same order, each in a process of its own on one and the same CPU core, in turn,
round after round. What is timed is CPU time of the training loop alone: of the reference that is its loop
`for step in range(num_steps)`, executed from the file with nothing changed but the number of steps.
"""

import argparse
import ast
import gc
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

SEED = 42
CONTESTANTS = ("microgpt", "reference", "reference, gc.disable()")


def time_reference(source: Path, steps: int, collector: bool) -> None:
    """Run microgpt.py's training in this process and print seconds a step and the last loss as JSON on stderr."""
    tree = ast.parse(source.read_text(), str(source))
    body = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "num_steps":
            node.value = ast.Constant(steps)
        is_loop = isinstance(node, ast.For) and ast.unparse(node.iter) == "range(num_steps)"
        if is_loop:
            body.append(ast.parse("benchmark_start = benchmark_clock()").body[0])
        body.append(node)
        if is_loop:
            body.append(ast.parse("benchmark_seconds = benchmark_clock() - benchmark_start").body[0])
            break
    else:
        sys.exit(f"error: {source} has no loop `for step in range(num_steps)`")
    tree.body = body
    names: dict = {"benchmark_clock": time.process_time, "__name__": "__main__"}
    if not collector:
        gc.disable()
    exec(compile(ast.fix_missing_locations(tree), str(source), "exec"), names)
    print(json.dumps({"seconds": names["benchmark_seconds"] / steps, "loss": names["loss"].data}), file=sys.stderr)


def time_ours(data: Path, steps: int) -> None:
    """Train the same model through the scalar engine; prints as `time_reference` does."""
    import numpy as np

    from microgpt.data.corpus import build_corpus
    from microgpt.data.sources import read_source
    from microgpt.engines import make_engine
    from microgpt.engines.base import Workload
    from microgpt.engines.optimizer import OptimizerSpec
    from microgpt.engines.options import EngineOptions
    from microgpt.model.spec import ModelSpec
    from microgpt.training.assembly import initial_state
    from microgpt.training.schedules import Schedule

    corpus = build_corpus(
        read_source("text", str(data)),
        text_format="lines",
        long_documents="truncate",
        val_fraction=0.0,
        split_seed=0,
        block_size=16,
    )
    spec = ModelSpec("gpt", corpus.tokenizer.vocab_size, n_embd=16, n_head=4, n_layer=1, block_size=16)
    start = initial_state(SEED, corpus, spec, batch_size=1, style_share=0.0)
    adam = OptimizerSpec("adam", beta1=0.85, beta2=0.99, eps=1e-8)
    workload = Workload(corpus.examples, [start.order])
    engine = make_engine(EngineOptions("python"), spec, adam, workload, start.engine_state)
    schedule = Schedule("linear", steps)
    rates = np.array([[0.01 * schedule.factor(step)] for step in range(steps)])
    began = time.process_time()
    losses = engine.advance(0, rates)
    seconds = (time.process_time() - began) / steps
    print(json.dumps({"seconds": seconds, "loss": float(losses[-1, 0])}), file=sys.stderr)


def measure(contestant: str, reference: Path, folder: Path, steps: int, core: int | None) -> dict:
    """One contestant in a fresh process, pinned to the core where the platform can."""
    command = [sys.executable, str(Path(__file__).resolve()), "--reference", str(reference), "--steps", str(steps)]

    def pin() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})

    done = subprocess.run(
        [*command, "--worker", contestant], cwd=folder, capture_output=True, text=True, preexec_fn=pin, check=False
    )
    if done.returncode != 0:
        sys.exit(f"error: {contestant} failed:\n{done.stderr}")
    return json.loads(done.stderr.strip().splitlines()[-1])


def compare(reference: Path, steps: int, repeats: int) -> int:
    from microgpt.data.sources import read_source

    core = random.choice(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None
    times: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    losses = {}
    with tempfile.TemporaryDirectory() as folder:
        names = read_source("makemore" if "MICROGPT_DATA_DIR" in os.environ else "names", None)
        (Path(folder) / "input.txt").write_text(names.text)
        print(f"data: {names.origin}; {steps} steps, {repeats} rounds, Python {sys.version.split()[0]}, core {core}")
        for _ in range(repeats):
            for name in CONTESTANTS:
                figures = measure(name, reference, Path(folder), steps, core)
                times[name].append(figures["seconds"])
                losses[name] = figures["loss"]
    print(f"{'':26}{'ms a step: median':>18}{'min':>9}{'max':>9}{'times ours':>12}   loss of the last step")
    ours = median(times["microgpt"])
    for name, seconds in times.items():
        row = "".join(f"{1e3 * s:9.2f}" for s in (min(seconds), max(seconds)))
        print(f"{name:26}{1e3 * median(seconds):18.2f}{row}{median(seconds) / ours:12.1f}   {losses[name]:.12f}")
    if max(losses.values()) - min(losses.values()) > 1e-12:
        print("error: the losses differ: this is not the same work", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--reference", type=Path, required=True, help="microgpt.py, the current one (n_embd 16, block 16)"
    )
    parser.add_argument("--steps", type=int, default=40, help="training steps of each measurement")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--worker", choices=CONTESTANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    reference = arguments.reference.resolve()
    if not reference.is_file() or not re.search(r"^num_steps\s*=", reference.read_text(), re.MULTILINE):
        print(f"error: --reference={arguments.reference} is not microgpt.py: no line sets num_steps", file=sys.stderr)
        return 2
    if arguments.worker == "microgpt":
        time_ours(Path("input.txt"), arguments.steps)
    elif arguments.worker:
        time_reference(reference, arguments.steps, collector=arguments.worker == "reference")
    else:
        return compare(reference, arguments.steps, arguments.repeats)
    return 0


if __name__ == "__main__":
    sys.exit(main())
