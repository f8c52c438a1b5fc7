"""Checkpoints: directories of safetensors and JSON files that every engine can load.

    <run>/checkpoint/step_00000500/   weights.safetensors, optimizer_m.safetensors, optimizer_v.safetensors,
                                      meta.json, train_state.json, checksums.json
    <run>/checkpoint/latest, best     symbolic links to steps (checkpoint_paths.py)

A step's directory is written under a hidden name, flushed to disk and renamed, and never changes after that: a crash at
any instant leaves only complete checkpoints.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from microgpt.atomic import flush_to_disk, naming, write_file
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


@dataclass(frozen=True)
class Snapshot:
    """The content of a checkpoint that is not on disk yet. `progress` is a copy."""

    meta: Meta
    state: EngineState  # R = 1
    progress: Progress

    @property
    def name(self) -> str:
        return step_name(self.progress.step)


class CheckpointStore:
    """The checkpoints of one run: holds the newest and the best, writes them, links them, removes old ones."""

    def __init__(self, directory: Path, keep: int, keep_at_end: int | None = None):
        """`keep` newest checkpoints stay besides the best, after the last step `keep_at_end`."""
        self.directory = directory
        self.keep = keep
        self.keep_at_end = keep if keep_at_end is None else keep_at_end
        self.held: Snapshot | None = None  # the newest, until it is written
        self.held_best: Snapshot | None = None

    def save(self, meta: Meta, state: EngineState, progress: Progress) -> Path:
        """Write a checkpoint."""
        self.held = Snapshot(meta, state, progress)
        write_held([self])
        return self.directory / step_name(progress.step)

    def mark_best(self, step: int) -> None:
        """Make the newest checkpoint the best."""
        if self.held is not None:
            self.held_best = replace(self.held, state=self.held.state.alone())
        else:
            self.held_best = None
            self.link(BEST, step_name(step))
            self.prune()

    def take_held(self) -> list[Snapshot]:
        """Return what is to be written, the oldest first. Steps that are on disk already are not.

        A run that was resumed from a checkpoint passes its step again. Later ones are damaged, or the run would have
        been resumed from them; kept, they would count as the newest.
        """
        held = {one.name: one for one in (self.held_best, self.held) if one is not None}
        if not held:
            return []
        newest = max(held)
        for path in self.steps():
            if path.name > newest or (path.name in held and not is_valid(path)):
                discard(path)
            else:
                held.pop(path.name, None)
        return list(held.values())

    def link_held(self) -> None:
        """Link the checkpoints that were held, which are on disk now, and remove old ones."""
        newest, best = self.held, self.held_best
        self.held = self.held_best = None
        if best is not None:
            self.link(BEST, best.name)
        if newest is not None:
            self.link(LATEST, newest.name)
            step = newest.progress.best_step
            if step is not None and best is None and self.lacks_best():
                found = linked(self.directory, BEST) or self.directory / step_name(step)
                if is_checkpoint(found):
                    self.link(BEST, found.name)
        if newest is not None or best is not None:
            self.prune()

    def finish(self) -> None:
        """Remove the checkpoints that are not needed after the last step."""
        self.keep = self.keep_at_end
        self.prune()

    def steps(self) -> list[Path]:
        """Return the paths of the checkpoints, damaged ones too, the oldest first."""
        return [self.directory / name for name in sorted(self.names()) if name.startswith("step_")]

    def names(self) -> list[str]:
        try:
            return os.listdir(self.directory)  # noqa: PTH208 (several times as fast as Path.iterdir)
        except FileNotFoundError:
            return []

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
        names = self.names()
        steps = sorted(name for name in names if name.startswith("step_"))
        if len(steps) <= 1 and not any(name.startswith(".") for name in names):
            return
        best = linked(self.directory, BEST)
        kept = {*steps[-self.keep :], *([best.name] if best is not None else [])}
        for path in (self.directory / name for name in names if name.startswith(("step_", "."))):
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
        for path in reversed(self.steps()):
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


def write_held(stores: Sequence[CheckpointStore], others: Sequence[Path] = ()) -> None:
    """Write the checkpoints that stores of one file system hold; the files `others` are flushed to disk with them."""
    write_directories(
        {store.directory / one.name: checkpoint_files(one) for store in stores for one in store.take_held()}, others
    )
    for store in stores:
        store.link_held()


def write_checkpoint(final: Path, meta: Meta, state: EngineState, progress: Progress) -> None:
    """Write the directory of one model, R = 1."""
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
    """Write directories, each with files and their checksums: under hidden names, then flushed to disk, then renamed.

    The files `others` are flushed with them. Raises OSError, also for a directory that exists and is not empty.
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


def make_empty(folder: Path) -> None:
    try:
        folder.mkdir()
    except FileNotFoundError:
        folder.mkdir(parents=True)
    except FileExistsError:
        shutil.rmtree(folder)
        folder.mkdir()


def hidden(final: Path) -> Path:
    """Return the path at which this process prepares a directory."""
    return final.parent / f".{final.name}.{os.getpid()}"


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
