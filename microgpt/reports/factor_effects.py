"""Effects of the factors of a design and differences of its cells from the best one, with simultaneous intervals.

All statements of a report about one design belong to one family of comparisons: the effects averaged over the other
factors, the simple effects, and the differences of all pairs of cells. The error of each is that of its own values over
the seeds (paired_statistics.py), and one level holds for all of them (simultaneous.py). Three kinds of designs have two
families, one for the effects and one for all pairs of cells: screenings, of which no simple effect is stated, designs
with a control, and those with a nuisance, whose cells have other seeds.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from microgpt.reports.contrasts import Contrast, averaged_contrasts, separable_pairs, simple_contrasts
from microgpt.reports.factors import Cell, Design, Factor, as_variants
from microgpt.reports.paired_statistics import Difference, Verdict, contrast, difference
from microgpt.reports.screening_model import (
    TOLERANCE,
    alias_remarks,
    is_screening,
    model_of,
    screening_contrasts,
)
from microgpt.reports.simultaneous import Joint, adjusted, joint, together

MOST_PLACES = 10_000  # at which effects are looked for: each level of each factor, or a mean over its levels
MOST_SIMULATED = 12  # cells of which all pairs are judged by a simulated distribution, more by Sidak's bound


@dataclass(frozen=True, eq=False)
class Effect:
    contrast: Contrast
    difference: Difference  # its interval and its adjusted p hold for the whole family

    @property
    def is_shown(self) -> bool:
        return self.difference.verdict in (Verdict.SHOWN, Verdict.EQUAL)

    def is_about(self, *factors: Factor) -> bool:
        return self.contrast.factors == factors


@dataclass(frozen=True)
class Effects:
    """The effects of a design; `averaged` are over the levels of the other factors."""

    design: Design
    averaged: tuple[Effect, ...]
    simple: tuple[Effect, ...] = ()  # of factors whose effect depends on others
    depends: Mapping[Factor, tuple[Factor, ...]] = field(default_factory=dict)  # an interaction is shown, or not known
    remarks: tuple[str, ...] = ()
    is_screening: bool = False

    @property
    def stated(self) -> list[Effect]:
        """The effects that a report states: no average over a factor that the effect depends on, no refuted line."""
        kept = [one for one in (*self.averaged, *self.simple) if not self.is_replaced(one)]
        return sorted(kept, key=lambda one: one.contrast.kind == "interaction")

    def is_replaced(self, one: Effect) -> bool:
        (factor, *others) = one.contrast.factors or (None,)
        if factor is None or others or one.contrast.at or self.is_screening:
            return False
        return factor in self.depends or (one.contrast.kind == "trend" and self.is_curved(factor))

    def is_curved(self, factor: Factor) -> bool:
        """Whether a level of a numeric factor is shown to be off the straight line."""
        return any(one.is_shown and one.contrast.kind == "departure" for one in self.of(factor))

    def of(self, *factors: Factor) -> list[Effect]:
        return [one for one in self.averaged if one.is_about(*factors)]


@dataclass(frozen=True)
class Compared:
    """All comparisons of a design."""

    effects: Effects
    best: Cell
    from_best: Mapping[str, Difference]  # by the name of each other cell that is comparable with the best one
    pairs: Joint  # distribution of the family of all pairs of cells


def effects_of(design: Design) -> Effects:
    return compare(design).effects


def compare(design: Design) -> Compared:
    """Return the effects of a design, or of cells that do not separate its factors the differences between the cells.

    Also the difference of each cell, including those that no effect uses, from the one with the lowest mean.
    """
    model = model_of(design) if is_screening(design) else None
    if model and all((number,) in model.columns for number in range(len(design.factors))):  # all main effects
        contrasts = [one for one in screening_contrasts(design, model) if is_comparable(one, design)]
        effects = replace(estimated(design, contrasts, alias_remarks(design, model)), is_screening=True)
        return Compared(replace(effects, depends=interacting(effects)), *against_best(design))
    if len(design.factors) > 1 and math.prod(1 + len(factor.levels) for factor in design.factors) > MOST_PLACES:
        return compare(as_variants(design))
    contrasts = list(averaged_contrasts(design))
    simple = list(all_simple_contrasts(design))
    if any(all(factor not in one.factors for one in (*contrasts, *simple)) for factor in design.factors):
        return compare(as_variants(design))
    numbers = {one.factors: sum(other.factors == one.factors for other in contrasts) for one in contrasts}
    unknown = {*itertools.combinations(design.factors, 2)} - separable_pairs(design, numbers)
    contrasts = [one for one in contrasts if is_comparable(one, design)]
    simple = [one for one in simple if is_comparable(one, design)]
    found = [estimate(one, design) for one in contrasts]
    best, against = differences_from_best(design)
    is_apart = any(factor.has_control for factor in design.factors)
    family = [*contrasts, *simple]
    level = distribution_of(design, family, [*found, *against.values()], with_pairs=not is_apart)
    averaged = [Effect(one, each) for one, each in zip(contrasts, adjusted(found, level), strict=True)]
    depends = interacting(Effects(design, tuple(averaged)), unknown)
    chosen = [one for one in simple if tuple(other for other, _ in one.at) == depends.get(one.factors[0])]
    judged = adjusted([estimate(one, design) for one in chosen], level)
    own = tuple(Effect(one, each) for one, each in zip(chosen, judged, strict=True))
    effects = Effects(design, tuple(averaged), own, depends)
    if is_apart:
        return Compared(effects, *against_best(design))
    return Compared(effects, best, dict(zip(against, adjusted(list(against.values()), level), strict=True)), level)


def all_simple_contrasts(design: Design) -> Iterator[Contrast]:
    for factor in design.factors:
        others = [other for other in design.factors if other is not factor]
        for number in range(1, len(others) + 1):
            for kept in itertools.combinations(others, number):
                yield from simple_contrasts(design, factor, kept)


def interacting(found: Effects, unknown: set[tuple[Factor, ...]] | None = None) -> dict[Factor, tuple[Factor, ...]]:
    """Return for each factor those that it is shown to interact with, or may for all that the cells can tell."""
    shown = {one.contrast.factors for one in found.averaged if one.contrast.kind == "interaction" and one.is_shown}
    pairs = shown | (unknown or set())
    partners = {
        factor: tuple(other for other in found.design.factors if {(factor, other), (other, factor)} & pairs)
        for factor in found.design.factors
    }
    return {factor: others for factor, others in partners.items() if others}


def estimated(design: Design, contrasts: Sequence[Contrast], remarks: Sequence[str] = ()) -> Effects:
    """Return contrasts of the cells of a design as a family of their own."""
    found = [estimate(one, design) for one in contrasts]
    weights = np.array([one.weights for one in contrasts]).reshape(len(contrasts), len(design.cells))
    pairs = zip(contrasts, together(found, weights), strict=True)
    return Effects(design, tuple(Effect(one, difference) for one, difference in pairs), remarks=tuple(remarks))


def estimate(one: Contrast, design: Design) -> Difference:
    used = np.flatnonzero(np.abs(one.weights) > TOLERANCE)
    return contrast([(float(one.weights[cell]), design.cells[cell].sample) for cell in used])


def is_comparable(one: Contrast, design: Design) -> bool:
    """Return whether only cells that are comparable are subtracted from each other."""
    groups = np.array([cell.variant.group for cell in design.cells])
    return all(abs(one.weights[groups == group].sum()) < TOLERANCE for group in set(groups.tolist()))


def against_best(design: Design) -> tuple[Cell, dict[str, Difference], Joint]:
    """Return the best cell and the differences from it, in the family of the differences of all pairs of cells.

    The best cell was found by looking at all of them.
    """
    best, against = differences_from_best(design)
    level = distribution_of(design, [], list(against.values()), with_pairs=True)
    return best, dict(zip(against, adjusted(list(against.values()), level), strict=True)), level


def differences_from_best(design: Design) -> tuple[Cell, dict[str, Difference]]:
    cells = [*design.cells, *design.others]
    best = min(cells, key=lambda cell: cell.mean)
    others = [cell for cell in cells if cell is not best and cell.variant.group == best.variant.group]
    return best, {cell.name: difference(cell.sample, best.sample) for cell in others}


def distribution_of(
    design: Design, contrasts: Sequence[Contrast], found: Sequence[Difference], *, with_pairs: bool
) -> Joint:
    """Return the distribution for a family: contrasts, and the differences of all comparable pairs of cells."""
    rows, pairs = family_of(design, contrasts, with_pairs=with_pairs)
    if rows.shape[1] > MOST_SIMULATED:
        others = rows[(np.abs(rows) > TOLERANCE).sum(axis=1) > 2] if pairs else rows  # the rest are pairs themselves
        return Joint(max(1, len(different(others)) + len(pairs)), pairs=len(pairs))
    unit = np.eye(rows.shape[1])
    rows = different(np.vstack([rows, *(unit[a : a + 1] - unit[b] for a, b in pairs)]))
    df = [one.df for one in found if one.p is not None and one.df is not None]
    level = joint(rows, min(df)) if len(rows) and df else Joint(1)  # fewer degrees of freedom give wider intervals
    return replace(level, pairs=len(pairs))


def family_of(
    design: Design, contrasts: Sequence[Contrast], *, with_pairs: bool
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Return the weights of contrasts over the distinct cells, and the pairs of comparable distinct cells.

    Cells with equal values count as one: their difference is zero in any case.
    """
    cells = [*design.cells, *design.others]
    keys = [(cell.variant.group, *cell.sample.items()) for cell in cells]
    distinct = list(dict.fromkeys(keys))
    merge = np.array([[float(key == other) for other in distinct] for key in keys])
    weights = np.zeros((len(contrasts), len(cells)))
    weights[:, : len(design.cells)] = [one.weights for one in contrasts] or 0
    numbers = range(len(distinct)) if with_pairs else range(0)
    pairs = [(a, b) for a, b in itertools.combinations(numbers, 2) if distinct[a][0] == distinct[b][0]]
    return weights @ merge, pairs


def different(rows: np.ndarray) -> np.ndarray:
    """Return the rows that are not zero, each direction once."""
    norms = np.linalg.norm(rows, axis=1)
    unit = rows[norms > TOLERANCE] / norms[norms > TOLERANCE, None]
    signs = np.array([np.sign(row[np.abs(row) > TOLERANCE][0]) for row in unit])
    return np.unique(np.round(unit * signs[:, None], 9), axis=0) if len(unit) else unit
