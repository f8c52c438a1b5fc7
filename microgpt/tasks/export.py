"""task=export: a directory with what inference needs of a checkpoint."""

from pathlib import Path

from microgpt.config.schema import Config
from microgpt.runs.checkpoint import Checkpoint, load_checkpoint, resolve_checkpoint
from microgpt.runs.checkpoint_format import CHECKSUMS, META, ONNX, WEIGHTS
from microgpt.runs.record import Invocation
from microgpt.tasks.export_formats import (
    Rounding,
    caveats,
    default_name,
    dtype_of,
    onnx_files,
    refuse_taken,
    weight_files,
    write_export,
)

EXPORTS = Path("exports")


def export(config: Config, invocation: Invocation) -> None:
    kind = config.export.format
    dtype = dtype_of(kind, config.export.half)
    checkpoint = load_checkpoint(resolve_checkpoint(config.checkpoint or "", config.outputs_dir))
    asked = config.export.path
    path = EXPORTS / default_name(checkpoint, kind, dtype) if asked is None else Path(asked)
    refuse_taken(path)
    files, rounded = onnx_files(checkpoint) if kind == "onnx" else weight_files(checkpoint, dtype)
    write_export(path, files)
    tell(checkpoint, path, kind, rounded)


def tell(checkpoint: Checkpoint, path: Path, kind: str, rounded: Rounding) -> None:
    """Where it went, how large it is, and what was left out or changed."""
    spec = checkpoint.meta.spec
    print(f"checkpoint: {checkpoint.path} (step {checkpoint.step})")
    print(f"exported to: {path}")
    for name in (WEIGHTS, ONNX, META, CHECKSUMS):
        if (path / name).is_file():
            print(f"  {name:22}{(path / name).stat().st_size:>14,} bytes")
    print(f"{spec.parameter_count():,} parameters; {rounded}")
    rest = sorted(file for file in checkpoint.path.iterdir() if file.name not in (WEIGHTS, META, CHECKSUMS))
    if rest:
        size = sum(file.stat().st_size for file in rest)
        print(f"left out: {', '.join(file.name for file in rest)} ({size:,} bytes)")
    if kind == "onnx":
        if checkpoint.meta.style.get("phrases") and checkpoint.meta.style.get("bias"):
            print(f"left out: the style's bias, which is no part of the model; {META} has its phrases")
        return
    if spec.tie_lm_head:
        print("lm_head, which is tied, is stored as a copy of wte: the earlier format's readers look for it")
    if found := caveats(checkpoint):
        print(f"note: readers of the earlier format (0.5.0) know no {', '.join(found)}: they compute another model")
