"""Resolves a run's `latest` and `best`, and checkpoint=<name>, to checkpoint directories.

`latest` and `best` are symbolic links to a step or, on a file system without links, text files with its name. In a copy
of a run (scp -r, zip, cloud storage), they may be the step's directory itself, or be missing.
"""

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from microgpt.errors import UserError
from microgpt.runs.checkpoint_format import META, TRAIN_STATE
from microgpt.runs.record import RunRecord

LATEST, BEST = "latest", "best"


def step_name(step: int) -> str:
    """Return the name of a step's directory."""
    return f"step_{step:08d}"


def is_checkpoint(path: Path) -> bool:
    return (path / META).is_file()


def is_transformers_folder(path: Path) -> bool:
    """Return whether transformers' from_pretrained can read the folder."""
    return (path / "config.json").is_file() and (path / "model.safetensors").is_file()


def linked(directory: Path, name: str) -> Path | None:
    """Return the step to which `latest` or `best` refers; None if it is missing or does not refer to a checkpoint."""
    path = directory / name
    try:
        if path.is_symlink():
            step = path.readlink().name
        elif path.is_dir():
            step = step_name(json.loads((path / TRAIN_STATE).read_bytes())["step"])
        else:
            step = path.read_text().strip()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return directory / step if re.fullmatch(r"step_\d+", step) and is_checkpoint(directory / step) else None


def latest_in(directory: Path) -> Path | None:
    """Return a run's `latest` checkpoint or, without `latest`, its newest one; None if the run has no checkpoint."""
    if (found := linked(directory, LATEST)) is not None:
        return found
    newest_first = [*sorted(directory.glob("step_*"), reverse=True), directory / LATEST]
    return next(filter(is_checkpoint, newest_first), None)


def resolve_checkpoint(name: str, outputs_dir: str, key: str = "checkpoint") -> Path:
    """Return the checkpoint directory for <key>=<folder of a run or a checkpoint>, or the newest for <key>=latest.

    Raises UserError with the key.
    """
    if name == LATEST:
        outputs = Path(outputs_dir)
        from microgpt.runs.folders import run_folders  # imports checkpoint.py, which imports this module

        usual = {*outputs.glob("*/*/checkpoint"), *outputs.glob("sweeps/*/*/checkpoint")}
        runs = usual | {path / "checkpoint" for path in run_folders(outputs)}  # hydra.run.dir may be anywhere inside
        found = [(written_at(run.parent, step), step) for run in runs if (step := latest_in(run)) is not None]
        if not found:
            raise UserError(f"{key}=latest: no run in outputs_dir={outputs_dir} has a checkpoint yet")
        return max(found)[1].resolve()
    path = Path(name)
    try:
        candidates = [path, latest_in(path), latest_in(path / "checkpoint")]
        if is_transformers_folder(path):
            return path.resolve()
        if path.name in (LATEST, BEST):
            candidates.insert(0, linked(path.parent, path.name))
        return next(found for found in candidates if found is not None and is_checkpoint(found)).resolve()
    except (OSError, ValueError, StopIteration):  # ValueError if it is not a valid file name
        raise UserError(f"{key}={name} is not a checkpoint: there is no {META} in it or in its checkpoint/") from None


def written_at(run: Path, step: Path) -> float:
    """Return when a run's checkpoint was written, in seconds since 1970, according to the run's record.

    For a run that has not recorded its end, this is a lower bound: the start plus the seconds of work so far. The times
    of files and links are not used because copying changes them.
    """
    record = RunRecord.read(run)
    if record is None:
        return 0.0
    if record.finished_at is not None:
        return seconds(record.finished_at)
    try:
        progress = json.loads((step / TRAIN_STATE).read_bytes())
        worked = sum(float(progress[f"{part}_seconds"]) for part in ("train", "evaluate", "checkpoint"))
    except (OSError, ValueError, KeyError, TypeError):
        worked = 0.0
    return max([seconds(record.started_at) + worked, *(seconds(resumption.at) for resumption in record.resumed)])


def seconds(time: Any) -> float:
    """Return a recorded time in seconds since 1970, or 0 if it is damaged."""
    try:
        return datetime.fromisoformat(time).timestamp()
    except (TypeError, ValueError):
        return 0.0
