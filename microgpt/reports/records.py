"""Reading records: a row for each run.json below some folders. Nothing that is read is changed."""

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from microgpt.config.choices import STYLE_NAME
from microgpt.config.keys import value_at
from microgpt.errors import UserError
from microgpt.reports.rows import COLUMNS, Row, is_finite, variant_name
from microgpt.runs.environment import GitState
from microgpt.runs.record import RECORD, SCHEMA_VERSION, DataSummary, RunRecord
from microgpt.runs.record_json import parse


@dataclass
class Collected:
    rows: list[Row] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)  # files that are not records, and why


def read_rows(folders: Iterable[Path]) -> Collected:
    """Read every run.json below the folders once. Raises UserError for a folder that does not exist."""
    collected, seen = Collected(), set()
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder: collect takes folders with runs below them")
        real = os.path.realpath(folder)
        for below in sorted(find_records(str(folder))):
            file = os.path.join(folder, below, RECORD)  # noqa: PTH118 (Path takes ten times as long)
            if (known := os.path.join(real, below)) in seen:  # noqa: PTH118
                continue
            seen.add(known)
            try:
                collected.rows.append(read_row(file))
            except (OSError, ValueError, RecursionError) as error:
                collected.skipped.append((Path(file), f"{type(error).__name__}: {error}".splitlines()[0]))
    collected.rows = in_order(collected.rows)
    return collected


def find_records(folder: str, below: str = "") -> Iterator[str]:
    """Yield the folders below a folder, relative to it, that have a run.json, without looking into checkpoints."""
    with contextlib.suppress(OSError), os.scandir(os.path.join(folder, below)) as entries:  # noqa: PTH118
        for entry in entries:
            if entry.name == RECORD:
                yield below
            elif entry.name != "checkpoint" and entry.is_dir(follow_symlinks=False):
                yield from find_records(folder, os.path.join(below, entry.name))  # noqa: PTH118


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Return the rows ordered by start time; the jobs of a sweep stay together, ordered by number."""
    group = {row: str(row.folder.parent) if row.job else row.path for row in rows}
    started: dict[str, str] = {}
    for row in rows:
        time = row.started_at or ""
        started[group[row]] = min(started.get(group[row], time), time)
    numbers = {row: [int(number) for number in re.findall(r"\d+", row.folder.name)] for row in rows}
    return sorted(rows, key=lambda row: (started[group[row]], group[row], numbers[row]))


def read_row(file: str | Path) -> Row:
    """Read a record. Raises OSError or ValueError for a file that is not the record of a training run."""
    with open(file, "rb") as opened:  # noqa: PTH123
        document = json.loads(opened.read(), parse_constant=reject_constant)
    check_record(document)
    record = parse(RunRecord, document)
    assert record is not None
    return row_of(record, os.path.dirname(file))  # noqa: PTH120


def reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def check_record(document: Any) -> None:
    """Raise ValueError unless a row can be made of the JSON."""
    if not isinstance(document, dict) or "schema_version" not in document or "run_id" not in document:
        raise ValueError("not a record of a run: it has no schema_version and run_id")
    if document["schema_version"] != SCHEMA_VERSION:
        raise ValueError(
            f"schema_version {document['schema_version']!r} cannot be read: this version reads {SCHEMA_VERSION}"
        )
    if document.get("task") != "train":
        raise ValueError(f"task={document.get('task')} is not a training run")
    expected: dict[str, Any] = {"started_at": str, "status": str, "config": dict, "style": str | None}
    expected |= dict.fromkeys(("metrics", "data", "git", "leg"), dict | None)
    expected |= {f"config.{group}": dict for group in ("model", "train", "optim", "schedule", "data")}
    expected |= {"config.model.tie_lm_head": bool, "config.model.input_rmsnorm": bool}
    if document.get("status") == "completed":
        expected |= {"seed": int, "style": str, "metrics": dict, "metrics.val_loss": int | float | None}
        numbers = ("parameter_count", "mean_loss_last_n", "steps_per_sec")
        expected |= {f"metrics.{key}": int | float for key in numbers}
    for path, kind in expected.items():
        value = value_at(document, path)
        if not isinstance(value, kind):
            raise ValueError(f"{path} is {value!r}")
    if re.fullmatch(STYLE_NAME, str(document.get("style"))) is None:
        raise ValueError(f"style {document['style']!r} may have only letters, digits, '_', '.' and '-' in its name")


def row_of(record: RunRecord, folder: str) -> Row:
    config, model = record.config, record.config["model"]
    git, leg, data = record.git or GitState(), record.leg, record.data or parse(DataSummary, {})
    assert data is not None
    tags = config.get("tags")
    known = {**(vars(record.metrics) if record.metrics else {}), **vars(record)}
    row: dict[str, Any] = {name: known.get(name) for name in COLUMNS} | {
        "variant": variant_name(model["tie_lm_head"], model["input_rmsnorm"]),
        "tie_lm_head": model["tie_lm_head"],
        "input_rmsnorm": model["input_rmsnorm"],
        "style": str(record.style),
        "error": None if record.error is None else with_line_feeds(str(record.error)),
        "model": model.get("name"),
        "first_step": leg.first_step if leg else 0,
        "leg_from": leg.from_ if leg else None,
        "leg_other_data": "; ".join(leg.other_data) or None if leg else None,
        "data": config["data"].get("name"),
        "data_sha256": data.sha256,
        "git_commit": git.commit,
        "git_dirty": git.dirty,
        "tags": with_line_feeds(", ".join(map(str, tags if isinstance(tags, list) else ()))),
        "notes": with_line_feeds(str(config.get("notes") or "")),
        "path": folder,
        "config": config,
    }
    return Row(
        **row,
        evaluated_documents=data.evaluated_documents,
        long_documents=data.long_documents.count if data.long_documents else None,
        command=str(record.command or ""),
        environment=", ".join(environment_words(record)),
        samples=tuple(map(str, record.samples)),
        baselines={
            name: float(loss)
            for name, loss in (data.baselines.items() if isinstance(data.baselines, dict) else ())
            if loss is not None and is_finite(loss)
        },
    )


def environment_words(record: RunRecord) -> Iterator[str]:
    """Yield `name value` for each known fact about where a run ran."""
    for name in ("backend", "kernel", "dtype", "device", "threads", "processes"):
        value = getattr(record, name)
        if value is not None and (name, value) != ("processes", 1):
            yield f"{name} {value}"
    machine = record.environment
    if machine is None:
        return
    for name in ("cpu", "cores", "gpu", "platform", "python"):
        if getattr(machine, name) is not None:
            yield f"{name} {getattr(machine, name)}"
    yield from (f"{name} {version}" for name, version in (machine.versions or {}).items())


def with_line_feeds(text: str) -> str:
    """Return a text without carriage returns: a lone one would break the row of a CSV file."""
    return re.sub("\r\n?", "\n", text)
