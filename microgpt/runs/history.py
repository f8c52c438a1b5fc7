"""history.jsonl: one JSON line for each logged step, full precision, appended as the run goes."""

import json
import os
from pathlib import Path

from microgpt.atomic import write_atomically

HistoryLine = dict[str, float]  # step, tokens; unless step is 0: loss, lr; if the step was evaluated: val_loss


class History:
    """Lines have `step` (steps done), `loss` and `lr` of that step, `tokens` so far, and `val_loss` where evaluated."""

    def __init__(self, path: Path):
        self.path = path

    def rewind(self, step: int) -> None:
        """Drop the lines from `step` on, and a line that a crash left unfinished: a resumed run writes them again."""
        kept = [line for line in self.lines() if line["step"] < step]
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def lines(self) -> list[HistoryLine]:
        found = []
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                try:
                    found.append(json.loads(line))
                except ValueError:
                    break
        return found

    def sync(self) -> None:
        """Flush what was written to disk: the lines before a checkpoint are not written again after it."""
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    def write(self, lines: list[HistoryLine]) -> None:
        with self.path.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
