"""results/report.html: every family of runs in a section, then the runs that belong to none. One file, read offline.

The page asks for nothing from anywhere: style and plots stand in it, and its policy forbids the rest. What comes from
records, samples and errors among it, is escaped. The same records give the same bytes.
"""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from microgpt.reports.families import families
from microgpt.reports.plot_style import svg
from microgpt.reports.provenance import counted, sentence_of
from microgpt.reports.records import Collected, Row, shown
from microgpt.reports.sections import Section, Table, section_of

REPORT = "report.html"
MOST_DRAWN = 8  # families, the newest, whose histories are read and drawn
MOST_SINGLES = 200


def report_html(collected: Collected, sections: Sequence[Section]) -> str:
    """The page for all that was collected; `sections` are `sections_of` it."""
    told = {row["path"] for section in sections for row in section.rows}
    singles = [row for row in collected.rows if row["path"] not in told]
    return template().render(
        style=style(),
        headline=headline(collected, sections),
        sections=[page_section(number, section) for number, section in enumerate(sections, 1)],
        singles=singles_table(singles) if singles else None,
        footer=footer(collected),
    )


def sections_of(collected: Collected, most_drawn: int = MOST_DRAWN) -> list[Section]:
    """Newest first; the plots of the newest alone, as each takes time and room."""
    found = families(collected.rows)
    newest = sorted(found, key=lambda family: max(str(row["started_at"]) for row in family.rows), reverse=True)
    return [
        section_of(family, collected.rows, collected.details, with_plots=number < most_drawn)
        for number, family in enumerate(newest)
    ]


def page_section(number: int, section: Section) -> dict[str, Any]:
    """A section as the template takes it: its plots are SVG by now."""
    drawings = [
        {"title": plot.title, "caption": plot.caption, "svg": svg(plot.figure, f"s{number}-{plot.name}-")}
        for plot in section.plots
    ]
    return {**vars(section), "anchor": f"family-{number}", "drawings": drawings}


def headline(collected: Collected, sections: Sequence[Section]) -> str:
    rows = collected.rows
    days = sorted(str(row["started_at"])[:10] for row in rows)
    when = f"of {days[0]}" if days[0] == days[-1] else f"from {days[0]} to {days[-1]}"
    unfinished = sum(row["status"] != "completed" for row in rows)
    return (
        f"{counted(len(rows), 'run')} {when}, {unfinished:,} not completed, in "
        f"{counted(len(sections), 'section')} of runs that may be looked at together."
    )


def singles_table(rows: Sequence[Row]) -> Table:
    """Runs that belong to no family, newest first."""
    columns = ("model", "variant", "style", "mode", "steps", "seed", "val_loss", "mean_loss_last_n", "steps_per_sec")
    newest = rows[::-1][:MOST_SINGLES]
    lines = [
        {
            "run": row["path"],
            **{column: shown(row[column]) for column in columns},
            "status": " ".join(filter(None, [row["status"], sentence_of(row)])),
        }
        for row in newest
    ]
    some = "" if len(newest) == len(rows) else f"The newest {len(newest)} of {len(rows):,}. "
    return Table("", lines, f"{some}runs_style-*.csv beside this page has every run with all its figures.")


def left_columns(table: Table) -> set[str]:
    """The columns of words, which stand at the left: those in which a cell begins with a letter, and the first."""
    first = list(table.lines[0])[:1]
    return {*first, *(name for line in table.lines for name, cell in line.items() if cell[:1].isalpha())}


def footer(collected: Collected) -> str:
    skipped = len(collected.skipped)
    return f"{counted(skipped, 'file')} named run.json could not be read as a record." if skipped else ""


def style() -> str:
    return (files("microgpt.reports") / "report.css").read_text(encoding="utf-8")


def template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["left"] = left_columns
    return environment.from_string((files("microgpt.reports") / "report.html.j2").read_text(encoding="utf-8"))
