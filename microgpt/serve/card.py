"""The model card that the page shows for a served or an exported model."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from microgpt.data.conversations import prompt_room
from microgpt.engines.base import EngineInfo
from microgpt.model.spec import ModelSpec
from microgpt.runs.checkpoint import Checkpoint
from microgpt.runs.history import History

MAX_SAMPLES = 50  # per request
MAX_CANDIDATES = 20  # per token
MAX_HISTORY_POINTS = 1000  # points of the loss curve
MAX_TRAINABLE = 1_000_000  # parameters of a model that the page can train further
TRAINABLE_ACTIVATIONS = ("relu", "relu_squared")  # supported by static/trainer.js
CARD_KEYS = (
    "kind", "block_size", "n_embd", "n_head", "n_layer", "tie_lm_head", "input_rmsnorm", "activation", "vocab_size",
)  # fmt: skip


def model_card(
    checkpoint: Checkpoint, info: EngineInfo, max_new_tokens: int, max_history_points: int = MAX_HISTORY_POINTS
) -> dict[str, Any]:
    """Return the card of a model on the engine described by `info`."""
    meta = checkpoint.meta
    spec = meta.spec.to_dict()
    history = history_points(checkpoint, max_history_points)
    losses = [point["val_loss"] for point in history if point["val_loss"] is not None]
    return {
        **{key: spec[key] for key in CARD_KEYS},
        "options": {key: spec[key] for key in other_options(meta.spec)},
        "id": str(meta.model),
        "is_chat": bool(meta.special),
        "parameters": meta.spec.parameter_count(),
        "characters": meta.chars,
        "special_tokens": list(meta.special),
        "style": meta.style.get("name"),
        "step": checkpoint.step,
        "seed": checkpoint.progress.seed,
        "backend": info.backend,
        "device": info.device,
        "using_gpu": info.using_gpu,
        "dtype": info.dtype,
        "tensors": [{"name": name, "shape": list(shape)} for name, shape in meta.spec.shapes().items()],
        "not_trainable": why_not_trainable(meta.spec, meta.special),
        "val_loss": losses[-1] if losses else None,
        "history": history,
        "limits": {
            "max_new_tokens": max_new_tokens,
            "max_num_samples": MAX_SAMPLES,
            "max_candidates": MAX_CANDIDATES,
            "max_text_tokens": spec["block_size"],
            "max_chat_prompt_tokens": prompt_room(spec["block_size"]),
        },
    }


def other_options(spec: ModelSpec) -> list[str]:
    """Return the options in which a model differs from microgpt, except those that every card has."""
    initial = ("init_std", "residual_init", "init")
    defaults = {key.name: key.default for key in fields(spec) if key.name not in (*CARD_KEYS, *initial)}
    return [key for key, default in defaults.items() if getattr(spec, key) != default]


def why_not_trainable(spec: ModelSpec, special: tuple[str, ...]) -> str | None:
    """Return one sentence on why the page cannot train the model further, or None if it can."""
    if special:
        return "This model was trained on conversations, but this page can only train on lines."
    others = [f"{key}={getattr(spec, key)}" for key in other_options(spec)]
    if spec.activation not in TRAINABLE_ACTIVATIONS:
        others.append(f"activation={spec.activation}")
    if others:
        return f"This model has {', '.join(others)}; this page can only train microgpt and the bigram."
    if spec.parameter_count() > MAX_TRAINABLE:
        return f"This model has more than {MAX_TRAINABLE:,} parameters, too many to train in a browser."
    return None


def packed_weights(spec: ModelSpec, parameters: Mapping[str, np.ndarray]) -> bytes:
    """Return one model's tensors in the order of the card: float32, little-endian, row-major, without padding."""
    return b"".join(np.ascontiguousarray(parameters[name][0], "<f4").tobytes() for name in spec.shapes())


def history_points(checkpoint: Checkpoint, max_points: int) -> list[dict[str, Any]]:
    """Return the loss curve up to this checkpoint, thinned out; empty if the run's folder does not exist."""
    if checkpoint.path.parent.name != "checkpoint":
        return []
    lines = History(checkpoint.path.parents[1] / "history.jsonl").lines()
    kept = [line for line in lines if line["step"] <= checkpoint.progress.step]
    points = [{key: line.get(key) for key in ("step", "loss", "val_loss")} for line in kept]
    every = -(-len(points) // max_points)
    return [point for i, point in enumerate(points) if i % every == 0 or point["val_loss"] is not None]
