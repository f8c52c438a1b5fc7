"""The rules that involve several keys. The constraints of a single key are in schema.py."""

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from microgpt.config.choices import EXPLAIN_FORMATS, EXPORT_FORMATS, MODES, SCHEDULES, TASKS
from microgpt.config.keys import check_keys, one_of, require
from microgpt.config.schema import (
    BackendConfig,
    BenchmarkConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    SampleConfig,
    StyleConfig,
)
from microgpt.data.sources import SOURCES
from microgpt.engines.optimizer import OPTIMIZERS
from microgpt.engines.options import BACKENDS
from microgpt.errors import UserError
from microgpt.model.spec import MODEL_KINDS, POSITIONS


def check(config: Config) -> None:
    """Check every key, then the rules that involve several keys. Raises UserError for the first violation."""
    check_sample(config.sample)
    check_keys(config)
    check_mode(config)
    check_backend(config.backend)
    check_model(config.model)
    check_style(config.style)
    check_data(config.data)
    if TASKS[config.task.name].makes_model:
        require(SOURCES[config.data.name].mixes_styles or not config.style.documents, "style", config.style.name,
                f"data={config.data.name} cannot be mixed with documents of a style: set style=classic")  # fmt: skip
    check_optim(config.optim)
    check_schedule(config)
    check_task(config)
    refuse_unused("export", config.export, EXPORT_FORMATS, config.export.format, "export.format")
    refuse_unused("explain", config.explain, EXPLAIN_FORMATS, config.explain.format, "explain.format")
    check_benchmark(config.benchmark)


def check_sample(sample: SampleConfig) -> None:
    temperature = sample.temperature
    if not (math.isfinite(temperature) and temperature >= 0):  # the same message as in task=chat and the server
        raise UserError(f"sample.temperature: temperature must be finite and >= 0, got {temperature}")
    check_keys(sample, "sample.")


def refuse_unused(
    group: str, node: Any, reads: Mapping[str, Collection[str]], chosen: str | None = None, choice: str | None = None
) -> None:
    """Reject a value of a key that the chosen option does not read. `reads` maps each option to the keys it reads.

    `choice` is the key that chooses the option, by default the group.
    """
    chosen, choice = node.name if chosen is None else chosen, choice or group
    for key in dict.fromkeys(key for keys in reads.values() for key in keys):
        value, users = getattr(node, key), [name for name, keys in reads.items() if key in keys]
        is_default = value == getattr(type(node), key)
        require(is_default or chosen in users, f"{group}.{key}", value,
                f"it requires {choice}={' or '.join(users)}")  # fmt: skip


def check_mode(config: Config) -> None:
    mode, backend = config.mode.name, config.backend.name
    require(backend in MODES[mode], "backend", backend, f"mode={mode} runs on backend={' or '.join(MODES[mode])}")


def check_backend(backend: BackendConfig) -> None:
    name, choice = backend.name, BACKENDS[backend.name]
    one_of("backend.device", backend.device, choice.devices)
    one_of("backend.kernel", backend.kernel, choice.kernels)
    if backend.dtype is not None:
        one_of("backend.dtype", backend.dtype, choice.dtypes)
    if "threads" not in choice.keys:
        require(backend.threads in (None, 1), "backend.threads", backend.threads, f"backend={name} runs on one thread")
    reads = {name: choice.keys for name, choice in BACKENDS.items()}
    refuse_unused("backend", replace(backend, threads=None), reads)
    require(backend.device != "mps" or backend.dtype != "float64", "backend.dtype", backend.dtype,
            "backend.device=mps does not support float64")  # fmt: skip


