"""The baseline nanochat: its scripts.base_train with its own flags, and the text of the benchmark as its data set.

nanochat gets a tokenizer of single characters, and documents that fill one row each. Its rows are therefore the
examples of this project in the same order, and its validation loss covers the same characters.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from karpathy.comparison import BaselineComparison, Launch
from karpathy.data import Text
from karpathy.measures import Figures, numbers_by_step, read_figures
from karpathy.ours import Ours
from karpathy.processes import Command, Finished
from karpathy.workloads import Precision, Setup, compiles_by_default

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
    "but learned positions",
    "optimizer": "nanochat trains matrices with Muon and all else with AdamW, at its own learning rates, which depend "
    "on the batch size; microgpt trains all parameters with the Adam listed above",
    "vocabulary": "nanochat has 9 special tokens and pads its tables to a multiple of 64; microgpt has only BOS",
    "init": "nanochat draws its weights from its own distributions with seed 42; in both programs, the last matrix of "
    "attention and of the MLP starts at zero",
    "compile": "nanochat always requests torch.compile; not compiled means with PyTorch's TORCHDYNAMO_DISABLE=1",
    "attention": "nanochat uses Flash Attention 3 if the kernels package is installed and the GPU supports it; "
    "otherwise both programs use PyTorch's attention",
    "bfloat16": "in bfloat16, nanochat also keeps its embeddings in bfloat16; microgpt keeps all weights in float32",
}
DATA_SCRIPT = Path(__file__).with_name("nanochat_data.py")


def compare_nanochat(
    checkout: Path, python: str, text: Text, setup: Setup, settings: Sequence[Precision], scratch: Path
) -> BaselineComparison:
    """Return the comparison. `checkout` is a copy; `python` has the packages and also writes the data."""
    base = scratch / "base"  # nanochat reads and writes here
    ours, device = Ours(scratch / "ours", text, MODEL), setup.device

    def launch(precision: Precision, setup: Setup, number: int) -> Launch:
        tag = f"benchmark_{precision.file_name}_{number}"
        flags = flags_of(setup, len(text.val) * setup.block_size, tag)
        env = {"NANOCHAT_BASE_DIR": str(base), "NANOCHAT_DTYPE": precision.dtype, "WANDB_MODE": "disabled"}
        env |= setup.thread_variables | ({} if precision.compiled else {"TORCHDYNAMO_DISABLE": "1"})
        env |= precision.variables(device)
        arguments = [python, "-m", "scripts.base_train", *(f"--{key}={value}" for key, value in flags.items())]
        return Launch(Command(arguments, checkout, env), lambda done: read_output(done, setup))

    def differences(precision: Precision) -> list[str]:
        absent = {"bfloat16": precision.dtype != "bfloat16", "attention": device == "cpu"}
        absent |= {"compile": precision.compiled}
        return [key for key in DIFFERENCES if not absent.get(key)]

    def prepare() -> None:
        ours.prepare()
        base.mkdir(parents=True, exist_ok=True)
        train = [text.train[i] for i in text.order(setup.seed)]
        (base / "text.json").write_text(json.dumps({"chars": text.chars, "train": train, "val": text.val}))

    default = compiles_by_default("nanochat", device)
    contestants = ours.beside("nanochat", settings, setup, launch, differences, default)
    data_command = Command([python, str(DATA_SCRIPT), str(base)], scratch)
    return BaselineComparison("nanochat", setup, contestants, DIFFERENCES, prepare, data_command)


def flags_of(s: Setup, eval_tokens: int, tag: str) -> dict[str, Any]:
    return {
        "run": "dummy", "device-type": s.device,
        "depth": s.n_layer, "aspect-ratio": s.n_embd // s.n_layer, "head-dim": s.n_embd // s.n_head,
        "max-seq-len": s.block_size, "window-pattern": "L",
        "num-iterations": s.steps, "device-batch-size": s.batch_size, "total-batch-size": s.batch_size * s.block_size,
        "warmup-steps": 0, "warmdown-ratio": s.warmdown / s.steps, "final-lr-frac": 0.0,
        "eval-every": s.interval, "eval-tokens": eval_tokens,
        "core-metric-every": -1, "sample-every": -1, "save-every": -1, "model-tag": tag,
    }  # fmt: skip


def read_output(done: Finished, setup: Setup) -> Figures:
    figures = read_figures(done.lines, r"^step (\d+)/\d+ .*\| loss: (\S+)", setup)  # the loss is a running mean
    bits = numbers_by_step(done.lines, r"^Step (\d+) \| Validation bpb: (\d+\.\d+)")
    figures.val_losses = {step: loss * math.log(2) for step, loss in bits.items()}  # a character is a byte here
    if any(line.text.startswith("GPU: ") for line in done.lines):  # printed on CUDA only
        figures.device = "cuda"
    figures.facts = {"flash_attention_3": any("Using Flash Attention 3" in line.text for line in done.lines)}
    return figures
