"""Two-level designs: all combinations of k factors, or a regular fraction of them.

A fraction 2^(k-p) takes all combinations of k - p base factors. Each other factor has its second level if an odd number
of some base factors, its generator, have theirs. A factor is an integer here whose bits are those base factors, so that
the product of factors is their exclusive or, and effects are aliased, which means estimated by the same contrast, if
their integers are equal (Box and Hunter, The 2^(k-p) Fractional Factorial Designs, Technometrics 3, 1961).

Resolution III: main effects are aliased with two-factor interactions. IV: not with these, but these with each other.
V: main effects and two-factor interactions are not aliased with each other. Generators are searched for here because
those of pyDOE3 1.6.2 need not have the requested resolution: fracfact_by_res(8, 5) returns one of resolution IV.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from operator import xor

HIGHEST = 5  # resolution
TRIALS = 300  # orders in which generators are tried


@dataclass(frozen=True)
class Design:
    columns: tuple[int, ...]  # of each factor: the base factors, as bits, whose product it is
    base: int  # base factors: 2^base combinations
    resolution: int | None  # None: all combinations

    @property
    def rows(self) -> list[tuple[int, ...]]:
        """The level of each factor, 0 or 1, in each combination; all are 0 in the first."""
        return [tuple((row & column).bit_count() % 2 for column in self.columns) for row in range(2**self.base)]

    def generator(self, factor: int) -> list[int]:
        """Return the factors whose product a factor is; only itself for a base factor."""
        return [self.columns.index(1 << bit) for bit in range(self.base) if self.columns[factor] >> bit & 1]

    def aliases(self) -> list[list[tuple[int, ...]]]:
        """Return the groups of main effects and two-factor interactions, as numbers of factors, that are aliased."""
        groups: dict[int, list[tuple[int, ...]]] = {}
        for size in (1, 2):
            for effect in combinations(range(len(self.columns)), size):
                groups.setdefault(reduce(xor, (self.columns[one] for one in effect)), []).append(effect)
        return [effects for effects in groups.values() if len(effects) > 1]


def choose(factors: int, most: int, least_resolution: int) -> Design | None:
    """Return a design of at most `most` combinations, or None if none has the resolution that is needed.

    All combinations, if they are not too many; else the smallest fraction of resolution V; else the largest one of the
    highest resolution below.
    """
    if 2**factors <= most:
        return Design(tuple(1 << bit for bit in range(factors)), factors, None)
    largest = most.bit_length() - 1
    for resolution in range(HIGHEST, least_resolution - 1, -1) if largest > 0 else ():
        sizes = range(1, largest + 1) if resolution == HIGHEST else [largest]
        for base in sizes:
            columns = search(factors, base, resolution)
            if columns is not None:
                return Design(columns, base, resolution)
    return None


def search(factors: int, base: int, resolution: int) -> tuple[int, ...] | None:
    """Return columns any resolution - 1 of which are independent, with few aliases, or None if none was found.

    Each trial takes the generators in another order and keeps those that are possible; equal arguments give equal
    columns.
    """
    rng, best = random.Random(0), None
    candidates = [column for column in range(1, 2**base) if column.bit_count() >= resolution - 1]
    for _ in range(TRIALS):
        rng.shuffle(candidates)
        found = independent(candidates, factors, base, resolution)
        if len(found) == factors:
            best = min(best or found, found, key=aliased_pairs)
    return best


def independent(candidates: Sequence[int], factors: int, base: int, resolution: int) -> tuple[int, ...]:
    """Return base factors and candidates, at most `factors`, none of which is a product of resolution - 2 others."""
    columns: list[int] = []
    products: list[set[int]] = [{0}, *(set() for _ in range(resolution - 2))]  # of 0, 1, ... columns
    for column in [*(1 << bit for bit in range(base)), *candidates]:
        if len(columns) == factors:
            break
        if not any(column in of_size for of_size in products):
            columns.append(column)
            for size in range(resolution - 2, 0, -1):
                products[size] |= {product ^ column for product in products[size - 1]}
    return tuple(columns)


def aliased_pairs(columns: Sequence[int]) -> int:
    """Return how many pairs of two-factor interactions are aliased."""
    return sum(n * (n - 1) for n in Counter(a ^ b for a, b in combinations(columns, 2)).values())
