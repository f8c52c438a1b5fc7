"""task=info: what a checkpoint or an export holds, for people to read."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from microgpt.config.schema import Config
from microgpt.errors import UserError
from microgpt.runs.checkpoint import Checkpoint, load_checkpoint, resolve_checkpoint
from microgpt.runs.checkpoint_format import META, ONNX, WEIGHTS, Meta, parse_meta
from microgpt.runs.record import Invocation, RunRecord


def info(config: Config, invocation: Invocation) -> None:
    path = resolve_checkpoint(config.checkpoint or "", config.outputs_dir)
    if (path / ONNX).is_file() and not (path / WEIGHTS).is_file():
        show(facts_of_onnx(path))
        return
    checkpoint = load_checkpoint(path)
    train, state = checkpoint.progress, checkpoint.state
    types = dict.fromkeys(checkpoint.stored.values())
    shapes = {name: list(array.shape[1:]) for name, array in state.parameters.items()}
    if "lm_head" in checkpoint.stored:  # also where it is a tied model's copy of wte
        shapes.setdefault("lm_head", shapes["wte"])
    facts = {
        "checkpoint": path,
        **facts_of_model(checkpoint.meta),
        "dtype": " ".join(types),
        "bytes of weights": f"{stored_bytes(checkpoint, shapes):,}",
        "bytes on disk": bytes_on_disk(path),
        "step": checkpoint.step,
        "optimizer state": "yes" if state.m or state.v else "no",
        "seed": train.seed,
        "loss": train.recent_losses[-1] if train.recent_losses else None,
        **facts_of_run(path),
        "data sha256": train.data_sha256,
        "config hash": train.config_hash,
    }
    width = show(facts)
    print("tensors:")
    for name, shape in shapes.items():
        print(f"  {name:{width}}{shape} {checkpoint.stored[name]}")


def show(facts: dict[str, Any]) -> int:
    """Print facts in two columns; returns the first one's width."""
    width = max(map(len, facts)) + 2
    for name, value in facts.items():
        print(f"{name + ':':{width}}{'none' if value is None else value}")
    return width


def facts_of_model(meta: Meta) -> dict[str, Any]:
    return {
        "model": meta.model,
        **meta.spec.to_dict(),
        "parameters": meta.spec.parameter_count(),
        "characters": "".join(meta.chars),
        "special tokens": " ".join(meta.special) or None,
        "style": meta.style.get("name"),
        **({"exported from": f"{meta.origin.name}, which had {meta.origin.dtype}"} if meta.origin else {}),
    }


def facts_of_onnx(path: Path) -> dict[str, Any]:
    """What meta.json says of a graph that other programs read."""
    try:
        meta = parse_meta(json.loads((path / META).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"export {path} is damaged: {error}") from error
    return {
        "export": f"{path / ONNX} for other programs",
        **facts_of_model(meta),
        "dtype": meta.dtype,
        "bytes on disk": bytes_on_disk(path),
        "step": meta.origin.step if meta.origin else None,
    }


def stored_bytes(checkpoint: Checkpoint, shapes: dict[str, list[int]]) -> int:
    """What the numbers of the weights take on disk, names and shapes apart."""
    sizes = {name: np.dtype(kind).itemsize for name, kind in checkpoint.stored.items()}
    return sum(rows * columns * sizes[name] for name, (rows, columns) in shapes.items())


def bytes_on_disk(path: Path) -> str:
    return f"{sum(file.stat().st_size for file in path.iterdir() if file.is_file()):,}"


def facts_of_run(checkpoint: Path) -> dict[str, Any]:
    """What the record of the run says, where the checkpoint still lies in its run's folder."""
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
