"""The schema of the configuration: type, default, constraint and help of every key.

A default that applies to every option of a group is set here; the values that an option changes are in its file under
conf/. The keys of tasks that do not train are in task_keys.py, those of sweepers in sweeper_keys.py. Rules that involve
several keys are in validation.py.
"""

# ruff: noqa: RUF009 (`key` and `group` return dataclass fields)
import re
from dataclasses import dataclass
from typing import Any

from microgpt.config.choices import LOGGERS, MODES, SCHEDULES, STYLE_NAME, TASKS
from microgpt.config.keys import group, key
from microgpt.config.sweeper_keys import LadderConfig, PrecisionConfig, ScreeningConfig
from microgpt.config.task_keys import BenchmarkConfig, ExplainConfig, ExportConfig, ServeConfig
from microgpt.data.conversations import LOSS_ON
from microgpt.data.corpus import FORMATS, LONG_DOCUMENTS
from microgpt.data.sources import SOURCES
from microgpt.engines.optimizer import OPTIMIZERS
from microgpt.engines.options import BACKENDS
from microgpt.model.spec import (
    ACTIVATIONS,
    INITS,
    MODEL_KINDS,
    NORMS,
    POSITIONS,
    RESIDUAL_INITS,
    RMSNORM_EPSILON,
)


def are_texts(values: list[Any]) -> bool:
    return all(isinstance(value, str) and value.strip() for value in values)


def used_by(name: str) -> str:
    """Return the optimizers that read a key, for the key's help text."""
    return ", ".join(optimizer for optimizer, choice in OPTIMIZERS.items() if name in choice.keys)


DEVICES = tuple(dict.fromkeys(device for backend in BACKENDS.values() for device in backend.devices))
DTYPES = tuple(dict.fromkeys(dtype for backend in BACKENDS.values() for dtype in backend.dtypes))
KERNELS = tuple(dict.fromkeys(kernel for backend in BACKENDS.values() for kernel in backend.kernels))
TEXTS = "each must be a non-empty string; put a string that contains a colon in quotes"


@dataclass(frozen=True)
class TaskConfig:
    name: str = key("train", one_of=TASKS)


@dataclass(frozen=True)
class ModeConfig:
    name: str = key("scalar", one_of=MODES)


@dataclass(frozen=True)
class BackendConfig:
    name: str = key("python", one_of=BACKENDS)
    device: str = key("auto", "auto is the fastest one available", one_of=DEVICES)
    dtype: str | None = key(None, "null is float64 for python, float32 for the others", one_of=DTYPES)
    threads: int | None = key(None, "CPU threads; null: one per core", at_least=1)
    kernel: str = key("auto", "native has auto and features; torch has auto, eager and cuda_graph", one_of=KERNELS)
    compile: bool = key(False, "torch: use torch.compile")
    micro_batch: int | None = key(None, "torch: examples per pass; gradients accumulate over the passes", at_least=1)


@dataclass(frozen=True)
class ModelConfig:
    name: str = key("", "name in records; empty: the name of the option")
    kind: str = key("gpt", "architecture of the model", one_of=MODEL_KINDS)
    n_embd: int | None = key(None, "width of the residual stream", at_least=1)
    n_head: int | None = key(None, "attention heads; must divide n_embd", at_least=1)
    n_layer: int | None = key(None, "blocks of attention and MLP", at_least=1)
    block_size: int = key(16, "context length in tokens", at_least=1)
    tie_lm_head: bool = key(False, "use the token embedding as the output matrix")
    input_rmsnorm: bool = key(True, "normalize the sum of the embeddings")
    activation: str = key("relu", "activation of the MLP", one_of=ACTIVATIONS)
    init_std: float = key(0.08, "standard deviation of the initial weights", at_least=0)
    zero_init_residual: bool = key(False, "the same as residual_init=zero")
    position: str = key("learned", "how positions are encoded", one_of=POSITIONS, new=True)
    rope_theta: float = key(10000.0, "position=rope: base of the wavelengths", above=0, new=True)
    norm: str = key("rmsnorm", "kind of norm in and after the blocks", one_of=NORMS, new=True)
    norm_eps: float = key(RMSNORM_EPSILON, "added to the mean square in every norm", above=0, new=True)
    norm_gain: bool = key(False, "multiply the output of a norm by a learned gain", new=True)
    final_norm: bool = key(False, "normalize before the output matrix", new=True)
    qk_norm: bool = key(False, "normalize the queries and keys of each head", new=True)
    bias: bool = key(False, "add biases in the blocks' linear layers and in layernorm", new=True)
    gated_mlp: bool = key(False, "multiply the MLP's hidden features by activation(mlp_gate x)", new=True)
    mlp_width: int | None = key(None, "number of hidden features of the MLP; null: 4 n_embd", at_least=1, new=True)
    n_kv_head: int | None = key(None, "key and value heads; must divide n_head; null: n_head", at_least=1, new=True)
    logit_softcap: float | None = key(None, "c in logits = c tanh(logits / c); null: no cap", above=0, new=True)
    residual_init: str = key(
        "normal",
        "initial attn_wo and mlp_fc2; scaled is normal divided by sqrt(2 n_layer)",
        one_of=RESIDUAL_INITS,
        new=True,
    )
    init: str = key(
        "normal", "standard deviation of the initial matrices: init_std, or 1 / sqrt(inputs)", one_of=INITS, new=True
    )


