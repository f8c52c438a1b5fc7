"""The model card of an export for transformers: the model's data, configuration and validation loss."""

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from microgpt.config.schema import Config, DataConfig
from microgpt.data.tokenizer import token_id
from microgpt.errors import UserError
from microgpt.inference.attention_maps import forward
from microgpt.runs.checkpoint import Checkpoint
from microgpt.runs.record import RunRecord
from microgpt.training.from_config import read_corpus

MOST_EXAMPLES = 5000  # validation examples on which the card's loss is measured
NORMAL_95 = 1.96  # half-width of a 95 % interval in standard errors

LOADING = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # the folder of this file
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
inputs = tokenizer("{prompt}", return_tensors="pt")  # starts with BOS
print(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))
```"""


@dataclass(frozen=True)
class Measured:
    """A loss in nats per target token, with the half-width of its 95 % interval over the examples."""

    loss: float
    half_width: float | None
    examples: int

    def __str__(self) -> str:
        interval = "" if self.half_width is None else f" ± {self.half_width:.4f}"
        return f"{self.loss:.4f}{interval} nats per token"


def model_card(checkpoint: Checkpoint, architecture: str, title: str) -> bytes:
    """Return the README.md of an export. Without the record of the checkpoint's run, the card has no data section."""
    meta, spec = checkpoint.meta, checkpoint.meta.spec
    record = RunRecord.read(checkpoint.path.parents[1]) if checkpoint.path.parent.name == "checkpoint" else None
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [microgpt]",
        "---",
        "",
        f"# {title}",
        "",
        f"A character-level model with {spec.parameter_count():,} parameters, trained with microgpt and stored as "
        f"{architecture}. It was trained for {checkpoint.step:,} steps.",
        "",
        LOADING.format(prompt="" if meta.special else meta.chars[0]),
        "",
        "| | |",
        "|---|---|",
        f"| characters | {len(meta.chars)}: `{json_text(''.join(meta.chars))}` |",
        f"| context | {spec.block_size} tokens |",
    ]
    if record is not None:
        lines += [f"| {name} | {value} |" for name, value in facts_of(record, checkpoint)]
        lines += ["", "Command:", "", "```sh", record.command or "", "```"]
        lines += ["", "Configuration:", "", "```yaml", *configuration(record.config), "```"]
    return ("\n".join(lines) + "\n").encode()


def json_text(text: str) -> str:
    return text.encode("unicode_escape").decode().replace("`", "\\x60").replace("|", "\\|")


def facts_of(record: RunRecord, checkpoint: Checkpoint) -> list[tuple[str, str]]:
    facts = []
    if record.data is not None:
        facts.append(("data", f"{record.data.name}, {record.data.documents:,} documents, SHA-256 {record.data.sha256}"))
    measured = validation_loss(record, checkpoint)
    if measured is not None:
        what = f"{measured} on {measured.examples:,} held-out examples (95 % interval)"
        facts.append(("validation loss", what))
    elif record.metrics is not None and record.metrics.val_loss is not None:
        facts.append(("validation loss", f"{record.metrics.val_loss:.4f} nats per token"))
    return [*facts, ("seed", str(record.seed))]


def configuration(config: dict[str, Any]) -> list[str]:
    """Return the settings of a run that differ from the schema's defaults, as YAML."""
    default = Config()
    lines = []
    for group, values in config.items():
        if group in ("model", "data", "style", "optim", "schedule", "train") and isinstance(values, dict):
            own = getattr(default, group)
            changed = [f"  {key}: {value!r}" for key, value in values.items() if value != getattr(own, key, None)]
            lines += [f"{group}:", *changed] if changed else []
    return lines


def validation_loss(record: RunRecord, checkpoint: Checkpoint) -> Measured | None:
    """Measure the loss on the run's held-out documents. Returns None if its data can no longer be read."""
    config, spec = record.config, checkpoint.meta.spec
    data, style = config.get("data") or {}, config.get("style") or {}
    known = {f.name: data[f.name] for f in fields(DataConfig) if f.name in data}
    documents = tuple(style.get("documents") or ())
    try:
        corpus = read_corpus(DataConfig(**known), spec.block_size, documents, style.get("long_documents", "window"))
    except UserError:
        return None
    same = record.data is not None and corpus.source.sha256 == record.data.sha256
    examples = corpus.val.examples[:MOST_EXAMPLES]
    if not same or corpus.tokenizer.chars != checkpoint.meta.chars or not examples:
        return None
    sums, counts = [], []
    for example in examples:
        ids = list(map(token_id, example))
        is_target = np.array([token >= 0 for token in example[1:]])
        losses = token_losses(checkpoint, ids)
        sums.append(float(losses[is_target].sum()))
        counts.append(int(is_target.sum()))
    return ratio_of(np.array(sums), np.array(counts))


def token_losses(checkpoint: Checkpoint, ids: list[int]) -> np.ndarray:
    """Return the loss of each token after the first, including the last token of a full block."""
    spec = checkpoint.meta.spec
    logits = forward(spec, checkpoint.state.parameters, ids[:-1]).logits
    largest = logits.max(axis=-1, keepdims=True)
    log_sum = np.log(np.exp(logits - largest).sum(axis=-1)) + largest[:, 0]
    return log_sum - logits[np.arange(len(logits)), ids[1:]]


def ratio_of(sums: np.ndarray, counts: np.ndarray) -> Measured:
    """Return sum(sums) / sum(counts), with the standard error of a ratio of means (Cochran, 1977, 2.11)."""
    n, loss = len(sums), float(sums.sum() / counts.sum())
    if n < 2:
        return Measured(loss, None, n)
    error = math.sqrt(n / (n - 1) * float(((sums - loss * counts) ** 2).sum())) / float(counts.sum())
    return Measured(loss, NORMAL_95 * error, n)
