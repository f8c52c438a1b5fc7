"""The effects of the swept keys as a part of a family's section: sentences, tables, plots, and their numbers."""

from functools import partial
from statistics import median
from typing import Any

import numpy as np

from microgpt.errors import UserError
from microgpt.reports.budgets import Reader
from microgpt.reports.context_sentences import failure_sentences, fixed_rates, reference_sentences, tried_rates
from microgpt.reports.document import difference_object
from microgpt.reports.effect_plots import plots_of_effects
from microgpt.reports.experiment_plan import Levels, Plan, control_of, levels_of, nuisance_of
from microgpt.reports.factor_effects import Compared, Effect, Effects, against_best, compare
from microgpt.reports.factors import Design, design_of, variants_of
from microgpt.reports.paired_statistics import number_of_seeds, summary
from microgpt.reports.plot_style import drawn
from microgpt.reports.plots import joined
from microgpt.reports.report import Analysis, Table
from microgpt.reports.run_families import Family
from microgpt.reports.tables import effect_rows, explanation
from microgpt.reports.wording import best_sentence, effect_sentences

MOST_ROWS = 60
MOST_REMARKS = 8
FEW_SEEDS = 4
OUTLYING = 5.0  # median absolute deviations from the median
WIDE = 5.0  # ratio of a variant's standard deviation to the median of all, from which it is named
MEASURED = "Effects are means over measured combinations only; a row that needs another combination is left out."
ON_AVERAGE = "A row without “with” is a mean over the levels of the other factors."
CROSSED = (
    "In a row with ×, the difference is that of two effects: below zero, the effect of the first setting is smaller "
    "(more negative) with the second."
)
TREND = "(trend): the change along a straight line from the first level of the key to the last."
OFF_THE_LINE = (
    "In a row “off the line”, below zero: the mean is below the straight line fitted to all means against {}."
)
INDEPENDENT = (
    "Some variants share too few seeds to be compared seed by seed; as independent samples they need many more seeds."
)


def effects_analysis(family: Family, plan: Plan, read: Reader | None) -> Analysis | None:
    """Return the effects of the swept keys; None if no two variants have results."""
    compared, design = comparisons_of(family, plan)
    if compared is None:
        return None
    found = compared.effects
    stated = found.stated if design else []
    shown = stated[:MOST_ROWS]
    is_tuned = bool(nuisance_among(family, plan))  # another analysis has the best values
    without_results = sum(not variant.rows for variant in family.variants)
    draw = partial(plots_of_effects, family, found)
    plots = drawn(f"effects of {family.key}", draw, []) if read and stated else []
    remarks = [*(design.remarks if design else ()), *found.remarks, *caveats(found)]
    best = [] if family.obstacle else best_sentence(compared, family.metric, without_results)
    is_told = bool(best) and len(compared.from_best) == 1  # the only difference
    return Analysis(
        findings=[
            *best,
            *failure_sentences(family),
            *reference_sentences(family),
            *([] if is_tuned else tried_rates(family, compared)),
            *(effect_sentences(found, family.metric) if design and not is_told else []),
            *([] if is_tuned else fixed_rates(family)),
            *remarks[:MOST_REMARKS],
        ],
        plots=plots,
        blocks=[Table("Effects", effect_rows(shown), note_of(found, shown, len(stated)))] if shown else [],
        data=effects_data(found) if design else {},
        compared=compared,
    )


def comparisons_of(family: Family, plan: Plan) -> tuple[Compared | None, Design | None]:
    """Return all comparisons of a family, and the design of its effects; None if no two variants have results.

    The variants of a family with a nuisance are compared with the best one on all their seeds.
    """
    design, _ = design_and_levels(family, plan)
    variants = variants_of(family)
    if variants is None:
        return None, None
    if design is None:
        return compare(variants), None
    compared = compare(design)
    if nuisance_among(family, plan):
        return Compared(compared.effects, *against_best(variants)), design
    return compared, design


def nuisance_among(family: Family, plan: Plan) -> list[str]:
    return nuisance_of(plan, levels_of([variant.settings for variant in family.variants]))


