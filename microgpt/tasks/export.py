"""task=export: writes a directory or a page with the parts of a checkpoint that inference needs.

    <export>/      weights.safetensors, meta.json, checksums.json     export.format=safetensors: readers of checkpoints
                   model.onnx, meta.json, checksums.json              export.format=onnx: other programs
                   model.safetensors, config.json, tokenizer.json, README.md and others
                                                                      export.format=transformers: from_pretrained
    <export>.html  a page that runs the model in the browser          export.format=html

The weights always include lm_head, because readers of the earlier format require it. In a tied model it is a copy of
wte.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from microgpt.atomic import write_atomically
from microgpt.config.choices import EXPORT_FORMATS
from microgpt.config.schema import Config
from microgpt.data.tokenizer import Tokenizer
from microgpt.engines.base import Arrays, implementation
from microgpt.errors import UserError
from microgpt.model.spec import ModelSpec
from microgpt.runs.checkpoint import (
    Checkpoint,
    document,
    hidden,
    load_checkpoint,
    tensors,
    write_directories,
)
from microgpt.runs.checkpoint_format import CHECKSUMS, META, ONNX, WEIGHTS, Meta, Origin, meta_document
from microgpt.runs.checkpoint_paths import resolve_checkpoint
from microgpt.runs.invocation import Invocation
from microgpt.runs.transformers_families import family_of
from microgpt.runs.transformers_folder import CARD, transformers_files
from microgpt.tasks.html_page import html_page, page_notes
from microgpt.tasks.model_card import model_card

EXPORTS = Path("exports")
PAGE = "index.html"
# The only architecture of 0.5.0. Its readers do not need to know about tied weights or the initialization.
EARLIER_FORMAT = {"kind": "gpt"} | {
    f.name: f.default
    for f in fields(ModelSpec)
    if f.default is not MISSING and f.name not in ("tie_lm_head", "init_std", "residual_init", "init")
}

Files = dict[str, bytes]


@dataclass(frozen=True)
class Rounding:
    """The effect of storing weights in a narrower type."""

    dtype: str
    weights: int
    changed: int
    to_zero: int  # number of non-zero weights rounded to zero
    largest: float  # largest change of a weight

    def __str__(self) -> str:
        if self.changed == 0:
            return f"conversion to {self.dtype} did not change any weight"
        return (
            f"rounding to {self.dtype} changed {self.changed:,} of {self.weights:,} weights by at most "
            f"{self.largest:.2g}; {self.to_zero:,} became 0"
        )


@dataclass(frozen=True)
class ExportFormat:
    files: Callable[[Checkpoint, str], tuple[Files, Rounding]]  # (checkpoint, dtype)
    notes: Callable[[Checkpoint], list[str]]  # lines for the user about differences from the checkpoint
    single_file: str = ""  # suffix of the single file to write; "": a directory


def export(config: Config, invocation: Invocation) -> None:
    name = config.export.format
    chosen = implementation(FORMATS, "export.format", name, "FORMATS in tasks/export.py")
    dtype = "float16" if config.export.half and "half" in EXPORT_FORMATS[name] else "float32"
    checkpoint = load_checkpoint(resolve_checkpoint(config.checkpoint or "", config.outputs_dir))
    default = EXPORTS / default_name(checkpoint, name, dtype)
    path = default if config.export.path is None else Path(config.export.path)
    refuse_taken(path)
    files, rounding = chosen.files(checkpoint, dtype)
    if chosen.single_file:
        write_file(path, *files.values())
    else:
        write_export(path, files)
    print(f"checkpoint: {checkpoint.path} (step {checkpoint.step})")
    print(f"exported to: {path}")
    written = [path] if chosen.single_file else [path / file for file in (*files, CHECKSUMS)]
    for file in written:
        if file.is_file():
            print(f"  {file.name:22}{file.stat().st_size:>14,} bytes")
    print(f"{checkpoint.meta.spec.parameter_count():,} parameters; {rounding}")
    rest = sorted(file for file in checkpoint.path.iterdir() if file.name not in (WEIGHTS, META, CHECKSUMS))
    if rest:
        size = sum(file.stat().st_size for file in rest)
        print(f"left out: {', '.join(file.name for file in rest)} ({size:,} bytes)")
    for note in chosen.notes(checkpoint):
        print(note)


def default_name(checkpoint: Checkpoint, name: str, dtype: str) -> str:
    """Return the export's name: the run, the step, and the dtype or format of the weights."""
    stem = f"{origin_of(checkpoint).name}_step{checkpoint.step}"
    if suffix := FORMATS[name].single_file:
        return stem + suffix
    return f"{stem}_{dtype if 'half' in EXPORT_FORMATS[name] else name}"


