"""The contrasts of a sweep by hydra/sweeper=precision: the estimates of the first stage, and the final intervals.

Everything follows from the records: the losses by seed, and the stated half-width and number of first seeds, which the
sweeper writes into each job's configuration (`precision`). The sweeper and the report call the same function.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from microgpt.reports.budgets import Reader
from microgpt.reports.contrasts import Contrast
from microgpt.reports.effect_report import design_and_levels
from microgpt.reports.experiment_plan import Levels, Plan, control_of
from microgpt.reports.factor_effects import effects_of
from microgpt.reports.factors import Cell, Design
from microgpt.reports.paired_statistics import number_of_seeds
from microgpt.reports.planned_contrasts import answers_of
from microgpt.reports.report import Analysis, Cells, Table
from microgpt.reports.run_families import Family
from microgpt.reports.settings import fingerprint
from microgpt.reports.two_stage import FirstStage, first_stage

NOTE = (
    "Below zero, the first has the lower loss. An interval is the mean over all seeds plus or minus a half-width from "
    "the variance of the first stage alone (Stein's two-stage procedure). The intervals are simultaneous with 95 % "
    "coverage although the data chose the number of seeds; the other intervals of this report assume a fixed number."
)


@dataclass(frozen=True, eq=False)
class Precise:
    """The contrasts of a sweep after the first stage, or after both."""

    half_width: float  # stated
    stage: FirstStage
    seeds: int  # of every variant that counts
    labels: tuple[str, ...]
    means: np.ndarray  # (contrasts,)
    failed: tuple[str, ...]  # variants with a failed run: contrasts with them are left out

    @property
    def seeds_needed(self) -> int:
        return self.stage.seeds_needed(self.half_width)

    @property
    def half_widths(self) -> np.ndarray:
        return self.stage.half_widths(self.seeds)

    @property
    def widest(self) -> float:
        return float(self.half_widths.max())

    def intervals(self) -> Iterator[tuple[str, float, float]]:
        """Yield (label, mean, half-width) of each contrast."""
        return zip(self.labels, self.means.tolist(), self.half_widths.tolist(), strict=True)

    def sentences(self) -> list[str]:
        """Say what was stated and what was reached, and what is left out."""
        needed, widest = self.seeds_needed, f"{self.widest:.3g}"
        reached = (
            f"With {number_of_seeds(self.seeds)} no interval of the two-stage procedure has a half-width above {widest}"
        )
        stated = f"{self.half_width:g} was stated"
        if self.seeds < needed:
            stated += f" and needs {number_of_seeds(needed)}"
        return [f"{reached}; {stated}.", *self.remarks]

    @property
    def remarks(self) -> list[str]:
        return [f"{name} has a failed run: contrasts with it are left out." for name in self.failed]


def precise(family: Family, plan: Plan, half_width: float | None = None) -> Precise | None:
    """Return the contrasts of the runs of the precision sweeper; None if there are none to estimate.

    `half_width` is the stated one; None: that of the newest run. The contrasts are those of `report.contrasts` or, if
    there are none, comparisons with `report.control`, or all pairs of variants.
    """
    rows = [row for row in family.members if (row.config.get("precision") or {}).get("first_seeds")]
    design, levels = design_and_levels(family, plan)
    if not rows or design is None:
        return None
    newest = max(rows, key=lambda row: row.started_at).config["precision"]
    first = sorted({row.seed for row in rows})[: newest["first_seeds"]]
    is_whole = np.array([set(first) <= set(cell.sample) and not cell.variant.failed for cell in design.cells])
    contrasts = [one for one in contrasts_of(design, plan, levels) if not one.weights[~is_whole].any()]
    used = np.flatnonzero(np.any([one.weights for one in contrasts], axis=0)) if contrasts else ()
    cells = [design.cells[number] for number in used]
    failed = tuple(variant.name for variant in family.variants if variant.failed)
    if not cells:
        return None
    weights = np.array([one.weights[used] for one in contrasts])
    stage = first_stage(losses(cells, first), weights)
    seeds = sorted({row.seed for row in rows}.intersection(*(cell.sample for cell in cells)))
    means = weights @ losses(cells, seeds).mean(axis=1)
    stated = newest["half_width"] if half_width is None else half_width
    return Precise(stated, stage, len(seeds), tuple(one.label for one in contrasts), means, failed)


def losses(cells: Sequence[Cell], seeds: Sequence[int]) -> np.ndarray:
    """Return the losses (cells, seeds)."""
    return np.array([[cell.sample[seed] for seed in seeds] for cell in cells])


def contrasts_of(design: Design, plan: Plan, levels: Levels) -> list[Contrast]:
    """Return the planned contrasts or, if there are none, comparisons with the control, or of all pairs of cells."""
    if plan.contrasts:
        answers, _ = answers_of(plan, levels, effects_of(design))
        return [one.contrast for one in answers.averaged]
    unit, names = np.eye(len(design.cells)), [cell.name for cell in design.cells]
    pairs = list(itertools.combinations(range(len(design.cells)), 2))
    if plan.control:
        control = control_of(plan, levels)
        places = {fingerprint(cell.variant.settings): number for number, cell in enumerate(design.cells)}
        bases = (places.get(fingerprint({**cell.variant.settings, **control})) for cell in design.cells)
        pairs = [(base, number) for number, base in enumerate(bases) if base is not None and base != number]
    return [Contrast("difference", (), f"{names[b]} against {names[a]}", unit[b] - unit[a]) for a, b in pairs]


def precision_analysis(family: Family, plan: Plan, read: Reader | None) -> Analysis | None:
    """Return the final intervals of a sweep of hydra/sweeper=precision; None for other families."""
    found = precise(family, plan)
    if found is None:
        return None
    rows: list[Cells] = [
        {"contrast": label, "difference": f"{mean:+.5f}", "interval": f"[{mean - half:+.5f}, {mean + half:+.5f}]"}
        for label, mean, half in found.intervals()
    ]
    return Analysis(
        findings=found.sentences(),
        blocks=[Table("Intervals of the two-stage procedure", rows, NOTE)],
        data={
            "half_width": found.half_width,
            "first_seeds": found.stage.seeds,
            "excess_kurtosis": found.stage.kurtosis,
            "degrees_of_freedom": found.stage.df,
            "critical_value": found.stage.critical,
            "seeds_needed": found.seeds_needed,
            "seeds": found.seeds,
            "failed": list(found.failed),
            "contrasts": [
                {"label": label, "estimate": mean, "low": mean - half, "high": mean + half}
                for label, mean, half in found.intervals()
            ],
        },
    )
