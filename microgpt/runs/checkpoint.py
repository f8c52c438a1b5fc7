"""Reads and writes checkpoints: directories of safetensors and JSON files that every engine can load.

    <run>/checkpoint/step_00000500/   weights.safetensors, optimizer_m.safetensors, optimizer_v.safetensors,
                                      meta.json, train_state.json, checksums.json
    <run>/checkpoint/latest, best     symbolic links to steps (checkpoint_paths.py)

A step's directory is written under a hidden name, flushed to disk and renamed. After that, only its moments may be
removed, so a crash at any time leaves only complete checkpoints. Moments that are not in checksums.json are ignored.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from microgpt.atomic import flush_to_disk, make_new, naming, write_atomically, write_file
from microgpt.engines.base import Arrays, EngineState
from microgpt.errors import UserError
from microgpt.model.spec import ModelSpec
from microgpt.runs.checkpoint_format import (
    CHECKSUMS,
    INVALID,
    META,
    ONNX,
    OPTIMIZER_M,
    OPTIMIZER_V,
    TRAIN_STATE,
    WEIGHTS,
    Meta,
    Progress,
    meta_document,
    parse_meta,
    parse_progress,
)
from microgpt.runs.checkpoint_paths import step_name
from microgpt.runs.transformers_folder import CONFIG, MODEL, read_transformers


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint directory. An export has no optimizer state and the progress of a new run."""

    path: Path
    meta: Meta
    state: EngineState  # float32 or float64
    progress: Progress
    stored: dict[str, str] = field(default_factory=dict)  # the dtype of each weight tensor in the file

    @property
    def step(self) -> int:
        """The number of training steps of the weights, in this run and in the runs that it continues."""
        return self.meta.origin.step if self.meta.origin else self.progress.first_step + self.progress.step


@dataclass(frozen=True)
class Snapshot:
    """The content of a checkpoint that is not yet on disk. `progress` is a copy."""

    meta: Meta
    state: EngineState  # R = 1
    progress: Progress

    @property
    def name(self) -> str:
        return step_name(self.progress.step)


def write_checkpoint(final: Path, meta: Meta, state: EngineState, progress: Progress) -> None:
    """Write the checkpoint directory of one model, R = 1."""
    write_directories({final: checkpoint_files(Snapshot(meta, state, progress))})


def checkpoint_files(snapshot: Snapshot) -> dict[str, bytes]:
    """Return the content of each file of a checkpoint."""
    state = snapshot.state
    files = {WEIGHTS: tensors(state.parameters)}
    if state.m:
        files[OPTIMIZER_M] = tensors(state.m)
    if state.v:
        files[OPTIMIZER_V] = tensors(state.v)
    files[META] = document(meta_document(snapshot.meta))
    files[TRAIN_STATE] = document(vars(snapshot.progress))
    return files


