"""What the effects of a design mean, in sentences: one or a few for each factor, and one for each interaction shown."""

import math
from collections.abc import Iterator, Sequence

from microgpt.reports.factor_effects import Effect, Effects, level_weights
from microgpt.reports.factors import Cell, Factor
from microgpt.reports.paired_statistics import Difference, Interval, Verdict
from microgpt.reports.tables import MOST_DECIMALS, decimals

MOST_NAMED = 4  # pairs of levels, or variants, in a sentence
MOST_LISTED = 6  # levels in a sentence
MOST_INTERACTIONS = 6  # sentences about interactions
ONE_SEED = "One seed of each: no effect can be told from chance. Add seeds, for example `seed=range(8)`."


def best_sentence(
    best: Cell, others: Sequence[tuple[Cell, Difference]], metric: str, without_results: int = 0
) -> list[str]:
    """Say which variant has the lowest mean, and which others are not shown to be worse."""
    tested = [(cell, found) for cell, found in others if found.verdict is not Verdict.UNTESTED]
    if not tested:
        return []
    close = [cell.name for cell, found in tested if found.verdict in (Verdict.NOT_SHOWN, Verdict.ZERO)]
    first = f"Lowest mean {metric}: {best.name}, {math.fsum(best.sample.values()) / len(best.sample):.4f}"
    which = " with results" if without_results else ""
    if not close:
        return [f"{first}; every other variant{which} is shown to be worse."]
    if len(close) == len(tested):
        return [f"{first}; no other variant{which} is shown to be worse."]
    named = ", ".join(close) if len(close) <= MOST_NAMED else f"{len(close)} of the {len(tested)} others"
    return [f"{first}. Not shown to be worse: {named}."]


def effect_sentences(found: Effects, metric: str) -> list[str]:
    """Return sentences about each factor, the surest first, then about interactions."""
    if not found.effects:
        return []
    if all(effect.difference.verdict is Verdict.UNTESTED for effect in found.effects):
        return [ONE_SEED]
    factors = sorted(found.design.factors, key=lambda factor: smallest_p(found.of(factor)))
    main = [sentence for factor in factors for sentence in factor_sentences(factor, found, metric)]
    return [*main, *interaction_sentences(found)]


def smallest_p(effects: Sequence[Effect]) -> float:
    return min((1.0 if one.difference.p is None else one.difference.p for one in effects), default=1.0)


def factor_sentences(factor: Factor, found: Effects, metric: str) -> Iterator[str]:
    own = found.of(factor)
    by_kind = {kind: [one for one in own if one.contrast.kind == kind] for kind in ("trend", "departure", "difference")}
    if by_kind["trend"]:
        yield trend_sentence(factor, by_kind["trend"][0], by_kind["departure"], metric)
    if by_kind["difference"]:
        shown = [one.contrast for one in found.effects if one.contrast.kind == "interaction" and one.is_shown]
        others = dict.fromkeys(other for one in shown if factor in one.factors for other in one.factors)
        others.pop(factor, None)
        yield from difference_sentences(factor, by_kind["difference"], found, metric, list(others))


def difference_sentences(
    factor: Factor, effects: Sequence[Effect], found: Effects, metric: str, others: Sequence[Factor]
) -> Iterator[str]:
    """`others` are the factors that this one is shown to interact with."""

    def sentence(one: Effect) -> str:
        return f"{one.contrast.label} {what_it_does(one.difference, metric)}{on_average(one, found, others)}."

    if len(effects) == 1:
        yield sentence(effects[0])
        return
    shown = sorted((one for one in effects if one.is_shown), key=lambda one: -abs(one.difference.mean or 0))
    yield from map(sentence, shown[:MOST_NAMED])
    if len(shown) > MOST_NAMED:
        yield f"{len(shown) - MOST_NAMED} more differences between levels of {factor.name} are shown: see the table."
    rest = [one for one in effects if not one.is_shown]
    bounds = [bound for one in rest if (bound := largest(one.difference)) is not None]
    if not bounds:
        return
    which = f"Between the other {len(rest)} pairs of levels of {factor.name}"
    if not shown:
        which = f"Between any two of {factor.name}={','.join(map(factor.value, range(len(factor.levels))))}"
    elif len(rest) <= MOST_NAMED:
        which = f"For {', '.join(one.contrast.label for one in rest)}"
    yield f"{which} no difference is shown; if there is one, it is at most {rounded_up(max(bounds))}."


