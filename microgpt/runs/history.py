"""history.jsonl: a JSON line for each logged step, in full precision, appended during the run."""

import json
import os
from pathlib import Path

from microgpt.atomic import naming, write_atomically

HistoryLine = dict[str, float]  # step (steps done), tokens so far; after step 0: loss, lr; if evaluated: val_loss


class History:
    """The lines of a run, in the order of their steps."""

    def __init__(self, path: Path):
        self.path = path

    def rewind(self, step: int) -> None:
        """Remove the lines from `step` on, which a resumed run writes again, and an incomplete last line."""
        kept = [line for line in self.lines() if line["step"] < step]
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def lines(self) -> list[HistoryLine]:
        """Return the lines up to the first that is incomplete; none if there is no file."""
        return parse(self.path.read_text(errors="replace")) if self.path.exists() else []

    def sync(self) -> None:
        """Flush to disk before a checkpoint is saved: a run resumed from it does not rewrite earlier lines."""
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    def write(self, lines: list[HistoryLine]) -> None:
        with naming(self.path), self.path.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)


def parse(text: str) -> list[HistoryLine]:
    """Return the lines up to the first that is not JSON. Parsing them at once is several times as fast."""
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
