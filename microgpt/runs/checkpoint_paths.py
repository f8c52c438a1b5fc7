"""Which checkpoint is meant: by a run's `latest` and `best`, and by checkpoint=<name>.

`latest` and `best` are symbolic links to a step, or text files that name it on a file system without links. A copy of a
run (scp -r, zip, cloud storage) may hold the step itself under these names, or lack them.
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
    """Return whether a folder is one that transformers' from_pretrained reads."""
    return (path / "config.json").is_file() and (path / "model.safetensors").is_file()


def linked(directory: Path, name: str) -> Path | None:
    """Return the step that `latest` or `best` means; None if it is not there, or names no checkpoint."""
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
    """Return a run's latest checkpoint, or the newest if nothing states the latest; None if it has none."""
    if (found := linked(directory, LATEST)) is not None:
        return found
    newest_first = [*sorted(directory.glob("step_*"), reverse=True), directory / LATEST]
    return next(filter(is_checkpoint, newest_first), None)


def resolve_checkpoint(name: str, outputs_dir: str, key: str = "checkpoint") -> Path:
    """Return the checkpoint directory of <key>=<folder of a run or a checkpoint>, or of <key>=latest, the newest.

    Raises a UserError naming the key.
    """
    if name == LATEST:
        outputs = Path(outputs_dir)
        from microgpt.runs.folders import run_folders  # which imports checkpoint.py, and that this module

        usual = {*outputs.glob("*/*/checkpoint"), *outputs.glob("sweeps/*/*/checkpoint")}
        runs = usual | {path / "checkpoint" for path in run_folders(outputs)}  # hydra.run.dir may lie anywhere below
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
    except (OSError, ValueError, StopIteration):  # also: not a valid file name
        raise UserError(f"{key}={name} is not a checkpoint: there is no {META} in it, nor in its checkpoint/") from None


def written_at(run: Path, step: Path) -> float:
    """Return when a run's checkpoint was written, in seconds since 1970, by the times that the run recorded.

    It is not later than that for a run that has not recorded its end: its start and the seconds that it has worked.
    The times of files and links would be those of a copy.
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
    """Return a recorded time in seconds since 1970, 0 for one that is damaged."""
    try:
        return datetime.fromisoformat(time).timestamp()
    except (TypeError, ValueError):
        return 0.0
