"""The results of a check: results.json and report.md, rewritten after every measurement."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import harness

from microgpt.atomic import write_atomically, write_json
from microgpt.errors import MicrogptError
from microgpt.runs.record import timestamp
from microgpt.runs.record_json import without_non_finite

SCHEMA_VERSION = 1
COMPLETED, FAILED, TIMED_OUT, NOT_RUN = "completed", "failed", "timed out", "not run"
Row = dict[str, Any]


class OutOfTimeError(MicrogptError):
    """The time of a part ran out before its last measurement."""


class RestartError(MicrogptError):
    """A measurement on a GPU failed; the next ones need a new process, because the state of this one is unknown."""


@dataclass
class PartResult:
    """The results of one part. A row with `problem` is a failed measurement; one with `left_out` was not attempted."""

    name: str
    title: str
    columns: list[str]  # keys of the rows, in the order of the table
    status: str = NOT_RUN
    reason: str = ""
    seconds: float | None = None
    notes: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


@dataclass
class Results:
    """The results of all parts, and the folder of their files."""

    folder: Path
    machine: dict[str, Any]
    command: str
    parts: list[PartResult]
    started_at: str = field(default_factory=timestamp)
    finished_at: str | None = None

    @classmethod
    def load(cls, folder: Path) -> "Results":
        found = json.loads((folder / "results.json").read_bytes())
        parts = [PartResult(**part) for part in found["parts"]]
        return cls(folder, found["machine"], found["command"], parts, found["started_at"], found["finished_at"])

    def part(self, name: str) -> PartResult:
        return next(part for part in self.parts if part.name == name)

    def add_row(self, name: str, row: Row) -> None:
        self.part(name).rows.append(row)
        harness.say(f"{name}: " + ", ".join(f"{key} {shown(value)}" for key, value in row.items()))
        self.write()

    def add_note(self, name: str, note: str) -> None:
        if note not in self.part(name).notes:
            self.part(name).notes.append(note)
            self.write()

    def write(self) -> None:
        document = {
            "schema_version": SCHEMA_VERSION,
            "command": self.command,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "machine": self.machine,
            "parts": [asdict(part) for part in self.parts],
        }
        write_json(self.folder / "results.json", without_non_finite(document))
        write_atomically(self.folder / "report.md", self.markdown())

    def markdown(self) -> str:
        ended = self.finished_at or "not finished"
        facts = [f"- {key}: {shown(value)}" for key, value in self.machine.items()]
        head = ["# GPU check", f"    {self.command}", "\n".join([f"- {self.started_at} to {ended}", *facts])]
        summary = [[p.name, p.status, shown(p.seconds), p.reason] for p in self.parts]
        head.append(harness.table(["part", "status", "seconds", ""], summary))
        return "\n\n".join([*head, *map(section, self.parts)]) + "\n"


def section(part: PartResult) -> str:
    """Return a part as Markdown: its notes, its table, and one sentence for each row without figures."""
    parts = [f"## {part.title}"]
    if part.status != COMPLETED:
        parts.append(f"**{part.status}**{f': {part.reason}' if part.reason else ''}")
    parts += [f"{note}." for note in part.notes]
    if part.rows:
        parts.append(harness.table(part.columns, [cells(row, part.columns) for row in part.rows]))
    return "\n\n".join(parts)


def cells(row: Row, columns: list[str]) -> list[str]:
    found = [shown(row.get(key)) for key in columns]
    for key in ("problem", "left_out"):
        if key in row:
            found[-1] = f"{key.replace('_', ' ')}: {row[key]}"
    return found


def shown(value: Any) -> str:
    """Return a number with three significant digits, or any other value as text."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
