"""This project's side of a comparison: the command line of `python -m microgpt`, and its files.

Steps are timed between the checkpoints of the evaluations: train_state.json contains the seconds and target tokens of
training so far, without compiling, evaluation and disk.
"""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from karpathy.comparison import Contestant, Launch
from karpathy.data import SPLIT_SEED, VAL_FRACTION, Text
from karpathy.measures import Figures, NoFiguresError
from karpathy.processes import Command, Finished
from karpathy.workloads import Precision, Setup

PROGRAM = (sys.executable, "-m", "microgpt")
FACTS = ("backend", "device", "using_gpu", "dtype", "kernel", "threads")


@dataclass(frozen=True)
class Ours:
    """This project in one comparison. The overrides in `model` make its model similar to the baseline's."""

    folder: Path  # of the commands and the text
    text: Text
    model: Sequence[str]
    log_every: int | None = None  # steps between lines of history.jsonl; None: only at evaluations

    def prepare(self) -> None:
        """Write the text."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "text.txt").write_bytes(self.text.corpus.source.text.encode())

    def contestant(
        self, backend: str, precision: Precision, device: str, against: str, differences: Sequence[str]
    ) -> Contestant:
        launch = partial(self.launch, backend, precision, device)
        return Contestant(f"microgpt {backend}, {precision}", precision, device, launch, against, differences)

    def beside(
        self,
        program: str,
        settings: Sequence[Precision],
        setup: Setup,
        launch: Callable[[Precision, Setup, int], Launch],
        differences: Callable[[Precision], list[str]],
        compiled_by_default: bool,
    ) -> list[Contestant]:
        """Return a PyTorch baseline in each precision, each followed by our PyTorch engine in the same precision.

        On a CPU, the native engine, whose kernels are always compiled, is compared with the default of the baseline.
        """
        found, device = [], setup.device
        for precision in settings:
            label, keys = f"{program}, {precision}", differences(precision)
            found.append(Contestant(label, precision, device, partial(launch, precision), differences=keys))
            found.append(self.contestant("torch", precision, device, label, keys))
            if device == "cpu" and precision.compiled == compiled_by_default:
                found.append(self.contestant("native", Precision(precision.dtype), "cpu", label, keys))
        return found

    def launch(self, backend: str, precision: Precision, device: str, setup: Setup, number: int) -> Launch:
        outputs = self.folder / f"outputs_{backend}_{precision.file_name}_{number}"
        arguments = [
            *PROGRAM,
            *(["mode=scalar"] if backend == "python" else ["mode=tensor", f"backend={backend}"]),
            f"backend.dtype={precision.dtype}",
            *([f"backend.device={device}"] if backend == "torch" else []),
            *(["backend.compile=true"] if precision.compiled else []),
            *([f"backend.threads={setup.threads}"] if setup.threads and backend != "python" else []),
            *self.overrides(setup),
            f"outputs_dir={outputs.name}", f"results_dir={outputs.name}",
        ]  # fmt: skip

        def read(done: Finished) -> Figures:
            try:
                return read_run(outputs, setup)
            finally:
                shutil.rmtree(outputs, ignore_errors=True)  # contains the checkpoints of all evaluations

        return Launch(Command(arguments, self.folder, precision.variables(device)), read)

    def overrides(self, setup: Setup) -> list[str]:
        clip = "null" if setup.grad_clip is None else setup.grad_clip
        warmdown = [f"schedule.warmdown_steps={setup.warmdown}"] if setup.schedule == "warmdown" else []
        return [
            "style=classic", "data=text", "data.path=text.txt", f"data.format={self.text.text_format}",
            f"data.val_fraction={VAL_FRACTION}", f"data.split_seed={SPLIT_SEED}",
            f"model.n_layer={setup.n_layer}", f"model.n_head={setup.n_head}",
            f"model.n_embd={setup.n_embd}", f"model.block_size={setup.block_size}", *self.model,
            f"optim.lr={setup.lr}", f"optim.beta1={setup.beta1}", f"optim.beta2={setup.beta2}",
            f"optim.grad_clip={clip}", f"schedule={setup.schedule}", *warmdown,
            f"train.steps={setup.steps}", f"train.batch_size={setup.batch_size}",
            f"train.eval_every={setup.interval}", f"train.eval_documents={self.text.eval_documents}",
            "train.checkpoint_every=null", "train.keep_checkpoints=1000", "train.resume=never",
            f"train.log_every={self.log_every or setup.interval}",
            f"seed={setup.seed}", "sample.num_samples=0",
        ]  # fmt: skip


def read_run(outputs: Path, setup: Setup) -> Figures:
    """Return the figures of the only run in an outputs folder."""
    found = list(outputs.glob("*/*/run.json"))
    if len(found) != 1:
        raise NoFiguresError(f"it left {len(found)} run.json instead of one")
    folder = found[0].parent
    record = json.loads(found[0].read_bytes())
    if record["status"] != "completed":
        raise NoFiguresError(f"its run.json has status={record['status']}: {record['error']}")
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    first, last = (train_state(folder, step) for step in (setup.interval, setup.steps))
    facts: dict[str, Any] = {key: record[key] for key in FACTS}
    facts |= {"parameters": record["model"]["parameter_count"], "compile_seconds": record["timings"]["compile"]}
    losses, val_losses = (
        {line["step"]: line[key] for line in history if line.get(key) is not None} for key in ("loss", "val_loss")
    )
    return Figures(
        steps=setup.steps - setup.interval,
        seconds=last["train_seconds"] - first["train_seconds"],
        tokens=last["tokens"] - first["tokens"],
        losses=losses,
        val_losses=val_losses,
        device="cuda" if record["using_gpu"] else record["device"],
        facts=facts,
    )


def train_state(folder: Path, step: int) -> dict[str, Any]:
    file = folder / "checkpoint" / f"step_{step:08d}" / "train_state.json"
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise NoFiguresError(f"it left no checkpoint of step {step}: {error.strerror}") from error
