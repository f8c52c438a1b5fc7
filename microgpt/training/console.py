"""The terminal output of training: details for a single run, one line every two seconds for the jobs of a sweep."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from microgpt.data.display import escaped
from microgpt.runs.record import RunRecord
from microgpt.training.from_config import make_schedule
from microgpt.training.progress import RunProgressDisplay, SweepProgressDisplay
from microgpt.training.run_inputs import RunInputs
from microgpt.training.runner import TrainingRun


class RunConsole(RunProgressDisplay):
    """The output of a single run: data and model, progress, samples, files and results."""

    def __init__(self, run: TrainingRun):
        checkpoint = run.folder.checkpoint
        super().__init__(run.inputs.config.train.steps, 0 if checkpoint is None else checkpoint.progress.step)

    def begin(self, runs: list[TrainingRun]) -> None:
        for run in runs:
            if run.folder.checkpoint is not None:
                print(f"resuming {run.folder.path} at step {self.first}")
            print_inputs(run.inputs, run.record)
        self.start()

    def end(self, run: TrainingRun) -> None:
        print_results(run.record, run.folder.path)


class SweepConsole(SweepProgressDisplay):
    """The output while the jobs of a sweep train; the results are in the tables at the end of the sweep."""

    def __init__(self, jobs: int, steps: int):
        super().__init__(jobs, steps)
        self.has_printed_engine = False

    def begin(self, runs: list[TrainingRun]) -> None:
        if not self.has_printed_engine:
            self.has_printed_engine = True
            print_engine(runs[0].record)
        self.start(len(runs), runs[0].replica.progress.step, runs[0].inputs.config.train.steps)

    def end(self, run: TrainingRun) -> None:
        pass


def print_inputs(inputs: RunInputs, record: RunRecord) -> None:
    corpus, config = inputs.corpus, inputs.config
    assert record.data is not None
    print(f"num docs: {corpus.documents}")
    print(f"vocab size: {inputs.spec.vocab_size}")
    print(f"num params: {inputs.spec.parameter_count()}")
    if corpus.val.documents:
        print(f"split: {corpus.train.documents} train, {corpus.val.documents} validation documents, "
              f"{record.data.evaluated_documents} evaluated")  # fmt: skip
    if corpus.long_documents:
        done = {"truncate": "cut", "window": "read in windows", "skip": "left out"}[config.data.long_documents]
        print(f"long documents: {corpus.long_documents} of {corpus.documents} are longer than the block and are {done}")
    unknown = [phrase for phrase in config.style.phrases if not corpus.tokenizer.ids.keys() >= set(phrase)]
    if unknown:
        print(f"style {record.style}: phrases with characters that occur in no document are not favoured: "
              f"{', '.join(unknown)}")  # fmt: skip
    if inputs.leg_from is not None:
        assert record.leg is not None
        schedule = make_schedule(config)
        print(f"continuing from step {record.leg.first_step} of {record.leg.from_}")
        if not record.leg.optimizer_state:
            kept = "; a sweep keeps it with train.keep_optimizer_state=true" if inputs.leg_from.progress.step else ""
            print(f"the checkpoint has no optimizer state: moments start at zero, and steps are counted from 0{kept}")
        if record.leg.other_data:
            print(f"warning: the data differ from the checkpoint's ({'; '.join(record.leg.other_data)}): "
                  "val_loss may include documents that the model was trained on")  # fmt: skip
        print(f"continuation of {config.train.steps} steps: schedule {schedule.name} starts again with lr "
              f"{config.optim.lr}, over {schedule.total_steps} steps")  # fmt: skip
    print_engine(record)


def print_engine(record: RunRecord) -> None:
    shared = f" processes={record.processes}" if record.processes != 1 else ""
    print(f"backend={record.backend} device={record.device} using_gpu={str(record.using_gpu).lower()} "
          f"dtype={record.dtype} kernel={record.kernel} threads={record.threads}{shared}",
          flush=True)  # fmt: skip
    if record.backend_reason:
        print(f"backend=auto is {record.backend}: {record.backend_reason}", flush=True)


def print_results(record: RunRecord, path: Path) -> None:
    if record.samples:
        print("--- samples ---")
    for number, sample in enumerate(record.samples, 1):
        print(f"sample {number:2d}: {escaped(sample)}")
    metrics, model = record.metrics, record.model
    assert metrics is not None
    assert model is not None
    style = metrics.style_effect
    if style and style.phrase_rate is not None:
        print(f"style {record.style}: {style.phrase_rate:.0%} of the samples contain a phrase, "
              f"{style.phrase_rate_without_bias:.0%} without the style's bias")  # fmt: skip
    print(f"files: {path}")
    print(console_line({
        "mode": record.mode,
        "model": record.config["model"]["name"],
        "style": record.style,
        "backend": record.backend,
        "device": record.device,
        "using_gpu": record.using_gpu,
        "tie_lm_head": model.tie_lm_head,
        "input_rmsnorm": model.input_rmsnorm,
        "params": metrics.parameter_count,
        "steps": metrics.steps,
        "final_loss": metrics.final_loss,
        "val_loss": metrics.val_loss,
        f"mean_loss_last_{metrics.last_n}": metrics.mean_loss_last_n,
        "steps_per_sec": metrics.steps_per_sec,
        "tokens_per_sec": metrics.tokens_per_sec,
        "vocab_size": metrics.vocab_size,
        "train_tokens": metrics.train_tokens,
    }), flush=True)  # fmt: skip


def console_line(values: Mapping[str, Any]) -> str:
    """Return the last line of a run, for scripts: `key=value` pairs with booleans in lower case."""
    return " ".join(f"{key}={shown(key, value)}" for key, value in values.items())


def shown(key: str, value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.2f}" if key.endswith("_per_sec") else f"{value:.6f}"
    return str(value)