def origin_of(checkpoint: Checkpoint) -> Origin:
    """Return the origin of an export of this checkpoint. An export of an export keeps the origin of the first."""
    dtype = " ".join(dict.fromkeys(checkpoint.stored.values()))
    if checkpoint.meta.origin is not None:
        return replace(checkpoint.meta.origin, dtype=dtype)
    path = checkpoint.path
    if path.parent.name != "checkpoint":
        return Origin(path.name, checkpoint.step, dtype)
    run = path.parents[1]
    return Origin(f"{run.parent.name}_{run.name}".lstrip("_"), checkpoint.step, dtype)


def exported_meta(checkpoint: Checkpoint, dtype: str) -> Meta:
    return replace(checkpoint.meta, dtype=dtype, origin=origin_of(checkpoint))


def weight_files(checkpoint: Checkpoint, dtype: str) -> tuple[Files, Rounding]:
    """Return weights and meta.json in float16 or float32. Raises UserError for weights that overflow."""
    weights = checkpoint.state.parameters
    narrowed = narrow(checkpoint.path, weights, dtype)
    stored = narrowed | {"lm_head": narrowed["wte"]} if checkpoint.meta.spec.tie_lm_head else narrowed
    files = {WEIGHTS: tensors(stored), META: document(meta_document(exported_meta(checkpoint, dtype)))}
    return files, rounding_between(weights, narrowed)


def weight_notes(checkpoint: Checkpoint) -> list[str]:
    tied = "the tied lm_head is stored as a copy of wte, because readers of the earlier format require it"
    notes = [tied] if checkpoint.meta.spec.tie_lm_head else []
    if unknown := unknown_to_earlier_format(checkpoint):
        unsupported = ", ".join(unknown)
        notes.append(
            f"note: readers of the earlier format (0.5.0) ignore {unsupported}, so they compute a different model"
        )
    return notes


def unknown_to_earlier_format(checkpoint: Checkpoint) -> list[str]:
    """Return the properties of a model that the earlier format cannot represent and that its readers ignore."""
    own = asdict(checkpoint.meta.spec)
    return [f"{key} {own[key]}" for key, value in EARLIER_FORMAT.items() if own[key] != value]


def onnx_files(checkpoint: Checkpoint, dtype: str) -> tuple[Files, Rounding]:
    """Return the graph with its weights, and meta.json. Raises UserError if the libraries are missing."""
    from microgpt.engines.torch.onnx import onnx_model

    meta, weights = checkpoint.meta, checkpoint.state.parameters
    narrowed = narrow(checkpoint.path, weights, dtype)
    described = meta_document(exported_meta(checkpoint, dtype))
    facts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in described.items()}
    facts["bos"] = str(Tokenizer(meta.chars, meta.special).bos)
    files = {ONNX: onnx_model(meta.spec, narrowed, facts), META: document(described)}
    return files, rounding_between(weights, narrowed)


def onnx_notes(checkpoint: Checkpoint) -> list[str]:
    style = checkpoint.meta.style
    if not style.get("phrases") or not style.get("bias"):
        return []
    return [f"left out: the style's bias, which is not part of the model; {META} lists the phrases"]


