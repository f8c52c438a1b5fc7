"""Collect runs: read every run.json under some folders, and write the tables of each style and the report.

Files are written atomically, so concurrent collectors leave complete files. Collecting again writes the same bytes.
"""

import argparse
import csv
import io
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from microgpt.atomic import write_atomically
from microgpt.errors import MicrogptError, UserError
from microgpt.reports.document import json_text
from microgpt.reports.effect_report import comparisons_of
from microgpt.reports.html import html
from microgpt.reports.markdown import image_name, markdown
from microgpt.reports.plot_style import drawn, png
from microgpt.reports.records import Collected, read_rows
from microgpt.reports.report import Report, Section
from microgpt.reports.rows import swept_keys
from microgpt.reports.run_families import Family, family_of
from microgpt.reports.sections import FamilyReport, family_reports, page_report
from microgpt.reports.terminal import (
    ablations_text,
    findings_text,
    runs_text,
    settings_text,
    terminal_width,
)

RENDERERS = {"report.html": html, "report.md": markdown, "report.json": json_text}  # file name -> renderer


@dataclass
class Results:
    collected: Collected
    reports: Sequence[FamilyReport]
    ablations: list[Section]
    written: list[Path]


def collect(folders: Sequence[Path], results_dir: Path) -> Results:
    """Read every record under the folders, then write the tables and the report. Without a run, write nothing.

    Raises UserError if a folder is missing or the results cannot be written.
    """
    collected = read_rows(folders)
    results = Results(collected, [], [], [])
    styles = sorted({row.style for row in collected.rows})
    try:
        results_dir.mkdir(parents=True, exist_ok=True)
        for style in styles:  # before the plots, which may fail
            rows = [row for row in collected.rows if row.style == style]
            keys = swept_keys(rows)
            results.written += write_rows([row.columns(keys) for row in rows], results_dir / f"runs_style-{style}")
        results.reports = reports = family_reports(collected.rows)
        for style in styles:
            ablations = [
                (one.family, one.ablation)
                for one in reports
                if one.ablation and {row.style for row in one.family.rows} == {style}
            ]
            results.ablations += [section for _, section in ablations]
            results.written += write_ablations(ablations, results_dir / f"ablation_style-{style}")
        if collected.rows:
            report = page_report(collected, reports)
            for name, render in RENDERERS.items():
                write_atomically(results_dir / name, render(report))
                results.written.append(results_dir / name)
    except OSError as error:
        raise UserError(f"results_dir={results_dir} cannot be written: {error.strerror}") from error
    return results


def write_ablations(ablations: Sequence[tuple[Family, Section]], stem: Path) -> list[Path]:
    """Write the ablations of one style with their plots, and remove the files of an earlier collection."""
    sections = [section for _, section in ablations]
    images = write_plots(sections, stem)
    if not ablations:
        for ending in (".csv", ".jsonl", ".md"):
            Path(f"{stem}{ending}").unlink(missing_ok=True)
        return images
    keys = swept_keys([row for family, _ in ablations for row in family.rows])
    rows = [row.columns(keys, comparison=family.key) for family, _ in ablations for row in family.rows]
    page = Path(f"{stem}.md")
    write_atomically(page, markdown(Report("Ablation: tie_lm_head x input_rmsnorm", "", sections), stem.name))
    return [*images, *write_rows(rows, stem), page]


def write_rows(rows: Sequence[dict[str, Any]], stem: Path) -> list[Path]:
    """Write rows with the same keys as JSON Lines, and as CSV with lists and the configuration as JSON."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows(map(csv_cell, row.values()) for row in rows)
    csv_file, jsonl_file = Path(f"{stem}.csv"), Path(f"{stem}.jsonl")
    write_atomically(csv_file, table.getvalue())
    write_atomically(jsonl_file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return [csv_file, jsonl_file]


def csv_cell(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value


def write_plots(sections: Sequence[Section], stem: Path) -> list[Path]:
    """Write the plots of ablations as PNG, and remove the plots of an earlier collection."""
    written = []
    for section in sections:
        for plot in section.plots:
            image = stem.parent / image_name(stem.name, section, plot)
            if content := drawn(image.name, partial(png, plot.figure), b""):
                write_atomically(image, content)
                written.append(image)
    for old in stem.parent.glob(f"{stem.name}_*.png"):
        if re.fullmatch(r"_[0-9a-f]{8}_[a-z]+\.png", old.name.removeprefix(stem.name)) and old not in written:
            old.unlink(missing_ok=True)
    return written


def collect_and_print(folders: Sequence[Path], results_dir: Path, sweep: Path | None = None) -> None:
    """Collect runs, and print the settings of a sweep or the newest runs, the ablations, and the files written."""
    results = collect(folders, results_dir)
    rows, skipped, written = results.collected.rows, results.collected.skipped, results.written
    for path, reason in skipped:
        print(f"skipped {path}: {reason}")
    ablations, width = results.ablations, terminal_width()
    jobs = [row for row in rows if sweep and row.folder.resolve().is_relative_to(sweep.resolve())]
    if sweep and jobs:
        variants: dict[str, set[str]] = {}  # of each comparison
        for row in jobs:
            variants.setdefault(row.shared.comparison_key, set()).add(row.variant)
        ablations = [section for section in ablations if len(variants.get(section.comparison, ())) > 1]
        if len(variants) > 1 or not ablations:  # the table of an ablation also has a line for each setting
            family = family_of(jobs, sweep.name)
            sweeps = [one for one in results.reports if one.family.kind == "sweep"]
            found = next((one for one in sweeps if jobs[0] in one.family.members), None)
            compared = found.compared if found else comparisons_of(family, family.plan)[0]
            print(settings_text(family, compared, width))
            if found is not None:
                print(findings_text(found.page, width))
    elif rows:
        print(runs_text(rows, width))
    if ablations:
        print(f"\n{ablations_text(ablations, width)}")
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
