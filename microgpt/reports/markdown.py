"""Reports as Markdown, and tables as text."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from microgpt.reports.report import (
    Bullets,
    Cells,
    Drawing,
    Heading,
    Paragraph,
    Plot,
    Plots,
    Report,
    Samples,
    Section,
    Table,
)

TAG = re.compile(r"<(?=[A-Za-z/!?])")
MARKS = {"plain": "{}", "strong": "**{}**", "caption": "{}", "command": "```text\n{}\n```"}  # of a paragraph's style


def markdown(report: Report, stem: str = "") -> str:
    """Return the report as Markdown.

    The images of a section with a comparison key are the files `image_name` beside it; other plots are named only.
    """
    parts = [f"# {report.title}\n", *([f"{plain(report.summary)}\n"] if report.summary else [])]
    for section in report.sections:
        comparison = f" (comparison {section.comparison})" if section.comparison else ""
        parts.append(f"## {plain(section.title)}{comparison}\n")
        for block in section.blocks:
            if isinstance(block, Plots) and section.comparison:
                parts += [f"![{plot.title}]({image_name(stem, section, plot)})\n" for plot in block.plots]
            else:
                parts += WRITERS[type(block)](block)
    return "\n".join([*parts, *([f"{plain(report.footer)}\n"] if report.footer else [])])


def image_name(stem: str, section: Section, plot: Plot) -> str:
    return f"{stem}_{section.comparison}_{plot.name}.png"


def of_paragraph(block: Paragraph) -> Iterator[str]:
    if block.text or block.code:
        text = block.text if block.style == "command" else plain(block.text)
        yield MARKS[block.style].format(" ".join([text, *(f"`{code}`" for code in block.code)])) + "\n"


def of_table(block: Table) -> Iterator[str]:
    if block.title:
        yield f"### {plain(block.title)}\n"
    if block.rows:
        yield markdown_table([*block.rows, *block.references])
    if block.note:
        yield f"{plain(block.note)}\n"


def of_plots(block: Plots) -> Iterator[str]:
    for plot in block.plots:
        yield f"Plot in report.html: {plain(plot.title)}. {plain(plot.caption)}\n"


def of_samples(block: Samples) -> Iterator[str]:
    for variant, seeds in block.variants.items():
        for seed, texts in seeds.items():
            lines = "\n".join(f"    {line}" for text in texts for line in (text or "(empty)").splitlines())
            yield f"{plain(variant)}, seed {seed}:\n\n{lines}\n"


# type of block -> the function that yields its parts, each of which ends with a line break
WRITERS: dict[type, Callable[[Any], Iterator[str]]] = {
    Heading: lambda block: iter([f"### {plain(block.text)}\n"]),
    Paragraph: of_paragraph,
    Bullets: lambda block: iter(["".join(f"- {plain(item)}\n" for item in block.items)]),
    Table: of_table,
    Plots: of_plots,
    Drawing: lambda block: iter([f"Drawing: {plain(block.title)}\n"]),
    Samples: of_samples,
}


def plain(text: str) -> str:
    """Return a text on one line that Markdown shows as it is: records may contain anything."""
    return TAG.sub("&lt;", " ".join(text.split())).replace("|", "\\|")


def markdown_table(rows: Sequence[Cells]) -> str:
    header = list(rows[0])
    table = [header, ["---"] * len(header), *([plain(row[name]) for name in header] for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in table) + "\n"


def text_table(rows: Sequence[Cells]) -> str:
    """Return rows of the same columns as a table of aligned columns."""
    table = [list(rows[0]), *([" ".join(cell.split()) for cell in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(" ".join(map(str.rjust, cells, widths)) for cells in table)
