"""task=info: prints the content of a checkpoint or an export."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from microgpt.config.schema import Config
from microgpt.data.display import escaped
from microgpt.errors import UserError
from microgpt.runs.checkpoint import Checkpoint, load_checkpoint
from microgpt.runs.checkpoint_format import INVALID, META, ONNX, WEIGHTS, Meta, parse_meta
from microgpt.runs.checkpoint_paths import resolve_checkpoint
from microgpt.runs.invocation import Invocation
from microgpt.runs.record import RunRecord


def info(config: Config, invocation: Invocation) -> None:
    path = resolve_checkpoint(config.checkpoint or "", config.outputs_dir)
    if (path / ONNX).is_file() and not (path / WEIGHTS).is_file():
        print_table(onnx_properties(path))
        return
    checkpoint = load_checkpoint(path)
    progress, state = checkpoint.progress, checkpoint.state
    shapes = {name: list(array.shape[1:]) for name, array in state.parameters.items()}
    if "lm_head" in checkpoint.stored:  # an export of a tied model contains a copy of wte
        shapes.setdefault("lm_head", shapes["wte"])
    width = print_table({
        "checkpoint": path,
        **model_properties(checkpoint.meta),
        "dtype": " ".join(dict.fromkeys(checkpoint.stored.values())),
        "bytes of weights": f"{stored_bytes(checkpoint, shapes):,}",
        "bytes on disk": bytes_on_disk(path),
        "step": checkpoint.step,
        "optimizer state": "yes" if state.m or state.v else "no",
        "seed": progress.seed,
        "loss": progress.recent_losses[-1] if progress.recent_losses else None,
        **run_properties(path),
        "data sha256": progress.data_sha256,
        "config hash": progress.config_hash,
    })  # fmt: skip
    print("tensors:")
    width = max(width, max(map(len, shapes)) + 1)
    for name, shape in shapes.items():
        print(f"  {name:{width}}{shape} {checkpoint.stored[name]}")


def print_table(properties: dict[str, Any]) -> int:
    """Print two columns. Returns the width of the first."""
    width = max(map(len, properties)) + 2
    for name, value in properties.items():
        print(f"{name + ':':{width}}{'none' if value is None else value}")
    return width


def model_properties(meta: Meta) -> dict[str, Any]:
    return {
        "model": meta.model,
        **meta.spec.to_dict(),
        "parameters": meta.spec.parameter_count(),
        "characters": escaped("".join(meta.chars)).replace("\n", "\\n").replace("\t", "\\t"),
        "special tokens": " ".join(meta.special) or None,
        "style": meta.style.get("name"),
        **({"exported from": f"{meta.origin.name} ({meta.origin.dtype})"} if meta.origin else {}),
    }


def onnx_properties(path: Path) -> dict[str, Any]:
    """Return the properties of an ONNX export from its meta.json."""
    try:
        meta = parse_meta(json.loads((path / META).read_bytes()))
    except INVALID as error:
        raise UserError(f"export {path} is damaged: {error}") from error
    return {
        "export": f"{path / ONNX} for other programs",
        **model_properties(meta),
        "dtype": meta.dtype,
        "bytes on disk": bytes_on_disk(path),
        "step": meta.origin.step if meta.origin else None,
    }


def stored_bytes(checkpoint: Checkpoint, shapes: dict[str, list[int]]) -> int:
    """Return the size of the weights in the file in bytes, without names and shapes."""
    sizes = {name: np.dtype(kind).itemsize for name, kind in checkpoint.stored.items()}
    return sum(rows * columns * sizes[name] for name, (rows, columns) in shapes.items())


def bytes_on_disk(path: Path) -> str:
    return f"{sum(file.stat().st_size for file in path.iterdir() if file.is_file()):,}"


def run_properties(checkpoint: Path) -> dict[str, Any]:
    """Return properties from run.json if the checkpoint is in the folder of its run."""
    if checkpoint.parent.name != "checkpoint":
        return {}
    run = checkpoint.parents[1]
    record = RunRecord.read(run)
    if record is None:
        return {}
    metrics = record.metrics
    return {
        "run": run,
        "run's status": record.status,
        "run's val_loss": metrics and metrics.val_loss,
        "run's best val_loss": metrics and metrics.best_val_loss,
        "at step": metrics and metrics.best_step,
    }
