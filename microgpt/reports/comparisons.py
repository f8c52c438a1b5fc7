"""Comparisons between the variants of a family, seed by seed, and the effects of a 2x2 design.

Only variants whose losses were measured on the same documents are compared.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from microgpt.reports.families import Family, Samples, Variant, baseline_of
from microgpt.reports.settings import exact, label
from microgpt.reports.statistics import Difference, Factorial, corrected, difference, factorial

MOST_PAIRED = 6  # variants of which all pairs are compared; more are compared only with the baseline


@dataclass(frozen=True)
class Comparison:
    a: Variant  # the difference is a - b; b is the baseline if that is one of the two
    b: Variant
    difference: Difference  # with p_holm, over all comparisons of the family


@dataclass(frozen=True)
class Factor:
    """A key with two values, in a 2x2 design: its effect is that of `on` against `off`."""

    key: str  # model.tie_lm_head
    off: Any  # false, or the baseline's value
    on: Any
    label: str  # `tie_lm_head=true against false`


@dataclass(frozen=True)
class Effects:
    """Main effects and interaction of a 2x2 design."""

    factors: tuple[Factor, Factor]
    contrasts: Factorial


def comparisons(family: Family, samples: Samples | None = None, most_paired: int = MOST_PAIRED) -> list[Comparison]:
    """Compare each variant with the baseline, and all pairs of up to `most_paired` variants, with Holm's correction.

    `samples` are values of something other than the family's metric, in the form of `Family.samples`. Each group of
    comparable variants has its own baseline.
    """
    known = family.samples() if samples is None else samples
    groups: dict[int, list[Variant]] = {}
    for variant in family.variants:
        if variant.name in known:
            groups.setdefault(variant.group, []).append(variant)
    pairs = [pair for members in groups.values() for pair in pairs_among(members, family.baseline, most_paired)]
    return compared(pairs, known)


def comparisons_in(family: Family, keys: Sequence[str], most_paired: int = MOST_PAIRED) -> list[Comparison]:
    """Compare the variants that differ in `keys` and no other setting, with Holm's correction over all of them."""
    known = family.samples()
    alike: dict[tuple[str, ...], list[Variant]] = {}
    for variant in family.variants:
        if variant.name in known:
            others = [key for key in variant.settings if key not in keys]
            alike.setdefault((str(variant.group), *values(variant.settings, others)), []).append(variant)
    pairs = [pair for members in alike.values() for pair in pairs_among(members, family.baseline, most_paired)]
    return compared(pairs, known)


def compared(pairs: Sequence[tuple[Variant, Variant]], known: Samples) -> list[Comparison]:
    found = corrected([difference(known[a.name], known[b.name]) for a, b in pairs])
    return [Comparison(a, b, one) for (a, b), one in zip(pairs, found, strict=True)]


def pairs_among(variants: Sequence[Variant], baseline: Variant, most_paired: int) -> list[tuple[Variant, Variant]]:
    """Return the pairs (a, b) to compare, those with the baseline first."""
    base = baseline if baseline in variants else baseline_of(variants)
    others = [variant for variant in variants if variant is not base]
    among_others = itertools.combinations(others, 2) if len(variants) <= most_paired else ()
    return [(other, base) for other in others] + [(later, earlier) for earlier, later in among_others]


def effects(family: Family) -> Effects | None:
    """Return the effects of a 2x2 design; None for another design, or if not all four variants can be compared."""
    samples, factors = family.samples(), factors_of(family)
    if factors is None or family.obstacle or any(one.name not in samples for one in family.variants):
        return None
    keys = [factor.key for factor in factors]
    cells = {values(one.settings, keys): samples[one.name] for one in family.variants}
    neither, only_b, only_a, both = (
        cells[values(dict(zip(keys, pair, strict=True)), keys)]
        for pair in itertools.product(*((factor.off, factor.on) for factor in factors))
    )
    return Effects(factors, factorial(neither, only_a, only_b, both))


def values(settings: Mapping[str, Any], keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(exact(settings, key) for key in keys)


def factors_of(family: Family) -> tuple[Factor, Factor] | None:
    """Return the factors of a 2x2 design: four variants, two keys, two values of each. None for another design."""
    if len(family.variants) != 4 or len(family.baseline.settings) != 2:
        return None
    first, second = (factor_of(key, family) for key in family.baseline.settings)
    return (first, second) if first and second else None


def factor_of(key: str, family: Family) -> Factor | None:
    """Return the key as a factor if it has two values; the effect of a toggle is always that of true."""
    found = {exact(one.settings, key): one.settings[key] for one in family.variants}
    if len(found) != 2:
        return None
    off = "false" if found.keys() == {"false", "true"} else exact(family.baseline.settings, key)
    on = next(text for text in found if text != off)
    against = label({key: found[off]}).partition("=")[2]
    return Factor(key, found[off], found[on], f"{label({key: found[on]})} against {against}")
