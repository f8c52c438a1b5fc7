"""What scripts/collect.py and the end of a sweep do: from every run.json to tables for each style and the report.

Writing is atomic, so that two collectors at a time leave whole files; collecting again writes the same.
"""

import argparse
import re
import sys
from pathlib import Path

from microgpt.atomic import write_atomically
from microgpt.errors import MicrogptError, UserError
from microgpt.reports.html import REPORT, report_html, sections_of
from microgpt.reports.markdown import Plots, ablation_text, write_ablation
from microgpt.reports.records import Collected, read_rows, text_table, write_table
from microgpt.reports.sections import Section

PRINTED = ("variant", "model", "style", "steps", "seed", "val_loss", "mean_loss_last_n", "steps_per_sec", "status")
MOST_PRINTED = 40


def collect(folders: list[Path], results_dir: Path) -> tuple[Collected, list[Path]]:
    """Read every record below the folders, write the tables and the report; returns what was read and what was written.

    Without a run nothing is written. Raises UserError when a folder is missing or the results cannot be written.
    """
    collected, written = read_rows(folders), []
    try:
        results_dir.mkdir(parents=True, exist_ok=True)
        sections = sections_of(collected)
        for style in sorted({row["style"] for row in collected.rows}):
            rows = [row for row in collected.rows if row["style"] == style]
            written += write_table(rows, results_dir / f"runs_style-{style}")
            stem = results_dir / f"ablation_style-{style}"
            plots = write_plots([s for s in sections if {row["style"] for row in s.rows} == {style}], stem)
            written += [stem.parent / path for titles in plots.values() for path in titles.values()]
            written += write_ablation(rows, stem, plots)
        if collected.rows:
            write_atomically(results_dir / REPORT, report_html(collected, sections))
            written.append(results_dir / REPORT)
    except OSError as error:
        raise UserError(f"results_dir={results_dir} cannot be written: {error.strerror}") from error
    return collected, written


def write_plots(sections: list[Section], stem: Path) -> Plots:
    """The plots of ablations as PNG beside their tables; removes those that an earlier collection of other runs left.

    Returns, for each comparison, the files by title, relative to the stem's folder.
    """
    from microgpt.reports.plot_style import png

    plots: dict[str, dict[str, Path]] = {}
    for section in sections:
        for plot in section.plots if section.kind == "ablation" else []:
            path = Path(f"{stem.name}_{section.key}_{plot.name}.png")
            write_atomically(stem.parent / path, png(plot.figure))
            plots.setdefault(section.key, {})[plot.title] = path
    kept = {path.name for titles in plots.values() for path in titles.values()}
    for old in stem.parent.glob(f"{stem.name}_*.png"):
        if re.fullmatch(r"_[0-9a-f]{8}_[a-z]+\.png", old.name.removeprefix(stem.name)) and old.name not in kept:
            old.unlink(missing_ok=True)
    return plots


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
    plots = [path for path in written if path.suffix == ".png"]
    for path in written:
        if path not in plots:
            print(f"wrote {path}")
    if plots:
        print(f"wrote {len(plots)} plots of ablations as PNG in {results_dir}")


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
