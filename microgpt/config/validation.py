"""The rules of a configuration beyond its types. A broken rule is one sentence: key, value, what is allowed."""

import math
import re

from microgpt.config.requirements import at_least, one_of, positive, require
from microgpt.config.schema import (
    BackendConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    StyleConfig,
    TrainConfig,
)
from microgpt.config.task_rules import check_task
from microgpt.data.conversations import LOSS_ON
from microgpt.data.corpus import FORMATS, LONG_DOCUMENTS
from microgpt.model.spec import ACTIVATIONS, MODEL_KINDS
from microgpt.runs.record import STYLE_NAME
from microgpt.training.loggers import NAMES as LOGGER_NAMES
from microgpt.training.schedules import SCHEDULES

OPTIMIZER_KEYS = {
    "adam": {"beta1", "beta2", "eps"},
    "adamw": {"beta1", "beta2", "eps", "weight_decay"},
    "sgd": {"momentum"},
}
DEVICES = {
    "python": ("auto", "cpu"),
    "native": ("auto", "cpu"),
    "torch": ("auto", "cpu", "cuda", "mps"),
    "auto": ("auto", "cpu", "cuda", "mps"),
}
DTYPES = {
    "python": ("float64",),
    "native": ("float32", "float64"),
    "torch": ("float32", "float64", "bfloat16"),
    "auto": ("float32", "float64"),
}
GPT_KEYS = ("n_embd", "n_head", "n_layer")


def check(config: Config) -> None:
    """Every rule that a type alone does not say. Raises UserError at the first that is broken."""
    for key, seed in (
        ("seed", config.seed),
        ("data.split_seed", config.data.split_seed),
        ("sample.seed", config.sample.seed),
    ):
        at_least(key, seed, 0)  # Python's generator takes -1 for 1: two seeds would be one
    check_mode(config)
    check_model(config.model)
    check_style(config.style)
    check_data(config.data)
    if config.data.name == "chat" and config.task.name == "train":
        require(not config.style.documents, "style", config.style.name,
                "data=chat has no documents to mix a style's into: say style=classic")  # fmt: skip
    check_optim(config.optim)
    check_train(config.train)
    check_schedule(config)
    one_of("logger.name", config.logger.name, LOGGER_NAMES)
    check_task(config)


def check_mode(config: Config) -> None:
    mode, backend = config.mode.name, config.backend
    one_of("mode.name", mode, ("scalar", "tensor"))
    one_of("backend.name", backend.name, ("python", "native", "torch", "auto"))
    if mode == "scalar":
        require(backend.name == "python", "backend", backend.name, "mode=scalar runs on backend=python alone")
    else:
        require(backend.name != "python", "backend", backend.name, "backend=python is the engine of mode=scalar")
    check_backend(backend)


def check_backend(backend: BackendConfig) -> None:
    """What a backend cannot do is refused here, by name, before anything is read."""
    one_of("backend.device", backend.device, DEVICES[backend.name])
    one_of("backend.kernel", backend.kernel, ("auto", "features") if backend.name == "native" else ("auto",))
    if backend.dtype is not None:
        one_of("backend.dtype", backend.dtype, DTYPES[backend.name])
    at_least("backend.threads", backend.threads, 1)
    at_least("backend.micro_batch", backend.micro_batch, 1)
    if backend.name != "torch":
        for key, value, none in (("compile", backend.compile, False), ("micro_batch", backend.micro_batch, None)):
            require(
                value == none, f"backend.{key}", value, f"it is backend=torch's, and this is backend={backend.name}"
            )
    if backend.name == "python":
        require(backend.threads in (None, 1), "backend.threads", backend.threads, "backend=python runs on one thread")
    require(backend.device != "mps" or backend.dtype != "float64", "backend.dtype", backend.dtype,
            "backend.device=mps has no float64")  # fmt: skip


