"""The schema of every configuration node, and the rules that span several keys.

A default lives once. What holds for every choice of a group stands here; what one choice changes stands in its YAML file
under conf/. OmegaConf objects stop in this file: below it travel the frozen dataclasses that stand here.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from microgpt.data.corpus import FORMATS, LONG_DOCUMENTS
from microgpt.errors import UserError
from microgpt.model.spec import ACTIVATIONS, KINDS
from microgpt.training.schedules import SCHEDULES


@dataclass(frozen=True)
class TaskConfig:
    name: str = "train"  # train | sample | info


@dataclass(frozen=True)
class ModeConfig:
    name: str = "scalar"  # scalar | tensor


@dataclass(frozen=True)
class BackendConfig:
    name: str = "python"  # python | native | torch | auto


@dataclass(frozen=True)
class ModelConfig:
    name: str = "gpt"  # as it is called in records: gpt | gpt_first | bigram
    kind: str = "gpt"  # the architecture: gpt | bigram
    n_embd: int | None = None  # width of the residual stream
    n_head: int | None = None  # attention heads; must divide n_embd
    n_layer: int | None = None
    block_size: int = 16  # the most tokens that the model sees at once
    tie_lm_head: bool = False  # the output matrix is the token embedding
    input_rmsnorm: bool = True  # the norm on the summed embedding
    activation: str = "relu"  # relu | relu_squared
    init_std: float = 0.08
    zero_init_residual: bool = False  # attn_wo and mlp_fc2 begin at zero


@dataclass(frozen=True)
class StyleConfig:
    name: str = "classic"
    documents: list[str] = field(default_factory=list)  # mixed into the training examples
    share: float = 0.0  # their share of the training examples
    long_documents: str = "window"  # truncate | window | skip
    phrases: list[str] = field(default_factory=list)  # favoured when sampling
    bias: float = 0.0  # added to the logit of a phrase's next character


@dataclass(frozen=True)
class DataConfig:
    name: str = "names"  # names | makemore | text
    path: str | None = None  # the file of data=text
    format: str = "lines"  # lines: a document a line; stream: one running text
    val_fraction: float = 0.1  # share of the distinct documents held out; 0 for none
    split_seed: int = 0  # apart from `seed`, so that runs of all seeds are validated on the same documents
    long_documents: str = "truncate"  # truncate | window | skip


@dataclass(frozen=True)
class OptimConfig:
    name: str = "adam"  # adam | adamw | sgd
    lr: float = 0.01
    beta1: float | None = None  # adam, adamw
    beta2: float | None = None  # adam, adamw
    eps: float | None = None  # adam, adamw
    momentum: float | None = None  # sgd
    weight_decay: float | None = None  # adamw; not on embeddings
    grad_clip: float | None = None  # largest norm of the gradient; null: none


@dataclass(frozen=True)
class ScheduleConfig:
    name: str = "linear"  # linear | cosine | warmdown | sqrt | constant
    total_steps: int | None = None  # the horizon T; null: train.steps
    warmup_steps: int = 0  # the first steps' factor is (s + 1) / warmup_steps
    warmdown_steps: int | None = None  # warmdown, sqrt: length of the descent; null: half of the horizon


@dataclass(frozen=True)
class TrainConfig:
    steps: int = 1000
    batch_size: int = 1  # examples a step
    log_every: int = 50  # steps between lines of history.jsonl
    eval_every: int | None = 250  # steps between evaluations; null: only before the first step and after the last
    eval_documents: int | None = None  # evaluate on the first n validation documents; null: on all
    checkpoint_every: int | None = 250  # steps between checkpoints; null: only where evaluated
    keep_checkpoints: int = 2  # the newest n stay, and the best
    resume: str = "auto"  # auto: finish this very run if it was stopped; never; or a folder to train on from
    last_n: int = 50  # steps that mean_loss_last_n averages over
    max_memory_growth: float | None = 2.0  # resident memory at an evaluation against the first ones'; null: not watched


@dataclass(frozen=True)
class SampleConfig:
    prompt: str = ""
    temperature: float = 0.5  # 0: always the likeliest token
    top_k: int | None = None  # choose among the k likeliest tokens; null: among all
    num_samples: int = 20
    max_new_tokens: int | None = None  # null: up to model.block_size
    seed: int | None = None  # null: go on where the draws of the initial values ended, as microgpt.py does


@dataclass(frozen=True)
class Config:
    """A run, whole. `task`, `mode`, ... are config groups: choose with `model=bigram`, change with `model.n_embd=32`."""

    task: TaskConfig = field(default_factory=TaskConfig)
    mode: ModeConfig = field(default_factory=ModeConfig)
    backend: BackendConfig = field(default_factory=BackendConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    style: StyleConfig = field(default_factory=StyleConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    seed: int = 42  # order of the examples, initial values, samples
    checkpoint: str | None = None  # for task=sample|info: a run's folder, a checkpoint's, or `latest`
    outputs_dir: str = "outputs"
    results_dir: str = "results"


def schema() -> DictConfig:
    """The schema as OmegaConf takes it: frozen dataclasses make read-only nodes, which composition could not fill."""
    node = OmegaConf.structured(Config)
    for part in (node, *(node._get_node(key) for key in node)):
        if isinstance(part, DictConfig):
            OmegaConf.set_readonly(part, None)
    return node


def register_schema() -> None:
    ConfigStore.instance().store(name="schema", node=schema())


def from_omegaconf(composed: DictConfig) -> Config:
    """The composed configuration as frozen dataclasses, checked. Raises UserError."""
    plain = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(plain, dict)
    refuse_unknown_keys(plain, Config, "")  # Hydra lets a key added with + into a structured node
    config = OmegaConf.to_object(OmegaConf.merge(schema(), plain))
    assert isinstance(config, Config)
    check(config)
    return config


def refuse_unknown_keys(plain: dict[Any, Any], node: type, path: str) -> None:
    known = {f.name: f.type for f in fields(node)}
    for key, value in plain.items():
        if key not in known:
            raise UserError(unknown_key(f"{path}{key}"))
        inner = known[key]
        if isinstance(inner, type) and is_dataclass(inner) and isinstance(value, dict):
            refuse_unknown_keys(value, inner, f"{path}{key}.")


def unknown_key(key: str) -> str:
    """The sentence about a key that does not exist: what would be allowed there, and what may have been meant."""
    import difflib

    group, _, name = key.rpartition(".")
    node: Any = Config
    for part in filter(None, group.split(".")):
        node = next((f.type for f in fields(node) if f.name == part), None) if is_dataclass(node) else None
    if not is_dataclass(node):
        return f"{key} is not a key: {group} has no keys of its own"
    allowed = [f.name for f in fields(node)]
    close = difflib.get_close_matches(name, allowed, n=1)
    meant = f"; did you mean {group + '.' if group else ''}{close[0]}?" if close else ""
    return f"{key} is not a key: {group or 'the configuration'} has {', '.join(allowed)}{meant}"


# --- rules ---

OPTIMIZER_KEYS = {"adam": {"beta1", "beta2", "eps"}, "adamw": {"beta1", "beta2", "eps", "weight_decay"}, "sgd": {"momentum"}}
GPT_KEYS = ("n_embd", "n_head", "n_layer")


def one_of(key: str, value: Any, allowed: Iterable[Any]) -> None:
    if value not in allowed:
        raise UserError(f"{key}={value} is not allowed: {key} is one of {', '.join(map(str, allowed))}")


def require(holds: bool, key: str, value: Any, allowed: str) -> None:
    if not holds:
        raise UserError(f"{key}={'null' if value is None else value} is not allowed: {allowed}")


def at_least(key: str, value: float | None, least: float) -> None:
    if value is not None:
        require(math.isfinite(value) and value >= least, key, value, f"{key} must be at least {least}")


def positive(key: str, value: float | None) -> None:
    if value is not None:
        require(math.isfinite(value) and value > 0, key, value, f"{key} must be finite and above 0")


def check(config: Config) -> None:
    """Every rule that a type alone does not say. Raises UserError at the first that is broken."""
    one_of("task.name", config.task.name, ("train", "sample", "info"))
    check_mode(config)
    check_model(config.model)
    check_style(config.style)
    check_data(config.data)
    check_optim(config.optim)
    check_schedule(config)
    check_train(config.train)
    check_sample(config.sample)
    if config.task.name in ("sample", "info"):
        require(config.checkpoint is not None, "checkpoint", None, f"task={config.task.name} needs checkpoint=<folder of a run>")
    else:
        hint = "to train on from a checkpoint, say train.resume=<folder>"
        require(config.checkpoint is None, "checkpoint", config.checkpoint, f"task={config.task.name} reads none; {hint}")


def check_mode(config: Config) -> None:
    mode, backend = config.mode.name, config.backend.name
    one_of("mode.name", mode, ("scalar", "tensor"))
    one_of("backend.name", backend, ("python", "native", "torch", "auto"))
    if mode == "scalar":
        require(backend == "python", "backend", backend, "mode=scalar runs on backend=python alone")
    else:
        require(backend != "python", "backend", backend, "backend=python is the engine of mode=scalar")
        raise UserError(f"mode=tensor (backend={backend}) is not built yet: what runs today is mode=scalar")


def check_model(model: ModelConfig) -> None:
    one_of("model.kind", model.kind, KINDS)
    one_of("model.activation", model.activation, ACTIVATIONS)
    at_least("model.block_size", model.block_size, 1)
    at_least("model.init_std", model.init_std, 0)
    for key in GPT_KEYS:
        value = getattr(model, key)
        if model.kind == "bigram":
            require(value is None, f"model.{key}", value, f"model=bigram has no {key}: its tables are as wide as the vocabulary")
        else:
            require(value is not None, f"model.{key}", value, f"model={model.name} needs model.{key}")
            at_least(f"model.{key}", value, 1)
    if model.kind == "gpt":
        assert model.n_embd is not None and model.n_head is not None
        require(
            model.n_embd % model.n_head == 0, "model.n_embd", model.n_embd,
            f"it must be a multiple of model.n_head={model.n_head}",
        )  # fmt: skip
    else:
        require(not model.zero_init_residual, "model.zero_init_residual", True, "model=bigram has no residual blocks")
        require(model.activation == "relu", "model.activation", model.activation, "model=bigram has no activation")


def check_style(style: StyleConfig) -> None:
    named = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", style.name)
    require(named is not None, "style.name", style.name, "it becomes part of a file's name: letters, digits, _ . - only")
    one_of("style.long_documents", style.long_documents, LONG_DOCUMENTS)
    require(0 <= style.share < 1, "style.share", style.share, "style.share must be at least 0 and below 1")
    require((style.share > 0) == bool(style.documents), "style.share", style.share,
            "it must be above 0 exactly where style.documents has documents")  # fmt: skip
    for key in ("documents", "phrases"):
        texts = getattr(style, key)
        require(all(text.strip() for text in texts), f"style.{key}", texts, "none of them may be empty")
    require(math.isfinite(style.bias), "style.bias", style.bias, "style.bias must be finite")


def check_data(data: DataConfig) -> None:
    one_of("data.name", data.name, ("names", "makemore", "text"))
    one_of("data.format", data.format, FORMATS)
    one_of("data.long_documents", data.long_documents, LONG_DOCUMENTS)
    require(0 <= data.val_fraction < 1, "data.val_fraction", data.val_fraction, "it must be at least 0 and below 1")
    if data.name == "text":
        require(data.path is not None, "data.path", None, "data=text needs data.path=<file>")
    else:
        require(data.path is None, "data.path", data.path, f"data={data.name} has its own file; for yours say data=text")
        require(data.format == "lines", "data.format", data.format, f"data={data.name} is a list of names")


def check_optim(optim: OptimConfig) -> None:
    one_of("optim.name", optim.name, OPTIMIZER_KEYS)
    at_least("optim.lr", optim.lr, 0)
    positive("optim.grad_clip", optim.grad_clip)
    for key in ("beta1", "beta2", "eps", "momentum", "weight_decay"):
        value, used = getattr(optim, key), key in OPTIMIZER_KEYS[optim.name]
        require(used or value is None, f"optim.{key}", value, f"optim={optim.name} has no {key}")
        require(not used or value is not None, f"optim.{key}", value, f"optim={optim.name} needs a number")
        if value is None:
            continue
        if key in ("beta1", "beta2", "momentum"):
            require(0 <= value < 1, f"optim.{key}", value, f"optim.{key} must be at least 0 and below 1")
        elif key == "eps":
            positive("optim.eps", value)
        else:
            at_least(f"optim.{key}", value, 0)


def check_schedule(config: Config) -> None:
    schedule, steps = config.schedule, config.train.steps
    one_of("schedule.name", schedule.name, SCHEDULES)
    at_least("schedule.warmup_steps", schedule.warmup_steps, 0)
    at_least("schedule.warmdown_steps", schedule.warmdown_steps, 1)
    if schedule.total_steps is not None:
        require(schedule.total_steps >= max(steps, 1), "schedule.total_steps", schedule.total_steps,
                f"the schedule must reach over all train.steps={steps}")  # fmt: skip
    if schedule.warmdown_steps is not None:
        require(schedule.name in ("warmdown", "sqrt"), "schedule.warmdown_steps", schedule.warmdown_steps,
                f"schedule={schedule.name} has no warmdown")  # fmt: skip


def check_train(train: TrainConfig) -> None:
    at_least("train.steps", train.steps, 0)
    for key in ("batch_size", "log_every", "eval_every", "eval_documents", "checkpoint_every", "keep_checkpoints", "last_n"):
        at_least(f"train.{key}", getattr(train, key), 1)
    if train.max_memory_growth is not None:
        require(train.max_memory_growth > 1, "train.max_memory_growth", train.max_memory_growth, "it must be above 1")
    require(bool(train.resume), "train.resume", "''", "it is auto, never or a folder")


def check_sample(sample: SampleConfig) -> None:
    if not (math.isfinite(sample.temperature) and sample.temperature >= 0):
        raise UserError(f"temperature must be finite and >= 0, got {sample.temperature} (sample.temperature)")
    at_least("sample.top_k", sample.top_k, 1)
    at_least("sample.num_samples", sample.num_samples, 0)
    at_least("sample.max_new_tokens", sample.max_new_tokens, 1)


# --- identity ---


def config_hash(config: Config) -> str:
    """SHA-256 (hex) of what a run computes: all keys but those that say where files go and whether to resume."""
    return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()


def identity(config: Config) -> dict[str, Any]:
    plain = asdict(config)
    for key in ("task", "outputs_dir", "results_dir"):
        del plain[key]
    if config.train.resume in ("auto", "never"):
        del plain["train"]["resume"]
    return plain
