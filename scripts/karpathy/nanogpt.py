"""The baseline nanoGPT: its train.py with its own flags, in a copy that has the text of the benchmark as a data set."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from karpathy.comparison import BaselineComparison, Launch
from karpathy.data import Text
from karpathy.measures import Figures, numbers_by_step, read_figures
from karpathy.ours import Ours
from karpathy.processes import Command, Finished
from karpathy.workloads import Precision, Setup, compiles_by_default

PACKAGES = {"torch": "torch", "numpy": "numpy"}  # import name -> name to install
MODEL = ("model.tie_lm_head=true", "model.input_rmsnorm=false", "model.activation=relu", "model.init_std=0.02")
DIFFERENCES = {
    "norm": "nanoGPT has LayerNorms with gains, one of them before the output; microgpt has RMSNorms without gains, "
    "and none before the output",
    "activation": "nanoGPT has GELU, and microgpt has ReLU",
    "init": "nanoGPT draws residual projections with a standard deviation smaller by sqrt(2 layers); all other weights "
    "have a standard deviation of 0.02 in both programs",
    "batches": "nanoGPT draws random windows from the joined training pieces; microgpt reads each piece as a whole, "
    "after BOS, in turn",
    "validation": "nanoGPT's validation loss is over as many random windows of the joined held-out pieces, drawn again "
    "at each evaluation; ours is over the pieces themselves, each after BOS, the same at each evaluation",
    "seed": "nanoGPT draws weights and windows with the seed 1337 in train.py",
}


def compare_nanogpt(
    checkout: Path, python: str, text: Text, setup: Setup, settings: Sequence[Precision], scratch: Path
) -> BaselineComparison:
    """Return the comparison. `checkout` is a copy to which the text is written; `python` has the packages."""
    ours, device = Ours(scratch / "ours", text, MODEL), setup.device

    def launch(precision: Precision, setup: Setup, number: int) -> Launch:
        out = f"out_{precision.file_name}_{number}"
        flags = flags_of(setup, precision, text.eval_documents // setup.batch_size, out)
        arguments = [python, "train.py", *(f"--{key}={value}" for key, value in flags.items())]
        env = setup.thread_variables | precision.variables(device)
        return Launch(Command(arguments, checkout, env), lambda done: read_output(done, setup))

    def prepare() -> None:
        ours.prepare()
        write_data(checkout / "data" / "benchmark", text)

    default = compiles_by_default("nanogpt", device)
    contestants = ours.beside("nanoGPT", settings, setup, launch, lambda _: list(DIFFERENCES), default)
    return BaselineComparison("nanogpt", setup, contestants, DIFFERENCES, prepare)


def write_data(folder: Path, text: Text) -> None:
    """Write train.bin and val.bin (uint16 token ids) and meta.pkl, with this project's vocabulary; BOS is not used."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = {char: number for number, char in enumerate(text.chars)}
    for name, pieces in (("train", text.train), ("val", text.val)):
        np.array([ids[char] for char in "".join(pieces)], np.uint16).tofile(folder / f"{name}.bin")
    itos = {number: char for char, number in ids.items()}
    meta = {"vocab_size": text.corpus.tokenizer.vocab_size, "stoi": ids, "itos": itos}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


def flags_of(s: Setup, precision: Precision, eval_iters: int, out: str) -> dict[str, Any]:
    """Return the flags by name. One more step is trained than counted, because train.py evaluates before a step.

    Every tenth step is printed, as in nanoGPT's own small configuration, because printing waits for the GPU.
    """
    return {
        "dataset": "benchmark", "out_dir": out, "device": s.device, "dtype": precision.dtype,
        "compile": precision.compiled,
        "n_layer": s.n_layer, "n_head": s.n_head, "n_embd": s.n_embd, "block_size": s.block_size,
        "dropout": 0.0, "bias": False,
        "batch_size": s.batch_size, "gradient_accumulation_steps": 1,
        "learning_rate": s.lr, "beta1": s.beta1, "beta2": s.beta2, "weight_decay": 0.0,
        "grad_clip": s.grad_clip or 0.0,
        "decay_lr": s.schedule == "cosine", "warmup_iters": 0, "lr_decay_iters": s.steps, "min_lr": 0.0,
        "max_iters": s.steps, "eval_interval": s.interval, "eval_iters": eval_iters,
        "log_interval": 10 if s.interval % 10 == 0 and s.interval > 10 else 1, "always_save_checkpoint": False,
    }  # fmt: skip


def read_output(done: Finished, setup: Setup) -> Figures:
    figures = read_figures(done.lines, r"^iter (\d+): loss (\S+),", setup)
    figures.val_losses = numbers_by_step(done.lines, r"^step (\d+): train loss \S+ val loss (\d+\.\d+)")
    if any("using fused AdamW: True" in line.text for line in done.lines):  # printed on CUDA only
        figures.device = "cuda"
    return figures
