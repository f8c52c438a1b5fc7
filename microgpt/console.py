"""What a training run says on the terminal before its first step and after its last."""

from pathlib import Path
from typing import Any

from microgpt.assembly import Inputs, schedule_of
from microgpt.training.metrics import console_line

Record = dict[str, Any]


def print_beginning(inputs: Inputs, record: Record) -> None:
    corpus, data = inputs.corpus, record["data"]
    print(f"num docs: {corpus.documents}")
    print(f"vocab size: {inputs.spec.vocab_size}")
    print(f"num params: {inputs.spec.parameter_count()}")
    if corpus.val.documents:
        print(f"split: {corpus.train.documents} train, {corpus.val.documents} validation documents, "
              f"{data['evaluated_documents']} evaluated")  # fmt: skip
    if corpus.long_documents:
        policy = inputs.config.data.long_documents
        done = {"truncate": "cut", "window": "read in windows", "skip": "left out"}[policy]
        print(f"long documents: {corpus.long_documents} of {corpus.documents} exceed the block and are {done}")
    lost = unknown_phrases(inputs)
    if lost:
        print(
            f"style {record['style']}: phrases with characters that no document has are not favoured: {', '.join(lost)}"
        )
    if inputs.leg_from is not None:
        leg, optim, schedule = record["leg"], inputs.config.optim, schedule_of(inputs.config)
        print(f"training on from step {leg['first_step']} of {leg['from']}")
        print(f"a new leg of {inputs.config.train.steps} steps: schedule {schedule.name} anew from lr {optim.lr} over "
              f"{schedule.total_steps} steps")  # fmt: skip
    print(f"backend={record['backend']} device={record['device']} using_gpu={str(record['using_gpu']).lower()} "
          f"dtype={record['dtype']} kernel={record['kernel']} threads={record['threads']}", flush=True)  # fmt: skip
    if record["backend_reason"]:
        print(f"backend=auto is {record['backend']}: {record['backend_reason']}", flush=True)


def unknown_phrases(inputs: Inputs) -> list[str]:
    ids = inputs.corpus.tokenizer.ids
    return [phrase for phrase in inputs.config.style.phrases if any(char not in ids for char in phrase)]


def print_end(record: Record, path: Path) -> None:
    if record["samples"]:
        print("--- samples ---")
    for number, sample in enumerate(record["samples"], 1):
        print(f"sample {number:2d}: {sample}")
    style = record["metrics"].get("style_effect")
    if style and style["phrase_rate"] is not None:
        print(f"style {record['style']}: a phrase in {style['phrase_rate']:.0%} of the samples, "
              f"in {style['phrase_rate_without_bias']:.0%} of those drawn without its bias")  # fmt: skip
    print(f"files: {path}")
    figures = record["metrics"]
    print(console_line({
        "mode": record["mode"],
        "model": record["config"]["model"]["name"],
        "style": record["style"],
        "backend": record["backend"],
        "device": record["device"],
        "using_gpu": record["using_gpu"],
        "tie_lm_head": record["model"]["tie_lm_head"],
        "input_rmsnorm": record["model"]["input_rmsnorm"],
        "params": figures["parameter_count"],
        "steps": figures["steps"],
        "final_loss": figures["final_loss"],
        "val_loss": figures["val_loss"],
        f"mean_loss_last_{figures['last_n']}": figures["mean_loss_last_n"],
        "steps_per_sec": figures["steps_per_sec"],
        "tokens_per_sec": figures["tokens_per_sec"],
        "vocab_size": figures["vocab_size"],
        "train_tokens": figures["train_tokens"],
    }), flush=True)  # fmt: skip
