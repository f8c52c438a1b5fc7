"""Layout of a graph in rows from the inputs to the result, with few edge crossings.

Follows Sugiyama, Tagawa and Toda (1981): a node is one row below the lowest of its children, an edge that spans several
rows has a place in each of them, and each row is sorted by the mean x of the neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

SWEEPS = 24  # over all rows, alternately down and up


@dataclass(eq=False)
class Place:
    """The position of a node, or of an edge that passes through a row."""

    row: int
    width: float
    node: int | None = None  # the node's number; None for an edge
    x: float = 0.0  # of the centre
    above: list["Place"] = field(default_factory=list)
    below: list["Place"] = field(default_factory=list)

    @property
    def neighbours(self) -> list["Place"]:
        return self.above + self.below


@dataclass(frozen=True)
class Layout:
    rows: list[list[Place]]
    paths: list[list[Place]]  # for each edge, its places from the child to the node that was computed from the child

    @property
    def width(self) -> float:
        return max(place.x + place.width / 2 for row in self.rows for place in row)


def layout(children: Sequence[Sequence[int]], width: float, passing: float, gap: float) -> Layout:
    """Lay out a graph, given the children of each node, whose numbers are smaller than the node's.

    `passing` is the width that an edge takes in a row.
    """
    row_of = rows_of(children)
    places = [Place(row, width, node) for node, row in enumerate(row_of)]
    rows: list[list[Place]] = [[] for _ in range(max(row_of) + 1)]
    for place in places:
        rows[place.row].append(place)
    paths = []
    for node, own in enumerate(children):
        for child in dict.fromkeys(own):
            passes = [Place(row, passing) for row in range(row_of[child] + 1, row_of[node])]
            path = [places[child], *passes, places[node]]
            for upper, lower in pairwise(path):
                upper.below.append(lower)
                lower.above.append(upper)
            for place in passes:
                rows[place.row].append(place)
            paths.append(path)
    for row in rows:
        spread(row, gap)
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            towards = [place.above if sweep % 2 == 0 else place.below for place in row]
            order(row, [mean(near) for near in towards], gap)
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            settle(row, gap)
    left = min(place.x - place.width / 2 for row in rows for place in row)
    for row in rows:
        for place in row:
            place.x -= left
    return Layout(rows, paths)


def rows_of(children: Sequence[Sequence[int]]) -> list[int]:
    """Return the row of each node. An input is placed directly above the first node that uses it."""
    rows: list[int] = []
    for own in children:
        rows.append(max((rows[child] for child in own), default=-1) + 1)
    users: dict[int, list[int]] = {}
    for node, own in enumerate(children):
        for child in own:
            users.setdefault(child, []).append(rows[node])
    return [
        min(users[node]) - 1 if not own and node in users else row
        for node, (own, row) in enumerate(zip(children, rows, strict=True))
    ]


def mean(places: Sequence[Place]) -> float | None:
    return average([place.x for place in places]) if places else None


def order(row: list[Place], wanted: Sequence[float | None], gap: float) -> None:
    """Sort a row by the wanted x, then spread it; a place whose wanted x is None is sorted by its current x."""
    wish = {place: place.x if x is None else x for place, x in zip(row, wanted, strict=True)}
    row.sort(key=wish.__getitem__)
    spread(row, gap)


def spread(row: list[Place], gap: float) -> None:
    """Arrange the places of a row side by side, centred at x = 0."""
    x = -(sum(place.width for place in row) + gap * (len(row) - 1)) / 2
    for place in row:
        place.x = x + place.width / 2
        x += place.width + gap


def settle(row: list[Place], gap: float) -> None:
    """Move a row's places as close as possible (in least squares) to the mean x of their neighbours.

    The places keep their order and do not overlap. Isotonic regression by pooling adjacent violators (Ayer et al.,
    1955).
    """
    offsets = [0.0]
    for left, right in pairwise(row):
        offsets.append(offsets[-1] + (left.width + right.width) / 2 + gap)
    pools: list[list[float]] = []  # for each group of touching places: the x that each wants, minus its offset
    for place, offset in zip(row, offsets, strict=True):
        x = mean(place.neighbours)
        pools.append([(place.x if x is None else x) - offset])
        while len(pools) > 1 and average(pools[-2]) > average(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    found = [average(pool) for pool in pools for _ in pool]
    for place, first, offset in zip(row, found, offsets, strict=True):
        place.x = first + offset


def average(values: Sequence[float]) -> float:
    return sum(values) / len(values)
