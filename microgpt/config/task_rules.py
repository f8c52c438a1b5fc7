"""The rules of what a task takes beside the model: sampling, exports, the server, the benchmark, processes."""

import math

from microgpt.config.requirements import at_least, one_of, positive, require
from microgpt.config.schema import BenchmarkConfig, Config, ServeConfig
from microgpt.errors import UserError
from microgpt.runs.record import Invocation

TASKS = ("train", "sample", "chat", "info", "export", "serve", "benchmark")


def check_task(config: Config) -> None:
    one_of("task.name", config.task.name, TASKS)
    check_sample(config)
    check_export(config)
    check_serve(config.serve)
    check_benchmark(config.benchmark)
    if config.task.name not in ("train", "benchmark"):
        require(
            config.checkpoint is not None,
            "checkpoint",
            None,
            f"task={config.task.name} needs checkpoint=<folder of a run>",
        )
    else:
        hint = "to train on from a checkpoint, say train.resume=<folder>"
        require(
            config.checkpoint is None, "checkpoint", config.checkpoint, f"task={config.task.name} reads none; {hint}"
        )


def check_sample(config: Config) -> None:
    sample = config.sample
    if not (math.isfinite(sample.temperature) and sample.temperature >= 0):
        raise UserError(f"sample.temperature: temperature must be finite and >= 0, got {sample.temperature}")
    at_least("sample.top_k", sample.top_k, 1)
    at_least("sample.num_samples", sample.num_samples, 0)
    at_least("sample.max_new_tokens", sample.max_new_tokens, 1)
    if sample.bulk:
        require(config.task.name == "sample" and config.backend.name in ("native", "auto"), "sample.bulk", True,
                "it goes with task=sample mode=tensor backend=native")  # fmt: skip


def check_export(config: Config) -> None:
    one_of("export.format", config.export.format, ("safetensors", "onnx"))
    if config.export.format != "safetensors":
        require(not config.export.half, "export.half", True, "it goes with export.format=safetensors")
    require(config.export.path != "", "export.path", "''", "it is a folder, or null")


def check_serve(serve: ServeConfig) -> None:
    require(0 <= serve.port <= 65535, "serve.port", serve.port, "a port is a number from 0 (any) to 65535")
    require(bool(serve.host), "serve.host", "''", "it is an address or a name of this machine")
    if serve.api_key is not None:
        printable = all(33 <= ord(char) <= 126 for char in serve.api_key)
        require(bool(serve.api_key) and printable, "serve.api_key", "***",
                "a key is one or more printable ASCII characters without blanks")  # fmt: skip
    for key in ("max_active", "max_new_tokens"):
        at_least(f"serve.{key}", getattr(serve, key), 1)
    at_least("serve.max_queue", serve.max_queue, 0)
    at_least("serve.max_body_bytes", serve.max_body_bytes, 1)
    positive("serve.timeout", serve.timeout)
    at_least("serve.drain", serve.drain, 0)


def check_benchmark(benchmark: BenchmarkConfig) -> None:
    require(bool(benchmark.engines), "benchmark.engines", "[]", "name at least one engine")
    for name in benchmark.engines:
        one_of("benchmark.engines", name, ("python", "native", "torch"))
    require(len(set(benchmark.engines)) == len(benchmark.engines), "benchmark.engines", benchmark.engines,
            "each engine is named once")  # fmt: skip
    for width in benchmark.widths:
        require(width >= 4 and width % 4 == 0, "benchmark.widths", width, "n_embd is a multiple of the 4 heads")
    at_least("benchmark.repeats", benchmark.repeats, 1)
    positive("benchmark.seconds", benchmark.seconds)


def check_processes(config: Config, count: int) -> None:
    """What several processes can do together is to train one model with PyTorch."""
    if count == 1:
        return
    task, mode, backend = config.task.name, config.mode.name, config.backend
    require(task == "train", "task", task, f"{count} processes of torchrun can train together (task=train), no more")
    require(mode == "tensor", "mode", mode, f"{count} processes of torchrun train with mode=tensor backend=torch")
    require(backend.name in ("torch", "auto"), "backend", backend.name,
            f"{count} processes of torchrun train with backend=torch")  # fmt: skip
    require(backend.device != "mps", "backend.device", backend.device,
            f"{count} processes of torchrun train with backend.device=cuda or cpu")  # fmt: skip


def check_overrides(task: str, invocation: Invocation) -> None:
    """A checkpoint decides its model: refuse what the user would expect to change it."""
    if task == "train":
        return
    for group in ("model", "data", "optim", "schedule", "train"):
        if invocation.touches(group):
            why = "it times microgpt.py's" if task == "benchmark" else "checkpoint=<folder> brings its own"
            raise UserError(f"{group} cannot be changed with task={task}: {why} model")