def write_directories(directories: Mapping[Path, dict[str, bytes]], others: Sequence[Path] = ()) -> None:
    """Write directories of files with their checksums: write under hidden names, flush to disk, then rename.

    The files `others` are flushed at the same time. Raises OSError, including for a directory that is not empty.
    """
    written = list(others)
    for final, files in directories.items():
        temporary = hidden(final)
        checksums = document({name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
        with naming(final):
            make_empty(temporary)
            for name, content in [*files.items(), (CHECKSUMS, checksums)]:
                write_file(temporary / name, content)
                written.append(temporary / name)
            written.append(temporary)
    with naming(next(iter(directories), Path())):
        if written:
            flush_to_disk(written)
    for final in directories:
        with naming(final):
            hidden(final).rename(final)
    flush_to_disk(list({final.parent for final in directories}))


def remove_optimizer_state(path: Path) -> None:
    """Remove the moments, if any, from a checkpoint directory; leave a damaged one as it is.

    checksums.json is replaced first: from then on, the moments are ignored. Raises OSError.
    """
    moments = [name for name in (OPTIMIZER_M, OPTIMIZER_V) if (path / name).exists()]
    if not moments:
        return
    try:
        checksums = json.loads((path / CHECKSUMS).read_bytes())
        kept = {name: digest for name, digest in checksums.items() if name not in moments}
    except (FileNotFoundError, ValueError, AttributeError):
        return
    write_atomically(path / CHECKSUMS, document(kept).decode())
    for name in moments:
        (path / name).unlink()


def make_empty(folder: Path) -> None:
    if not make_new(folder):
        shutil.rmtree(folder)
        folder.mkdir()


def hidden(final: Path) -> Path:
    """Return the hidden path at which this process prepares a directory."""
    return final.parent / f".{final.name}.{os.getpid()}"


def tensors(arrays: Arrays) -> bytes:
    return save_tensors({name: np.ascontiguousarray(array[0]) for name, array in arrays.items()})


def document(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n").encode()


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify a checkpoint directory. Raises UserError with the reason if it is damaged."""
    try:
        contents = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
        if META not in contents and CONFIG in contents and MODEL in contents:
            meta, weights = read_transformers(path.name, contents)
            return Checkpoint(path, meta, EngineState(weights), Progress(), dict.fromkeys(weights, meta.dtype))
        contents = verified(contents)
        if ONNX in contents and WEIGHTS not in contents:
            raise UserError(f"checkpoint {path} contains only {ONNX}, for other programs: microgpt reads {WEIGHTS}")
        for name in (META, WEIGHTS):
            if name not in contents:
                raise ValueError(f"{name} is missing")
        found_meta = json.loads(contents[META])
        if "format_version" in found_meta and CHECKSUMS not in contents:  # the earlier format has neither
            raise ValueError(f"{CHECKSUMS} is missing")
        meta = parse_meta(found_meta)
        weights, stored = parse_weights(meta.spec, contents[WEIGHTS])
        moments = {name: parse_tensors(contents[name]) for name in (OPTIMIZER_M, OPTIMIZER_V) if name in contents}
        for name, arrays in moments.items():
            check_shapes(meta.spec, arrays, name)
        state = EngineState(weights, moments.get(OPTIMIZER_M, {}), moments.get(OPTIMIZER_V, {}))
        progress = parse_progress(json.loads(contents.get(TRAIN_STATE, b"{}")))
        return Checkpoint(path, meta, state, progress, stored)
    except (*INVALID, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"checkpoint {path} is damaged: {reason}") from error


def verified(contents: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files, without moments that are not in checksums.json, which the earlier format does not have.

    Raises ValueError for a file that differs from its checksum or is missing.
    """
    if CHECKSUMS not in contents:
        return contents
    checksums = json.loads(contents[CHECKSUMS])
    for name, expected in checksums.items():
        if name not in contents:
            raise ValueError(f"{name} is missing")
        if hashlib.sha256(contents[name]).hexdigest() != expected:
            raise ValueError(f"{name} does not match its SHA-256 in {CHECKSUMS}")
    removed = {OPTIMIZER_M, OPTIMIZER_V} - checksums.keys()
    return {name: content for name, content in contents.items() if name not in removed}


def parse_weights(spec: ModelSpec, content: bytes) -> tuple[Arrays, dict[str, str]]:
    """Return the weights (1, rows, columns), float16 converted to float32, and the dtype of each tensor in the file.

    An export of a tied model contains a copy of wte as lm_head, for readers of the earlier format.
    """
    arrays = parse_tensors(content)
    check_shapes(spec, arrays, WEIGHTS)
    if spec.tie_lm_head and "lm_head" in arrays and not np.array_equal(arrays["lm_head"], arrays["wte"]):
        raise ValueError(f"{WEIGHTS} has an lm_head that differs from wte, but {META} has tie_lm_head=true")
    own = {name: arrays[name] for name in spec.shapes()}
    wide = {name: a.astype(np.float32) if a.dtype == np.float16 else a for name, a in own.items()}
    return wide, {name: a.dtype.name for name, a in arrays.items()}


def parse_tensors(content: bytes) -> Arrays:
    """Return the tensors of a safetensors file as arrays (1, rows, columns)."""
    return {name: array[np.newaxis] for name, array in load_tensors(content).items()}


def check_shapes(spec: ModelSpec, arrays: Arrays, file: str) -> None:
    for name, shape in spec.shapes().items():
        if name not in arrays:
            raise ValueError(f"{file} does not have the tensor {name}")
        if arrays[name].shape[1:] != shape:
            raise ValueError(f"{name} in {file} has the shape {arrays[name].shape[1:]}, but meta.json requires {shape}")
        if not np.issubdtype(arrays[name].dtype, np.floating):
            raise ValueError(f"{name} in {file} has the type {arrays[name].dtype}, not a floating-point type")
