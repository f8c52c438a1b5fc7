"""The effects of the swept keys as a part of a family's section: sentences, tables, plots, and their numbers."""

from statistics import median
from typing import Any

from microgpt.errors import UserError
from microgpt.reports.budgets import Reader
from microgpt.reports.effect_plots import plots_of_effects
from microgpt.reports.experiment_plan import Levels, Plan, control_of, levels_of, nuisance_of
from microgpt.reports.factor_effects import Effect, Effects, against_best, effects_of
from microgpt.reports.factors import Design, design_of
from microgpt.reports.paired_statistics import Difference, number_of_seeds, summary
from microgpt.reports.plot_style import skip_if_failing
from microgpt.reports.plots import joined
from microgpt.reports.report import Analysis, Plot, Table
from microgpt.reports.run_families import Family
from microgpt.reports.tables import effect_rows
from microgpt.reports.wording import best_sentence, effect_sentences

OPTIMIZER, LEARNING_RATE = "optim.name", "optim.lr"
MOST_ROWS = 60
MOST_REMARKS = 8
FEW_SEEDS = 4
WIDE = 5.0  # ratio of a variant's standard deviation to the median of all, from which it is named
NOTE = (
    "Below zero, the loss is lower. A row is a mean of differences taken seed by seed, with an error of its own. The "
    "95 % intervals hold together for all rows of this table, and p (adjusted) is for all rows."
)
INDEPENDENT = (
    "Some variants share too few seeds to be compared seed by seed; as independent samples they need many more seeds."
)
SURVIVORS = "If their runs failed, the settings that fail look better than they are."
ON_AVERAGE = "The effect of a factor is its mean over the levels of the others."


def effects_analysis(family: Family, plan: Plan, read: Reader | None) -> Analysis | None:
    """Return the effects of the swept keys; None if no two variants have results."""
    design, _ = design_and_levels(family, plan)
    if design is None:
        return None
    found = effects_of(design)
    shown = found.effects[:MOST_ROWS]
    rest = f"{len(found.effects) - MOST_ROWS} more rows are in report.json." if len(found.effects) > MOST_ROWS else ""
    note = joined(NOTE, ON_AVERAGE if len(found.design.factors) > 1 else "", rest)
    without_results = sum(not variant.rows for variant in family.variants)
    plots: list[Plot] = []
    if read:
        with skip_if_failing(f"effects of {family.key}"):
            plots = plots_of_effects(family, found)
    return Analysis(
        findings=[
            *([] if family.obstacle else best_sentence(*against_best(design), family.metric, without_results)),
            *effect_sentences(found, family.metric),
            *[*own_rates(family, found), *design.remarks, *found.remarks, *caveats(found)][:MOST_REMARKS],
        ],
        plots=plots,
        blocks=[Table("Effects", effect_rows(shown), note)] if shown else [],
        data=effects_data(found),
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
    paired = all(one.difference.paired for one in found.effects)
    if not paired:
        sentences.append(INDEPENDENT)
    elif shared != every and len(found.design.factors) > 1:
        left_out = number_of_seeds(len(every) - len(shared))
        sentences.append(f"The effects are without {left_out}, which not every combination has. {SURVIVORS}")
    if 1 < len(shared) <= FEW_SEEDS and paired:
        sentences.append(f"{len(shared)} seeds are few: the intervals are several times as wide as with 16.")
    return [*sentences, *wide_variants(found.design)]


def own_rates(family: Family, found: Effects) -> list[str]:
    """Say that optimizers were compared at one learning rate each, if they were."""
    keys = {factor.key for factor in found.design.factors}
    if OPTIMIZER not in keys or LEARNING_RATE in family.variants[0].settings:
        return []
    rates = {str(row.setting("optim", "name")): row.setting("optim", "lr") for row in family.rows}
    stated = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
    return [f"Each optimizer has one learning rate ({stated}): at others, their order may be another."]


def wide_variants(design: Design) -> list[str]:
    spreads = {cell.name: summary(list(cell.sample.values())).sd for cell in design.cells}
    known = {name: sd for name, sd in spreads.items() if sd is not None}
    if len(known) < 3 or len(known) < len(spreads):
        return []
    typical = median(known.values())
    wide = {name: sd / typical for name, sd in known.items() if typical > 0 and sd > WIDE * typical}
    consequence = (
        "comparisons with it have wide intervals, the others are not affected"
        if len(design.factors) == 1
        else "effects that average over it are as uncertain, interactions with its levels may be due to it"
    )
    times = "times as much over seeds as is typical here"
    return [f"{name} varies {ratio:.0f} {times}: {consequence}." for name, ratio in wide.items()]


def effects_data(found: Effects) -> dict[str, Any]:
    """Return the factors, the cells and the effects for report.json."""
    factors = found.design.factors
    return {
        "factors": [
            {
                "key": one.key,
                "levels": list(one.levels),
                "reference": one.levels[one.reference],
                "scale": one.scale or "categories",
            }
            for one in factors
        ],
        "cells": len(found.design.cells),
        "combinations": found.design.combinations,
        "effects": [effect_data(one) for one in found.effects],
    }


def effect_data(one: Effect) -> dict[str, Any]:
    return {
        "label": one.contrast.label,
        "kind": one.contrast.kind,
        "factors": [factor.key for factor in one.contrast.factors],
        "confounded_with": list(one.contrast.aliases),
        **difference_data(one.difference),
    }


def difference_data(found: Difference) -> dict[str, Any]:
    """Return the numbers of a difference; `low` and `high` are the interval that the report shows."""
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