def html_files(checkpoint: Checkpoint, dtype: str) -> tuple[Files, Rounding]:
    """Return the page. Raises UserError for a model that it does not support."""
    weights = checkpoint.state.parameters
    narrowed = narrow(checkpoint.path, weights, dtype)
    return {PAGE: html_page(checkpoint, narrowed)}, rounding_between(weights, narrowed)


def transformers_export(checkpoint: Checkpoint, dtype: str) -> tuple[Files, Rounding]:
    """Return the files of a folder for from_pretrained. Raises UserError if no class supports the model."""
    weights = checkpoint.state.parameters
    family = family_of(checkpoint.meta.spec)
    narrowed = narrow(checkpoint.path, weights, dtype)
    card = model_card(checkpoint, family.architecture, origin_of(checkpoint).name)
    return transformers_files(checkpoint.meta, narrowed) | {CARD: card}, rounding_between(weights, narrowed)


def transformers_notes(checkpoint: Checkpoint) -> list[str]:
    return [note.replace(META, CARD) for note in onnx_notes(checkpoint)]


FORMATS = {
    "safetensors": ExportFormat(weight_files, weight_notes),
    "onnx": ExportFormat(onnx_files, onnx_notes),
    "transformers": ExportFormat(transformers_export, transformers_notes),
    "html": ExportFormat(html_files, page_notes, single_file=".html"),
}


def narrow(path: Path, weights: Arrays, dtype: str) -> Arrays:
    """Round weights to the nearest values of a dtype. Raises UserError for NaN, infinity or an overflow."""
    largest = float(np.finfo(dtype).max)
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise UserError(f"checkpoint={path} cannot be exported: {name} contains non-finite weights")
        extreme = float(np.abs(array).max(initial=0.0))
        if extreme > largest:
            instead = "; use export.half=false" if dtype == "float16" else ""
            raise UserError(
                f"checkpoint={path} cannot be exported in {dtype}: {name} has a weight of size {extreme:.6g}, "
                f"but the largest {dtype} is {largest:.6g}{instead}"
            )
    return {name: array.astype(dtype) for name, array in weights.items()}


def rounding_between(before: Arrays, after: Arrays) -> Rounding:
    pairs = [(before[name].astype(np.float64), after[name].astype(np.float64)) for name in before]
    return Rounding(
        dtype=" ".join(dict.fromkeys(array.dtype.name for array in after.values())),
        weights=sum(old.size for old, _ in pairs),
        changed=sum(int((old != new).sum()) for old, new in pairs),
        to_zero=sum(int(((old != 0) & (new == 0)).sum()) for old, new in pairs),
        largest=max(float(np.abs(old - new).max(initial=0.0)) for old, new in pairs),
    )


def refuse_taken(path: Path) -> None:
    """Raise UserError unless `path` does not exist or is an empty folder."""
    try:
        taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
    except (OSError, ValueError) as error:
        raise unwritable(path, error) from error
    if taken:
        kind = "already exists and is not empty" if path.is_dir() else "already exists and is not a folder"
        raise UserError(f"export.path={path} {kind}: choose another path or remove it first")


def write_export(path: Path, files: Files) -> None:
    """Write the whole directory or nothing. Raises UserError if it already exists or cannot be written."""
    refuse_taken(path)
    try:
        final = path.resolve()  # an empty folder may be the target of a link
        try:
            write_directories({final: files})
        except BaseException:
            shutil.rmtree(hidden(final), ignore_errors=True)
            raise
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise unwritable(path, error) from error


def write_file(path: Path, content: bytes) -> None:
    """Write the whole file or nothing. Raises UserError if it cannot be written."""
    try:
        write_atomically(path, content)
    except (OSError, ValueError) as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: Exception) -> UserError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UserError(f"export.path={path} cannot be written: {reason}")
