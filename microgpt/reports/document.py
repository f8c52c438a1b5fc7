"""Reports as JSON: the contents of the page, and the numbers of each section (docs/reports.md has the schema)."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from microgpt.reports.factor_effects import Compared
from microgpt.reports.paired_statistics import Difference, Interval, Summary, Verdict
from microgpt.reports.report import (
    Analysis,
    Bullets,
    Drawing,
    Heading,
    Paragraph,
    Plots,
    Report,
    Samples,
    Section,
    Table,
)
from microgpt.reports.run_families import Family, Variant
from microgpt.runs.record_json import without_non_finite

SCHEMA_VERSION = 1  # is increased if a key changes its meaning or is removed


def json_text(report: Report) -> str:
    """Return the report as an indented JSON document."""
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


def family_object(family: Family, analyses: Mapping[str, Analysis], compared: Compared | None) -> dict[str, Any]:
    """Return the numbers of a family for report.json."""
    summaries = {variant.name: found for variant, found in family.ranked}
    return {
        "family": family.key,
        "kind": family.kind,
        "metric": family.metric,
        "runs": {"completed": len(family.rows), "not_completed": len(family.missing)},
        "plan": asdict(family.plan),
        "variants": [
            {**variant_object(one, summaries.get(one.name)), "from_best": found and difference_object(found)}
            for one in family.variants
            for found in [compared.from_best.get(one.name) if compared else None]  # None for the best variant
        ],
        "analyses": {name: one.data for name, one in analyses.items()},
    }


def variant_object(variant: Variant, found: Summary | None) -> dict[str, Any]:
    return {
        "name": variant.name,
        "settings": variant.settings,
        "parameters": variant.parameters,
        "seeds": list(variant.rows),
        "failed": variant.failed,
        "unfinished": variant.unfinished,
        "mean": found.mean if found else None,
        "sd": found.sd if found else None,
        "median": found.median if found else None,
        **ends(found.interval if found else None),
    }


def ends(interval: Interval | None) -> dict[str, float | None]:
    """Return the keys of an interval, null without one."""
    return {"low": interval.low, "high": interval.high} if interval else {"low": None, "high": None}


def difference_object(found: Difference) -> dict[str, Any]:
    """Return the numbers of a difference; `low` and `high` are the ends of the interval in the report."""
    return {
        "estimate": found.mean,
        **ends(found.interval),
        "standard_error": found.error,
        "df": found.df,
        "p": found.p,
        "p_adjusted": found.p_adjusted,
        "seeds": found.n,
        "paired": found.paired,
        "verdict": found.verdict.name.lower(),
        "seeds_needed": None if found.verdict is Verdict.SHOWN else found.seeds_needed,
    }


def of_table(block: Table) -> dict[str, Any]:
    rows = [*block.rows, *block.references]
    return {"title": block.title, "columns": list(rows[0]) if rows else [], "rows": rows, "note": block.note}


# type of block -> a function that returns its keys other than `type`
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
