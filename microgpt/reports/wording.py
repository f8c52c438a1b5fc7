"""What the effects of a design mean, in sentences: one or a few for each factor, and one for each interaction shown."""

import math
from collections.abc import Iterator, Sequence

from microgpt.reports.effects import Effect, Effects
from microgpt.reports.factors import Cell, Factor
from microgpt.reports.statistics import Difference, Interval, Verdict

MOST_DECIMALS = 6
MOST_NAMED = 4  # pairs of levels in a sentence


def effect_sentences(found: Effects, metric: str) -> list[str]:
    """Return sentences about each factor, the surest first, then about interactions, and about what is left out."""
    if not found.effects:
        return []
    tested = [effect for effect in found.effects if effect.difference.p is not None]
    if not tested and all(effect.difference.verdict is Verdict.UNTESTED for effect in found.effects):
        return ["One seed of each: no effect can be told from chance. Add seeds, for example `seed=range(8)`."]
    factors = sorted(found.design.factors, key=lambda factor: smallest_p(found.of(factor)))
    sentences = [sentence for factor in factors for sentence in factor_sentences(factor, found, metric)]
    return [*sentences, *no_interactions(found)]


def best_sentence(best: Cell, others: Sequence[tuple[Cell, Difference]], metric: str) -> list[str]:
    """Say which variant has the lowest mean, and which others are not shown to be worse."""
    tested = [(cell, found) for cell, found in others if found.verdict is not Verdict.UNTESTED]
    if not tested:
        return []
    close = [cell.name for cell, found in tested if found.verdict in (Verdict.NOT_SHOWN, Verdict.ZERO)]
    mean = math.fsum(best.sample.values()) / len(best.sample)
    first = f"Lowest mean {metric}: {best.name}, {mean:.4f}"
    if not close:
        return [f"{first}; every other variant is shown to be worse."]
    if len(close) == len(tested):
        return [f"{first}; no other variant is shown to be worse."]
    named = ", ".join(close[:MOST_NAMED]) + (f" and {len(close) - MOST_NAMED} more" if len(close) > MOST_NAMED else "")
    return [f"{first}. Not shown to be worse: {named}."]


def smallest_p(effects: Sequence[Effect]) -> float:
    return min((1.0 if one.difference.p is None else one.difference.p for one in effects), default=1.0)


def factor_sentences(factor: Factor, found: Effects, metric: str) -> Iterator[str]:
    own = found.of(factor)
    by_kind = {kind: [one for one in own if one.contrast.kind == kind] for kind in ("trend", "departure", "difference")}
    if by_kind["trend"]:
        yield trend_sentence(factor, by_kind["trend"][0], by_kind["departure"], metric)
    if by_kind["difference"]:
        yield from difference_sentences(factor, by_kind["difference"], metric)
    for other in found.design.factors:
        pair = (factor, other)
        shown = [one for one in found.of(*pair) if one.is_shown]
        if shown:
            yield interaction_sentence(found, pair, max(shown, key=lambda one: abs(one.difference.mean or 0)), metric)


def difference_sentences(factor: Factor, effects: Sequence[Effect], metric: str) -> Iterator[str]:
    if len(effects) == 1:
        yield f"{effects[0].contrast.label}: {what_it_does(effects[0].difference, metric)}."
        return
    shown = [one for one in effects if one.is_shown]
    for one in sorted(shown, key=lambda one: -abs(one.difference.mean or 0))[:MOST_NAMED]:
        yield f"{one.contrast.label}: {what_it_does(one.difference, metric)}."
    more = len(shown) - MOST_NAMED
    if more > 0:
        yield f"{more} more differences between levels of {factor.name} are shown: see the table."
    rest = [one for one in effects if not one.is_shown]
    bounds = [bound for one in rest if (bound := largest(one.difference)) is not None]
    if bounds:
        subject = f"Any two of {', '.join(map(factor.value, range(len(factor.levels))))}" if not shown else (
            ", ".join(one.contrast.label for one in rest) if len(rest) <= MOST_NAMED
            else f"The other {len(rest)} pairs of {factor.name}"
        )  # fmt: skip
        yield f"{subject}: no difference shown, and none larger than {rounded_up(max(bounds))}."


def what_it_does(found: Difference, metric: str) -> str:
    """Return `helps: val_loss lower by 0.031 [0.028, 0.034]`, or how large an effect can at most be."""
    if found.mean is None or found.verdict is Verdict.UNTESTED:
        return found.sentence
    if found.verdict is Verdict.ZERO:
        return "changes nothing: all differences are zero"
    direction = "helps: {} lower" if found.mean < 0 else "hurts: {} higher"
    if found.verdict is Verdict.EQUAL:
        return f"{direction.format(metric)} by {abs(found.mean):.4g} with every seed"
    if found.verdict is Verdict.SHOWN and found.interval is not None:
        return f"{direction.format(metric)} by {size(found.mean, found.interval)}"
    bound = largest(found)
    return f"no effect shown, and none larger than {rounded_up(bound)}" if bound is not None else found.sentence


