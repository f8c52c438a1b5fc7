"""Measure how closely every engine agrees with the golden traces, the scalar engine and microgpt.py itself.

    python scripts/measure_fidelity.py
    python scripts/measure_fidelity.py --reference path/to/microgpt.py
    python scripts/measure_fidelity.py --engines native,torch --steps 100

Golden traces (tests/golden: losses and samples of the two versions of microgpt.py): each engine trains
experiment=karpathy (k2) and karpathy_first (k1) through the command line. The table has the largest absolute difference
between losses, how many of the first 100 losses agree in the four digits that microgpt.py prints, and whether the
samples are equal. names.txt must be in MICROGPT_DATA_DIR or in the cache. --steps trains fewer steps, with the learning
rates of the whole training; the samples are then not compared.

Scalar engine: from the same weights, far from initial weights, the other engines compute the gradients of one batch and
the losses of 50 steps with Adam, for a few small models. The table has the largest absolute differences.

--reference: microgpt.py with different constants (seed 7, n_layer 2, n_embd 32, n_head 8, block 12, 25 steps) against
mode=scalar. Only these constants and the number of digits of printed losses are changed in the file; Python's cycle
collector runs less often. This takes half a minute and 0.5 GB of memory.

Exit codes: 0 measured; 1 a run failed, or a float64 result differs by more than 1e-9; 2 an error in the command.
"""

import argparse
import json
import os
import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import harness
import numpy as np
from karpathy.microgpt_py import patched
from karpathy.workloads import make_setup

from microgpt.benchmarks.reference import ADAM
from microgpt.data.batches import BatchOrder
from microgpt.data.sources import DATA_DIR_VARIABLE, cache_dir, read_source
from microgpt.engines import make_engine
from microgpt.engines.base import Arrays, EngineState, Workload
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.errors import MicrogptError, UserError
from microgpt.model.spec import ModelSpec

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden"
EXPERIMENTS = {"k1": "karpathy_first", "k2": "karpathy"}
ENGINES = {"scalar": ("float64",), "native": ("float64", "float32"), "torch": ("float64", "float32")}
PRINTED = 100  # losses that are compared in the four digits that microgpt.py prints
EXACT = 1e-9  # largest allowed difference in float64
STEPS, BATCH = 50, 3  # for the comparison with the scalar engine
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
OTHER = replace(make_setup("microgpt", "quick", "cpu", 7, 25), n_layer=2, n_embd=32, n_head=8, block_size=12)
RARE_COLLECTION = "import gc, runpy; gc.set_threshold(3_000_000); runpy.run_path('reference.py', run_name='__main__')"
Measured = tuple[list[object], float]  # a row of a table, and its largest difference


def train(folder: Path, *overrides: str) -> tuple[np.ndarray, list[str]]:
    """Run the program; return all losses and the samples."""
    harness.run_python("-m", "microgpt", "outputs_dir=outputs", *overrides, folder=folder)
    (history,) = folder.glob("outputs/*/*/history.jsonl")
    losses = [json.loads(line)["loss"] for line in history.read_text().splitlines()]
    return np.array(losses), json.loads((history.parent / "run.json").read_text())["samples"]


def against_golden(name: str, engine: str, dtype: str, steps: int | None) -> Measured:
    golden = json.loads((GOLDEN / f"{name}_seed42.json").read_text())
    count = min(steps or golden["steps"], golden["steps"])
    backend = ["mode=tensor", f"backend={engine}", "backend.device=cpu", f"backend.dtype={dtype}"]
    with tempfile.TemporaryDirectory() as folder:
        found, samples = train(
            Path(folder), f"experiment={EXPERIMENTS[name]}", *(["mode=scalar"] if engine == "scalar" else backend),
            f"train.steps={count}", f"schedule.total_steps={golden['steps']}",
        )  # fmt: skip
    expected = golden["losses"][:count]
    apart = float(np.abs(found - expected).max())
    pairs = list(zip(found[:PRINTED], expected[:PRINTED], strict=True))
    printed = sum(f"{one:.4f}" == f"{other:.4f}" for one, other in pairs)
    same = "-" if count < golden["steps"] else "yes" if samples == golden["samples"] else "no"
    return [f"{name}, {engine} {dtype}", count, f"{apart:.1e}", f"{printed} of {len(pairs)}", same], apart


def gradients_and_losses(spec: ModelSpec, backend: str, dtype: str) -> tuple[Arrays, np.ndarray]:
    """Return the gradients of one batch and the losses of the following steps.

    A step of sgd with a learning rate of 1 subtracts the gradients.
    """
    rng = np.random.default_rng(spec.n_layer)
    bos = spec.vocab_size - 1
    examples = [[bos, *rng.integers(0, bos, n).tolist(), bos] for n in rng.integers(1, spec.block_size, 20)]
    work = Workload(examples, [BatchOrder(rng.permutation(len(examples)), (), 0.0, BATCH)])
    std = 0.8 * spec.n_embd**-0.5  # so that attention is far from uniform
    state = EngineState({name: rng.normal(0, std, (1, *shape)) for name, shape in spec.shapes().items()})
    options = EngineOptions(backend, device="cpu", dtype=dtype, threads=1)
    sgd, adam = (make_engine(options, spec, each, work, state, harness.say) for each in (OptimizerSpec("sgd"), ADAM))
    before = sgd.state().parameters
    sgd.advance(0, np.ones((1, 1)))
    after = sgd.state().parameters
    rates = 0.01 * (1 - np.arange(STEPS)[:, np.newaxis] / STEPS)
    return {name: before[name].astype(float) - after[name] for name in before}, adam.advance(0, rates)


