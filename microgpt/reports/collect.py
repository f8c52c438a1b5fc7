"""Collect runs: from every run.json below some folders to the tables of each style and the report.

Files are written atomically, so that concurrent collectors leave whole files. Collecting again writes the same bytes.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from microgpt.atomic import write_atomically
from microgpt.errors import MicrogptError, UserError
from microgpt.reports.families import Family
from microgpt.reports.html import html
from microgpt.reports.markdown import image_name, markdown, terminal_text, text_table
from microgpt.reports.plot_style import png, skip_if_failing
from microgpt.reports.records import Collected, read_rows, write_rows
from microgpt.reports.report import Report, Section
from microgpt.reports.sections import family_reports, page_report
from microgpt.reports.tables import cell

PAGE = "report.html"
PRINTED = ("variant", "model", "style", "steps", "seed", "val_loss", "mean_loss_last_n", "steps_per_sec", "status")
MOST_PRINTED = 40


@dataclass
class Results:
    collected: Collected
    ablations: list[Section]
    written: list[Path]


def collect(folders: Sequence[Path], results_dir: Path) -> Results:
    """Read every record below the folders, then write the tables and the report; without a run write nothing.

    Raises UserError if a folder is missing or the results cannot be written.
    """
    collected = read_rows(folders)
    results = Results(collected, [], [])
    styles = sorted({row.style for row in collected.rows})
    try:
        results_dir.mkdir(parents=True, exist_ok=True)
        for style in styles:  # before the plots, which may fail
            rows = [row.columns() for row in collected.rows if row.style == style]
            results.written += write_rows(rows, results_dir / f"runs_style-{style}")
        reports = family_reports(collected.rows)
        for style in styles:
            ablations = [
                (one.family, one.ablation)
                for one in reports
                if one.ablation and {row.style for row in one.family.rows} == {style}
            ]
            results.ablations += [section for _, section in ablations]
            results.written += write_ablations(ablations, results_dir / f"ablation_style-{style}")
        if collected.rows:
            write_atomically(results_dir / PAGE, html(page_report(collected, reports)))
            results.written.append(results_dir / PAGE)
    except OSError as error:
        raise UserError(f"results_dir={results_dir} cannot be written: {error.strerror}") from error
    return results


def write_ablations(ablations: Sequence[tuple[Family, Section]], stem: Path) -> list[Path]:
    """Write the ablations of one style with their plots; remove those that an earlier collection left."""
    sections = [section for _, section in ablations]
    images = write_plots(sections, stem)
    if not ablations:
        for ending in (".csv", ".jsonl", ".md"):
            Path(f"{stem}{ending}").unlink(missing_ok=True)
        return images
    rows = [row.columns(comparison=family.key) for family, _ in ablations for row in family.rows]
    page = Path(f"{stem}.md")
    write_atomically(page, markdown(Report("Ablation: tie_lm_head x input_rmsnorm", "", sections), stem.name))
    return [*images, *write_rows(rows, stem), page]


def write_plots(sections: Sequence[Section], stem: Path) -> list[Path]:
    """Write the plots of ablations as PNG; remove those that an earlier collection left."""
    written = []
    for section in sections:
        for plot in section.plots:
            image = stem.parent / image_name(stem.name, section, plot)
            content = b""
            with skip_if_failing(image.name):
                content = png(plot.figure)
            if content:
                write_atomically(image, content)
                written.append(image)
    for old in stem.parent.glob(f"{stem.name}_*.png"):
        if re.fullmatch(r"_[0-9a-f]{8}_[a-z]+\.png", old.name.removeprefix(stem.name)) and old not in written:
            old.unlink(missing_ok=True)
    return written


def collect_and_print(folders: Sequence[Path], results_dir: Path) -> None:
    """Collect runs, and print the newest ones, the ablations, and the files that were written."""
    results = collect(folders, results_dir)
    rows, skipped, written = results.collected.rows, results.collected.skipped, results.written
    for path, reason in skipped:
        print(f"skipped {path}: {reason}")
    if rows:
        newest = rows[-MOST_PRINTED:]
        if len(newest) < len(rows):
            print(f"the newest {len(newest)} of {len(rows)} runs:")
        print(text_table([{column: cell(getattr(row, column)) for column in PRINTED} for row in newest]))
    if results.ablations:
        print(f"\n{terminal_text(results.ablations)}")
    unfinished = sum(row.status != "completed" for row in rows)
    print(f"collected {len(rows)} runs ({unfinished} not completed), skipped {len(skipped)} files")
    images = [path for path in written if path.suffix == ".png"]
    for path in written:
        if path not in images:
            print(f"wrote {path}")
    if images:
        print(f"wrote {len(images)} plots of ablations as PNG in {results_dir}")


def main() -> int:
    """Run the command, and return its exit code."""
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
