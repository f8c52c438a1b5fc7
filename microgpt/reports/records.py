"""Rows: one for each run.json below some folders.

Nothing that is read is changed.
"""

import contextlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from microgpt.config.choices import STYLE_NAME
from microgpt.errors import UserError
from microgpt.reports.settings import (
    Settings,
    SharedSettings,
    differing_keys,
    setting,
    settings_of,
)
from microgpt.runs.environment import GitState
from microgpt.runs.record import RECORD, SCHEMA_VERSION, DataSummary, RunRecord, parse

JOB = re.compile(r"(?:sweeps/)?([^/]+)/(\d+)(?:-\d+)?")  # run_id of a sweep's job: the sweep, the job's number
# Keys that have a column of another name
HAVE_COLUMNS = ("model.tie_lm_head", "model.input_rmsnorm", "model.name", "style.name", "data.name", "mode.name")
REPORT_ONLY = {"report_only": True}  # metadata of a field that is not a column


@dataclass(frozen=True, eq=False)
class Row:
    """One run: the columns of the tables, in their order, and what only the report shows.

    Losses are in nats per target token. A run that is not completed may lack any of the metrics.
    """

    variant: str
    tie_lm_head: bool
    input_rmsnorm: bool
    style: str
    parameter_count: int | None
    steps: int | None
    seed: Any  # an integer; anything in the record of a run that failed
    final_loss: float | None
    mean_loss_last_n: float | None
    last_n: int | None
    steps_per_sec: float | None
    tokens_per_sec: float | None
    vocab_size: int | None
    train_tokens: int | None
    val_loss: float | None
    best_val_loss: float | None
    best_step: int | None
    first_val_loss: float | None
    bits_per_character: float | None
    perplexity: float | None
    tokens_seen: int | None
    status: str
    mode: str | None
    backend: str | None
    device: str | None
    using_gpu: bool | None
    dtype: str | None
    run_id: str
    started_at: str
    finished_at: str | None
    config_hash: str | None
    error: str | None
    model: str
    first_step: int
    leg_from: str | None
    leg_other_data: str | None
    data: str
    data_sha256: str | None
    git_commit: str | None
    git_dirty: bool | None
    trial: int | None  # of an optimizing sweeper's study
    tags: str  # separated by commas
    notes: str
    path: str  # the run's folder
    config: dict[str, Any]
    evaluated_documents: int | None = field(metadata=REPORT_ONLY)
    long_documents: int | None = field(metadata=REPORT_ONLY)
    command: str = field(metadata=REPORT_ONLY)
    environment: str = field(metadata=REPORT_ONLY)  # `backend native, ..., python 3.11.7`
    samples: tuple[str, ...] = field(metadata=REPORT_ONLY)
    baselines: dict[str, float] = field(metadata=REPORT_ONLY)  # nats per token of `uniform`, `unigram` and `bigram`

    @cached_property
    def folder(self) -> Path:
        return Path(self.path)

    @cached_property
    def job(self) -> re.Match[str] | None:
        """The sweep and the number of a job of a sweep; None for another run."""
        return JOB.fullmatch(str(self.run_id))

    @property
    def is_completed(self) -> bool:
        """Whether the run was completed with finite losses."""
        losses = (self.mean_loss_last_n, self.val_loss)
        return self.status == "completed" and all(loss is None or is_finite(loss) for loss in losses)

    @cached_property
    def shared(self) -> SharedSettings:
        return settings_of(self.config, self.backend, self.data_sha256)

    @property
    def settings(self) -> Settings:
        """Everything that affects training, except the seed."""
        return self.shared.training

    @property
    def fingerprint(self) -> str:
        """Equal for runs of one variant."""
        return self.shared.fingerprint

    def setting(self, group: str, key: str) -> Any:
        return (self.config.get(group) or {}).get(key)

    @property
    def recorded_settings(self) -> Settings:
        """Everything that affects training or another output, except the seed."""
        return self.shared.recorded

    def columns(self, keys: Sequence[str] = (), **more: Any) -> dict[str, Any]:
        """Return the columns of the tables; `more` and the settings `keys` are before the configuration."""
        known = {name: getattr(self, name) for name in COLUMNS[:-1]}
        return known | more | {key: setting(self.recorded_settings, key) for key in keys} | {"config": self.config}


COLUMNS = [one.name for one in fields(Row) if "report_only" not in one.metadata]


@dataclass
class Collected:
    rows: list[Row] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)  # files that are not records, and why


def swept_keys(rows: Sequence[Row]) -> list[str]:
    """Return the keys in which rows differ, without those that have a column in any case.

    Left out are also keys that follow from another: an optimizer's own keys, if the optimizers differ.
    """
    return [key for key in differing_keys([row.recorded_settings for row in rows]) if key not in HAVE_COLUMNS]


def is_finite(value: Any) -> TypeGuard[float]:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


def variant_name(tie_lm_head: bool, input_rmsnorm: bool) -> str:
    return f"{'tied' if tie_lm_head else 'untied'}_{'' if input_rmsnorm else 'no_'}input_rmsnorm"


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
    """Return rows by their start; the jobs of a sweep are kept together, by their numbers."""
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


def value_at(document: dict[str, Any], path: str) -> Any:
    """Return the value at a dotted path; None if the document has no such key."""
    value: Any = document
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


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
