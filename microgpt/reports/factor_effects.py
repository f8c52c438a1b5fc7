"""Effects of the factors of a design: contrasts between its cells, seed by seed, with simultaneous intervals.

A seed's values are described by the least squares fit of main effects and two-factor interactions (sum coding; higher
interactions are assumed to be zero), so each contrast is a weighted sum of the cells. The weights are computed from the
design matrix, whatever cells are missing; an effect whose columns are combinations of those of earlier effects is
confounded with them and named beside them. The error of a contrast is that of its own values over the seeds
(paired_statistics.py), and the intervals hold together (simultaneous.py).
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from microgpt.reports.factors import Cell, Design, Factor, as_variants
from microgpt.reports.paired_statistics import Difference, Verdict, contrast, corrected, difference
from microgpt.reports.simultaneous import Joint, adjusted, together

MOST_PAIRED = 6  # levels of which all pairs are compared; more are compared with the reference only
TOLERANCE = 1e-8  # relative, below which a part of a design matrix is zero

# difference: two levels; trend: change along a numeric factor; departure: of a level from its straight line
Kind = Literal["difference", "trend", "departure", "interaction"]
Pair = tuple[int, int]  # number of a level, and of the one that it is compared with
Columns = np.ndarray  # (cells, degrees of freedom of an effect)


@dataclass(frozen=True, eq=False)
class Contrast:
    """A weighted sum of the cells of a design: a statement about one factor, or about two of them together."""

    kind: Kind
    factors: tuple[Factor, ...]
    label: str  # `optim=lion against adam`
    weights: np.ndarray  # (cells,), their sum is zero
    pairs: tuple["Pair | None", ...] = ()  # for each factor the levels that are compared; None along a trend
    aliases: tuple[str, ...] = ()  # effects that the design cannot tell from this one


@dataclass(frozen=True, eq=False)
class Effect:
    contrast: Contrast
    difference: Difference  # its interval and its adjusted p hold for all effects of the table together

    @property
    def is_shown(self) -> bool:
        return self.difference.verdict in (Verdict.SHOWN, Verdict.EQUAL)

    def is_about(self, *factors: Factor) -> bool:
        return self.contrast.factors == factors


@dataclass(frozen=True)
class Effects:
    """The effects of a design, and what it cannot tell."""

    design: Design
    effects: tuple[Effect, ...]
    remarks: tuple[str, ...] = ()

    def of(self, *factors: Factor) -> list[Effect]:
        return [effect for effect in self.effects if effect.is_about(*factors)]


@dataclass
class Model:
    """The columns of the design matrix that can be estimated, and the names of effects that cannot be told apart."""

    cells: int
    columns: dict[tuple[int, ...], Columns] = field(default_factory=dict)  # by the numbers of the effect's factors
    aliases: dict[tuple[int, ...], list[tuple[int, ...]]] = field(default_factory=dict)  # estimated -> confounded

    @property
    def matrix(self) -> np.ndarray:
        return np.hstack([np.ones((self.cells, 1)), *self.columns.values()])

    def add(self, term: tuple[int, ...], columns: Columns) -> None:
        """Add an effect, or note with which effects it is confounded."""
        known = self.matrix
        solution = np.linalg.lstsq(known, columns, rcond=None)[0]
        rest = columns - known @ solution
        if np.linalg.matrix_rank(rest, tol=TOLERANCE * np.linalg.norm(columns)) == columns.shape[1]:
            self.columns[term] = columns
            return
        start = 1
        for other, own in self.columns.items():
            if np.abs(solution[start : start + own.shape[1]]).max() > TOLERANCE:
                self.aliases.setdefault(other, []).append(term)
            start += own.shape[1]


def effects_of(design: Design) -> Effects:
    """Return the effects of a design; of cells that do not separate its factors, comparisons between the cells."""
    model = model_of(design)
    separable = all((number,) in model.columns for number in range(len(design.factors)))
    if not separable:
        design = as_variants(design)
        model = model_of(design)
    contrasts = [one for one in contrasts_of(design, model) if is_comparable(one, design)]
    return estimated(design, contrasts, confounded(design, model))


def estimated(design: Design, contrasts: Sequence[Contrast], remarks: Sequence[str] = ()) -> Effects:
    """Return contrasts of the cells of a design with their simultaneous intervals."""
    found = [estimate(one, design) for one in contrasts]
    weights = np.array([one.weights for one in contrasts]).reshape(len(contrasts), len(design.cells))
    pairs = zip(contrasts, together(found, weights), strict=True)
    return Effects(design, tuple(Effect(one, difference) for one, difference in pairs), tuple(remarks))


def by_themselves(found: Effects) -> list[Difference]:
    """Return the differences of the effects with intervals of their own, and p values corrected by Holm."""
    return corrected([estimate(one.contrast, found.design) for one in found.effects])


def estimate(one: Contrast, design: Design) -> Difference:
    used = np.flatnonzero(np.abs(one.weights) > TOLERANCE)
    return contrast([(float(one.weights[cell]), design.cells[cell].sample) for cell in used])


def against_best(design: Design) -> tuple[Cell, list[tuple[Cell, Difference]]]:
    """Return the cell with the lowest mean, and the differences of the comparable others from it.

    The intervals hold for all pairs of cells, since the best was found by looking at all of them.
    """
    best = min(design.cells, key=lambda cell: math.fsum(cell.sample.values()) / len(cell.sample))
    others = [cell for cell in design.cells if cell is not best and cell.variant.group == best.variant.group]
    found = [difference(cell.sample, best.sample) for cell in others]
    pairs = math.comb(len(others) + 1, 2)
    distribution = Joint(max(1, pairs))  # a bound, which is close: the sentences need no exact intervals
    return best, list(zip(others, adjusted(found, distribution), strict=True))


def is_comparable(one: Contrast, design: Design) -> bool:
    """Return whether only cells that are comparable are subtracted from each other."""
    groups = np.array([cell.variant.group for cell in design.cells])
    return all(abs(one.weights[groups == group].sum()) < TOLERANCE for group in set(groups.tolist()))


def model_of(design: Design) -> Model:
    """Return the design matrix of main effects, then two-factor interactions."""
    model = Model(len(design.cells))
    codes = [coding(len(factor.levels)) for factor in design.factors]
    levels = np.array([cell.levels for cell in design.cells])
    main = [code[levels[:, number]] for number, code in enumerate(codes)]
    for number, columns in enumerate(main):
        model.add((number,), columns)
    for a, b in itertools.combinations(range(len(main)), 2):
        model.add((a, b), np.einsum("ci,cj->cij", main[a], main[b]).reshape(len(levels), -1))
    return model


def coding(levels: int) -> np.ndarray:
    """Return sum coding, (levels, levels - 1): the columns have sums of zero, so a main effect is one of means."""
    return np.vstack([np.eye(levels - 1), -np.ones(levels - 1)])


def contrasts_of(design: Design, model: Model) -> Iterator[Contrast]:
    """Yield the contrasts of each main effect, then those of each interaction that the model has."""
    matrix, start = model.matrix, 1
    inverse = np.linalg.pinv(matrix)  # (columns, cells)
    names = {term: " × ".join(design.factors[number].name for number in term) for term in all_terms(design)}
    for term, columns in model.columns.items():
        own = inverse[start : start + columns.shape[1]]
        start += columns.shape[1]
        factors = tuple(design.factors[number] for number in term)
        aliases = tuple(names[other] for other in model.aliases.get(term, ()))
        alone = len(design.factors) == 1
        parts = main_contrasts(factors[0], alone) if len(term) == 1 else interaction_contrasts(*factors)
        for kind, label, over_levels, pairs in parts:
            codes = [coding(len(factor.levels)) for factor in factors]
            code = codes[0] if len(term) == 1 else np.kron(codes[0], codes[1])
            weights = over_levels @ code @ own
            weights[np.abs(weights) < TOLERANCE] = 0
            yield Contrast(kind, factors, label, weights, pairs, aliases)


Part = tuple[Kind, str, np.ndarray, tuple[Pair | None, ...]]  # kind, label, weights of the levels, levels compared


def main_contrasts(factor: Factor, alone: bool) -> Iterator[Part]:
    """Yield the trend and the departures of a numeric factor, and the pairs of categories and of a factor `alone`."""
    if factor.is_numeric:
        yield from trend_contrasts(factor)
        if not alone:
            return
    for a, b in compared_levels(factor):
        yield "difference", f"{factor.label(a)} against {factor.value(b)}", level_weights(factor, (a, b)), ((a, b),)


def compared_levels(factor: Factor) -> list[tuple[int, int]]:
    """Return pairs of numbers of levels, those with the reference first, which is the second of its pairs."""
    others = [number for number in range(len(factor.levels)) if number != factor.reference]
    every = not factor.has_control and len(factor.levels) <= MOST_PAIRED
    among_others = itertools.combinations(others, 2) if every else ()
    return [(other, factor.reference) for other in others] + [(later, earlier) for earlier, later in among_others]


def trend_contrasts(factor: Factor) -> Iterator[Part]:
    """Yield the change along the fitted line from the first level to the last, and how far levels are off the line."""
    label = f"{factor.name} from {factor.value(0)} to {factor.value(-1)}"
    yield "trend", label, level_weights(factor, None), (None,)
    x = np.array(factor.positions)
    fit = np.column_stack([np.ones(len(x)), x])
    residual = np.eye(len(x)) - fit @ np.linalg.pinv(fit)
    for level in range(len(x)) if len(x) > 3 else [1]:  # the residuals of three levels are multiples of each other
        yield "departure", f"{factor.label(level)} off the line", residual[level], (None,)


def slope(factor: Factor) -> np.ndarray:
    """Return the weights of the levels whose sum is the slope of the least squares line."""
    centered = np.array(factor.positions) - np.mean(factor.positions)
    return centered / (centered @ centered)


def interaction_contrasts(a: Factor, b: Factor) -> Iterator[Part]:
    """Yield differences of differences: the effect of a level of `a` at one of `b`, minus at the reference of `b`."""
    parts = [list(simple_contrasts(factor)) for factor in (a, b)]
    single = all(len(found) == 1 for found in parts)
    for (name_a, over_a, pair_a), (name_b, over_b, pair_b) in itertools.product(*parts):
        label = f"{a.name} × {b.name}" if single else f"{name_a} × {name_b}"
        yield "interaction", label, np.kron(over_a, over_b), (pair_a, pair_b)


def simple_contrasts(factor: Factor) -> Iterator[tuple[str, np.ndarray, Pair | None]]:
    if factor.is_numeric:
        yield f"{factor.name} (trend)", level_weights(factor, None), None
        return
    for level in range(len(factor.levels)):
        if level != factor.reference:
            pair = (level, factor.reference)
            yield factor.label(level), level_weights(factor, pair), pair


def level_weights(factor: Factor, pair: Pair | None) -> np.ndarray:
    """Return the weights of the levels in their difference, or in the change along the fitted line."""
    if pair is None:
        return slope(factor) * (factor.positions[-1] - factor.positions[0])
    unit = np.eye(len(factor.levels))
    return unit[pair[0]] - unit[pair[1]]


def all_terms(design: Design) -> list[tuple[int, ...]]:
    numbers = range(len(design.factors))
    return [*((number,) for number in numbers), *itertools.combinations(numbers, 2)]


def confounded(design: Design, model: Model) -> list[str]:
    """Return sentences about effects that the cells of the design cannot tell apart."""

    def name(term: tuple[int, ...]) -> str:
        return " × ".join(design.factors[number].name for number in term)

    rest = "what is said about the first may be due to the others"
    return [
        f"{name(term)} is confounded with {' and '.join(map(name, others))}: {rest}."
        for term, others in model.aliases.items()
    ]
