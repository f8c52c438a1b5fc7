"""Checkpoints: directories of safetensors and JSON files that every engine can load.

    <run>/checkpoint/step_00000500/   weights.safetensors, optimizer_m.safetensors, optimizer_v.safetensors,
                                      meta.json, train_state.json, checksums.json
    <run>/checkpoint/latest, best     symbolic links to steps (checkpoint_paths.py)

A step's directory is written under a hidden name, flushed to disk and renamed, and never changes after that: a crash at
any instant leaves only complete checkpoints.
"""

import errno
import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from microgpt.atomic import naming
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
from microgpt.runs.checkpoint_paths import BEST, LATEST, is_checkpoint, linked, step_name
from microgpt.runs.transformers_folder import CONFIG, MODEL, read_transformers


@dataclass(frozen=True)
class Checkpoint:
    """The content of a directory. An export has no optimizer state, and its progress is that of a new run."""

    path: Path
    meta: Meta
    state: EngineState  # float32 or float64
    progress: Progress
    stored: dict[str, str] = field(default_factory=dict)  # the dtype of each weight tensor in the file

    @property
    def step(self) -> int:
        """Training steps behind the weights: those of this run and of the runs that it continues."""
        return self.meta.origin.step if self.meta.origin else self.progress.first_step + self.progress.step


class CheckpointStore:
    """The checkpoints of one run: writes them, links the latest and the best, removes old ones."""

    def __init__(self, directory: Path, keep: int):
        self.directory = directory
        self.keep = keep

    def save(self, meta: Meta, state: EngineState, progress: Progress) -> Path:
        """Write a checkpoint, unless the step has a valid one: a run that was resumed from it passes it again.

        Later ones are damaged, or the run would have been resumed from them; kept, they would count as the newest.
        """
        final = self.directory / step_name(progress.step)
        for path in self.directory.glob("step_*"):
            if path.name > final.name:
                discard(path)
        if not is_valid(final):
            discard(final)
            write_checkpoint(final, meta, state, progress)
        self.link(LATEST, final.name)
        if progress.best_step is not None and self.lacks_best():
            best = linked(self.directory, BEST) or self.directory / step_name(progress.best_step)
            if is_checkpoint(best):
                self.link(BEST, best.name)
        self.prune()
        return final

    def mark_best(self, step: int) -> None:
        self.link(BEST, step_name(step))
        self.prune()

    def lacks_best(self) -> bool:
        """Return whether this is a copy of a run, in which `best` is a directory or is missing."""
        return linked(self.directory, BEST) is None or is_directory(self.directory / BEST)

    def link(self, name: str, step: str) -> None:
        """Make or replace a symbolic link atomically; a text file that names the step if the system has no links."""
        path, temporary = self.directory / name, self.directory / f".{name}.{os.getpid()}"
        temporary.unlink(missing_ok=True)
        try:
            with naming(path):
                try:
                    temporary.symlink_to(step)
                except OSError:
                    temporary.write_text(step + "\n")
                if is_directory(path):  # of a copied run, where the link has become its target
                    discard(path)
                temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def prune(self) -> None:
        """Keep the newest `keep` checkpoints and the best; remove the others and what a crash left incomplete."""
        steps = sorted(self.directory.glob("step_*"))
        kept = {path.name for path in [*steps[-self.keep :], *filter(None, [linked(self.directory, BEST)])]}
        for path in [*steps, *self.directory.glob(".*")]:
            if path.name.startswith((f".{LATEST}.", f".{BEST}.")) and not is_directory(path):
                path.unlink(missing_ok=True)  # a link that `link` had not yet renamed
            elif path.name not in kept:
                discard(path)

    def where_newest(self) -> str:
        """Return the clause of an error message that names the newest checkpoint."""
        newest = self.newest()
        return "there is no checkpoint yet" if newest is None else f"the last checkpoint is kept in {newest.path}"

    def newest(self) -> Checkpoint | None:
        """Return the newest checkpoint that is not damaged, or None."""
        for path in sorted(self.directory.glob("step_*"), reverse=True):
            try:
                return load_checkpoint(path)
            except UserError:
                continue
        return None


def is_directory(path: Path) -> bool:
    """Return whether a path is a directory itself, not a link to one."""
    return path.is_dir() and not path.is_symlink()


def is_valid(path: Path) -> bool:
    try:
        load_checkpoint(path)
    except UserError:
        return False
    return True