def on_average(one: Effect, found: Effects, others: Sequence[Factor]) -> str:
    """Return a clause about a difference that depends on other factors: where its direction is the opposite."""
    if not others:
        return ""
    (factor,), (pair,) = one.contrast.factors, one.contrast.pairs
    weights, opposite = level_weights(factor, pair), []
    for other in others:
        means = marginal_means(found, factor, other) or {}
        for level in range(len(other.levels) if means else 0):
            value = sum(weight * means[i, level] for i, weight in enumerate(weights))
            if value * (one.difference.mean or 0) < 0:
                opposite.append(f"{value:+.{decimals(one.difference.interval)}f} with {other.label(level)}")
    names = listed([other.name for other in others])
    depends = f" on average over {names}, on which it depends (see below)"
    return f"{depends}; the direction is the opposite at some levels: {listed(opposite)}" if opposite else depends


def what_it_does(found: Difference, metric: str) -> str:
    """Return `helps: val_loss is lower by 0.031 [0.028, 0.034]`, or how large an effect can at most be."""
    if found.mean is None or found.verdict is Verdict.UNTESTED:
        return f"is not tested: {found.sentence}"
    if found.verdict is Verdict.ZERO:
        return "changes nothing: all differences are zero"
    direction = f"helps: {metric} is lower" if found.mean < 0 else f"hurts: {metric} is higher"
    if found.verdict is Verdict.EQUAL:
        return f"{direction} by {abs(found.mean):.4g} with every seed"
    if found.verdict is Verdict.SHOWN and found.interval is not None:
        return f"{direction} by {size(found.mean, found.interval)}"
    bound = largest(found)
    return (
        "shows no effect" if bound is None else f"shows no effect; if there is one, it is at most {rounded_up(bound)}"
    )


def trend_sentence(factor: Factor, trend: Effect, departures: Sequence[Effect], metric: str) -> str:
    found = trend.difference
    ends = f"from {factor.label(0)} to {factor.value(len(factor.levels) - 1)}"
    if found.mean is None or found.interval is None:
        return f"{factor.name} {what_it_does(found, metric)}."
    first = f"{metric} shows no trend {ends}; if there is one, it is at most {rounded_up(largest(found) or 0)}"
    if found.verdict is Verdict.SHOWN:
        doublings = factor.positions[-1] - factor.positions[0]
        each = f" ({abs(found.mean) / doublings:.2g} for each doubling)" if factor.scale == "log" else ""
        verb = "falls" if found.mean < 0 else "rises"
        first = f"{metric} {verb} by {size(found.mean, found.interval)} {ends}, by a straight line{each}"
    line = f"a straight line in {'the logarithm of ' * (factor.scale == 'log')}{factor.name}"
    off = [one for one in departures if one.is_shown]
    if off:
        most = max(off, key=lambda one: abs(one.difference.mean or 0)).difference
        label = next(one.contrast.label for one in off if one.difference is most)
        course = f"{metric} does not follow {line}: {label} by {signed_size(most)}"
        return f"{course}. A line fitted to it all the same: {first}."
    bounds = [bound for one in departures if (bound := largest(one.difference)) is not None]
    fit = f"; no departure from {line} is shown, and none can be above {rounded_up(max(bounds))}" if bounds else ""
    return f"{first}{fit}."


def interaction_sentences(found: Effects) -> Iterator[str]:
    """Say which interactions are shown, the surest first, and how large the others can be."""
    interactions = [one for one in found.effects if one.contrast.kind == "interaction"]
    shown = sorted((one for one in interactions if one.is_shown), key=lambda one: one.difference.p or 0)
    pairs = list(dict.fromkeys(one.contrast.factors for one in shown))
    for factors in pairs[:MOST_INTERACTIONS]:
        yield interaction_sentence(found, [one for one in shown if one.contrast.factors == factors])
    if len(pairs) > MOST_INTERACTIONS:
        yield f"{len(pairs) - MOST_INTERACTIONS} more pairs of factors interact: see the table."
    bounds = [bound for one in interactions if not one.is_shown and (bound := largest(one.difference)) is not None]
    if not bounds:
        return
    bound = f"at most {rounded_up(max(bounds))}"
    if shown:
        number = len(bounds)
        which, each = (f"{number} other interactions are", "each") if number > 1 else ("The other interaction is", "it")
        yield f"{which} not shown; {each} is {bound}."
    elif len(bounds) > 1:
        yield f"None of the {len(bounds)} interactions is shown; each is {bound}."
    else:
        yield f"No interaction is shown; if there is one, it is {bound}."