def against_scalar(model: str, engines: list[str]) -> list[Measured]:
    spec = MODELS[model]
    gradients, losses = gradients_and_losses(spec, "python", "float64")
    rows: list[Measured] = []
    for engine, dtype in ((name, dtype) for name in engines for dtype in ENGINES[name]):
        other_gradients, other_losses = gradients_and_losses(spec, engine, dtype)
        apart = max(float(np.abs(other_gradients[name] - gradients[name]).max()) for name in gradients)
        of_losses = float(np.abs(other_losses - losses).max())
        rows.append(([f"{model}, {engine} {dtype}", f"{apart:.1e}", f"{of_losses:.1e}"], max(apart, of_losses)))
    return rows


def against_reference(source: str) -> Measured:
    """Compare `source`, microgpt.py with the constants in OTHER, with mode=scalar on the same names."""
    w = OTHER
    sizes = {key: getattr(w, key) for key in ("n_layer", "n_embd", "n_head", "block_size")}
    overrides = ["data=text", "data.path=input.txt", f"seed={w.seed}", f"train.steps={w.steps}"]
    overrides += [f"model.{key}={value}" for key, value in sizes.items()]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "input.txt").write_text(read_source("makemore" if has_names() else "names", None).text)
        (folder / "reference.py").write_text(source)  # `-m microgpt` would import a file microgpt.py in this folder
        printed = harness.run_python("-c", RARE_COLLECTION, folder=folder)
        losses, samples = train(folder, "experiment=karpathy", *overrides)
    expected = [float(loss) for loss in re.findall(r"^step .* \| loss (\S+)", printed, re.MULTILINE)]
    expected_samples = re.findall(r"^sample +\d+: (.*)$", printed, re.MULTILINE)
    apart = float(np.abs(losses - expected).max())
    label = f"seed {w.seed}, n_layer {w.n_layer}, n_embd {w.n_embd}, n_head {w.n_head}, block {w.block_size}"
    same = f"{'yes' if samples == expected_samples else 'no'}, {len(expected_samples)}"
    return [label, w.steps, f"{apart:.1e}", same], apart


def patched_reference(path: Path) -> str:
    """Return the source with the constants in OTHER, all digits of losses, and 20 samples. Raises UserError."""
    try:
        source = patched(path.read_text(), OTHER)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--reference={path} cannot be read: {getattr(error, 'strerror', 'not UTF-8')}") from error
    for old, new in {"{loss.data:.4f}": "{loss.data!r}", "sample_idx in range(0)": "sample_idx in range(20)"}.items():
        if (count := source.count(old)) != 1:
            raise UserError(f"--reference={path} is not microgpt.py: it contains `{old}` {count} times, not once")
        source = source.replace(old, new)
    return source


def has_names() -> bool:
    """Return whether the reference's names.txt is on this machine; nothing is downloaded."""
    local = os.environ.get(DATA_DIR_VARIABLE)
    return any((folder / "names.txt").is_file() for folder in ([Path(local)] if local else []) + [cache_dir()])


def measure(chosen: argparse.Namespace) -> None:
    """Print all tables. Raises MicrogptError if results in float64 differ by more than EXACT."""
    source = patched_reference(chosen.reference) if chosen.reference else None
    print(f"Python {sys.version.split()[0]}\n")
    engines = [engine for engine in chosen.engines if engine != "torch" or harness.has_torch()]
    measured: list[Measured] = []

    def show(heading: list[str], found: list[Measured]) -> None:
        print(harness.table(heading, [row for row, _ in found]) + "\n", flush=True)
        measured.extend(found)

    if has_names():
        golden = []
        for name, engine, dtype in ((n, e, d) for n in EXPERIMENTS for e in engines for d in ENGINES[e]):
            harness.say(f"golden trace {name}: {engine} {dtype}")
            golden.append(against_golden(name, engine, dtype, chosen.steps))
        digits = f"first {PRINTED} to four digits"
        show(["golden trace", "steps", "losses: largest difference", digits, "samples"], golden)
    else:
        print(f"There is no names.txt in {DATA_DIR_VARIABLE} or in the cache: no golden trace is compared.\n")
    if others := [engine for engine in engines if engine != "scalar"]:
        scalar = []
        for model in MODELS:
            harness.say(f"scalar engine: {model}")
            scalar += against_scalar(model, others)
        losses = f"losses of {STEPS} steps under Adam"
        show(["against the scalar engine", "gradients of one batch", losses], scalar)
    if source is not None:
        harness.say("microgpt.py with different constants")
        heading = ["microgpt.py against mode=scalar", "steps", "losses: largest difference", "same samples"]
        show(heading, [against_reference(source)])
    apart = max((apart for row, apart in measured if "float32" not in str(row[0])), default=0.0)
    if apart > EXACT:
        raise MicrogptError(
            f"float64 differs by {apart:.1e}, more than {EXACT:g}: the engines do not compute the same model"
        )


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    engines = harness.one_of(list(ENGINES))
    parser.add_argument("--engines", type=engines, default=list(ENGINES), help="engines, separated by commas (all)")
    parser.add_argument(
        "--steps", type=harness.at_least(1), help="steps of the golden traces (all: 500 of k1, 1000 of k2)"
    )
    parser.add_argument("--reference", type=Path, help="the current microgpt.py (n_embd 16, block 16)")
    chosen = parser.parse_args(arguments)
    return harness.finish(lambda: measure(chosen))


if __name__ == "__main__":
    sys.exit(main())