def note_of(found: Effects, shown: list[Effect], number: int) -> str:
    """Return the caption of the table of effects."""
    labels = [one.contrast.label for one in shown]
    several = len(found.design.factors) > 1
    numeric = [one for one in found.design.factors if one.is_numeric]
    axes = " or ".join(f"{'log ' * (one.scale == 'log')}{one.name}" for one in numeric)
    return joined(
        explanation([one.difference for one in shown]),
        f"{MEASURED} {ON_AVERAGE}" if several else "",
        CROSSED if any("×" in label for label in labels) else "",
        TREND if any("(trend)" in label for label in labels) else "",
        OFF_THE_LINE.format(axes) if any(label.endswith("off the line") for label in labels) else "",
        f"{number - len(shown)} more rows are in report.json." if number > len(shown) else "",
    )


def design_and_levels(family: Family, plan: Plan) -> tuple[Design | None, Levels]:
    """Return the design of a family with the plan's control and nuisances, and the levels of its factors."""
    levels = levels_of([variant.settings for variant in family.variants])
    nuisance = nuisance_of(plan, levels)
    factors = {key: values for key, values in levels.items() if key not in nuisance}
    try:
        control = control_of(plan, factors)
    except UserError:  # its level is in none of the runs that were collected
        control = {}
    return design_of(family, nuisance, control), factors


def caveats(found: Effects) -> list[str]:
    """Return sentences about few or unequal seeds, and about variants whose losses vary much more than the others'."""
    samples = [cell.sample for cell in found.design.cells]
    every, shared = set().union(*samples), set(samples[0]).intersection(*samples[1:])
    sentences = []
    paired = all(one.difference.paired for one in found.stated)
    if not paired:
        sentences.append(INDEPENDENT)
    elif shared != every and len(found.design.factors) > 1:
        left_out = number_of_seeds(len(every) - len(shared))
        sentences.append(
            f"Effects that average over all combinations are without {left_out}, which not every combination has."
        )
    if 1 < len(shared) <= FEW_SEEDS and paired:
        sentences.append(f"{len(shared)} seeds are few: the intervals are several times as wide as with 16.")
    return [*sentences, *wide_variants(found.design)]


def wide_variants(design: Design) -> list[str]:
    spreads = {cell.name: summary(cell.sample.values()).sd for cell in design.cells}
    known = {name: sd for name, sd in spreads.items() if sd is not None}
    if min(len(cell.sample) for cell in design.cells) < 3 or len(known) < 3 or len(known) < len(spreads):
        return []
    typical = median(known.values())
    wide = {name: sd / typical for name, sd in known.items() if typical > 0 and sd > WIDE * typical}
    consequence = (
        "comparisons with it have wide intervals; the others are affected only through the correction"
        if len(design.factors) == 1
        else "effects that average over it are as uncertain, and interactions with its levels may be due to it"
    )
    outliers = []
    for cell in design.cells:
        values = np.array(list(cell.sample.values()))
        middle, sd = float(np.median(values)), known[cell.name]
        deviations = np.abs(values - middle)
        far = int(deviations.argmax())
        alone = sd > 2 * max(typical, float(np.delete(values, far).std(ddof=1)))
        if alone and deviations[far] > OUTLYING * np.median(deviations):
            outliers.append(
                f"One seed of {cell.name} ends at {values[far]:.2f}, the others near {middle:.2f}; intervals with this "
                "variant are wide because of it."
            )
    return outliers + [
        f"The standard deviation of {name} over seeds is {ratio:.0f} times the median standard deviation of the "
        f"variants: {consequence}."
        for name, ratio in wide.items()
    ]


def effects_data(found: Effects) -> dict[str, Any]:
    """Return the factors, the cells and the effects for report.json."""
    return {
        "factors": [
            {
                "key": one.key,
                "levels": list(one.levels),
                "reference": one.levels[one.reference],
                "scale": one.scale or "categories",
                "depends_on": [other.key for other in found.depends.get(one, ())],
            }
            for one in found.design.factors
        ],
        "cells": len(found.design.cells),
        "combinations": found.design.combinations,
        "effects": [effect_data(one) for one in found.stated],
    }


def effect_data(one: Effect) -> dict[str, Any]:
    return {
        "label": one.contrast.label,
        "kind": one.contrast.kind,
        "factors": [factor.key for factor in one.contrast.factors],
        "at": {factor.key: factor.levels[level] for factor, level in one.contrast.at},
        "confounded_with": list(one.contrast.aliases),
        **difference_object(one.difference),
    }
