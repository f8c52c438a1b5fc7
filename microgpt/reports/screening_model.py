"""The model of a two-level design of many factors: main effects and two-factor interactions by least squares.

Higher interactions are assumed to be zero, so that a fraction of the combinations is enough. The weights of the cells
are computed from the design matrix, whatever cells it has; an effect whose columns are combinations of those of
earlier effects is confounded with them and named next to them.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from microgpt.reports.contrasts import Contrast, interaction_parts, main_parts
from microgpt.reports.factors import Design

TOLERANCE = 1e-8  # relative, below which a part of a design matrix is zero
MANY = 4  # factors from which a two-level design is a screening

Term = tuple[int, ...]  # numbers of the factors of an effect


@dataclass
class Model:
    """The columns of the design matrix that can be estimated, and the effects that cannot be told apart."""

    cells: int
    columns: dict[Term, np.ndarray] = field(default_factory=dict)  # (cells, 1), values -1 and 1
    aliases: dict[Term, list[Term]] = field(default_factory=dict)  # estimated -> confounded with it

    @property
    def matrix(self) -> np.ndarray:
        return np.hstack([np.ones((self.cells, 1)), *self.columns.values()])

    def add(self, term: Term, column: np.ndarray) -> None:
        """Add an effect, or note the effects that it is confounded with."""
        known = self.matrix
        solution = np.linalg.lstsq(known, column, rcond=None)[0]
        if np.linalg.norm(column - known @ solution) > TOLERANCE * np.linalg.norm(column):
            self.columns[term] = column
            return
        for other, weight in zip(self.columns, solution[1:], strict=True):
            if abs(weight[0]) > TOLERANCE:
                self.aliases.setdefault(other, []).append(term)


def is_screening(design: Design) -> bool:
    """Whether all factors have two levels, and are many or were run in a fraction of their combinations."""
    two_levels = all(len(factor.levels) == 2 for factor in design.factors)
    return two_levels and (len(design.factors) >= MANY or 1 < 2 * len(design.cells) <= design.combinations)


def model_of(design: Design) -> Model:
    """Return the design matrix of main effects, then two-factor interactions."""
    model = Model(len(design.cells))
    signs = 1.0 - 2.0 * np.array([cell.levels for cell in design.cells])  # (cells, factors)
    numbers = range(len(design.factors))
    for term in [*((number,) for number in numbers), *itertools.combinations(numbers, 2)]:
        model.add(term, signs[:, term].prod(axis=1, keepdims=True))
    return model


def screening_contrasts(design: Design, model: Model) -> Iterator[Contrast]:
    """Yield the main effects, then the interactions that the model has."""
    inverse = np.linalg.pinv(model.matrix)[1:]  # (effects, cells): the coefficients of the columns -1 and 1
    for term, coefficient in zip(model.columns, inverse, strict=True):
        factors = tuple(design.factors[number] for number in term)
        parts = main_parts(factors[0]) if len(term) == 1 else interaction_parts(*factors)
        aliases = tuple(name_of(other, design) for other in model.aliases.get(term, ()))
        for kind, label, over_levels, pairs in parts:
            signs = np.ones(())
            for _ in term:
                signs = np.multiply.outer(signs, [1.0, -1.0])
            weights = (over_levels * signs).sum() * coefficient
            weights[np.abs(weights) < TOLERANCE] = 0
            yield Contrast(kind, factors, label, weights, pairs, aliases)


def name_of(term: Term, design: Design) -> str:
    return " × ".join(design.factors[number].name for number in term)


def alias_remarks(design: Design, model: Model) -> list[str]:
    """Return sentences about effects that the cells of the design cannot tell apart."""
    return [
        f"{name_of(term, design)} cannot be told from {' and '.join(name_of(other, design) for other in others)} in "
        "this design: an effect that is reported for the former may belong to the latter."
        for term, others in model.aliases.items()
    ]
