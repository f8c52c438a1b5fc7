"""history.jsonl: one JSON line per logged step, in full precision, appended during the run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from microgpt.atomic import naming, write_atomically

HistoryLine = dict[str, float]  # step (steps done), tokens so far; after step 0: loss, lr; if evaluated: val_loss


@dataclass
class History:
    """The lines of a run, ordered by step."""

    path: Path
    unwritten: list[HistoryLine] = field(default_factory=list)

    def rewind(self, step: int) -> None:
        """Remove the lines from `step` on, which a resumed run writes again, and an incomplete last line."""
        if self.path.exists():
            kept = [line for line in self.lines() if line["step"] < step]
            write_atomically(self.path, as_text(kept))

    def lines(self) -> list[HistoryLine]:
        """Return the lines before the first incomplete one; an empty list if there is no file."""
        return parse(self.path.read_text(errors="replace")) if self.path.exists() else []

    def add(self, lines: list[HistoryLine]) -> None:
        """Append lines in memory until `write` is called."""
        self.unwritten += lines

    def write(self, lines: Sequence[HistoryLine] = ()) -> None:
        """Append the added lines, then `lines`, to the file."""
        with naming(self.path), self.path.open("a") as file:
            file.write(as_text([*self.unwritten, *lines]))
        self.unwritten = []


def as_text(lines: list[HistoryLine]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def parse(text: str) -> list[HistoryLine]:
    """Return the lines before the first that is not JSON. Parsing all lines at once is several times faster."""
    lines = text.splitlines()
    try:
        found = json.loads(f"[{','.join(lines)}]")
    except (ValueError, RecursionError):
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except (ValueError, RecursionError):
                break
    return [line for line in found if isinstance(line, dict)]
