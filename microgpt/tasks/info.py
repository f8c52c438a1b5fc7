"""task=info: what a checkpoint holds, for people to read."""

from microgpt.checkpoint import load_checkpoint, resolve_checkpoint
from microgpt.config import Config
from microgpt.record import Invocation


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
        "style": meta.style.get("name"),
        "step": train.first_step + train.step,
        "optimizer state": "yes" if checkpoint.state.m or checkpoint.state.v else "no",
        "seed": train.seed,
        "loss": train.recent_losses[-1] if train.recent_losses else None,
        "best val_loss": None if train.best_val_loss is None else f"{train.best_val_loss} at step {train.best_step}",
        "data sha256": train.data_sha256,
        "config hash": train.config_hash,
    }
    width = max(map(len, facts)) + 2
    for name, value in facts.items():
        print(f"{name + ':':{width}}{'none' if value is None else value}")
    print("tensors:")
    for name, array in checkpoint.state.parameters.items():
        print(f"  {name:{width}}{list(array.shape[1:])} {array.dtype}")
