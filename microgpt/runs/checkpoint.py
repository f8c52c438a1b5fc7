"""Checkpoints: a directory of safetensors and JSON that any engine can take up again.

    <run>/checkpoint/step_00000500/   weights.safetensors, optimizer_m.safetensors, optimizer_v.safetensors,
                                      meta.json, train_state.json, checksums.json
    <run>/checkpoint/latest, best     symbolic links to steps

A step's directory appears by one rename, after everything in it is on disk, and is never written again: a crash at any
instant leaves whole checkpoints only. Knows nothing of engines beyond their plain state, nothing of loops.
"""

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

from microgpt.engines.base import Arrays, EngineState
from microgpt.errors import UserError
from microgpt.model.spec import ModelSpec
from microgpt.runs.checkpoint_format import (
    CHECKSUMS,
    META,
    ONNX,
    OPTIMIZER_M,
    OPTIMIZER_V,
    TRAIN_STATE,
    WEIGHTS,
    Meta,
    TrainState,
    meta_document,
    parse_meta,
    parse_train_state,
)


@dataclass(frozen=True)
class Checkpoint:
    """What a directory holds. An export has neither moments nor a train state: to train on from it is a fresh start."""

    path: Path
    meta: Meta
    state: EngineState  # float32 or float64
    train: TrainState
    stored: dict[str, str] = field(default_factory=dict)  # in which type each weight tensor lies on disk

    @property
    def step(self) -> int:
        """How many steps the weights were trained, all legs together."""
        return self.meta.origin.step if self.meta.origin else self.train.first_step + self.train.step


class CheckpointStore:
    """The checkpoints of one run: writes them, names the latest and the best, drops the old."""

    def __init__(self, directory: Path, keep: int):
        self.directory = directory
        self.keep = keep

    def save(self, meta: Meta, state: EngineState, train: TrainState) -> Path:
        """Write a checkpoint, unless the step has one that is whole already: the run that resumed from it came by.

        Later ones can only be damaged, or the run would have resumed from them; left there, they would count as newest.
        """
        final = self.directory / f"step_{train.step:08d}"
        for path in self.directory.glob("step_*"):
            if path.name > final.name:
                discard(path)
        if not is_whole(final):
            discard(final)
            write_checkpoint(final, meta, state, train)
        self.point("latest", final)
        self.prune()
        return final

    def mark_best(self, step: int) -> None:
        self.point("best", self.directory / f"step_{step:08d}")
        self.prune()

    def point(self, name: str, target: Path) -> None:
        """Make a symbolic link, atomically."""
        temporary = self.directory / f".{name}.{os.getpid()}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target.name)
        temporary.replace(self.directory / name)

    def prune(self) -> None:
        """Keep the newest `keep` checkpoints and the best; drop the rest and what a crash left half written."""
        steps = sorted(self.directory.glob("step_*"))
        best = self.directory / "best"
        kept = {path.name for path in steps[-self.keep :]} | ({best.readlink().name} if best.is_symlink() else set())
        for path in [*steps, *self.directory.glob(".*")]:
            if path.is_symlink():
                path.unlink(missing_ok=True)  # a link that `point` had not yet given its name
            elif path.name not in kept:
                discard(path)

    def where_newest(self) -> str:
        """For a message: which checkpoint a run that failed has left."""
        newest = self.newest()
        return "there is no checkpoint yet" if newest is None else f"the last checkpoint is kept in {newest.path}"

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, or None."""
        for path in sorted(self.directory.glob("step_*"), reverse=True):
            try:
                return load_checkpoint(path)
            except UserError:
                continue
        return None


def is_whole(path: Path) -> bool:
    try:
        load_checkpoint(path)
    except UserError:
        return False
    return True


def discard(path: Path) -> None:
    """Remove a checkpoint directory; hidden first, so that a crash on the way leaves no visible part."""
    if not path.name.startswith("."):
        hidden = path.with_name(f".{path.name}.old")
        shutil.rmtree(hidden, ignore_errors=True)
        try:
            path.rename(hidden)
        except FileNotFoundError:
            return
        path = hidden
    shutil.rmtree(path, ignore_errors=True)


def write_checkpoint(final: Path, meta: Meta, state: EngineState, train: TrainState) -> None:
    """Write the directory of replica 0."""
    files = {WEIGHTS: tensors(state.parameters)}
    if state.m:
        files[OPTIMIZER_M] = tensors(state.m)
    if state.v:
        files[OPTIMIZER_V] = tensors(state.v)
    files[META] = document(meta_document(meta))
    files[TRAIN_STATE] = document(asdict(train))
    write_directory(final, files)


def write_directory(final: Path, files: dict[str, bytes]) -> None:
    """Write files and their checksums under a hidden name, flush them to disk, then give the directory its name.

    Raises OSError also where `final` is there already and not empty.
    """
    temporary = hidden(final)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    checksums = document({name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
    for name, content in [*files.items(), (CHECKSUMS, checksums)]:
        with (temporary / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    sync_directory(temporary)
    temporary.rename(final)
    sync_directory(final.parent)


def hidden(final: Path) -> Path:
    """Where this process prepares a directory."""
    return final.parent / f".{final.name}.{os.getpid()}"


def sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def tensors(arrays: Arrays) -> bytes:
    return save_tensors({name: np.ascontiguousarray(array[0]) for name, array in arrays.items()})


def document(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n").encode()


def resolve_checkpoint(name: str, outputs_dir: str, key: str = "checkpoint") -> Path:
    """The directory behind <key>=<folder of a run or a checkpoint>, or <key>=latest, the last one that was written.

    Raises UserError, which names the key.
    """
    if name == "latest":
        outputs = Path(outputs_dir)
        links = [*outputs.glob("*/*/checkpoint/latest"), *outputs.glob("sweeps/*/*/checkpoint/latest")]
        if not links:
            raise UserError(f"{key}=latest: no run in outputs_dir={outputs_dir} has a checkpoint yet")
        return max(links, key=lambda link: (link.lstat().st_mtime_ns, link)).resolve()
    path = Path(name)
    for candidate in (path, path / "latest", path / "checkpoint" / "latest"):
        try:
            if (candidate / META).is_file():
                return candidate.resolve()
        except (OSError, ValueError):  # a name that cannot be a file's
            break
    raise UserError(f"{key}={name} is not a checkpoint: there is no {META} in it, nor in its checkpoint/latest")


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint directory. Raises UserError that says what is damaged."""
    try:
        contents = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
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
        weights, stored = weights_of(meta.spec, contents[WEIGHTS])
        moments = {name: replica(contents[name]) for name in (OPTIMIZER_M, OPTIMIZER_V) if name in contents}
        for name, arrays in moments.items():
            check_shapes(meta.spec, arrays, name)
        state = EngineState(weights, moments.get(OPTIMIZER_M, {}), moments.get(OPTIMIZER_V, {}))
        return Checkpoint(path, meta, state, parse_train_state(json.loads(contents.get(TRAIN_STATE, b"{}"))), stored)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        SafetensorError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"checkpoint {path} is damaged: {reason}") from error