def check_model(model: ModelConfig) -> None:
    one_of("model.kind", model.kind, MODEL_KINDS)
    one_of("model.activation", model.activation, ACTIVATIONS)
    at_least("model.block_size", model.block_size, 1)
    at_least("model.init_std", model.init_std, 0)
    for key in GPT_KEYS:
        value = getattr(model, key)
        if model.kind == "bigram":
            require(
                value is None,
                f"model.{key}",
                value,
                f"model=bigram has no {key}: its tables are as wide as the vocabulary",
            )
        else:
            require(value is not None, f"model.{key}", value, f"model={model.name} needs model.{key}")
            at_least(f"model.{key}", value, 1)
    if model.kind == "gpt":
        assert model.n_embd is not None
        assert model.n_head is not None
        require(
            model.n_embd % model.n_head == 0, "model.n_embd", model.n_embd,
            f"it must be a multiple of model.n_head={model.n_head}",
        )  # fmt: skip
    else:
        require(not model.zero_init_residual, "model.zero_init_residual", True, "model=bigram has no residual blocks")
        require(model.activation == "relu", "model.activation", model.activation, "model=bigram has no activation")


def check_style(style: StyleConfig) -> None:
    named = re.fullmatch(STYLE_NAME, style.name)
    require(
        named is not None, "style.name", style.name, "it becomes part of a file's name: letters, digits, _ . - only"
    )
    one_of("style.long_documents", style.long_documents, LONG_DOCUMENTS)
    require(0 <= style.share < 1, "style.share", style.share, "style.share must be at least 0 and below 1")
    require((style.share > 0) == bool(style.documents), "style.share", style.share,
            "it must be above 0 exactly where style.documents has documents")  # fmt: skip
    for key in ("documents", "phrases"):
        texts = getattr(style, key)
        require(all(isinstance(text, str) for text in texts), f"style.{key}", texts,
                "each must be a text; put one that has a colon in quotes")  # fmt: skip
        require(all(text.strip() for text in texts), f"style.{key}", texts, "none of them may be empty")
    require(math.isfinite(style.bias), "style.bias", style.bias, "style.bias must be finite")


def check_data(data: DataConfig) -> None:
    one_of("data.name", data.name, ("names", "makemore", "text", "chat"))
    one_of("data.loss_on", data.loss_on, LOSS_ON)
    one_of("data.format", data.format, FORMATS)
    one_of("data.long_documents", data.long_documents, LONG_DOCUMENTS)
    require(0 <= data.val_fraction < 1, "data.val_fraction", data.val_fraction, "it must be at least 0 and below 1")
    if data.name == "text":
        require(data.path is not None, "data.path", None, "data=text needs data.path=<file>")
    elif data.name == "chat":
        require(data.format == "lines", "data.format", data.format, "data=chat is a conversation a line")
        require(data.long_documents == "truncate", "data.long_documents", data.long_documents,
                "of a long conversation data=chat leaves out the oldest turns")  # fmt: skip
    else:
        require(
            data.path is None, "data.path", data.path, f"data={data.name} has its own file; for yours say data=text"
        )
        require(data.format == "lines", "data.format", data.format, f"data={data.name} is a list of names")
    if data.name != "chat":
        require(data.loss_on == "assistant", "data.loss_on", data.loss_on, "it is a key of data=chat alone")


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
    horizon = schedule.total_steps or steps
    for key, value in (("warmup_steps", schedule.warmup_steps), ("warmdown_steps", schedule.warmdown_steps or 0)):
        require(value <= horizon or steps == 0, f"schedule.{key}", value, f"the schedule has {horizon} steps")
    if schedule.warmdown_steps is not None:
        require(schedule.name in ("warmdown", "sqrt"), "schedule.warmdown_steps", schedule.warmdown_steps,
                f"schedule={schedule.name} has no warmdown")  # fmt: skip


def check_train(train: TrainConfig) -> None:
    at_least("train.steps", train.steps, 0)
    for key in (
        "batch_size",
        "log_every",
        "eval_every",
        "eval_documents",
        "checkpoint_every",
        "keep_checkpoints",
        "last_n",
    ):
        at_least(f"train.{key}", getattr(train, key), 1)
    if train.max_memory_growth is not None:
        require(train.max_memory_growth > 1, "train.max_memory_growth", train.max_memory_growth, "it must be above 1")
    require(bool(train.resume), "train.resume", "''", "it is auto, never or a folder")
