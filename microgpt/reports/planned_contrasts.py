"""The contrasts that were specified before the runs began: their estimates, which come first in a section."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from microgpt.errors import UserError
from microgpt.reports.budgets import Reader
from microgpt.reports.contrasts import Contrast
from microgpt.reports.effect_report import design_and_levels, effect_data
from microgpt.reports.experiment_plan import Levels, Plan, Side, parsed
from microgpt.reports.factor_effects import Effect, Effects, effects_of, estimated
from microgpt.reports.phrases import told
from microgpt.reports.report import Analysis, Block, Bullets, Heading, Paragraph, Table
from microgpt.reports.run_families import Family
from microgpt.reports.settings import exact, exact_values
from microgpt.reports.tables import effect_rows

NOTE = "Named before the runs began. The 95 % intervals are simultaneous for the rows of this table alone."
NO_CONTRASTS = "No contrast was named before the runs began: all intervals are simultaneous for all comparisons."


def planned_analysis(family: Family, plan: Plan, read: Reader | None) -> Analysis | None:
    """Return the question and the estimates of the planned contrasts; None for a plan without either."""
    if plan.question is None and not plan.contrasts:
        return None
    design, levels = design_and_levels(family, plan)
    answers, missing = answers_of(plan, levels, effects_of(design)) if design else (None, plan.contrasts)
    found = answers.averaged if answers else ()
    blocks = planned_blocks(plan, found, [f"{text}: there are no results for it." for text in missing], family.metric)
    return Analysis(first=blocks, data={"contrasts": [effect_data(one) for one in found], "without_results": missing})


def answers_of(plan: Plan, levels: Levels, found: Effects) -> tuple[Effects, list[str]]:
    """Return the planned contrasts as a family of their own, and the contrasts that cannot be estimated."""
    contrasts: list[Contrast] = []
    missing = []
    for text in plan.contrasts:
        own = list(contrasts_of(text, levels, found))
        contrasts += own
        missing += [] if own else [text]
    return estimated(found.design, contrasts), missing


def contrasts_of(text: str, levels: Levels, found: Effects) -> Iterator[Contrast]:
    try:
        planned = parsed(text, levels)
    except UserError:
        return
    if planned.sides is None:
        wanted = set(planned.factors)
        yield from (one.contrast for one in found.averaged if {factor.key for factor in one.contrast.factors} == wanted)
        return
    first, second = planned.sides
    rest = [key for key in levels if key not in {*first, *second}]
    cells = [cell.variant.settings for cell in found.design.cells]
    on_sides = [{exact_values(one, rest) for one in cells if has_values(one, side)} for side in planned.sides]
    common = on_sides[0] & on_sides[1]  # the mean of each side is over the same settings
    weights = [
        np.array([float(has_values(one, side) and exact_values(one, rest) in common) for one in cells])
        for side in planned.sides
    ]
    if common:
        yield Contrast("difference", (), text, weights[0] / weights[0].sum() - weights[1] / weights[1].sum())


def has_values(settings: Mapping[str, Any], side: Side) -> bool:
    return all(exact(settings, key) == exact(side, key) for key in side)


def planned_blocks(plan: Plan, answers: Sequence[Effect], missing: Sequence[str], metric: str) -> list[Block]:
    question = [Paragraph(plan.question)] if plan.question else []
    remark = [Paragraph(plan.remark, "strong")] if plan.remark else []
    if not plan.contrasts:
        return [Heading("The question"), *question, *remark, Paragraph(NO_CONTRASTS, "caption")]
    sentences = [f"{one.contrast.label}: {told(one.difference, metric)}." for one in answers]
    table = [Table("", effect_rows(answers), NOTE)] if answers else []
    heading = Heading("The question, and its answer" if plan.question else "Planned comparisons")
    return [heading, *question, *remark, Bullets([*sentences, *missing]), *table]
