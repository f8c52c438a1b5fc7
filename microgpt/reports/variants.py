"""Variants of one family of runs, and the comparisons between them. How rows become families is families.py's business.

A variant is what is left of a configuration without the seed and without what has no effect on the numbers. Variants
are compared by seed, and only where their figures were measured on the same documents. How a comparison is written or
drawn is not known here.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from microgpt.reports.records import Row
from microgpt.reports.settings import defaults_among, exact, label
from microgpt.reports.statistics import Difference, Factorial, Summary, corrected, difference, factorial, summary

MOST_PAIRED = 6  # variants all of whose pairs are compared; of more, each is compared with the baseline alone

Samples = Mapping[str, Mapping[int, float]]  # a figure: name of variant -> seed -> value


@dataclass(frozen=True)
class Variant:
    name: str  # unique in its family: the label, or tied_no_input_rmsnorm and the like where the toggles alone differ
    label: str  # the settings that differ in the family: `tie_lm_head=true optim.lr=0.005`; "" where none do
    settings: Mapping[str, Any]  # the same in full: {"model.tie_lm_head": True, "optim.lr": 0.005}
    rows: Mapping[int, Row]  # completed runs by seed, ascending; of several runs of a seed the newest
    failed: int  # seeds without a completed run, the newest run of which failed (as by a loss that is no number)
    unfinished: int  # seeds without a completed run, the newest run of which is under way or was stopped
    group: int = 0  # variants of one group were measured on the same documents, and may be compared

    @property
    def parameters(self) -> int | None:
        """Parameter count; None where no run was completed."""
        return next((row["parameter_count"] for row in self.rows.values()), None)

    def values(self, column: str) -> dict[int, float]:
        """A column of the completed runs by seed, without those that have no finite figure there."""
        return {seed: row[column] for seed, row in self.rows.items() if is_figure(row[column])}


def is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


@dataclass(frozen=True)
class Factor:
    """A key with two values, of a 2x2 design: its effect is that of `on` against `off`."""

    key: str  # model.tie_lm_head
    off: Any  # false, or the baseline's value
    on: Any
    label: str  # `tie_lm_head=true against false`


@dataclass(frozen=True)
class Family:
    kind: Literal["sweep", "ablation"]
    key: str  # sweeps/<name>_<hash>, or an ablation's comparison key (eight hex digits)
    variants: tuple[Variant, ...]  # in the order of the sweep's jobs; an ablation's in families.ABLATION's
    figure: str  # what variants are ranked by: val_loss, or mean_loss_last_n where a run has no validation
    obstacle: str | None = None  # why the figure of some variants cannot be compared, a sentence; None where all can

    @cached_property
    def baseline(self) -> Variant:
        return baseline_of(self.variants)

    @property
    def rows(self) -> list[Row]:
        """The completed runs that count, variant by variant, by seed."""
        return [row for variant in self.variants for row in variant.rows.values()]

    def samples(self, column: str | None = None) -> dict[str, dict[int, float]]:
        """The figure, or another column, of every variant that has it: name -> seed -> value."""
        found = {variant.name: variant.values(column or self.figure) for variant in self.variants}
        return {name: values for name, values in found.items() if values}

    @cached_property
    def ranked(self) -> list[tuple[Variant, Summary]]:
        """The variants that have runs, each with the summary of its figure, best mean first."""
        samples = self.samples()
        known = [(one, summary(list(samples[one.name].values()))) for one in self.variants if one.name in samples]
        return sorted(known, key=lambda pair: pair[1].mean)

    @cached_property
    def factors(self) -> tuple[Factor, Factor] | None:
        """Of a 2x2 design: four variants, two keys, two values of each. Else None."""
        if len(self.variants) != 4 or len(self.baseline.settings) != 2:
            return None
        first, second = (factor_of(key, self) for key in self.baseline.settings)
        return (first, second) if first and second else None


@dataclass(frozen=True)
class Comparison:
    a: Variant  # the difference is a - b; b is the baseline where that is one of the two
    b: Variant
    difference: Difference  # with p_holm, over all comparisons of the family


def baseline_of(variants: tuple[Variant, ...]) -> Variant:
    """Of the variants with completed runs the one with the most settings at the schema's default; the first of such."""
    return max(variants, key=lambda one: (bool(one.rows), defaults_among(one.settings)))


def factor_of(key: str, family: Family) -> Factor | None:
    """The key as a factor, where it has two values; of a toggle the effect is always that of true."""
    values = {exact(one.settings, key): one.settings[key] for one in family.variants}
    if len(values) != 2:
        return None
    off = "false" if values.keys() == {"false", "true"} else exact(family.baseline.settings, key)
    on = next(text for text in values if text != off)
    against = label({key: values[off]}, [key]).partition("=")[2]
    return Factor(key, values[off], values[on], f"{label({key: values[on]}, [key])} against {against}")


def comparisons(family: Family, samples: Samples | None = None, most_paired: int = MOST_PAIRED) -> list[Comparison]:
    """Each variant against the baseline; of up to `most_paired` variants all pairs. Holm over all of them.

    `samples` are other figures than the family's own (loss at equal time, say), in the form of `Family.samples`.
    Variants that were not measured on the same documents are not compared: each group of such has its own baseline.
    """
    known = family.samples() if samples is None else samples
    groups: dict[int, list[Variant]] = {}
    for variant in family.variants:
        if variant.name in known:
            groups.setdefault(variant.group, []).append(variant)
    pairs = [pair for members in groups.values() for pair in pairs_among(members, family.baseline, most_paired)]
    found = corrected([difference(known[a.name], known[b.name]) for a, b in pairs])
    return [Comparison(a, b, one) for (a, b), one in zip(pairs, found, strict=True)]


def pairs_among(variants: list[Variant], baseline: Variant, most_paired: int) -> list[tuple[Variant, Variant]]:
    """The pairs (a, b) that are compared: those with the baseline first."""
    base = baseline if baseline in variants else baseline_of(tuple(variants))
    others = [variant for variant in variants if variant is not base]
    among_others = itertools.combinations(others, 2) if len(variants) <= most_paired else ()
    return [(other, base) for other in others] + [(later, earlier) for earlier, later in among_others]


def effects(family: Family, samples: Samples | None = None) -> Factorial | None:
    """Main effects and interaction of a 2x2 design, Holm over the three.

    None where it is none, where a variant has no figure, and where not all may be compared. `samples`: as above.
    """
    known = family.samples() if samples is None else samples
    if family.factors is None or family.obstacle or any(one.name not in known for one in family.variants):
        return None
    first, second = family.factors
    cells = {
        (exact(one.settings, first.key), exact(one.settings, second.key)): known[one.name] for one in family.variants
    }

    def cell(a: Any, b: Any) -> Mapping[int, float]:
        return cells[exact({first.key: a}, first.key), exact({second.key: b}, second.key)]

    return factorial(
        neither=cell(first.off, second.off),
        only_a=cell(first.on, second.off),
        only_b=cell(first.off, second.on),
        both=cell(first.on, second.on),
    ).corrected()
