"""What scripts/collect.py and the end of a sweep do: every run.json into results/, a table for each style.

Writing is atomic, so that two collectors at a time leave whole files; collecting again writes the same.
"""

import argparse
import sys
from pathlib import Path

from microgpt.errors import MicrogptError, UserError
from microgpt.reports.ablation import ablation_text, write_ablation
from microgpt.reports.rows import Collected, read_rows, text_table, write_table

PRINTED = ("variant", "model", "style", "steps", "seed", "val_loss", "mean_loss_last_n", "steps_per_sec", "status")
MOST_PRINTED = 40


def collect(folders: list[Path], results_dir: Path) -> tuple[Collected, list[Path]]:
    """Read every record below the folders, write the tables; returns what was read and the files that were written.

    Raises UserError when a folder is missing or the tables cannot be written.
    """
    collected, written = read_rows(folders), []
    try:
        results_dir.mkdir(parents=True, exist_ok=True)
        for style in sorted({row["style"] for row in collected.rows}):
            rows = [row for row in collected.rows if row["style"] == style]
            written += write_table(rows, results_dir / f"runs_style-{style}")
            written += write_ablation(rows, results_dir / f"ablation_style-{style}")
    except OSError as error:
        raise UserError(f"results_dir={results_dir} cannot be written: {error.strerror}") from error
    return collected, written


def collect_and_print(folders: list[Path], results_dir: Path) -> None:
    """What scripts/collect.py and the end of a sweep do."""
    collected, written = collect(folders, results_dir)
    for path, reason in collected.skipped:
        print(f"skipped {path}: {reason}")
    if collected.rows:
        newest = collected.rows[-MOST_PRINTED:]
        if len(newest) < len(collected.rows):
            print(f"the newest {len(newest)} of {len(collected.rows)} runs:")
        print(text_table([{key: row[key] for key in PRINTED} for row in newest]))
    for style in sorted({row["style"] for row in collected.rows}):
        text = ablation_text([row for row in collected.rows if row["style"] == style])
        if text:
            print(f"\n{text}")
    unfinished = sum(row["status"] != "completed" for row in collected.rows)
    print(f"collected {len(collected.rows)} runs ({unfinished} not completed), skipped {len(collected.skipped)} files")
    for path in written:
        print(f"wrote {path}")


def main() -> int:
    """The command: folders to look in, and where the tables go. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Merge every run.json below the folders into tables, and print them.")
    parser.add_argument("folders", nargs="*", type=Path, default=[Path("outputs")], help="where to look for runs")
    parser.add_argument("--results-dir", type=Path, default=Path("results"), help="where the tables go")
    arguments = parser.parse_args()
    try:
        collect_and_print(arguments.folders, arguments.results_dir)
    except MicrogptError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0
