"""Compare the files in two folders. Files are read as nested dictionaries and lists, with tensors as NumPy arrays."""

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SHOWN_FILES, SHOWN_VALUES = 5, 2  # files described per case, and differences per file

IGNORED_KEYS = {
    **dict.fromkeys(["started_at", "finished_at", "created"], "time of day"),
    **dict.fromkeys(["timings", "train_seconds", "evaluate_seconds", "checkpoint_seconds"], "duration"),
    **dict.fromkeys(["steps_per_sec", "tokens_per_sec"], "rate"),
    **dict.fromkeys(["git", "git_commit", "git_dirty", "environment", "schema_version"], "version"),
    "resumed": "the time and step at which SIGTERM arrived",
    "id": "random id of a server's answer",
    "config": "config_hash covers it, and a new key that keeps its default is no difference",
}
DURATION = re.compile(r"\b[\d.]+(?:e-\d+)? s\b")  # in the sentences of report.json
RUN_FOLDER = re.compile(r"\d{4}-\d\d-\d\d[/_]\d\d-\d\d-\d\d_[0-9a-f]{8}(?:-\d+)?")


def read_tables(path: Path) -> list[list[dict[str, str]]]:
    """Return the tables of a Markdown file; the sentences between them may be reworded."""
    blocks = [block for block in path.read_text().split("\n\n") if block.startswith("|")]
    return [list(csv.DictReader(re.sub(r" *\| *", "|", block).splitlines(), delimiter="|")) for block in blocks]


def read_tensors(path: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return load_file(path)


def read_onnx(path: Path) -> dict[str, Any]:
    """Return the weights, and a hash of the graph without them. The metadata repeats meta.json in the same folder."""
    import onnx

    model = onnx.load(path)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    del model.graph.initializer[:], model.metadata_props[:]
    return {**tensors, "graph": hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()}


READERS: dict[str, Callable[[Path], Any]] = {
    ".json": lambda path: json.loads(path.read_text()),
    ".jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
    ".csv": lambda path: list(csv.DictReader(path.read_text().splitlines())),
    ".md": read_tables,
    ".txt": lambda path: path.read_text().splitlines(),
    ".safetensors": read_tensors,
    ".onnx": read_onnx,
}
Place = tuple[str, ...]  # the position of a value in a file: its keys, outermost first


def read_folder(folder: Path, ignored: set[str]) -> dict[str, dict[Place, Any]]:
    """Return the values of each file to compare, without those under an ignored key."""
    runs = sorted(
        path.parent.relative_to(folder / "outputs").as_posix() for path in folder.glob("outputs/????-??-??/*/run.json")
    )
    names = {name.replace("/", separator): f"run{number}" for number, name in enumerate(runs, 1) for separator in "/_"}

    def neutral(text: str) -> str:
        return RUN_FOLDER.sub(lambda found: names.get(found[0], found[0]), text.replace(str(folder), "."))

    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            value = path.readlink().as_posix()
        elif path.suffix in READERS and path.name != "checksums.json":
            value = READERS[path.suffix](path)
        else:
            continue
        timed = path.name == "report.json"
        found[neutral(path.relative_to(folder).as_posix())] = {
            place: neutral(DURATION.sub("_ s", leaf) if timed else leaf) if isinstance(leaf, str) else leaf
            for place, leaf in flatten(value)
            if ignored.isdisjoint(place)
        }
    return found


def flatten(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Yield each value in nested dictionaries and lists with its position, including the step in history.jsonl."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from flatten(inner, (*place, key))
    elif isinstance(value, list) and value:
        for number, inner in enumerate(value, 1):
            step = f" (step {inner['step']})" if isinstance(inner, dict) and "step" in inner else ""
            yield from flatten(inner, (*place, f"[{number}]{step}"))
    else:
        yield place, value


@dataclass(frozen=True)
class ChangedValue:
    """A value that differs or is missing in one version."""

    place: str
    before: Any
    after: Any
    relative: float | None = None  # for numbers: |before - after| / max(|before|, |after|)

    def __str__(self) -> str:
        texts = [each if isinstance(each, str) else repr(each) for each in (self.before, self.after)]
        size = f" (relative difference {self.relative:.2g})" if self.relative is not None else ""
        return f"{self.place}: {' -> '.join(text if len(text) < 60 else text[:57] + '...' for text in texts)}{size}"


def compare_folders(before: Path, after: Path, ignored: set[str]) -> tuple[dict[str, list[ChangedValue]], int]:
    """Return the differences of each file that differs, and the number of files compared."""
    old, new = read_folder(before, ignored), read_folder(after, ignored)
    found = {}
    for file in sorted({*old, *new}):
        if file in old and file in new:
            differences = compare_files(old[file], new[file])
        else:
            was, now = ("present" if file in side else "missing" for side in (old, new))
            differences = [ChangedValue("file", was, now)]
        if differences:
            found[file] = differences
    return found, len({*old, *new})


def compare_files(old: dict[Place, Any], new: dict[Place, Any]) -> list[ChangedValue]:
    places = dict.fromkeys([*old, *new])
    compared = [compare_values(" ".join(place), old.get(place, "absent"), new.get(place, "absent")) for place in places]
    found = [difference for difference in compared if difference is not None]
    if not found and list(old) != list(new):
        return [ChangedValue("order of keys", " ".join(map(str, old)), " ".join(map(str, new)))]
    return found


def compare_values(place: str, before: Any, after: Any) -> ChangedValue | None:
    if isinstance(before, np.ndarray) and isinstance(after, np.ndarray):
        return compare_arrays(place, before, after)
    if repr(before) == repr(after):
        return None
    try:
        relative = float(relative_differences(np.asarray(float(before)), np.asarray(float(after))))
    except (TypeError, ValueError):  # not two numbers
        relative = None
    return ChangedValue(place, before, after, relative)


def compare_arrays(place: str, before: np.ndarray, after: np.ndarray) -> ChangedValue | None:
    """Return the element with the largest relative difference."""
    if (before.dtype, before.shape) != (after.dtype, after.shape):
        return ChangedValue(place, f"{before.dtype} {before.shape}", f"{after.dtype} {after.shape}")
    if before.tobytes() == after.tobytes():
        return None
    relative = relative_differences(before.astype(np.float64), after.astype(np.float64))
    index = np.unravel_index(relative.argmax(), relative.shape)
    where = f"{place}{[int(i) for i in index]} ({(before != after).sum()} elements differ)"
    return ChangedValue(where, before[index].item(), after[index].item(), float(relative[index]))


def relative_differences(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.abs(before - after) / np.maximum(np.abs(before), np.abs(after))
    return np.where(np.isnan(found), np.where(before == after, 0.0, np.inf), found)


def describe(differences: dict[str, list[ChangedValue]]) -> Iterator[str]:
    """Yield a line for each of the first files, histories first, followed by the first differences in that file."""
    files = sorted(differences, key=lambda file: (not file.endswith("history.jsonl"), file))
    for file in files[:SHOWN_FILES]:
        found = differences[file]
        yield f"{file}: {len(found)} difference{'s' * (len(found) > 1)}{largest(found)}"
        yield from (f"    {difference}" for difference in found[:SHOWN_VALUES])
    if rest := [difference for file in files[SHOWN_FILES:] for difference in differences[file]]:
        yield f"{len(files) - SHOWN_FILES} more files differ{largest(rest)}"


def largest(differences: list[ChangedValue]) -> str:
    sizes = [difference.relative for difference in differences if difference.relative is not None]
    return f", largest relative difference {max(sizes):.2g}" if sizes else ""