def discard(path: Path) -> None:
    """Remove a checkpoint directory; it is hidden first, so that a crash leaves no visible part."""
    if not path.name.startswith("."):
        hidden = path.with_name(f".{path.name}.old")
        shutil.rmtree(hidden, ignore_errors=True)
        try:
            path.rename(hidden)
        except FileNotFoundError:
            return
        path = hidden
    shutil.rmtree(path, ignore_errors=True)


def write_checkpoint(final: Path, meta: Meta, state: EngineState, progress: Progress) -> None:
    """Write the directory of one model, R = 1."""
    files = {WEIGHTS: tensors(state.parameters)}
    if state.m:
        files[OPTIMIZER_M] = tensors(state.m)
    if state.v:
        files[OPTIMIZER_V] = tensors(state.v)
    files[META] = document(meta_document(meta))
    files[TRAIN_STATE] = document(asdict(progress))
    write_directory(final, files)


def write_directory(final: Path, files: dict[str, bytes]) -> None:
    """Write files and their checksums to a hidden directory, flush them to disk, then rename the directory.

    Raises OSError, also if `final` exists and is not empty.
    """
    temporary = hidden(final)
    shutil.rmtree(temporary, ignore_errors=True)
    checksums = document({name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
    with naming(final):
        temporary.mkdir(parents=True)
        for name, content in [*files.items(), (CHECKSUMS, checksums)]:
            with (temporary / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        sync_directory(temporary)
        temporary.rename(final)
        sync_directory(final.parent)


def hidden(final: Path) -> Path:
    """Return the path at which this process prepares a directory."""
    return final.parent / f".{final.name}.{os.getpid()}"


def sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network and foreign file systems cannot flush a directory
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def tensors(arrays: Arrays) -> bytes:
    return save_tensors({name: np.ascontiguousarray(array[0]) for name, array in arrays.items()})


def document(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n").encode()


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify a checkpoint directory. Raises UserError that states the damage."""
    try:
        contents = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
        if META not in contents and CONFIG in contents and MODEL in contents:
            meta, weights = read_transformers(path.name, contents)
            return Checkpoint(path, meta, EngineState(weights), Progress(), dict.fromkeys(weights, meta.dtype))
        verify_checksums(contents)
        if ONNX in contents and WEIGHTS not in contents:
            raise UserError(f"checkpoint {path} holds {ONNX} for other programs: microgpt reads {WEIGHTS}")
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


def verify_checksums(contents: dict[str, bytes]) -> None:
    """Compare the files with checksums.json, which the earlier format lacks. Raises ValueError."""
    if CHECKSUMS not in contents:
        return
    for name, expected in json.loads(contents[CHECKSUMS]).items():
        if name not in contents:
            raise ValueError(f"{name} is missing")
        if hashlib.sha256(contents[name]).hexdigest() != expected:
            raise ValueError(f"{name} does not have the SHA-256 that {CHECKSUMS} states")


def parse_weights(spec: ModelSpec, content: bytes) -> tuple[Arrays, dict[str, str]]:
    """Return the weights (1, rows, columns), float16 converted to float32, and the dtype of each tensor in the file.

    An export of a tied model has a copy of wte as lm_head, for readers of the earlier format.
    """
    arrays = parse_tensors(content)
    check_shapes(spec, arrays, WEIGHTS)
    if spec.tie_lm_head and "lm_head" in arrays and not np.array_equal(arrays["lm_head"], arrays["wte"]):
        raise ValueError(f"{WEIGHTS} has an lm_head that is not wte, and {META} says that it is")
    own = {name: arrays[name] for name in spec.shapes()}
    wide = {name: a.astype(np.float32) if a.dtype == np.float16 else a for name, a in own.items()}
    return wide, {name: a.dtype.name for name, a in arrays.items()}


def parse_tensors(content: bytes) -> Arrays:
    """Return the tensors of a safetensors file as arrays (1, rows, columns)."""
    return {name: array[np.newaxis] for name, array in load_tensors(content).items()}


def check_shapes(spec: ModelSpec, arrays: Arrays, file: str) -> None:
    for name, shape in spec.shapes().items():
        if name not in arrays:
            raise ValueError(f"{file} lacks the tensor {name}")
        if arrays[name].shape[1:] != shape:
            raise ValueError(f"{file} has {name} of shape {arrays[name].shape[1:]}, meta.json says {shape}")
        if not np.issubdtype(arrays[name].dtype, np.floating):
            raise ValueError(f"{file} has {name} of type {arrays[name].dtype}, not a floating-point type")
