"""Measure how exactly every engine computes: against the golden traces, the scalar engine and microgpt.py itself.

    python scripts/measure_fidelity.py
    python scripts/measure_fidelity.py --reference path/to/microgpt.py
    python scripts/measure_fidelity.py --engines native,torch --steps 100

Golden traces (tests/golden: losses and samples that the two versions of microgpt.py gave): each engine trains
experiment=karpathy (k2) and karpathy_first (k1) as a user would. Told are the largest absolute difference of a loss,
how many of the first 100 agree to the four digits that microgpt.py prints, and whether the samples are the same. The
names file is needed, from MICROGPT_DATA_DIR or the cache. With --steps only so many steps are trained, with the
learning rates of the whole training; samples are then not compared.

Scalar engine: from the same parameters, far from where training begins, the other engines compute the gradients of one
batch, and then the losses of 50 steps under Adam, for a few small models. Largest absolute differences.

--reference: microgpt.py with other constants (seed 7, n_layer 2, n_embd 32, n_head 8, block 12, 25 steps) against
mode=scalar. Of the file only these constants are changed and how many digits of a loss it prints; Python's cycle
collector runs less often. Half a minute, and 0.5 GB of memory.

Exit codes: 0 measured; 1 a run failed, or float64 is further away than 1e-9; 2 a mistake in the command.
"""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from _arguments import at_least_1
from karpathy.microgpt_py import patched
from karpathy.workloads import workload

from microgpt.data.batches import BatchOrder
from microgpt.data.sources import DATA_DIR_VARIABLE, cache_dir, read_source
from microgpt.engines import make_engine
from microgpt.engines.base import Arrays, EngineState, Workload
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.errors import UserError
from microgpt.model.spec import ModelSpec

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden"
EXPERIMENTS = {"k1": "karpathy_first", "k2": "karpathy"}
ENGINES = {"scalar": ("float64",), "native": ("float64", "float32"), "torch": ("float64", "float32")}
PRINTED = 100  # losses that are compared to the four digits of microgpt.py's lines
EXACT = 1e-9  # what float64 must stay within
ADAM = OptimizerSpec("adam", beta1=0.85, beta2=0.99, eps=1e-8)
STEPS, BATCH = 50, 3  # of the comparison with the scalar engine
MODELS = {
    "bigram, vocabulary 27": ModelSpec("bigram", 27, n_embd=27, n_head=1, n_layer=0, block_size=16),
    "1 layer, n_embd 16, 4 heads": ModelSpec("gpt", 27, n_embd=16, n_head=4, n_layer=1, block_size=16),
    "2 layers, n_embd 6, 2 heads, tied, squared": ModelSpec(
        "gpt", 5, n_embd=6, n_head=2, n_layer=2, block_size=7, tie_lm_head=True, activation="relu_squared"
    ),
    "3 layers, n_embd 8, 4 heads, no norm of the input": ModelSpec(
        "gpt", 33, n_embd=8, n_head=4, n_layer=3, block_size=5, input_rmsnorm=False
    ),
}
OTHER = replace(workload("microgpt", "quick", "cpu", 7, 25), n_layer=2, n_embd=32, n_head=8, block_size=12)
SELDOM_COLLECTED = "import gc, runpy; gc.set_threshold(3_000_000); runpy.run_path('reference.py', run_name='__main__')"
Row = tuple[object, ...]


class FailedError(Exception):
    """Which program failed, and its error."""


def run(folder: Path, *arguments: str) -> str:
    """Python in that folder, to its end; returns standard output."""
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        last = next((line for line in reversed(done.stderr.splitlines()) if "rror:" in line), "it said nothing")
        raise FailedError(f"python {' '.join(arguments)} failed with exit code {done.returncode}: {last}")
    return done.stdout


def train(folder: Path, *arguments: str) -> tuple[np.ndarray, list[str]]:
    """All losses and the samples of a run of the program."""
    run(folder, "-m", "microgpt", "outputs_dir=outputs", *arguments)
    (history,) = folder.glob("outputs/*/*/history.jsonl")
    losses = [json.loads(line)["loss"] for line in history.read_text().splitlines()]
    return np.array(losses), json.loads((history.parent / "run.json").read_text())["samples"]