def interaction_sentence(found: Effects, shown: Sequence[Effect]) -> str:
    """Say how the effect of one factor differs between the levels of another, by the means of the cells.

    `shown` are contrasts of one pair of factors. The sentence is about a factor with a single effect, if there is one.
    """
    most = max(shown, key=lambda one: abs(one.difference.mean or 0))
    order = sorted((0, 1), key=lambda i: not has_one_effect(most.contrast.factors[i]))
    a, b = (most.contrast.factors[i] for i in order)
    pair_a, pair_b = (most.contrast.pairs[i] for i in order)
    means = marginal_means(found, a, b)
    if means is None or len(b.levels) > MOST_LISTED:
        return f"The effect of {a.name} depends on {b.name}: {most.contrast.label} is {signed_size(most.difference)}."
    effect = f"{a.label(len(a.levels) - 1)} against {a.value(0)}, by a straight line,"
    if pair_a is not None:
        effect = f"{a.label(pair_a[0])} against {a.value(pair_a[1])}"
    digits = decimals(most.difference.interval)
    weights = level_weights(a, pair_a)
    at = [sum(weight * means[i, level] for i, weight in enumerate(weights)) for level in range(len(b.levels))]
    values = [f"{value:+.{digits}f} with {b.label(level)}" for level, value in enumerate(at)]
    told = sorted(shown, key=lambda one: -abs(one.difference.mean or 0)) if has_one_effect(a) else [most]
    compared = [(one.contrast.pairs[order[1]], signed_size(one.difference)) for one in told[:MOST_NAMED]]
    if pair_b is None:
        differences = [f"along a straight line in {b.name} it changes by {size}" for _, size in compared]
    elif len(b.levels) == 2:
        differences = [f"{size} between the two" for _, size in compared]
    else:
        differences = [f"{b.value(pair[0])} against {b.value(pair[1])} {size}" for pair, size in compared if pair]
    return f"The effect of {effect} depends on {b.name}: it is {listed(values)}. Differences: {'; '.join(differences)}."


def has_one_effect(factor: Factor) -> bool:
    return factor.is_numeric or len(factor.levels) == 2


def listed(texts: Sequence[str]) -> str:
    """Return `a, b and c`."""
    return " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


def marginal_means(found: Effects, a: Factor, b: Factor) -> dict[tuple[int, int], float] | None:
    """Return the mean of the cells at each pair of levels; None if one has no cell."""
    places = [found.design.factors.index(factor) for factor in (a, b)]
    groups: dict[tuple[int, int], list[float]] = {}
    for cell in found.design.cells:
        at = (cell.levels[places[0]], cell.levels[places[1]])
        groups.setdefault(at, []).append(math.fsum(cell.sample.values()) / len(cell.sample))
    full = len(groups) == len(a.levels) * len(b.levels)
    return {at: math.fsum(means) / len(means) for at, means in groups.items()} if full else None


def largest(found: Difference) -> float | None:
    """Return the largest effect, in either direction, that the interval allows."""
    return None if found.interval is None else max(abs(found.interval.low), abs(found.interval.high))


def size(mean: float, interval: Interval) -> str:
    """Return `0.031 [0.028, 0.034]` of an effect, without its sign."""
    digits = decimals(interval)
    low, high = (interval.low, interval.high) if mean > 0 else (-interval.high, -interval.low)
    return f"{abs(mean):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def signed_size(found: Difference) -> str:
    """Return `+0.031 [+0.028, +0.034]`, of a difference without an interval the mean alone."""
    if found.mean is None or found.interval is None:
        return "-" if found.mean is None else f"{found.mean:+.4g}"
    digits = decimals(found.interval)
    return f"{found.mean:+.{digits}f} [{found.interval.low:+.{digits}f}, {found.interval.high:+.{digits}f}]"


def rounded_up(bound: float) -> str:
    """Return a bound with two digits, not below it."""
    if bound <= 0:
        return "0"
    digits = min(MOST_DECIMALS + 2, max(0, 1 - math.floor(math.log10(bound))))
    return f"{math.ceil(bound * 10**digits - 1e-9) / 10**digits:.{digits}f}"
