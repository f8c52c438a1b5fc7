"""Factors: the keys in which the variants of a family differ, their levels, and the cells that have results.

A key named in `report.nuisance` is no factor: a cell has the runs of one of its values (see `best_of`).
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from statistics import fmean
from typing import Any, Literal

from microgpt.reports.paired_statistics import Sample
from microgpt.reports.run_families import Family, Samples, Variant, baseline_of
from microgpt.reports.settings import exact, exact_values, grouped, label, short

VARIANT = "variant"  # a factor whose levels are the names of variants, which are not the cells of a design
FEWEST_SEEDS = 0.5  # of several factors: a cell with a smaller share of the other cells' seeds is left out

Scale = Literal["", "natural", "log"]


@dataclass(frozen=True, eq=False)
class Factor:
    """A swept key with its levels: numbers in ascending order, false before true, others in the sweep's order."""

    key: str
    levels: tuple[Any, ...]
    reference: int = 0  # number of the level that others are compared with: the control's, or the baseline's
    scale: Scale = ""  # scale of the trend of a numeric factor with three or more levels; "" for categories
    has_line: bool = True  # False: a level of a numeric factor did not learn, and no line is fitted
    has_control: bool = False  # only comparisons with the reference are of interest (report.control)

    @property
    def name(self) -> str:
        return short(self.key)

    @property
    def is_numeric(self) -> bool:
        return self.scale != ""

    def label(self, level: int) -> str:
        """Return `optim=lion`, or the name of a variant."""
        value = self.levels[level]
        return str(value) if self.key == VARIANT else label({self.key: value})

    def value(self, level: int) -> str:
        return self.label(level).removeprefix(f"{self.name}=")

    @property
    def positions(self) -> list[float]:
        """The levels of a numeric factor on its scale; logarithms have base 2, so that a unit is a doubling."""
        return [math.log2(value) if self.scale == "log" else float(value) for value in self.levels]


@dataclass(frozen=True)
class Cell:
    levels: tuple[int, ...]  # for each factor, the number of its level
    variant: Variant
    sample: Sample  # the metric by seed

    @property
    def name(self) -> str:
        return self.variant.name

    @property
    def mean(self) -> float:
        return fmean(self.sample.values())


@dataclass(frozen=True)
class Design:
    """The factors of a family, and its cells that have results; the seeds are blocks."""

    factors: tuple[Factor, ...]
    cells: tuple[Cell, ...]
    remarks: tuple[str, ...] = ()  # sentences: what was left out, and why
    others: tuple[Cell, ...] = ()  # results that no effect uses; their `levels` are empty

    @cached_property
    def number_of_cell(self) -> dict[tuple[int, ...], int]:
        """The number of each cell, keyed by its levels."""
        return {cell.levels: number for number, cell in enumerate(self.cells)}

    @property
    def combinations(self) -> int:
        """The number of cells in the full factorial of the levels."""
        return math.prod(len(factor.levels) for factor in self.factors)


def design_of(family: Family, nuisance: Sequence[str] = (), control: Mapping[str, Any] | None = None) -> Design | None:
    """Return the design of a family; None if fewer than two cells have results.

    `control` holds, for some factors, the level that the other levels are compared with.
    """
    swept = list(family.variants[0].settings) if family.variants else []
    kept, remarks = measured(family, [key for key in swept if key not in nuisance])
    if len(kept) < 2:
        return None
    samples, used = family.samples(), {variant.name for variant, _ in kept}
    others = [one for one in family.variants if one.name in samples and one.name not in used and not nuisance]
    settings = [variant.settings for variant, _ in kept]
    base = baseline_of([variant for variant, _ in kept]).settings
    candidates = [factor_of(key, settings, base, control or {}) for key in swept if key not in nuisance]
    factors = tuple(factor for factor in candidates if len(factor.levels) > 1)
    bad = [variant.name for variant, sample in kept if family.metric == "val_loss" and above_uniform(variant, sample)]
    if bad and len(factors) == 1 and factors[0].is_numeric:
        factors = (replace(factors[0], has_line=False),)
        remarks.append(f"No line in {factors[0].name} is fitted: {' and '.join(bad)} did not learn.")
    cells = [
        Cell(tuple(number_of(factor, variant.settings[factor.key]) for factor in factors), variant, sample)
        for variant, sample in kept
    ]
    apart = tuple(Cell((), variant, samples[variant.name]) for variant in others)
    design = Design(factors, tuple(cells), tuple(remarks), apart)
    if not factors or design.combinations == len(cells):
        return design if factors else None
    number = f"The effects use {len(cells)} of the {design.combinations} combinations of the values."
    return replace(design, remarks=(*remarks, number))


def as_variants(design: Design) -> Design:
    """Return the same cells as the levels of a single factor."""
    names = tuple(cell.name for cell in design.cells)
    base = baseline_of(cell.variant for cell in design.cells).name
    factor = Factor(VARIANT, names, names.index(base))
    cells = tuple(replace(cell, levels=(number,)) for number, cell in enumerate(design.cells))
    return replace(design, factors=(factor,), cells=cells)


