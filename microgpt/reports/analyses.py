"""The analyses of a family. Each adds sentences, plots, tables and numbers to the family's section.

An analysis is a function of the family, the plan of its runs, and `read`, which returns the history of a run and is
None if nothing is drawn. It returns None for a family that it does not apply to.
"""

from collections.abc import Callable
from dataclasses import replace

from microgpt.reports.budgets import Reader
from microgpt.reports.effect_report import effects_analysis
from microgpt.reports.experiment_plan import Plan
from microgpt.reports.experiments.ladder import ladder_analysis
from microgpt.reports.experiments.learning_rates import learning_rate_analysis
from microgpt.reports.experiments.scaling import scaling_analysis
from microgpt.reports.planned_contrasts import planned_analysis
from microgpt.reports.precision_intervals import precision_analysis
from microgpt.reports.report import Analysis
from microgpt.reports.run_families import Family
from microgpt.reports.settings import LR

# name in report.json -> analysis, in the order of their sentences, plots and blocks in a section
ANALYSES: dict[str, Callable[[Family, Plan, Reader | None], Analysis | None]] = {
    "planned": planned_analysis,
    "ladder": ladder_analysis,
    "learning_rate": learning_rate_analysis,
    "scaling": scaling_analysis,
    "effects": effects_analysis,
    "precision": precision_analysis,
}
# An analysis -> keys that the analyses after it use at their best values
SETTLED = {"learning_rate": (LR,), "scaling": (LR,)}
REPLACED = {"ladder": "effects"}  # an analysis -> the analysis that it replaces in the same family


def analysed(family: Family, read: Reader | None) -> dict[str, Analysis]:
    """Return the results of the analyses that apply to a family, by name."""
    plan = family.plan
    found: dict[str, Analysis] = {}
    for name, analyse in ANALYSES.items():
        if all(REPLACED.get(other) != name for other in found):
            analysis = analyse(family, plan, read)
            if analysis is not None:
                found[name] = analysis
                plan = replace(plan, nuisance=(*plan.nuisance, *SETTLED.get(name, ())))
    return found
