"""Reports as one HTML page that can be read offline.

The page loads nothing: style and plots are part of it, and its policy forbids everything else. All text is escaped,
since records, samples and errors may contain anything. Equal reports have equal bytes.
"""

from functools import partial
from importlib.resources import files
from itertools import count

from microgpt.reports.plot_style import drawn, svg
from microgpt.reports.report import Report, Table


def html(report: Report) -> str:
    """Return the report as a page."""
    from jinja2 import Environment, StrictUndefined

    numbers = count(1)  # make the ids of the plots unique
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["left"] = left_columns
    environment.filters["svg"] = lambda plot: drawn(plot.title, partial(svg, plot.figure, f"p{next(numbers)}-"), "")
    return environment.from_string(resource("report.html.j2")).render(report=report, style=resource("report.css"))


def resource(name: str) -> str:
    return (files("microgpt.reports") / name).read_text(encoding="utf-8")


def left_columns(table: Table) -> set[str]:
    """Return the columns to align at the left: the first, and those in which most cells begin with a letter."""
    columns = {name: [row[name] for row in table.rows if row[name]] for name in table.rows[0]}
    words = {name for name, cells in columns.items() if 2 * sum(cell[0].isalpha() for cell in cells) > len(cells)}
    return {next(iter(columns)), *words}