def engine_arguments(engine: str, dtype: str) -> list[str]:
    if engine == "scalar":
        return ["mode=scalar"]
    return ["mode=tensor", f"backend={engine}", "backend.device=cpu", f"backend.dtype={dtype}"]


def against_golden(name: str, engine: str, dtype: str, steps: int | None) -> tuple[Row, float]:
    """A row of the table, and the largest difference."""
    golden = json.loads((GOLDEN / f"{name}_seed42.json").read_text())
    count = min(steps or golden["steps"], golden["steps"])
    whole = [f"train.steps={count}", f"schedule.total_steps={golden['steps']}"]
    with tempfile.TemporaryDirectory() as folder:
        found, samples = train(
            Path(folder), f"experiment={EXPERIMENTS[name]}", *engine_arguments(engine, dtype), *whole
        )
    expected = golden["losses"][:count]
    apart = float(np.abs(found - expected).max())
    pairs = list(zip(found[:PRINTED], expected[:PRINTED], strict=True))
    printed = sum(f"{one:.4f}" == f"{other:.4f}" for one, other in pairs)
    same = "-" if count < golden["steps"] else "yes" if samples == golden["samples"] else "no"
    return (f"{name}, {engine} {dtype}", count, f"{apart:.1e}", f"{printed} of {len(pairs)}", same), apart


def gradients_and_losses(spec: ModelSpec, backend: str, dtype: str) -> tuple[Arrays, np.ndarray]:
    """Of one batch, and of the steps from there on. A gradient is what a step of sgd at a rate of 1 takes off."""
    rng = np.random.default_rng(spec.n_layer)
    bos = spec.vocab_size - 1
    examples = [[bos, *rng.integers(0, bos, n).tolist(), bos] for n in rng.integers(1, spec.block_size, 20)]
    work = Workload(examples, [BatchOrder(rng.permutation(len(examples)), (), 0.0, BATCH)])
    std = 0.8 * spec.n_embd**-0.5  # attention is not nearly uniform
    state = EngineState({name: rng.normal(0, std, (1, *shape)) for name, shape in spec.shapes().items()})
    options = EngineOptions(backend, device="cpu", dtype=dtype, threads=1)
    plain, adam = (make_engine(options, spec, chosen, work, state, say) for chosen in (OptimizerSpec("sgd"), ADAM))
    before = plain.state().parameters
    plain.advance(0, np.ones((1, 1)))
    after = plain.state().parameters
    return {name: before[name].astype(float) - after[name] for name in before}, adam.advance(0, linear(STEPS))


def linear(steps: int) -> np.ndarray:
    return 0.01 * (1 - np.arange(steps)[:, np.newaxis] / steps)


def against_scalar(model: str, others: list[str]) -> list[tuple[Row, float]]:
    spec = MODELS[model]
    gradients, losses = gradients_and_losses(spec, "python", "float64")
    rows = []
    for engine, dtype in ((name, dtype) for name in others for dtype in ENGINES[name]):
        found_gradients, found_losses = gradients_and_losses(spec, engine, dtype)
        apart = max(float(np.abs(found_gradients[name] - gradients[name]).max()) for name in gradients)
        of_losses = float(np.abs(found_losses - losses).max())
        row = f"{model}, {engine} {dtype}", f"{apart:.1e}", f"{of_losses:.1e}"
        rows.append((row, max(apart, of_losses)))
    return rows


def against_reference(source: str) -> tuple[Row, float]:
    """microgpt.py, with OTHER's constants already in its text, and mode=scalar on the same names."""
    w = OTHER
    ours = (
        "experiment=karpathy", "data=text", "data.path=input.txt", f"seed={w.seed}", f"train.steps={w.steps}",
        f"model.n_layer={w.n_layer}", f"model.n_embd={w.n_embd}", f"model.n_head={w.n_head}",
        f"model.block_size={w.block_size}",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "input.txt").write_text(read_source("makemore" if has_names() else "names", None).text)
        (folder / "reference.py").write_text(source)  # a microgpt.py here would be what `-m microgpt` finds
        printed = run(folder, "-c", SELDOM_COLLECTED)
        losses, samples = train(folder, *ours)
    expected = [float(loss) for loss in re.findall(r"^step .* \| loss (\S+)", printed, re.MULTILINE)]
    told = re.findall(r"^sample +\d+: (.*)$", printed, re.MULTILINE)
    apart = float(np.abs(losses - expected).max())
    label = f"seed {w.seed}, n_layer {w.n_layer}, n_embd {w.n_embd}, n_head {w.n_head}, block {w.block_size}"
    return (label, w.steps, f"{apart:.1e}", f"{'yes' if samples == told else 'no'}, {len(told)}"), apart


