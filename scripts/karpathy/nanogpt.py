"""The baseline nanoGPT: its train.py, called with its own flags, in a scratch copy that has our text as a data set."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from karpathy.commands import Command, Finished
from karpathy.contest import Comparison, Contestant, Launch
from karpathy.measures import Figures, found_by_step, times_between_evaluations
from karpathy.ours import Ours
from karpathy.texts import Text
from karpathy.workloads import Precision, Workload

PACKAGES = {"torch": "torch", "numpy": "numpy"}  # by the name under which they are imported
MODEL = ("model.tie_lm_head=true", "model.input_rmsnorm=false", "model.activation=relu", "model.init_std=0.02")
DIFFERENCES = {
    "norm": "nanoGPT has LayerNorms with gains, one of them before the output; microgpt RMSNorms without gains, and "
    "none before the output",
    "activation": "nanoGPT has GELU, microgpt ReLU",
    "init": "nanoGPT draws residual projections from a normal distribution narrower by sqrt(2 layers); all else is "
    "drawn with 0.02 by both",
    "batches": "nanoGPT draws windows at random places of the training pieces joined together; microgpt reads each "
    "piece whole, after BOS, in rounds",
    "validation": "nanoGPT's validation loss is over as many random windows of the held-out pieces joined together, "
    "drawn anew each time; ours is over these pieces, each after BOS, the same each time",
    "seed": "nanoGPT's weights and windows come from the seed 1337 that stands in train.py",
}


def compare_nanogpt(
    checkout: Path,
    python: str,
    source: dict[str, Any],
    text: Text,
    workload: Workload,
    settings: Sequence[Precision],
    scratch: Path,
) -> Comparison:
    """`checkout` is a scratch copy, into which the text is written; `python` has what it needs."""
    ours = Ours(scratch / "ours", text, MODEL)
    keys, contestants = list(DIFFERENCES), []
    for precision in settings:
        label = f"nanoGPT, {precision}"
        contestants.append(theirs(checkout, python, text, precision, workload.device, label))
        contestants.append(ours.contestant("torch", precision, workload.device, label, keys))
        if workload.device == "cpu" and not precision.compiled:
            contestants.append(ours.contestant("native", precision, "cpu", label, keys))

    def prepare() -> None:
        ours.prepare()
        write_data(checkout / "data" / "benchmark", text)

    return Comparison("nanogpt", workload, source, contestants, DIFFERENCES, prepare)


def write_data(folder: Path, text: Text) -> None:
    """train.bin and val.bin (uint16 token ids), meta.pkl; our vocabulary, of which BOS does not occur."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = {char: number for number, char in enumerate(text.chars)}
    for name, pieces in (("train", text.train), ("val", text.val)):
        np.array([ids[char] for char in "".join(pieces)], np.uint16).tofile(folder / f"{name}.bin")
    meta = {"vocab_size": text.vocab_size, "stoi": ids, "itos": {number: char for char, number in ids.items()}}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


def theirs(checkout: Path, python: str, text: Text, precision: Precision, device: str, label: str) -> Contestant:
    def launch(workload: Workload, number: int) -> Launch:
        out = f"out_{precision.dtype}{'_compiled' * precision.compiled}_{number}"
        flags = flags_of(workload, precision, device, text.eval_documents // workload.batch_size, out)
        env = workload.thread_variables
        if device == "cuda" and precision.dtype == "float32":
            env["NVIDIA_TF32_OVERRIDE"] = "0"  # both sides compute in float32 proper
        command = Command([python, "train.py", *(f"--{key}={value}" for key, value in flags.items())], checkout, env)
        return Launch(command, lambda done: read_output(done, workload))

    return Contestant(label, False, precision, device, launch, differences=list(DIFFERENCES))


def flags_of(w: Workload, precision: Precision, device: str, eval_iters: int, out: str) -> dict[str, Any]:
    """By name. A step more is trained than counted, since train.py evaluates before a step."""
    return {
        "dataset": "benchmark", "out_dir": out, "device": device, "dtype": precision.dtype,
        "compile": precision.compiled,
        "n_layer": w.n_layer, "n_head": w.n_head, "n_embd": w.n_embd, "block_size": w.block_size,
        "dropout": 0.0, "bias": False,
        "batch_size": w.batch_size, "gradient_accumulation_steps": 1,
        "learning_rate": w.lr, "beta1": w.beta1, "beta2": w.beta2, "weight_decay": 0.0,
        "grad_clip": w.grad_clip or 0.0,
        "decay_lr": w.schedule == "cosine", "warmup_iters": 0, "lr_decay_iters": w.steps, "min_lr": 0.0,
        "max_iters": w.steps, "eval_interval": w.interval, "eval_iters": eval_iters,
        "log_interval": log_interval(w), "always_save_checkpoint": False,
    }  # fmt: skip


def log_interval(workload: Workload) -> int:
    """Every tenth step is printed, as in its own small configuration: printing waits for the GPU."""
    return 10 if workload.interval % 10 == 0 and workload.interval > 10 else 1


def read_output(done: Finished, workload: Workload) -> Figures:
    tokens = workload.batch_size * workload.block_size
    step = r"^iter (\d+): loss (\S+),"
    times = times_between_evaluations(done.lines, step, workload.interval, workload.steps, lambda _: tokens)
    fused = any("using fused AdamW: True" in line.text for line in done.lines)  # it says so on CUDA alone
    return Figures(
        times.steps,
        times.seconds,
        times.tokens,
        losses=found_by_step(done.lines, step, offset=1),
        val_losses=found_by_step(done.lines, r"^step (\d+): train loss \S+ val loss (\d+\.\d+)"),
        device="cuda" if fused else "cpu",
    )
