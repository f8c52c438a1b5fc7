"""Comparisons between the variants of a family, seed by seed.

Only variants whose losses were measured on the same documents are compared.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from microgpt.reports.paired_statistics import Difference, corrected, difference
from microgpt.reports.run_families import Family, Samples, Variant, baseline_of
from microgpt.reports.settings import fingerprint, grouped
from microgpt.reports.simultaneous import Joint, adjusted, together

MOST_PAIRED = 6  # up to this number of variants, all pairs are compared; more are compared only with the baseline


@dataclass(frozen=True)
class Comparison:
    a: Variant  # the difference is a - b; b is the baseline if that is one of the two
    b: Variant
    difference: Difference  # with an adjusted p, for all comparisons of its family


def comparisons(
    family: Family, samples: Samples | None = None, most_paired: int = MOST_PAIRED, pairs_of: Joint | None = None
) -> list[Comparison]:
    """Compare each variant with the baseline, and all pairs of up to `most_paired` variants.

    The intervals are simultaneous for the family with the distribution `pairs_of`, by default these comparisons.
    `samples` are values of something other than the family's metric, in the form of `Family.samples`. Each group of
    comparable variants has its own baseline.
    """
    known = family.samples() if samples is None else samples
    groups = grouped((one for one in family.variants if one.name in known), lambda one: one.group)
    pairs = [pair for members in groups.values() for pair in pairs_among(members, family.baseline, most_paired)]
    found = [difference(known[a.name], known[b.name]) for a, b in pairs]
    if pairs_of is None:
        names = list(known)
        unit = np.eye(len(names))
        weights = [unit[names.index(a.name)] - unit[names.index(b.name)] for a, b in pairs]
        found = together(found, np.array(weights).reshape(len(pairs), len(names)))
    else:
        found = adjusted(found, pairs_of)
    return [Comparison(a, b, one) for (a, b), one in zip(pairs, found, strict=True)]


def comparisons_in(family: Family, keys: Sequence[str]) -> list[Comparison]:
    """Compare the variants that differ in `keys` and no other setting, with Holm's correction over all of them."""
    known = family.samples()
    variants = (one for one in family.variants if one.name in known)
    groups = grouped(variants, lambda one: (one.group, fingerprint(one.settings, without=keys)))
    pairs = [pair for members in groups.values() for pair in pairs_among(members, family.baseline, MOST_PAIRED)]
    found = corrected([difference(known[a.name], known[b.name]) for a, b in pairs])
    return [Comparison(a, b, one) for (a, b), one in zip(pairs, found, strict=True)]


def pairs_among(variants: Sequence[Variant], baseline: Variant, most_paired: int) -> list[tuple[Variant, Variant]]:
    """Return the pairs (a, b) to compare; pairs with the baseline are first."""
    base = baseline if baseline in variants else baseline_of(variants)
    others = [variant for variant in variants if variant is not base]
    among_others = itertools.combinations(others, 2) if len(variants) <= most_paired else ()
    return [(other, base) for other in others] + [(later, earlier) for earlier, later in among_others]