def patched_reference(path: Path) -> str:
    """Its text with OTHER's constants, all digits of a loss and its 20 samples. Raises UserError for another file."""
    try:
        source = patched(path.read_text(), OTHER)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--reference={path} cannot be read: {getattr(error, 'strerror', 'not UTF-8')}") from error
    for old, new in {"{loss.data:.4f}": "{loss.data!r}", "sample_idx in range(0)": "sample_idx in range(20)"}.items():
        if source.count(old) != 1:
            raise UserError(
                f"--reference={path} is not microgpt.py: `{old}` is in it {source.count(old)} times, not once"
            )
        source = source.replace(old, new)
    return source


def has_names() -> bool:
    """Whether the reference's names.txt is here; nothing is fetched."""
    local = os.environ.get(DATA_DIR_VARIABLE)
    return any((folder / "names.txt").is_file() for folder in ([Path(local)] if local else []) + [cache_dir()])


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def show(heading: str, rows: list[tuple[Row, float]]) -> None:
    columns = heading.count("|") - 1
    lines = [f"| {' | '.join(map(str, row))} |" for row, _ in rows]
    print("\n".join([heading, "|---" * columns + "|", *lines, ""]), flush=True)


def measure(engines: list[str], traces: list[str], steps: int | None, source: str | None) -> float:
    """Print all tables; returns the largest difference in float64. Raises FailedError."""
    golden, scalar, reference = [], [], []
    for name, engine, dtype in ((n, e, d) for n in traces for e in engines for d in ENGINES[e]):
        say(f"golden trace {name}: {engine} {dtype}")
        golden.append(against_golden(name, engine, dtype, steps))
    if golden:
        show(
            f"| golden trace | steps | losses: largest difference | first {PRINTED} to four digits | samples |", golden
        )
    if others := [engine for engine in engines if engine != "scalar"]:
        for model in MODELS:
            say(f"scalar engine: {model}")
            scalar += against_scalar(model, others)
        show(f"| against the scalar engine | gradients of one batch | losses of {STEPS} steps under Adam |", scalar)
    if source is not None:
        say("microgpt.py with other constants")
        reference.append(against_reference(source))
        show("| microgpt.py against mode=scalar | steps | losses: largest difference | same samples |", reference)
    found = golden + scalar + reference
    return max((apart for row, apart in found if "float32" not in str(row[0])), default=0.0)


def engine_list(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in ENGINES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not allowed: it is of {', '.join(ENGINES)}")
    return names


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        usage=argparse.SUPPRESS, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engines", type=engine_list, default=list(ENGINES), help="separated by commas (all)")
    parser.add_argument("--steps", type=at_least_1, help="of the golden traces (all: 500 of k1, 1000 of k2)")
    parser.add_argument("--reference", type=Path, help="microgpt.py, the current one (n_embd 16, block 16)")
    parsed = parser.parse_args(arguments)
    try:
        source = patched_reference(parsed.reference) if parsed.reference else None
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    engines = parsed.engines
    print(f"Python {sys.version.split()[0]}\n")
    if "torch" in engines and importlib.util.find_spec("torch") is None:
        engines = [engine for engine in engines if engine != "torch"]
        print("PyTorch is not installed: its engine is left out.\n")
    if not has_names():
        print(f"There is no names.txt in {DATA_DIR_VARIABLE} nor in the cache: no golden trace is compared.\n")
    try:
        apart = measure(engines, list(EXPERIMENTS) if has_names() else [], parsed.steps, source)
    except FailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if apart > EXACT:
        print(f"error: float64 is {apart:.1e} away, more than {EXACT:g}: this is not the same work", file=sys.stderr)
    return 1 if apart > EXACT else 0


if __name__ == "__main__":
    sys.exit(main())
