"""Our side of a comparison: `python -m microgpt` as a user would call it, and the reading of what it leaves.

Steps are timed between the checkpoints that every evaluation leaves: train_state.json has the seconds and target tokens
of training so far, without compiling, evaluation and disk.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from karpathy.commands import Command, Finished
from karpathy.contest import Contestant, Launch
from karpathy.measures import Figures, NoFiguresError
from karpathy.texts import SPLIT_SEED, VAL_FRACTION, Text
from karpathy.workloads import Precision, Workload

PROGRAM = (sys.executable, "-m", "microgpt")
FACTS = ("backend", "device", "using_gpu", "dtype", "kernel", "threads")


@dataclass(frozen=True)
class Ours:
    """Our program in one comparison. `model` are the overrides that bring our model near the baseline's."""

    folder: Path  # where it is called; the text lies there
    text: Text
    model: Sequence[str]
    log_every: int | None = None  # steps between lines of history.jsonl; None: only where evaluated

    def prepare(self) -> None:
        """Write the text."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "text.txt").write_bytes(self.text.text.encode())

    def contestant(
        self, backend: str, precision: Precision, device: str, against: str, differences: Sequence[str]
    ) -> Contestant:
        """`backend` is python, native or torch."""
        label = f"microgpt {backend}, {precision}"

        def launch(workload: Workload, number: int) -> Launch:
            return self.launch(backend, precision, device, workload, number)

        return Contestant(label, True, precision, device, launch, against, differences)

    def launch(self, backend: str, precision: Precision, device: str, workload: Workload, number: int) -> Launch:
        kind = f"{backend}_{precision.dtype}{'_compiled' * precision.compiled}"
        outputs = self.folder / f"outputs_{kind}_{number}"
        arguments = [
            *PROGRAM,
            *(["mode=scalar"] if backend == "python" else ["mode=tensor", f"backend={backend}"]),
            f"backend.dtype={precision.dtype}",
            *([f"backend.device={device}"] if backend == "torch" else []),
            *(["backend.compile=true"] if precision.compiled else []),
            *([f"backend.threads={workload.threads}"] if workload.threads and backend != "python" else []),
            *self.overrides(workload),
            f"outputs_dir={outputs.name}", f"results_dir={outputs.name}",
        ]  # fmt: skip
        env = {"NVIDIA_TF32_OVERRIDE": "0"} if device == "cuda" and precision.dtype == "float32" else {}

        def read(done: Finished) -> Figures:
            try:
                return read_run(outputs, workload)
            finally:
                shutil.rmtree(outputs, ignore_errors=True)  # checkpoints of all evaluations

        return Launch(Command(arguments, self.folder, env), read)

    def overrides(self, workload: Workload) -> list[str]:
        clip = "null" if workload.grad_clip is None else workload.grad_clip
        return [
            "style=classic", "data=text", "data.path=text.txt", f"data.format={self.text.text_format}",
            f"data.val_fraction={VAL_FRACTION}", f"data.split_seed={SPLIT_SEED}",
            f"model.n_layer={workload.n_layer}", f"model.n_head={workload.n_head}",
            f"model.n_embd={workload.n_embd}", f"model.block_size={workload.block_size}", *self.model,
            f"optim.lr={workload.lr}", f"optim.beta1={workload.beta1}", f"optim.beta2={workload.beta2}",
            f"optim.grad_clip={clip}", f"schedule={workload.schedule}", *self.schedule(workload),
            f"train.steps={workload.steps}", f"train.batch_size={workload.batch_size}",
            f"train.eval_every={workload.interval}", f"train.eval_documents={self.text.eval_documents}",
            "train.checkpoint_every=null", "train.keep_checkpoints=1000", "train.resume=never",
            f"train.log_every={self.log_every or workload.interval}",
            f"seed={workload.seed}", "sample.num_samples=0",
        ]  # fmt: skip

    def schedule(self, workload: Workload) -> list[str]:
        return [f"schedule.warmdown_steps={warmdown(workload)}"] if workload.schedule == "warmdown" else []


def warmdown(workload: Workload) -> int:
    """Length of the descent: the last 65 % of the steps, nanochat's own default."""
    return round(0.65 * workload.steps)


def read_run(outputs: Path, workload: Workload) -> Figures:
    """The figures of the one run in a folder of outputs."""
    found = list(outputs.glob("*/*/run.json"))
    if len(found) != 1:
        raise NoFiguresError(f"it left {len(found)} run.json instead of one")
    folder = found[0].parent
    record = json.loads(found[0].read_bytes())
    if record["status"] != "completed":
        raise NoFiguresError(f"its run.json says {record['status']}: {record['error']}")
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    first, last = (train_state(folder, step) for step in (workload.interval, workload.steps))
    facts: dict[str, Any] = {key: record[key] for key in FACTS}
    facts |= {"parameters": record["model"]["parameter_count"], "compile_seconds": record["timings"]["compile"]}
    return Figures(
        steps=workload.steps - workload.interval,
        seconds=last["train_seconds"] - first["train_seconds"],
        tokens=last["tokens"] - first["tokens"],
        losses={line["step"]: line["loss"] for line in history if line.get("loss") is not None},
        val_losses={line["step"]: line["val_loss"] for line in history if line.get("val_loss") is not None},
        device="cuda" if record["using_gpu"] else record["device"],
        facts=facts,
    )


def train_state(folder: Path, step: int) -> dict[str, Any]:
    file = folder / "checkpoint" / f"step_{step:08d}" / "train_state.json"
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise NoFiguresError(f"it left no checkpoint of step {step}: {error.strerror}") from error
