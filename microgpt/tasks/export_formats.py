"""Exports: directories with what inference needs of a checkpoint, and nothing of its training.

    <export>/   weights.safetensors, meta.json, checksums.json     export.format=safetensors: any reader of checkpoints
                model.onnx, meta.json, checksums.json              export.format=onnx: other programs

lm_head is always among the weights, as the earlier system's reader looks for it; where it is tied it is wte once more.
Knows nothing of the configuration.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from microgpt.data.tokenizer import Tokenizer
from microgpt.engines.base import Arrays
from microgpt.errors import UserError
from microgpt.runs.checkpoint import Checkpoint, document, hidden, tensors, write_directory
from microgpt.runs.checkpoint_format import META, ONNX, WEIGHTS, Meta, Origin, meta_document


@dataclass(frozen=True)
class Rounding:
    """What storing weights in a narrower type changed."""

    dtype: str
    weights: int  # how many there are
    changed: int
    to_zero: int  # how many of those were not zero and are now
    largest: float  # change of a weight

    def __str__(self) -> str:
        if self.changed == 0:
            return f"as {self.dtype} every weight is what it was"
        return (
            f"rounding to {self.dtype} changed {self.changed:,} of {self.weights:,} weights by at most "
            f"{self.largest:.2g}; {self.to_zero:,} became 0"
        )


def dtype_of(kind: str, half: bool) -> str:
    """The numbers that an export has."""
    return "float16" if half and kind == "safetensors" else "float32"


def default_name(checkpoint: Checkpoint, kind: str, dtype: str) -> str:
    """The folder's name: which run, which step, and how it is stored."""
    suffix = "onnx" if kind == "onnx" else dtype
    return f"{origin_of(checkpoint).name}_step{checkpoint.step}_{suffix}"


def origin_of(checkpoint: Checkpoint) -> Origin:
    """What an export of this checkpoint says that it was made of; an export of an export names the same run."""
    types = " ".join(dict.fromkeys(checkpoint.stored.values()))
    if checkpoint.meta.origin is not None:
        return replace(checkpoint.meta.origin, dtype=types)
    path = checkpoint.path
    if path.parent.name != "checkpoint":
        return Origin(path.name, checkpoint.step, types)
    run = path.parents[1]
    return Origin(f"{run.parent.name}_{run.name}".lstrip("_"), checkpoint.step, types)


def weight_files(checkpoint: Checkpoint, dtype: str) -> tuple[dict[str, bytes], Rounding]:
    """Weights and meta.json in float16 or float32. Raises UserError for weights that this type cannot hold."""
    arrays = with_head(checkpoint.meta.spec.tie_lm_head, checkpoint.state.parameters)
    narrowed = {name: narrow(checkpoint.path, name, array, dtype) for name, array in arrays.items()}
    files = {WEIGHTS: tensors(narrowed), META: document(meta_document(exported_meta(checkpoint, dtype)))}
    own = checkpoint.state.parameters
    return files, rounding(own, {name: narrowed[name] for name in own})


def onnx_files(checkpoint: Checkpoint) -> tuple[dict[str, bytes], Rounding]:
    """The graph with its weights in float32, and meta.json. Raises UserError where the libraries are missing."""
    from microgpt.engines.torch.onnx import onnx_model

    meta, own = checkpoint.meta, checkpoint.state.parameters
    narrowed = {name: narrow(checkpoint.path, name, array, "float32") for name, array in own.items()}
    described = meta_document(exported_meta(checkpoint, "float32"))
    facts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in described.items()}
    facts["bos"] = str(Tokenizer(meta.chars, meta.special).bos)
    return {ONNX: onnx_model(meta.spec, narrowed, facts), META: document(described)}, rounding(own, narrowed)


def exported_meta(checkpoint: Checkpoint, dtype: str) -> Meta:
    return replace(checkpoint.meta, dtype=dtype, origin=origin_of(checkpoint))


def with_head(is_tied: bool, parameters: Arrays) -> Arrays:
    """The tensors of the earlier format: a tied model's too have lm_head."""
    return parameters | {"lm_head": parameters["wte"]} if is_tied else parameters


def narrow(path: Path, name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """Round to the nearest number of a type. Raises UserError for what would become infinite, or is no number."""
    largest = float(np.finfo(dtype).max)
    if not np.isfinite(array).all():
        raise UserError(f"checkpoint={path} cannot be exported: {name} has weights that are no finite numbers")
    extreme = float(np.abs(array).max(initial=0.0))
    if extreme > largest:
        instead = "; export.half=false can hold it" if dtype == "float16" else ""
        raise UserError(
            f"checkpoint={path} cannot be exported in {dtype}: {name} has a weight of size {extreme:.6g}, "
            f"and {dtype} ends at {largest:.6g}{instead}"
        )
    return array.astype(dtype)


def rounding(before: Arrays, after: Arrays) -> Rounding:
    pairs = [(before[name].astype(np.float64), after[name].astype(np.float64)) for name in before]
    return Rounding(
        dtype=" ".join(dict.fromkeys(array.dtype.name for array in after.values())),
        weights=sum(old.size for old, _ in pairs),
        changed=sum(int((old != new).sum()) for old, new in pairs),
        to_zero=sum(int(((old != 0) & (new == 0)).sum()) for old, new in pairs),
        largest=max(float(np.abs(old - new).max(initial=0.0)) for old, new in pairs),
    )


def refuse_taken(path: Path) -> None:
    """Raises UserError for a folder that has something in it, and for what is no folder."""
    try:
        taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
    except (OSError, ValueError) as error:
        raise unwritable(path, error) from error
    if taken:
        kind = "is there already and not empty" if path.is_dir() else "is there already and no folder"
        raise UserError(f"export.path={path} {kind}: name one that is new, or remove it first")


def write_export(path: Path, files: Mapping[str, bytes]) -> None:
    """Write the directory whole, or nothing. Raises UserError for a place that cannot be written or is not free."""
    refuse_taken(path)
    try:
        final = path.resolve()  # an empty folder may be named by a link
        try:
            write_directory(final, dict(files))
        except BaseException:
            shutil.rmtree(hidden(final), ignore_errors=True)
            raise
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links that lead to each other
        raise unwritable(path, error) from error


def unwritable(path: Path, error: Exception) -> UserError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UserError(f"export.path={path} cannot be written: {reason}")


def caveats(checkpoint: Checkpoint) -> list[str]:
    """What the earlier system's reader would compute otherwise, as its format cannot say it; empty if all is well."""
    own, theirs = asdict(checkpoint.meta.spec), {"kind": "gpt", "input_rmsnorm": True, "activation": "relu"}
    return [f"{key} {own[key]}" for key, value in theirs.items() if own[key] != value]
