"""A small model and its checkpoints, for the tests of checkpoints."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from microgpt.engines.base import Arrays, EngineState
from microgpt.model.spec import ModelSpec
from microgpt.runs.checkpoint import write_checkpoint
from microgpt.runs.checkpoint_format import Meta, Progress, generator_state
from microgpt.runs.checkpoint_store import CheckpointStore

SPEC = ModelSpec("gpt", vocab_size=4, n_embd=6, n_head=2, n_layer=2, block_size=5)
CHARS = ["a", "b", "é"]
STYLE = {"name": "futuristic", "documents": ["neon"], "share": 0.1, "phrases": ["neon"], "bias": 3.0}
FILES = (
    "weights.safetensors", "optimizer_m.safetensors", "optimizer_v.safetensors", "meta.json", "train_state.json",
    "checksums.json",
)  # fmt: skip


def arrays(spec: ModelSpec, seed: int, dtype: type = np.float64) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(1, *shape)).astype(dtype) for name, shape in spec.shapes().items()}


def engine_state(spec: ModelSpec = SPEC, seed: int = 0, dtype: type = np.float64) -> EngineState:
    return EngineState(arrays(spec, seed, dtype), arrays(spec, seed + 1, dtype), arrays(spec, seed + 2, dtype))


def progress_at(step: int = 7) -> Progress:
    return Progress(
        step=step, first_step=3, total_steps=100, steps=50, tokens=1234, recent_losses=[3.3, 1 / 3, 0.1 + 0.2],
        val_loss=2.5, best_val_loss=2.25, best_step=5, first_val_loss=3.25, train_seconds=1.25, evaluate_seconds=0.5,
        checkpoint_seconds=0.125, rng_state=generator_state(random.Random(42)), seed=42, data_sha256="d" * 64,
        config_hash="c" * 64,
    )  # fmt: skip


def meta_of(spec: ModelSpec = SPEC) -> Meta:
    return Meta(spec, CHARS, "float64", "gpt", STYLE)


def written(folder: Path, spec: ModelSpec = SPEC, step: int = 7, dtype: type = np.float64) -> Path:
    path = folder / f"step_{step:08d}"
    write_checkpoint(path, meta_of(spec), engine_state(spec, dtype=dtype), progress_at(step))
    return path


def assert_same_bits(found: Arrays, expected: Arrays) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes(), name


def earlier_checkpoint(path: Path, **changes: Any) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    weights = {name: array[0] for name, array in arrays(SPEC, 0, np.float32).items()}
    safetensors.numpy.save_file(weights, path / "weights.safetensors")
    meta = {"vocab_size": 4, "n_embd": 6, "n_head": 2, "n_layer": 2, "block_size": 5, "chars": CHARS} | changes
    (path / "meta.json").write_text(json.dumps({key: value for key, value in meta.items() if value is not None}))
    return path


def saved(store: CheckpointStore, *steps: int) -> None:
    for step in steps:
        store.save(meta_of(), engine_state(seed=step), progress_at(step))


def flip(content: bytes, offset: int, mask: int = 1) -> bytes:
    return content[:offset] + bytes([content[offset] ^ mask]) + content[offset + 1 :]
