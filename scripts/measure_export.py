"""Measure the effect of exporting a names model in float16, and how closely an ONNX graph matches the scalar engine.

Each model is exported as by task=export, in float32 and in float16. Both exports generate the most likely text
(temperature 0) after each prompt: all prompts of 0 to 2 letters, and longer prompts, which are distinct random strings
of 3 to 8 letters. Logits are compared up to the first token that differs; the loss is measured on the held-out names.
ONNX is compared with the scalar engine on held-out names; the difference is relative to the largest logit.

python scripts/measure_export.py
python scripts/measure_export.py --checkpoint outputs/2026-01-02/08-00-00_abcdef12 --without-onnx

Without --checkpoint, four models are trained first in a temporary folder. They are trained in float64, because rounding
in float32 changes the weights after some thousand steps, and therefore which texts differ.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random
from string import ascii_lowercase

import harness
import numpy as np

import microgpt
from microgpt.config.schema import Config, ModelConfig, StyleConfig
from microgpt.data.corpus import Corpus
from microgpt.data.tokenizer import token_id
from microgpt.engines import make_engine
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.errors import UserError
from microgpt.runs.checkpoint import Checkpoint, load_checkpoint
from microgpt.runs.checkpoint_paths import resolve_checkpoint
from microgpt.tasks.export import onnx_files, weight_files, write_export
from microgpt.training.run_inputs import InputReader

TRAINED = {  # as in docs/log.md
    "microgpt.py's model, 1,000 steps": ["train.steps=1000"],
    "batch 4": ["train.batch_size=4"],
    "20,000 steps, batch 16": ["train.steps=20000", "train.batch_size=16"],
    "n_embd 64, 2 layers": ["model.n_embd=64", "model.n_layer=2"],
}
COMMON = [
    "mode=tensor", "backend.dtype=float64", "style=classic", "sample.num_samples=0", "train.eval_documents=100",
]  # fmt: skip
LONGER = range(3, 9)  # letters
ONNX_TEXTS = 50


@dataclass
class Change:
    """The differences between the texts that float32 and float16 generate after some prompts."""

    prompts: int
    differing: int = 0
    gap: float = 0.0  # largest difference between the two largest logits in float32 where the texts begin to differ
    logit: float = 0.0  # largest change in a logit


def held_out(checkpoint: Checkpoint) -> Corpus:
    """Return the bundled names in the model's form. Raises UserError for a model trained on different data."""
    meta = checkpoint.meta
    style = StyleConfig(documents=list(meta.style.get("documents", [])))
    corpus = InputReader().corpus(Config(model=ModelConfig(block_size=meta.spec.block_size), style=style))
    if meta.special or meta.chars != corpus.tokenizer.chars:
        raise UserError(
            f"{checkpoint.path} is not a model of the bundled names: its characters differ from those of data=names"
        )
    return corpus


def exported(checkpoint: Checkpoint, dtype: str, backend: str, folder: str) -> microgpt.Model:
    """Export the model; return the export, loaded without the bias of a style."""
    path = Path(folder) / dtype
    write_export(path, weight_files(checkpoint, dtype)[0])
    mode = "scalar" if backend == "python" else "tensor"
    return microgpt.load(path, {"mode": mode, "backend": backend, "style": "classic"})


def prompts_up_to(letters: int) -> list[str]:
    """Return all prompts of 0 to `letters` letters."""
    return ["".join(each) for size in range(letters + 1) for each in product(ascii_lowercase, repeat=size)]


def longer_prompts(count: int, seed: int) -> list[str]:
    rng, found = Random(seed), dict[str, None]()
    while len(found) < count:
        found["".join(rng.choices(ascii_lowercase, k=rng.choice(LONGER)))] = None
    return list(found)


def greedy(model: microgpt.Model, prompt: str) -> tuple[str, np.ndarray]:
    """Return the most likely text after a prompt, and the logits (T, V) after BOS and each of its tokens."""
    (text,) = model.generate(prompt, temperature=0)
    return text, model.logits(text[: model.config.block_size - 1])


def compare(whole: microgpt.Model, half: microgpt.Model, prompts: Sequence[str]) -> Change:
    change = Change(len(prompts))
    for prompt in prompts:
        (text, logits), (other, others) = greedy(whole, prompt), greedy(half, prompt)
        best, theirs = logits[len(prompt) :].argmax(axis=1), others[len(prompt) :].argmax(axis=1)
        shared = min(len(best), len(theirs))
        apart = np.flatnonzero(best[:shared] != theirs[:shared])
        same = len(prompt) + (apart[0] + 1 if apart.size else shared)  # positions up to the first token that differs
        change.logit = max(change.logit, float(np.abs(logits[:same] - others[:same]).max()))
        if text != other:
            second, first = np.sort(logits[same - 1])[-2:]
            change.differing += 1
            change.gap = max(change.gap, float(first - second))
    return change