def trend_sentence(factor: Factor, trend: Effect, departures: Sequence[Effect], metric: str) -> str:
    found = trend.difference
    ends = f"from {factor.label(0)} to {factor.value(len(factor.levels) - 1)}"
    if found.mean is None or found.interval is None:
        return f"{factor.name}: {found.sentence} {ends}."
    if found.verdict is Verdict.SHOWN:
        steps = factor.positions[-1] - factor.positions[0]
        each = f", {abs(found.mean) / steps:.2g} for each doubling" if factor.scale == "log" else ""
        verb = "falls" if found.mean < 0 else "rises"
        first = f"{metric} {verb} by {size(found.mean, found.interval)} {ends} along a straight line{each}"
    else:
        first = f"{metric} has no trend {ends}, and none larger than {rounded_up(largest(found) or 0)}"
    line = "a straight line in log2" if factor.scale == "log" else "a straight line"
    off = [one for one in departures if one.is_shown]
    if off:
        most = max(off, key=lambda one: abs(one.difference.mean or 0))
        assert most.difference.mean is not None
        assert most.difference.interval is not None
        by = signed_size(most.difference.mean, most.difference.interval)
        return (
            f"{first}. It is not {line}: {most.contrast.label} by {by}, so the line describes the direction and not "
            "the course."
        )
    bounds = [bound for one in departures if (bound := largest(one.difference)) is not None]
    fit = f"; no departure from {line} is shown, and none larger than {rounded_up(max(bounds))}" if bounds else ""
    return f"{first}{fit}."


def interaction_sentence(found: Effects, pair: tuple[Factor, Factor], largest: Effect, metric: str) -> str:
    """Say how the effect of the first factor depends on the second, by the means of the cells."""
    a, b = pair
    means = marginal_means(found, a, b)
    difference = largest.difference
    by = f" ({signed_size(difference.mean, difference.interval)})" if difference.mean and difference.interval else ""
    if a.is_numeric or len(a.levels) > 2 or len(b.levels) > MOST_NAMED or means is None:
        return f"The effect of {a.name} depends on {b.name}: {largest.contrast.label}{by}."
    on = 1 - a.reference
    simple = [means[on, level] - means[a.reference, level] for level in range(len(b.levels))]
    parts = ", ".join(
        f"{simple[level]:+.{decimals(difference.interval)}f} with {b.label(level)}" for level in range(len(simple))
    )
    turned = min(simple) < 0 < max(simple)
    how = "and changes its direction" if turned else "in size, not in direction"
    return f"The effect of {a.label(on)} against {a.value(a.reference)} depends on {b.name} {how}: {parts}{by}."


def marginal_means(found: Effects, a: Factor, b: Factor) -> dict[tuple[int, int], float] | None:
    """Return the mean of the cells at each pair of levels; None if one has no cell."""
    places = [found.design.factors.index(factor) for factor in (a, b)]
    groups: dict[tuple[int, int], list[float]] = {}
    for cell in found.design.cells:
        at = (cell.levels[places[0]], cell.levels[places[1]])
        groups.setdefault(at, []).append(math.fsum(cell.sample.values()) / len(cell.sample))
    full = len(groups) == len(a.levels) * len(b.levels)
    return {at: math.fsum(means) / len(means) for at, means in groups.items()} if full else None


def no_interactions(found: Effects) -> list[str]:
    """Say how large the interactions can be that are not shown."""
    hidden = [one for one in found.effects if one.contrast.kind == "interaction" and not one.is_shown]
    bounds = [bound for one in hidden if (bound := largest(one.difference)) is not None]
    if not bounds:
        return []
    number = len(hidden)
    which = "The interaction is" if number == 1 else f"The other {number} interactions are"
    if number == sum(one.contrast.kind == "interaction" for one in found.effects) and number > 1:
        which = f"None of the {number} interactions is"
        return [f"{which} shown, and none is larger than {rounded_up(max(bounds))}."]
    return [f"{which} not shown, and {'not' if number == 1 else 'none is'} larger than {rounded_up(max(bounds))}."]


def largest(found: Difference) -> float | None:
    """Return the largest effect, in either direction, that the interval allows."""
    return None if found.interval is None else max(abs(found.interval.low), abs(found.interval.high))


def decimals(interval: Interval | None) -> int:
    """Return the decimals that an interval justifies: two digits of its half width."""
    half = 0.0 if interval is None else (interval.high - interval.low) / 2
    return min(MOST_DECIMALS, max(0, 1 - math.floor(math.log10(half)))) if half > 0 else 4


def size(mean: float, interval: Interval) -> str:
    """Return `0.031 [0.028, 0.034]` of an effect, without its sign."""
    digits = decimals(interval)
    low, high = (interval.low, interval.high) if mean > 0 else (-interval.high, -interval.low)
    return f"{abs(mean):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def signed_size(mean: float, interval: Interval) -> str:
    digits = decimals(interval)
    return f"{mean:+.{digits}f} [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"


def rounded_up(bound: float) -> str:
    """Return a bound with two digits, not below it."""
    if bound <= 0:
        return "0"
    digits = min(MOST_DECIMALS + 2, max(0, 1 - math.floor(math.log10(bound))))
    return f"{math.ceil(bound * 10**digits - 1e-9) / 10**digits:.{digits}f}"