@dataclass(frozen=True)
class StyleConfig:
    name: str = key(
        "", "name in records and tables; empty: the name of the option", holds=re.compile(STYLE_NAME).fullmatch,
        allowed="it becomes part of a file name and can contain only letters, digits, _ . -",
    )  # fmt: skip
    documents: list[str] = key([], "documents mixed into the training examples", holds=are_texts, allowed=TEXTS)
    share: float = key(0.0, "fraction of the training examples taken from style.documents", at_least=0, below=1)
    long_documents: str = key("window", "what to do with a document longer than block_size", one_of=LONG_DOCUMENTS)
    phrases: list[str] = key([], "phrases to make more likely when sampling", holds=are_texts, allowed=TEXTS)
    bias: float = key(0.0, "added to the logit of the next character of a phrase")


@dataclass(frozen=True)
class DataConfig:
    name: str = key("names", one_of=SOURCES)
    path: str | None = key(
        None, "file for data=text or data=chat; null with data=chat: the bundled conversations", is_path=True
    )
    format: str = key("lines", "one document per line, or one running text", one_of=FORMATS)
    val_fraction: float = key(0.1, "fraction of the distinct documents held out for validation", at_least=0, below=1)
    split_seed: int = key(0, "seed of the split; separate from `seed`, so that all seeds share a split", at_least=0)
    long_documents: str = key("truncate", "what to do with a document longer than block_size", one_of=LONG_DOCUMENTS)
    loss_on: str = key("assistant", "the turns of data=chat to train on", one_of=LOSS_ON)


@dataclass(frozen=True)
class OptimConfig:
    name: str = key("adam", one_of=OPTIMIZERS)
    lr: float = key(0.01, "learning rate", at_least=0)
    beta1: float | None = key(None, f"{used_by('beta1')}: decay of the first moment", at_least=0, below=1)
    beta2: float | None = key(None, f"{used_by('beta2')}: decay of the second moment", at_least=0, below=1)
    eps: float | None = key(None, f"{used_by('eps')}: added to the root of the second moment", above=0)
    momentum: float | None = key(None, f"{used_by('momentum')}: decay of the sum of gradients", at_least=0, below=1)
    weight_decay: float | None = key(
        None, f"{used_by('weight_decay')}: decoupled decay, not applied to embeddings", at_least=0
    )
    adam_lr_ratio: float | None = key(
        None, f"{used_by('adam_lr_ratio')}: lr of the parameters outside the blocks' matrices, relative to optim.lr",
        at_least=0, new=True,
    )  # fmt: skip
    grad_clip: float | None = key(None, "maximum norm of the gradient; null: no clipping", above=0)


@dataclass(frozen=True)
class ScheduleConfig:
    name: str = key("linear", one_of=SCHEDULES)
    total_steps: int | None = key(None, "length T of the schedule in steps; null: train.steps")
    warmup_steps: int = key(0, "warm-up steps; step s has the factor (s + 1) / warmup_steps", at_least=0)
    warmdown_steps: int | None = key(None, "warmdown, sqrt: steps of the final decay; null: half of T", at_least=1)


@dataclass(frozen=True)
class TrainConfig:
    steps: int = key(1000, "optimizer steps; 0: report the untrained model", at_least=0)
    batch_size: int = key(1, "examples per step", at_least=1)
    log_every: int = key(50, "steps between lines of history.jsonl", at_least=1, effect="output")
    eval_every: int | None = key(
        250, "steps between evaluations; null: only before the first step and after the last", at_least=1,
        effect="output",
    )  # fmt: skip
    eval_documents: int | None = key(None, "validation documents to evaluate on; null: all", at_least=1)
    checkpoint_every: int | None = key(
        250, "steps between checkpoints; null: only with each evaluation", at_least=1, effect="output"
    )
    checkpoint_seconds: float | None = key(
        None, "seconds between checkpoints on disk; null: 5, or 0 if checkpoint_every or keep_checkpoints is changed",
        at_least=0, effect="output", new=True,
    )  # fmt: skip
    keep_checkpoints: int = key(
        2, "number of newest checkpoints to keep, in addition to the best", at_least=1, effect="output"
    )
    keep_optimizer_state: bool | None = key(
        None, "keep the optimizer's moments when training has ended; null: true, but false for jobs of a sweep unless "
        "checkpoint_every or keep_checkpoints is changed", effect="output", new=True,
    )  # fmt: skip
    resume: str = key(
        "auto", "auto: resume this run if it was stopped; never; or the folder of a run to continue training from",
        holds=bool, allowed="it must be auto, never or a folder", without_effect=("auto", "never"), is_path=True,
        not_paths=("auto", "never", "latest"),
    )  # fmt: skip
    resume_on_other_data: bool = key(
        False, "allow train.resume=<folder> with other data, or another split, than the checkpoint's", new=True
    )
    last_n: int = key(50, "number of last steps that mean_loss_last_n averages over", at_least=1)
    max_memory_growth: float | None = key(
        2.0, "maximum ratio of memory use to that at the first evaluations; null: no limit", above=1, effect="output"
    )