def check_model(model: ModelConfig) -> None:
    kind = MODEL_KINDS[model.kind]
    for size in ("n_embd", "n_head", "n_layer"):
        value = getattr(model, size)
        if size in kind.sizes:
            require(value is not None, f"model.{size}", value, f"model={model.name} needs model.{size}")
        else:
            require(value is None, f"model.{size}", value,
                    f"model={model.kind} has no {size}: the width of its tables is the vocabulary size")  # fmt: skip
    if model.n_embd is not None and model.n_head is not None:
        require(model.n_embd % model.n_head == 0, "model.n_embd", model.n_embd,
                f"it must be a multiple of model.n_head={model.n_head}")  # fmt: skip
        if POSITIONS[model.position].needs_pairs:
            head_dim = model.n_embd // model.n_head
            require(head_dim % 2 == 0, "model.position", model.position,
                    f"it rotates pairs of features, but n_embd/n_head={head_dim} is odd")  # fmt: skip
    if model.n_kv_head is not None and model.n_head is not None:
        require(model.n_head % model.n_kv_head == 0, "model.n_kv_head", model.n_kv_head,
                f"it must divide model.n_head={model.n_head}")  # fmt: skip
    refuse_unused("model", model, {name: kind.options for name, kind in MODEL_KINDS.items()}, model.kind)
    positions = {name: choice.keys for name, choice in POSITIONS.items()}
    refuse_unused("model", model, positions, model.position, "model.position")
    require(not model.zero_init_residual or model.residual_init in ("normal", "zero"), "model.residual_init",
            model.residual_init, "model.zero_init_residual=true sets it to zero")  # fmt: skip


def check_style(style: StyleConfig) -> None:
    require((style.share > 0) == bool(style.documents), "style.share", style.share,
            "it must be above 0 if style.documents has documents, and 0 otherwise")  # fmt: skip


def check_data(data: DataConfig) -> None:
    refuse_unused("data", data, {name: choice.keys for name, choice in SOURCES.items()})
    if SOURCES[data.name].needs_path:
        require(data.path is not None, "data.path", None, f"data={data.name} needs data.path=<file>")


def check_optim(optim: OptimConfig) -> None:
    refuse_unused("optim", optim, {name: choice.keys for name, choice in OPTIMIZERS.items()})
    for key in OPTIMIZERS[optim.name].keys:
        require(getattr(optim, key) is not None, f"optim.{key}", None, f"optim={optim.name} needs a value for it")


def check_schedule(config: Config) -> None:
    schedule, steps = config.schedule, config.train.steps
    refuse_unused("schedule", schedule, SCHEDULES)
    if schedule.total_steps is not None:
        require(schedule.total_steps >= max(steps, 1), "schedule.total_steps", schedule.total_steps,
                f"the schedule must cover all train.steps={steps}")  # fmt: skip
    horizon = schedule.total_steps or steps
    most = f"it must be at most {horizon}, the number of steps of the schedule"
    for key, value in (("warmup_steps", schedule.warmup_steps), ("warmdown_steps", schedule.warmdown_steps or 0)):
        require(value <= horizon or steps == 0, f"schedule.{key}", value, most)


def check_task(config: Config) -> None:
    task = config.task.name
    if TASKS[task].needs_checkpoint:
        require(config.checkpoint is not None, "checkpoint", None, f"task={task} needs checkpoint=<folder of a run>")
    else:
        require(config.checkpoint is None, "checkpoint", config.checkpoint,
                f"task={task} does not use a checkpoint; to train further, set train.resume=<folder>")  # fmt: skip
    require(task != "explain" or config.mode.name == "scalar", "mode", config.mode.name,
            "task=explain requires the scalar engine (mode=scalar)")  # fmt: skip
    if config.sample.bulk:
        require(task == "sample" and config.backend.name in ("native", "auto"), "sample.bulk", True,
                "it requires task=sample mode=tensor backend=native")  # fmt: skip


def check_benchmark(benchmark: BenchmarkConfig) -> None:
    require(bool(benchmark.engines), "benchmark.engines", benchmark.engines, "give at least one engine")
    require(len(set(benchmark.engines)) == len(benchmark.engines), "benchmark.engines", benchmark.engines,
            "list each engine only once")  # fmt: skip
    for width in benchmark.widths:
        require(width % 4 == 0, "benchmark.widths", width, "n_embd must be a multiple of the 4 heads")


def check_processes(config: Config, count: int) -> None:
    """Check that `count` processes of torchrun can share the task, which must train one model with PyTorch."""
    if count == 1:
        return
    task, mode, backend = config.task.name, config.mode.name, config.backend
    require(task == "train", "task", task, f"{count} processes of torchrun can only train together (task=train)")
    require(mode == "tensor", "mode", mode, f"{count} processes of torchrun need mode=tensor backend=torch")
    require(backend.name in ("torch", "auto"), "backend", backend.name,
            f"{count} processes of torchrun need backend=torch")  # fmt: skip
    require(backend.device != "mps", "backend.device", backend.device,
            f"{count} processes of torchrun need backend.device=cuda or cpu")  # fmt: skip
