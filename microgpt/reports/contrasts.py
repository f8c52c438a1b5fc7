"""Contrasts of a design: sums of weighted cells, each a statement about one factor or about two factors together.

A contrast uses measured cells only: its weights are those of means over combinations of levels that all have results,
and a contrast that needs another cell does not exist. Two-level designs of many factors, which are usually fractions,
have contrasts of a fitted model instead (screening_model.py).
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from microgpt.reports.factors import Design, Factor

MOST_PAIRED = 6  # levels of which all pairs are compared; more are compared with the reference only

# difference: two levels; trend: change along a numeric factor; departure: of a level from its straight line
Kind = Literal["difference", "trend", "departure", "interaction"]
Pair = tuple[int, int]  # number of a level, and of the one that it is compared with
At = tuple[tuple[Factor, int], ...]  # factors with the number of the level that they are kept at
Part = tuple[Kind, str, np.ndarray, tuple[Pair | None, ...]]  # kind, label, weights of the levels, levels compared


@dataclass(frozen=True, eq=False)
class Contrast:
    kind: Kind
    factors: tuple[Factor, ...]
    label: str  # `optim=lion against adam`
    weights: np.ndarray  # (cells,), their sum is zero
    pairs: tuple[Pair | None, ...] = ()  # for each factor the levels that are compared; None along a trend
    aliases: tuple[str, ...] = ()  # effects that the design cannot tell from this one
    at: At = ()  # of a simple effect; the other factors are averaged over

    @property
    def pair(self) -> Pair:
        """The levels that a difference of one factor compares."""
        (pair,) = self.pairs
        assert pair is not None
        return pair


def averaged_contrasts(design: Design) -> Iterator[Contrast]:
    """Yield the contrasts of each factor and of each pair of factors, as means over the levels of the others."""
    for factor in design.factors:
        for part in main_parts(factor):
            yield from measured(design, (factor,), part)
    for a, b in itertools.combinations(design.factors, 2):
        for part in interaction_parts(a, b):
            yield from measured(design, (a, b), part)


def simple_contrasts(design: Design, factor: Factor, others: tuple[Factor, ...]) -> Iterator[Contrast]:
    """Yield the differences between levels of a factor at each combination of levels of the others."""
    for numbers in itertools.product(*(range(len(other.levels)) for other in others)):
        for part in difference_parts(factor):
            yield from measured(design, (factor,), part, tuple(zip(others, numbers, strict=True)))


def measured(design: Design, factors: tuple[Factor, ...], part: Part, at: At = ()) -> Iterator[Contrast]:
    """Yield the contrast of a part if all the cells that it needs have results."""
    kind, label, over_levels, pairs = part
    weights = cell_weights(design, factors, over_levels, at)
    if weights is not None:
        where = f" with {' '.join(other.label(level) for other, level in at)}" if at else ""
        yield Contrast(kind, factors, f"{label}{where}", weights, pairs, at=at)


def cell_weights(design: Design, factors: tuple[Factor, ...], over_levels: np.ndarray, at: At) -> np.ndarray | None:
    """Return the weight of each cell; None if a cell is missing. `over_levels` has a dimension for each factor."""
    kept = dict(at)
    rest = [factor for factor in design.factors if factor not in factors]
    choices = [[kept[one]] if one in kept else range(len(one.levels)) for one in rest]
    combinations = list(itertools.product(*choices))
    weights = np.zeros(len(design.cells))
    for levels in map(tuple, np.argwhere(over_levels).tolist()):
        for others in combinations:
            known = dict(zip([*factors, *rest], [*levels, *others], strict=True))
            cell = design.number_of_cell.get(tuple(known[factor] for factor in design.factors))
            if cell is None:
                return None
            weights[cell] += over_levels[levels] / len(combinations)
    return weights


def main_parts(factor: Factor) -> Iterator[Part]:
    """Yield the trend and the departures of a numeric factor, and the differences between levels."""
    if factor.is_numeric and factor.has_line:
        yield from trend_parts(factor)
    yield from difference_parts(factor)


def difference_parts(factor: Factor) -> Iterator[Part]:
    for pair in compared_levels(factor):
        yield "difference", pair_label(factor, pair), level_weights(factor, pair), (pair,)


def pair_label(factor: Factor, pair: Pair) -> str:
    """Return `optim=lion against adam`, or `n_embd from 8 to 12`."""
    if factor.is_numeric and not factor.has_control:
        return f"{factor.name} from {factor.value(pair[1])} to {factor.value(pair[0])}"
    return f"{factor.label(pair[0])} against {factor.value(pair[1])}"


def compared_levels(factor: Factor) -> list[Pair]:
    """Return pairs of levels: neighbours of a numeric factor, else those with the reference, then the others."""
    if factor.is_numeric and not factor.has_control:
        return [(b, a) for a, b in pairwise(range(len(factor.levels)))]
    others = [number for number in range(len(factor.levels)) if number != factor.reference]
    every = not factor.has_control and len(factor.levels) <= MOST_PAIRED
    among_others = itertools.combinations(others, 2) if every else ()
    return [(other, factor.reference) for other in others] + [(later, earlier) for earlier, later in among_others]


def trend_parts(factor: Factor) -> Iterator[Part]:
    """Yield the change along the fitted line from the first level to the last, and how far levels are off the line."""
    label = f"{factor.name} from {factor.value(0)} to {factor.value(-1)}, by a straight line"
    yield "trend", label, level_weights(factor, None), (None,)
    x = np.array(factor.positions)
    fit = np.column_stack([np.ones(len(x)), x])
    residual = np.eye(len(x)) - fit @ np.linalg.pinv(fit)
    for level in range(len(x)) if len(x) > 3 else [1]:  # the residuals of three levels are multiples of each other
        yield "departure", f"{factor.label(level)} off the line", residual[level], (None,)


def interaction_parts(a: Factor, b: Factor) -> Iterator[Part]:
    """Yield differences of differences: the effect of a level of `a` at one of `b`, minus at the reference of `b`."""
    parts = [list(reference_parts(factor)) for factor in (a, b)]
    single = all(len(found) == 1 for found in parts)
    for (name_a, over_a, pair_a), (name_b, over_b, pair_b) in itertools.product(*parts):
        label = f"{a.name} × {b.name}" if single else f"{name_a} × {name_b}"
        yield "interaction", label, np.outer(over_a, over_b), (pair_a, pair_b)


def reference_parts(factor: Factor) -> Iterator[tuple[str, np.ndarray, Pair | None]]:
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
        centered = np.array(factor.positions) - np.mean(factor.positions)
        return centered / (centered @ centered) * (factor.positions[-1] - factor.positions[0])
    unit = np.eye(len(factor.levels))
    return unit[pair[0]] - unit[pair[1]]


def separable_pairs(design: Design, found: Mapping[tuple[Factor, ...], int]) -> set[tuple[Factor, ...]]:
    """Return the pairs of factors of which all interaction contrasts were found; `found` has their numbers."""
    return {
        (a, b)
        for a, b in itertools.combinations(design.factors, 2)
        if found.get((a, b), 0) == len(list(interaction_parts(a, b)))
    }
