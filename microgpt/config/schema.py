"""The schema of every configuration node. The rules that a type alone does not say are in rules.py.

A default lives once. What holds for every choice of a group stands here; what one choice changes stands in its YAML
file under conf/. OmegaConf objects stop in this file: below it travel the frozen dataclasses that stand here.
"""

import difflib
import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from microgpt.errors import UserError


@dataclass(frozen=True)
class TaskConfig:
    name: str = "train"  # train | sample | chat | info | export | serve | benchmark


@dataclass(frozen=True)
class ModeConfig:
    name: str = "scalar"  # scalar | tensor


@dataclass(frozen=True)
class BackendConfig:
    name: str = "python"  # python | native | torch | auto
    device: str = "auto"  # auto | cpu | cuda | mps
    dtype: str | None = None  # float32 | float64 | bfloat16 (torch); null: float64 for python, float32 for the others
    threads: int | None = None  # CPU threads; null: one for each core
    kernel: str = "auto"  # native: auto | features
    compile: bool = False  # torch: with torch.compile
    micro_batch: int | None = None  # torch: examples in one pass; the gradients of a batch's passes add up


@dataclass(frozen=True)
class ModelConfig:
    name: str = ""  # as it is called in records; empty: as the option is called
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
    name: str = ""  # as it is called in records and tables; empty: as the option is called
    documents: list[str] = field(default_factory=list)  # mixed into the training examples
    share: float = 0.0  # their share of the training examples
    long_documents: str = "window"  # truncate | window | skip
    phrases: list[str] = field(default_factory=list)  # favoured when sampling
    bias: float = 0.0  # added to the logit of a phrase's next character


@dataclass(frozen=True)
class DataConfig:
    name: str = "names"  # names | makemore | text | chat
    path: str | None = None  # the file of data=text; of data=chat, null for the embedded conversations
    format: str = "lines"  # lines: a document a line; stream: one running text
    val_fraction: float = 0.1  # share of the distinct documents held out; 0 for none
    split_seed: int = 0  # apart from `seed`, so that runs of all seeds are validated on the same documents
    long_documents: str = "truncate"  # truncate | window | skip
    loss_on: str = "assistant"  # what data=chat asks for: the answers of the assistant, or all


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
    bulk: bool = False  # task=sample on the native backend: very many texts, with random numbers of their own
    max_new_tokens: int | None = None  # null: up to model.block_size
    seed: int | None = None  # null: go on where the draws of the initial values ended, as microgpt.py does


@dataclass(frozen=True)
class ExportConfig:
    format: str = "safetensors"  # safetensors | onnx
    half: bool = False  # safetensors: float16 instead of float32, half the size
    path: str | None = None  # the folder to write; null: one below exports/ that is named after the checkpoint


@dataclass(frozen=True)
class ServeConfig:
    host: str = "127.0.0.1"  # 0.0.0.0: every interface of this machine
    port: int = 8080  # 0: any that is free
    api_key: str | None = None  # what clients send as `Authorization: Bearer <key>`; null: MICROGPT_API_KEY, or none
    max_active: int = 64  # requests that are generated for at a time
    max_queue: int = 256  # requests that wait for that; one more is answered with 429
    max_body_bytes: int = 1_000_000
    max_new_tokens: int = 1024  # the most tokens that a request may ask for
    timeout: float = 60.0  # seconds from a request's arrival to the end of its answer, else 503
    drain: float = 30.0  # seconds that SIGTERM leaves to the requests under way


@dataclass(frozen=True)
class BenchmarkConfig:
    engines: list[str] = field(default_factory=lambda: ["python", "native", "torch"])
    widths: list[int] = field(default_factory=lambda: [16, 64])  # n_embd, of training and sampling
    repeats: int = 3
    seconds: float = 0.2  # the least that a repeat takes


@dataclass(frozen=True)
class LoggerConfig:
    name: str = "none"  # none | tensorboard | wandb | mlflow | trackio, beside history.jsonl
    project: str | None = None  # wandb, trackio: the project; mlflow: the experiment; null: as the environment says


@dataclass(frozen=True)
class SweepConfig:
    fresh: bool = False  # put an earlier sweep of the same command aside and begin anew


@dataclass(frozen=True)
class Config:
    """A run, whole. `task`, `model`, ... are config groups: choose with `model=gpt`, change with `model.n_embd=8`."""

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
    export: ExportConfig = field(default_factory=ExportConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    seed: int = 42  # order of the examples, initial values, samples
    checkpoint: str | None = None  # for all tasks but train: a run's folder, a checkpoint's, or `latest`
    outputs_dir: str = "outputs"
    results_dir: str = "results"


def schema() -> DictConfig:
    """The schema as OmegaConf takes it: frozen dataclasses make read-only nodes, which composition could not fill."""
    node = OmegaConf.structured(Config)
    for part in (node, *(node[key] for key in node)):
        if isinstance(part, DictConfig):
            OmegaConf.set_readonly(part, None)
    return node


def register_schema() -> None:
    ConfigStore.instance().store(name="schema", node=schema())


def from_omegaconf(composed: DictConfig, choices: dict[str, Any]) -> Config:
    """The composed configuration as frozen dataclasses; `choices` are the options chosen of each group.

    Raises UserError for a key that the schema does not have.
    """
    plain = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(plain, dict)
    refuse_unknown_keys(plain, Config, "")  # Hydra lets a key added with + into a structured node
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Config)
    names = {  # a file of the user's own may leave its name out
        group: replace(getattr(config, group), name=plain[group]["name"] or str(choices.get(group)))
        for group in ("model", "style")
    }
    return replace(config, **names)


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


def config_hash(config: Config) -> str:
    """SHA-256 (hex) of what a run computes: all keys but those that say where files go and whether to resume."""
    return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()


def identity(config: Config) -> dict[str, Any]:
    plain = asdict(config)
    for key in ("task", "export", "serve", "benchmark", "logger", "sweep", "outputs_dir", "results_dir"):
        del plain[key]
    if config.train.resume in ("auto", "never"):
        del plain["train"]["resume"]
    return plain
