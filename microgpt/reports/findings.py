"""What the statistics of a family show, in sentences. The verdicts and their words are statistics.py's."""

from collections.abc import Sequence

from microgpt.reports.provenance import counted
from microgpt.reports.settings import label, short
from microgpt.reports.statistics import Difference, Factorial, Verdict
from microgpt.reports.tables import interval_text, signed
from microgpt.reports.variants import Comparison, Factor, Family

MOST_FINDINGS = 12  # sentences about comparisons


def findings(family: Family, compared: Sequence[Comparison], effects: Factorial | None) -> list[str]:
    """Effects first, then comparisons, those with a difference that is shown before the others."""
    found = [] if effects is None or family.factors is None else effect_findings(family, family.factors, effects)
    ordered = sorted(compared, key=lambda one: one.difference.verdict is not Verdict.SHOWN)
    found += [
        f"{one.a.name} against {one.b.name}: {told(family.figure, one.difference)}" for one in ordered[:MOST_FINDINGS]
    ]
    rest = ordered[MOST_FINDINGS:]
    if rest:
        shown = sum(one.difference.verdict is Verdict.SHOWN for one in rest)
        found.append(f"{counted(len(rest), 'more comparison')}, {shown} of them with a difference: see the table.")
    return found or ["There is one variant, and so nothing to compare."]


def effect_findings(family: Family, factors: tuple[Factor, Factor], effects: Factorial) -> list[str]:
    first, second = factors
    where = label({second.key: second.on}, [second.key])
    return [
        f"Main effect of {first.label}: {told(family.figure, effects.a)}",
        f"Main effect of {second.label}: {told(family.figure, effects.b)}",
        f"Interaction (the effect of {short(first.key)} where {where}, minus that elsewhere): "
        f"{told(family.figure, effects.interaction)}",
    ]


def told(figure: str, found: Difference) -> str:
    """`val_loss lower at 64 seeds, by -0.0443 [-0.0487, -0.0400].`"""
    if found.mean is None or found.interval is None:
        return f"{figure} {found.sentence}."
    by = "by" if found.verdict is Verdict.SHOWN else "mean difference"
    return f"{figure} {found.sentence}, {by} {signed(found.mean)} {interval_text(found.interval, '{:+.4f}')}."
