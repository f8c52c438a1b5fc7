"""Reports as Markdown, and tables as text."""

from collections.abc import Sequence

from microgpt.reports.report import Cells, Plot, Plots, Report, Section, Table


def markdown(report: Report, stem: str) -> str:
    """Return the report as Markdown; its images are the files `image_name` beside it."""
    parts = [f"# {report.title}\n"]
    for section in report.sections:
        parts.append(f"## {section.title} (comparison {section.comparison})\n")
        for block in section.blocks:
            if isinstance(block, Table):
                parts += [f"### {block.title}\n"] if block.title else []
                parts += [markdown_table(block.rows)] if block.rows else []
                parts.append(f"{block.note}\n")
            elif isinstance(block, Plots):
                parts += [f"![{plot.title}]({image_name(stem, section, plot)})\n" for plot in block.plots]
    return "\n".join(parts)


def image_name(stem: str, section: Section, plot: Plot) -> str:
    return f"{stem}_{section.comparison}_{plot.name}.png"


def markdown_table(rows: Sequence[Cells]) -> str:
    header = list(rows[0])
    table = [header, ["---"] * len(header), *([row[name] for name in header] for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in table) + "\n"


def text_table(rows: Sequence[Cells]) -> str:
    """Return rows of the same columns as a table of aligned columns."""
    table = [list(rows[0]), *([" ".join(cell.split()) for cell in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(" ".join(map(str.rjust, cells, widths)) for cells in table)