def variants_of(family: Family) -> Design | None:
    """Return all variants that have results as the levels of a single factor; None for fewer than two."""
    samples = family.samples()
    cells = tuple(Cell((), one, samples[one.name]) for one in family.variants if one.name in samples)
    return as_variants(Design((), cells)) if len(cells) > 1 else None


def measured(family: Family, keys: Sequence[str]) -> tuple[list[tuple[Variant, Sample]], list[str]]:
    """Return a variant and its values for each cell with enough values, and sentences on the cells left out."""
    empty = [variant for variant in family.variants if not variant.rows]
    failed = {one.name: f" ({one.failed} failed)" if one.failed else "" for one in empty}
    remarks = [f"{name} has no completed run{number}: there is no loss to compare." for name, number in failed.items()]
    samples = family.samples()
    known = (variant for variant in family.variants if variant.name in samples)
    groups = grouped(known, lambda one: exact_values(one.settings, keys)).values()
    found = [best_of(group, samples) if len(group) > 1 else (group[0], samples[group[0].name]) for group in groups]
    if any(len(group) > 1 for group in groups):
        remarks.append(
            "Each combination has the nuisance value that was best for it on other seeds than those compared here."
        )
    most = max((len(sample) for _, sample in found), default=0)
    if len(keys) > 1:
        few = [(variant, sample) for variant, sample in found if len(sample) < FEWEST_SEEDS * most]
        remarks += [
            f"{variant.name} is left out of the effects: it has {len(sample)} of {most} seeds."
            for variant, sample in few
        ]
        found = [pair for pair in found if pair not in few]
        is_val_loss = family.metric == "val_loss"  # a mean of training losses may be of the first steps
        worse = [above_uniform(variant, sample) if is_val_loss else "" for variant, sample in found]
        remarks += [
            f"{variant.name} is left out of the effects: it diverged ({above})."
            for (variant, _), above in zip(found, worse, strict=True)
            if above
        ]
        found = [pair for pair, above in zip(found, worse, strict=True) if not above]
    return found, remarks


def above_uniform(variant: Variant, sample: Sample) -> str:
    """Return a comparison of the mean loss with that of guessing uniformly, if it is higher; else an empty string."""
    uniform = next((row.baselines.get("uniform") for row in variant.rows.values()), None)
    mean = fmean(sample.values())
    return "" if uniform is None or mean <= uniform else f"mean loss {mean:.3g}, uniform guessing {uniform:.3g}"


def best_of(variants: Sequence[Variant], samples: Samples) -> tuple[Variant, Sample]:
    """Return the best of variants that differ only in a nuisance, and its values on seeds not used for the choice.

    These are the seeds that only this variant was run with. If there are none, half of the seeds are used for the
    choice and the other half for the values; a variant with fewer completed runs than another is not chosen.
    """
    seeds = {one.name: set(samples[one.name]) for one in variants}
    alone = {
        name: own.difference(*(other for rival, other in seeds.items() if rival != name)) for name, own in seeds.items()
    }
    chosen = max(variants, key=lambda one: len(alone[one.name]))
    if len(alone[chosen.name]) <= max(one.failed + one.unfinished for one in variants if one is not chosen):
        most = max(map(len, seeds.values()))
        candidates = [one for one in variants if len(seeds[one.name]) == most]
        shared = sorted(set.intersection(*(seeds[one.name] for one in candidates)))
        choosing = shared[::2] or shared
        chosen = min(candidates, key=lambda one: sum(samples[one.name][seed] for seed in choosing))
        alone[chosen.name] = set(shared[1::2]) or seeds[chosen.name]
    return chosen, {seed: value for seed, value in samples[chosen.name].items() if seed in alone[chosen.name]}


def factor_of(
    key: str, settings: Sequence[Mapping[str, Any]], base: Mapping[str, Any], control: Mapping[str, Any]
) -> Factor:
    values = list({exact(one, key): one[key] for one in settings}.values())
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    toggle = all(isinstance(value, bool) for value in values)
    if numeric or toggle:
        values.sort()
    factor = Factor(key, tuple(values), scale=scale_of(values) if numeric and len(values) > 2 else "")
    reference = control.get(key, False if toggle else base[key])
    return replace(factor, reference=number_of(factor, reference), has_control=key in control)


def scale_of(values: Sequence[float]) -> Scale:
    """Return the scale on which ascending numbers are more evenly spaced."""
    if values[0] <= 0:
        return "natural"
    return "log" if unevenness([math.log(value) for value in values]) < unevenness(values) else "natural"


def unevenness(values: Sequence[float]) -> float:
    gaps = [b - a for a, b in pairwise(values)]
    return max(gaps) / min(gaps)


def number_of(factor: Factor, value: Any) -> int:
    """Return the number of a level; the first level for a value that has no results."""
    texts = [json.dumps(level, sort_keys=True) for level in factor.levels]
    text = json.dumps(value, sort_keys=True)
    return texts.index(text) if text in texts else 0
