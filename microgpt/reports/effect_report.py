"""The effects of the swept keys as a part of a family's section: sentences, a table, plots, and their numbers."""

from typing import Any

from microgpt.reports.budgets import Reader
from microgpt.reports.charts import strips
from microgpt.reports.effects import Effect, Effects, against_best, effects_of
from microgpt.reports.factors import design_of
from microgpt.reports.families import Family
from microgpt.reports.plans import Plan
from microgpt.reports.plot_style import skip_if_failing
from microgpt.reports.plots import LOSSES, MOST_STRIPS, UNIT, difference_strips, dots_caption, joined
from microgpt.reports.report import Analysis, Plot, Table
from microgpt.reports.statistics import Difference
from microgpt.reports.tables import effect_rows
from microgpt.reports.wording import best_sentence, effect_sentences

MOST_ROWS = 60
MOST_REMARKS = 8
NOTE = (
    "Below zero, the loss is lower. Means of differences that are taken seed by seed. The 95 % intervals hold together "
    "for all rows of this table, and p (adjusted) is for all rows."
)
ON_AVERAGE = "The effect of a factor is its mean over the levels of the others."


def effects_analysis(family: Family, plan: Plan, read: Reader | None) -> Analysis | None:
    """Return the effects of the swept keys; None for a family without two variants that have results."""
    design = design_of(family, plan.nuisance)
    if design is None:
        return None
    found = effects_of(design)
    findings = [
        *best_sentence(*against_best(design), family.metric),
        *effect_sentences(found, family.metric),
        *[*design.remarks, *found.remarks][:MOST_REMARKS],
    ]
    shown = found.effects[:MOST_ROWS]
    more = f"{len(found.effects) - MOST_ROWS} more rows are in report.json." if len(found.effects) > MOST_ROWS else ""
    note = joined(NOTE, ON_AVERAGE if len(found.design.factors) > 1 else "", more)
    table = Table("Effects", effect_rows(shown), note)
    plots = []
    if read:
        with skip_if_failing(f"effects of {family.key}"):
            plots = effect_strips(family, found)
    return Analysis(findings, plots, [table] if shown else [], effects_data(found))


def effect_strips(family: Family, found: Effects) -> list[Plot]:
    known = [one for one in found.effects if one.difference.mean is not None]
    chosen = sorted(known, key=lambda one: (one.difference.p is None, one.difference.p or 0))[:MOST_STRIPS]
    rows = difference_strips({one.contrast.label: one.difference for one in known if one in chosen})
    if not rows:
        return []
    figure = strips(rows, x_label=f"effect on the {LOSSES[family.metric]} ({UNIT})", zero=True)
    some = f"The {len(chosen)} of {len(known)} effects with the smallest p are drawn." * (len(chosen) < len(known))
    caption = joined("Left of zero, the loss is lower.", dots_caption("seed", rows), "The bars hold together.", some)
    title = "Main effects and interactions" if len(found.design.factors) > 1 else "Differences between levels"
    return [Plot("effects", title, caption, figure)]


def effects_data(found: Effects) -> dict[str, Any]:
    """Return the factors, the cells and the effects for report.json."""
    return {
        "factors": [
            {
                "key": one.key,
                "levels": list(one.levels),
                "reference": one.levels[one.reference],
                "scale": one.scale or None,
            }
            for one in found.design.factors
        ],
        "cells": len(found.design.cells),
        "combinations": found.design.combinations,
        "effects": [effect_data(one) for one in found.effects],
        "remarks": [*found.design.remarks, *found.remarks],
    }


def effect_data(one: Effect) -> dict[str, Any]:
    return {
        "kind": one.contrast.kind,
        "factors": [factor.key for factor in one.contrast.factors],
        "label": one.contrast.label,
        "confounded_with": list(one.contrast.aliases),
        **difference_data(one.difference),
    }


def difference_data(found: Difference) -> dict[str, Any]:
    return {
        "estimate": found.mean,
        "low": found.interval.low if found.interval else None,
        "high": found.interval.high if found.interval else None,
        "standard_error": found.error,
        "df": found.df,
        "p": found.p,
        "p_adjusted": found.p_adjusted,
        "seeds": found.n,
        "paired": found.paired,
        "verdict": found.verdict.name.lower(),
        "seeds_needed": found.seeds_needed,
    }
