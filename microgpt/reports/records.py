"""From run.json to rows of a table, and rows to files. Changes nothing of what it reads."""

import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from microgpt.atomic import write_atomically
from microgpt.errors import UserError
from microgpt.runs.record import RECORD, SCHEMA_VERSION, STYLE_NAME

Row = dict[str, Any]

FIRST_COLUMNS = (
    "variant", "tie_lm_head", "input_rmsnorm", "style", "parameter_count", "steps", "seed", "final_loss",
    "mean_loss_last_n", "last_n", "steps_per_sec", "tokens_per_sec", "vocab_size", "train_tokens",
)  # fmt: skip
METRIC_COLUMNS = (
    "val_loss",
    "best_val_loss",
    "best_step",
    "first_val_loss",
    "bits_per_character",
    "perplexity",
    "tokens_seen",
)
RECORD_COLUMNS = (
    "status", "mode", "backend", "device", "using_gpu", "dtype", "run_id", "started_at", "finished_at",
    "config_hash", "error",
)  # fmt: skip


@dataclass(frozen=True)
class Detail:
    """What of a record no table has: what the report alone tells of a run. Empty where the record has no such thing."""

    command: str
    overrides: tuple[str, ...]
    environment: str  # as words, `backend native, ..., python 3.11.7`
    samples: tuple[str, ...]
    baselines: dict[str, float]  # nats per token of `uniform`, `unigram` and `bigram`, as far as they were counted


@dataclass
class Collected:
    rows: list[Row] = field(default_factory=list)
    details: dict[str, Detail] = field(default_factory=dict)  # by the `path` of a row
    skipped: list[tuple[Path, str]] = field(default_factory=list)  # files that are no record, and why


def variant_name(tie_lm_head: bool, input_rmsnorm: bool) -> str:
    return f"{'tied' if tie_lm_head else 'untied'}_{'' if input_rmsnorm else 'no_'}input_rmsnorm"


def find_records(folder: Path) -> Iterator[Path]:
    """Every run.json below a folder, in sorted order, without looking into checkpoints."""
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "checkpoint")
        if RECORD in files:
            yield Path(path) / RECORD


def read_rows(folders: list[Path]) -> Collected:
    collected = Collected()
    seen = set()
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder: collect takes folders with runs below them")
        for path in find_records(folder):
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            try:
                record = json.loads(path.read_bytes(), parse_constant=no_constant)
                row = row_of(record, path)
                collected.rows.append(row)
                collected.details[row["path"]] = detail_of(record)
            except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                collected.skipped.append((path, f"{type(error).__name__}: {error}".splitlines()[0]))
    collected.rows = in_order(collected.rows)
    return collected


def in_order(rows: list[Row]) -> list[Row]:
    """As they began; the jobs of a sweep together, by their numbers, whichever process ran which of them when."""
    folders = [str(Path(row["path"]).parent) if is_job(row) else row["path"] for row in rows]
    begun: dict[str, str] = {}
    for row, folder in zip(rows, folders, strict=True):
        started = row["started_at"] or ""
        begun[folder] = min(begun.get(folder, started), started)

    def key(place: tuple[Row, str]) -> tuple[str, str, list[int]]:
        row, folder = place
        return begun[folder], folder, [int(number) for number in re.findall(r"\d+", Path(row["path"]).name)]

    return [row for row, _ in sorted(zip(rows, folders, strict=True), key=key)]


def is_job(row: Row) -> bool:
    """Whether the run is a job of a sweep."""
    return str(row["run_id"]).startswith("sweeps/")


def row_of(record: dict[str, Any], path: Path) -> Row:
    """One run as a flat row. Raises ValueError, TypeError or KeyError for what is not a record of ours."""
    check_record(record)
    config, metrics, data = record["config"], record.get("metrics") or {}, record.get("data") or {}
    model = config["model"]
    row: Row = dict.fromkeys(FIRST_COLUMNS)
    row |= {
        "variant": variant_name(model["tie_lm_head"], model["input_rmsnorm"]),
        "tie_lm_head": model["tie_lm_head"],
        "input_rmsnorm": model["input_rmsnorm"],
        "style": str(record["style"]),
        "seed": record["seed"],
    }
    row |= {key: metrics.get(key) for key in FIRST_COLUMNS if key in metrics}
    row |= {key: metrics.get(key) for key in METRIC_COLUMNS}
    row |= {key: record.get(key) for key in RECORD_COLUMNS}
    if row["error"] is not None:  # a lone carriage return would break the row of a CSV file
        row["error"] = re.sub("\r\n?", "\n", str(row["error"]))
    git = record.get("git") or {}
    return row | {
        "model": model["name"],
        "first_step": (record.get("leg") or {}).get("first_step", 0),
        "leg_from": (record.get("leg") or {}).get("from"),
        "data": config["data"]["name"],
        "data_sha256": data.get("sha256"),
        "git_commit": git.get("commit"),
        "git_dirty": git.get("dirty"),
        "path": str(path.parent),
        "config": config,
    }