def onnx_difference(checkpoint: Checkpoint, texts: Sequence[Sequence[int]]) -> float:
    """Return the largest difference between logits of ONNX and the scalar engine, relative to the largest logit.

    Raises UserError if a library is missing.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UserError("onnxruntime is missing: pip install onnxruntime") from None
    session = onnxruntime.InferenceSession(
        onnx_files(checkpoint, "float32")[0]["model.onnx"], providers=["CPUExecutionProvider"]
    )
    spec = checkpoint.meta.spec
    engine = make_engine(EngineOptions("python"), spec, OptimizerSpec("sgd"), None, checkpoint.state)
    largest = size = 0.0
    for text in texts:
        tokens = list(text)[: spec.block_size]
        decoder = engine.decoder(0)
        expected = np.array([decoder.feed(token) for token in tokens])
        (found,) = session.run(["logits"], {"tokens": np.array([tokens])})
        largest = max(largest, float(np.abs(np.asarray(found)[0] - expected).max()))
        size = max(size, float(np.abs(expected).max()))
    return largest / size


def row(name: str, checkpoint: Checkpoint, chosen: argparse.Namespace) -> list[str]:
    corpus = held_out(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        whole, half = (exported(checkpoint, dtype, chosen.backend, folder) for dtype in ("float32", "float16"))
        prompts = prompts_up_to(chosen.letters), longer_prompts(chosen.longer, chosen.seed)
        changes = [compare(whole, half, each) for each in prompts]
        examples = corpus.val.head(chosen.eval_documents)
        texts = [corpus.tokenizer.decode(map(token_id, example)) for example in examples]
        losses = [each.loss(texts) for each in (whole, half)]
    gap = max(each.gap for each in changes)
    return [
        name,
        *(f"{each.differing} of {each.prompts:,}" for each in changes),
        f"{gap:.1g}" if any(each.differing for each in changes) else "",
        f"{max(each.logit for each in changes):.2g}",
        f"{abs(losses[1] - losses[0]):.2g}",
        "" if chosen.without_onnx else onnx_cell(checkpoint, examples[:ONNX_TEXTS]),
    ]


def onnx_cell(checkpoint: Checkpoint, texts: Sequence[Sequence[int]]) -> str:
    """Return the difference; if a library is missing, print a message and return ""."""
    try:
        return f"{onnx_difference(checkpoint, texts):.1g}"
    except UserError as error:
        harness.say(f"ONNX was not measured: {error}")
        return ""


def measure(models: dict[str, str], chosen: argparse.Namespace) -> None:
    """Print a row for each model; `models` maps names to checkpoints."""
    checkpoints = {name: load_checkpoint(resolve_checkpoint(path, "outputs")) for name, path in models.items()}
    for checkpoint in checkpoints.values():
        held_out(checkpoint)  # raises before the first measurement
    heading = [
        "model", f"texts that differ: prompts of 0 to {chosen.letters} letters",
        f"of {LONGER.start} to {LONGER.stop - 1}", "largest gap of the best two logits there",
        "largest change of a logit", "change of the loss", "ONNX, relative",
    ]  # fmt: skip
    print(harness.table(heading, []), flush=True)
    for name, checkpoint in checkpoints.items():
        print(harness.line(row(name, checkpoint, chosen)), flush=True)


def measure_all(chosen: argparse.Namespace) -> None:
    harness.require(chosen, letters=0, longer=1, eval_documents=1)
    with tempfile.TemporaryDirectory() as folder:
        if chosen.checkpoint:
            models = {path: path for path in chosen.checkpoint}
        else:
            models = {name: harness.train(folder, *COMMON, *overrides) for name, overrides in TRAINED.items()}
        measure(models, chosen)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument(
        "--checkpoint", metavar="RUN", nargs="+", help="folders of runs or checkpoints of models of names"
    )
    parser.add_argument("--letters", type=int, default=2, help="use all prompts of 0 to LETTERS letters (2)")
    parser.add_argument("--longer", type=int, default=3000, help="number of longer prompts (3000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the longer prompts (0)")
    parser.add_argument("--eval-documents", type=int, help="held-out names for the loss (default: all)")
    parser.add_argument("--backend", default="native", choices=["native", "python", "torch"])
    parser.add_argument("--without-onnx", action="store_true")
    chosen = parser.parse_args(arguments)
    return harness.finish(lambda: measure_all(chosen))


if __name__ == "__main__":
    sys.exit(main())