@dataclass(frozen=True)
class SampleConfig:
    prompt: str = key("", "text to continue")
    temperature: float = key(0.5, "0: always the most likely token", at_least=0)
    top_k: int | None = key(None, "sample only from the k most likely tokens; null: from all tokens", at_least=1)
    num_samples: int = key(20, "number of samples", at_least=0)
    bulk: bool = key(False, "task=sample, native: draw many samples faster, with a separate random number generator")
    max_new_tokens: int | None = key(None, "null: up to model.block_size", at_least=1)
    seed: int | None = key(
        None, "null: continue with the random number generator that drew the initial weights", at_least=0
    )


@dataclass(frozen=True)
class LoggerConfig:
    name: str = key("none", "where metrics go besides history.jsonl", one_of=LOGGERS)
    project: str | None = key(
        None, "wandb, trackio: project; mlflow: experiment; null: from the environment, or microgpt"
    )


@dataclass(frozen=True)
class SweepConfig:
    fresh: bool = key(False, "true: archive an earlier sweep of the same command and start over")


@dataclass(frozen=True)
class ReportConfig:
    """The question and comparisons of an experiment, set before it starts. Only reports read them, from run.json."""

    question: str | None = key(
        None, "question that the runs should answer, for the report", holds=bool,
        allowed="it must be a non-empty string or null", new=True,
    )  # fmt: skip
    contrasts: list[str] = key(
        [], "comparisons to report first: 'optim=adam - optim=lion', a swept key, or key x key",
        holds=are_texts, allowed="each must be a non-empty string", new=True,
    )  # fmt: skip
    control: str | None = key(
        None, "settings to compare all others with, such as 'optim=adam'", holds=bool,
        allowed="it must be key=value or null", new=True,
    )  # fmt: skip
    nuisance: list[str] = key(
        [], "swept keys that are not factors, such as a tuned learning rate", holds=are_texts,
        allowed="each must be a swept key", new=True,
    )  # fmt: skip


@dataclass(frozen=True)
class Config:
    """The whole configuration. Most fields are config groups: choose with `model=gpt`, change with `model.n_embd=8`."""

    task: TaskConfig = group(TaskConfig, effect="none")
    mode: ModeConfig = group(ModeConfig)
    backend: BackendConfig = group(BackendConfig)
    model: ModelConfig = group(ModelConfig)
    style: StyleConfig = group(StyleConfig)
    data: DataConfig = group(DataConfig)
    optim: OptimConfig = group(OptimConfig)
    schedule: ScheduleConfig = group(ScheduleConfig)
    train: TrainConfig = group(TrainConfig)
    sample: SampleConfig = group(SampleConfig, effect="output")
    export: ExportConfig = group(ExportConfig, effect="none")
    serve: ServeConfig = group(ServeConfig, effect="none")
    benchmark: BenchmarkConfig = group(BenchmarkConfig, effect="none")
    explain: ExplainConfig = group(ExplainConfig, effect="none")
    logger: LoggerConfig = group(LoggerConfig, effect="record")
    sweep: SweepConfig = group(SweepConfig, effect="none")
    ladder: LadderConfig = group(LadderConfig, effect="none")
    screening: ScreeningConfig = group(ScreeningConfig, effect="none")
    precision: PrecisionConfig = group(PrecisionConfig, effect="none")
    report: ReportConfig = group(ReportConfig, effect="record")
    seed: int = key(42, "seed of the example order, the initial weights and the samples", at_least=0)
    checkpoint: str | None = key(
        None,
        "folder of a run or checkpoint, or `latest`; not for task=train, benchmark, explain",
        effect="output",
        is_path=True,
        not_paths=("latest",),
    )
    outputs_dir: str = key("outputs", "folder of runs and sweeps", effect="none", is_path=True)
    results_dir: str = key("results", "folder of tables and reports", effect="none", is_path=True)
    tags: list[str] = key([], "your own tags, for tables and reports", holds=are_texts, allowed=TEXTS, effect="record")
    notes: str = key("", "your own notes, for tables and reports", effect="record")