def detail_of(record: dict[str, Any]) -> Detail:
    """The rest of a record, of which nothing is certain: what is not of the expected kind is left out."""
    overrides, samples, data = record.get("overrides"), record.get("samples"), record.get("data") or {}
    baselines = data.get("baselines")
    return Detail(
        command=sys.intern(str(record.get("command") or "")),  # a sweep's thousand runs share one
        overrides=tuple(map(str, overrides)) if isinstance(overrides, list) else (),
        environment=sys.intern(", ".join(environment_words(record))),
        samples=tuple(map(str, samples)) if isinstance(samples, list) else (),
        baselines={
            name: float(loss)
            for name, loss in (baselines.items() if isinstance(baselines, dict) else ())
            if isinstance(loss, int | float)
        },
    )


def environment_words(record: dict[str, Any]) -> Iterator[str]:
    """Where a run ran: `name value` of each thing that is known."""
    found = record.get("environment")
    environment = found if isinstance(found, dict) else {}
    for name in ("backend", "kernel", "dtype", "device", "threads"):
        if record.get(name) is not None:
            yield f"{name} {record[name]}"
    if record.get("processes") not in (None, 1):
        yield f"processes {record['processes']}"
    for name in ("cpu", "cores", "gpu", "platform", "python"):
        if environment.get(name) is not None:
            yield f"{name} {environment[name]}"
    versions = environment.get("versions")
    yield from (f"{name} {version}" for name, version in (versions if isinstance(versions, dict) else {}).items())


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def check_record(record: Any) -> None:
    """Raises ValueError that says why a file named run.json is not a record that tables can be made of."""
    if not isinstance(record, dict) or "schema_version" not in record or "run_id" not in record:
        raise ValueError("not a record of a run: it has no schema_version and run_id")
    if record["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"schema_version {record['schema_version']} is not {SCHEMA_VERSION}")
    if record["task"] != "train":
        raise ValueError(f"task={record['task']} is no training")
    config, completed = record["config"], record["status"] == "completed"
    expected = [("started_at", record["started_at"], str), ("config", config, dict)]
    expected += [(f"config.{node}", config[node], dict) for node in ("model", "train", "optim", "schedule", "data")]
    if completed:
        metrics = record["metrics"]
        expected += [("seed", record["seed"], int), ("metrics", metrics, dict), ("style", record["style"], str)]
        figures = ("parameter_count", "mean_loss_last_n", "steps_per_sec")
        expected += [(f"metrics.{key}", (metrics or {}).get(key), int | float) for key in figures]
        expected += [("metrics.val_loss", (metrics or {}).get("val_loss"), int | float | None)]
    for key, value, kind in expected:
        if not isinstance(value, kind):
            raise ValueError(f"{key} is {value!r}")
    if re.fullmatch(STYLE_NAME, str(record["style"])) is None:
        raise ValueError(f"style {record['style']!r} cannot be part of a file's name")


def write_table(rows: list[Row], stem: Path) -> list[Path]:
    """The rows as CSV (the configuration as JSON in the last column) and as JSON lines."""
    table = pd.DataFrame([{**row, "config": json.dumps(row["config"], sort_keys=True)} for row in rows], dtype=object)
    csv, jsonl = Path(f"{stem}.csv"), Path(f"{stem}.jsonl")
    write_atomically(csv, table.to_csv(index=False, lineterminator="\n"))
    write_atomically(jsonl, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return [csv, jsonl]


def text_table(lines: list[Row]) -> str:
    """Lines of equal keys as a table for a terminal."""
    return pd.DataFrame([{key: shown(value) for key, value in line.items()} for line in lines]).to_string(index=False)


def shown(value: Any) -> str:
    """A cell for people: four decimals, a dash for what there is not."""
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