def verify_checksums(contents: dict[str, bytes]) -> None:
    """Compare every file with checksums.json, where there is one."""
    if CHECKSUMS not in contents:
        return
    for name, expected in json.loads(contents[CHECKSUMS]).items():
        if name not in contents:
            raise ValueError(f"{name} is missing")
        if hashlib.sha256(contents[name]).hexdigest() != expected:
            raise ValueError(f"{name} does not have the SHA-256 that {CHECKSUMS} states")


def weights_of(spec: ModelSpec, content: bytes) -> tuple[Arrays, dict[str, str]]:
    """The tensors of a model, float16 widened to float32, which loses nothing; and the type that each had.

    A tied lm_head, which exports have for readers that know no tied ones, is wte once more.
    """
    arrays = replica(content)
    check_shapes(spec, arrays, WEIGHTS)
    if spec.tie_lm_head and "lm_head" in arrays and not np.array_equal(arrays["lm_head"], arrays["wte"]):
        raise ValueError(f"{WEIGHTS} has an lm_head that is not wte, and {META} says that it is")
    own = {name: arrays[name] for name in spec.shapes()}
    wide = {name: a.astype(np.float32) if a.dtype == np.float16 else a for name, a in own.items()}
    return wide, {name: a.dtype.name for name, a in arrays.items()}


def replica(content: bytes) -> Arrays:
    """Tensors of one model, with the leading R axis (R = 1)."""
    return {name: array[np.newaxis] for name, array in load_tensors(content).items()}


def check_shapes(spec: ModelSpec, arrays: Arrays, file: str) -> None:
    for name, shape in spec.shapes().items():
        if name not in arrays:
            raise ValueError(f"{file} lacks the tensor {name}")
        if arrays[name].shape[1:] != shape:
            raise ValueError(f"{file} has {name} of shape {arrays[name].shape[1:]}, meta.json says {shape}")
        if not np.issubdtype(arrays[name].dtype, np.floating):
            raise ValueError(f"{file} has {name} of type {arrays[name].dtype}, which is no floating-point type")
