"""Reports as JSON: everything that the page says, and the numbers of each section (docs/reports.md has the schema)."""

import json
from collections.abc import Callable
from typing import Any

from microgpt.reports.report import Bullets, Drawing, Heading, Paragraph, Plots, Report, Samples, Section, Table
from microgpt.runs.record import without_non_finite

SCHEMA_VERSION = 1  # a higher one if a key changes its meaning or is removed


def json_text(report: Report) -> str:
    """Return the report as a JSON document of indented lines."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "title": report.title,
        "summary": report.summary,
        "sections": [section_object(section) for section in report.sections],
        "footer": report.footer,
    }
    return json.dumps(without_non_finite(document), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def section_object(section: Section) -> dict[str, Any]:
    blocks = [{"type": type(block).__name__.lower(), **CONTENTS[type(block)](block)} for block in section.blocks]
    return {"title": section.title, "summary": section.summary, "data": section.data, "blocks": blocks}


def of_table(block: Table) -> dict[str, Any]:
    rows = [*block.rows, *block.references]
    return {"title": block.title, "columns": list(rows[0]) if rows else [], "rows": rows, "note": block.note}


# type of block -> its keys besides `type`
CONTENTS: dict[type, Callable[[Any], dict[str, Any]]] = {
    Heading: lambda block: {"text": block.text},
    Paragraph: lambda block: {"text": block.text, "style": block.style, "code": list(block.code)},
    Bullets: lambda block: {"items": list(block.items)},
    Table: of_table,
    Plots: lambda block: {
        "plots": [{"name": plot.name, "title": plot.title, "caption": plot.caption} for plot in block.plots]
    },
    Drawing: lambda block: {"title": block.title},
    Samples: lambda block: {
        "variants": {
            name: {str(seed): list(texts) for seed, texts in seeds.items()} for name, seeds in block.variants.items()
        }
    },
}
