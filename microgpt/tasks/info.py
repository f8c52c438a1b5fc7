"""task=info: what a checkpoint holds, for people to read."""

from pathlib import Path
from typing import Any

from microgpt.checkpoint import load_checkpoint, resolve_checkpoint
from microgpt.config import Config
from microgpt.record import Invocation
from microgpt.runs import read_record


def info(config: Config, invocation: Invocation) -> None:
    checkpoint = load_checkpoint(resolve_checkpoint(config.checkpoint or "", config.outputs_dir))
    meta, train, spec = checkpoint.meta, checkpoint.train, checkpoint.meta.spec
    facts = {
        "checkpoint": checkpoint.path,
        "model": meta.model,
        **spec.to_dict(),
        "parameters": spec.parameter_count(),
        "dtype": meta.dtype,
        "characters": "".join(meta.chars),
        "special tokens": " ".join(meta.special) or None,
        "style": meta.style.get("name"),
        "step": train.first_step + train.step,
        "optimizer state": "yes" if checkpoint.state.m or checkpoint.state.v else "no",
        "seed": train.seed,
        "loss": train.recent_losses[-1] if train.recent_losses else None,
        **facts_of_run(checkpoint.path),
        "data sha256": train.data_sha256,
        "config hash": train.config_hash,
    }
    width = max(map(len, facts)) + 2
    for name, value in facts.items():
        print(f"{name + ':':{width}}{'none' if value is None else value}")
    print("tensors:")
    for name, array in checkpoint.state.parameters.items():
        print(f"  {name:{width}}{list(array.shape[1:])} {array.dtype}")


def facts_of_run(checkpoint: Path) -> dict[str, Any]:
    """What the record of the run says, where the checkpoint still lies in its run's folder."""
    run = checkpoint.parents[1]
    record = read_record(run)
    if record is None:
        return {}
    figures = record.get("metrics") or {}
    return {
        "run": run,
        "run's status": record.get("status"),
        "run's val_loss": figures.get("val_loss"),
        "run's best val_loss": figures.get("best_val_loss"),
        "at step": figures.get("best_step"),
    }
