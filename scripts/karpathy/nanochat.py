"""The baseline nanochat: its scripts.base_train, called with its own flags, with our text as its data set.

It has a tokenizer and a reader of its own. They are given a vocabulary of single characters, and documents that fill a
row each: so its rows are our examples, in our order, and its validation loss is over the same characters as ours.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from karpathy.commands import Command, Finished
from karpathy.contest import Comparison, Contestant, Launch
from karpathy.measures import Figures, found_by_step, times_between_evaluations
from karpathy.ours import Ours, warmdown
from karpathy.texts import Text
from karpathy.workloads import Precision, Workload

PACKAGES = {
    "torch": "torch", "numpy": "numpy", "tiktoken": "tiktoken", "rustbpe": "rustbpe", "pyarrow": "pyarrow",
    "wandb": "wandb", "requests": "requests", "yaml": "pyyaml", "filelock": "filelock", "psutil": "psutil",
    "jinja2": "jinja2",
}  # fmt: skip
MODEL = ("model.tie_lm_head=false", "model.input_rmsnorm=true", "model.activation=relu_squared",
         "model.zero_init_residual=true")  # fmt: skip
DIFFERENCES = {
    "architecture": "nanochat has rotary positions, a norm on queries and keys, value embeddings, learned scalars on "
    "the residual stream, smeared embeddings, a norm before the output and capped logits; microgpt has none of these, "
    "and learned positions",
    "optimizer": "nanochat trains matrices with Muon and the rest with AdamW, at its own learning rates, which it "
    "scales with the batch; microgpt trains all with the Adam named above",
    "vocabulary": "nanochat has 9 special tokens and pads its tables to a multiple of 64; microgpt has BOS alone",
    "init": "nanochat's weights come from its own distributions and from the seed 42 that stands in its code; both "
    "begin with the last matrix of attention and of MLP at zero",
    "compile": "nanochat always asks for torch.compile; not compiled means TORCHDYNAMO_DISABLE=1, which PyTorch heeds",
    "attention": "nanochat uses Flash Attention 3 where the package kernels is installed and the GPU is of its kind; "
    "else both use PyTorch's own",
    "bfloat16": "in bfloat16 nanochat keeps its embeddings in bfloat16 too; microgpt keeps all weights in float32",
}
DATA_SCRIPT = Path(__file__).with_name("nanochat_data.py")


def compare_nanochat(
    checkout: Path,
    python: str,
    source: dict[str, Any],
    text: Text,
    workload: Workload,
    settings: Sequence[Precision],
    scratch: Path,
) -> Comparison:
    """`checkout` is a scratch copy; `python` has what it needs, and writes its data too."""
    ours, base = Ours(scratch / "ours", text, MODEL), scratch / "base"  # where nanochat reads and writes
    contestants = []
    for precision in settings:
        left_out = {"bfloat16"} if precision.dtype != "bfloat16" else set()
        left_out |= {"attention"} if workload.device == "cpu" else set()
        left_out |= {"compile"} if precision.compiled else set()
        keys = [key for key in DIFFERENCES if key not in left_out]
        label = f"nanochat, {precision}"
        contestants.append(theirs(checkout, python, text, precision, workload.device, label, base, keys))
        contestants.append(ours.contestant("torch", precision, workload.device, label, keys))
        if workload.device == "cpu" and precision.compiled:  # beside nanochat as it comes
            native = Precision(precision.dtype)  # whose kernels are compiled in any case
            contestants.append(ours.contestant("native", native, "cpu", label, keys))

    def prepare() -> None:
        ours.prepare()
        base.mkdir(parents=True, exist_ok=True)
        train = [text.train[i] for i in text.order(workload.seed)]
        (base / "text.json").write_text(json.dumps({"chars": text.chars, "train": train, "val": text.val}))

    data_command = Command([python, str(DATA_SCRIPT), str(base)], scratch)
    return Comparison("nanochat", workload, source, contestants, DIFFERENCES, prepare, data_command)


def theirs(
    checkout: Path, python: str, text: Text, precision: Precision, device: str, label: str, base: Path, keys: list[str]
) -> Contestant:
    def launch(workload: Workload, number: int) -> Launch:
        tag = f"benchmark_{precision.dtype}{'_compiled' * precision.compiled}_{number}"
        flags = flags_of(workload, device, len(text.val) * workload.block_size, tag)
        env = {"NANOCHAT_BASE_DIR": str(base), "NANOCHAT_DTYPE": precision.dtype, "WANDB_MODE": "disabled"}
        env |= workload.thread_variables
        if not precision.compiled:
            env["TORCHDYNAMO_DISABLE"] = "1"
        if device == "cuda" and precision.dtype == "float32":
            env["NVIDIA_TF32_OVERRIDE"] = "0"
        arguments = [python, "-m", "scripts.base_train", *(f"--{key}={value}" for key, value in flags.items())]
        return Launch(Command(arguments, checkout, env), lambda done: read_output(done, workload))

    return Contestant(label, False, precision, device, launch, differences=keys)


def flags_of(w: Workload, device: str, eval_tokens: int, tag: str) -> dict[str, Any]:
    return {
        "run": "dummy", "device-type": device,
        "depth": w.n_layer, "aspect-ratio": w.n_embd // w.n_layer, "head-dim": w.n_embd // w.n_head,
        "max-seq-len": w.block_size, "window-pattern": "L",
        "num-iterations": w.steps, "device-batch-size": w.batch_size, "total-batch-size": w.batch_size * w.block_size,
        "warmup-steps": 0, "warmdown-ratio": warmdown(w) / w.steps, "final-lr-frac": 0.0,
        "eval-every": w.interval, "eval-tokens": eval_tokens,
        "core-metric-every": -1, "sample-every": -1, "save-every": -1, "model-tag": tag,
    }  # fmt: skip


def read_output(done: Finished, workload: Workload) -> Figures:
    tokens = workload.batch_size * workload.block_size
    step = r"^step (\d+)/\d+ .*\| loss: (\S+)"  # the loss is a running mean
    times = times_between_evaluations(done.lines, step, workload.interval, workload.steps, lambda _: tokens)
    bits = found_by_step(done.lines, r"^Step (\d+) \| Validation bpb: (\d+\.\d+)")
    on_gpu = any(line.text.startswith("GPU: ") for line in done.lines)  # it says so on CUDA alone
    return Figures(
        times.steps,
        times.seconds,
        times.tokens,
        losses=found_by_step(done.lines, step, offset=1),
        val_losses={at: loss * math.log(2) for at, loss in bits.items()},  # a character is a byte here
        device="cuda" if on_gpu else "cpu",
        facts={"flash_attention_3": any("Using Flash Attention 3" in line.text for line in done.lines)},
    )
