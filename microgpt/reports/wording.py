"""The meaning of the effects of a design in sentences: for each factor, and for the interactions of two factors."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from microgpt.reports.contrasts import Kind, Pair, pair_label
from microgpt.reports.factor_effects import Compared, Effect, Effects
from microgpt.reports.factors import Design, Factor
from microgpt.reports.paired_statistics import Difference, Verdict
from microgpt.reports.phrases import between, listed, signed, size, told
from microgpt.reports.settings import grouped
from microgpt.reports.tables import decimals

MOST_NAMED = 4  # pairs of levels, or variants, in a sentence
MOST_TOLD = 12  # simple effects, or steps of a numeric factor, in a sentence
MOST_INTERACTIONS = 6  # sentences about interactions
ONE_SEED = "One seed of each: no effect can be told from chance. Add seeds, for example `seed=range(8)`."


def best_sentence(found: Compared, metric: str, without_results: int = 0) -> list[str]:
    """Return which variant has the lowest mean, and which others are not shown to be worse."""
    tested = {name: one for name, one in found.from_best.items() if one.verdict is not Verdict.UNTESTED}
    if not tested:
        return []
    first = f"Lowest mean {metric}: {found.best.name}, {found.best.mean:.4f}"
    which = " with results" if without_results else ""
    close = {name: one for name, one in tested.items() if one.verdict in (Verdict.NOT_SHOWN, Verdict.ZERO)}
    if not close:
        name, nearest = min(tested.items(), key=lambda item: item[1].mean or 0)
        if len(tested) == 1:
            return [f"{first}; the other variant{which} is shown to be worse, by {size(nearest)}."]
        return [f"{first}; every other variant{which} is shown to be worse, the nearest, {name}, by {size(nearest)}."]
    if len(close) == len(tested) > MOST_NAMED:
        return [f"{first}; no other variant{which} is shown to be worse."]
    if len(close) > MOST_NAMED:
        return [f"{first}. {len(close)} of the {len(tested)} others are not shown to be worse."]
    return [f"{first}. Not shown to be worse: {', '.join(f'{name} ({signed(one)})' for name, one in close.items())}."]


def effect_sentences(found: Effects, metric: str) -> list[str]:
    """Return sentences about each factor, the one with the largest effect first, then about interactions."""
    if not found.averaged and not found.simple:
        return []
    if all(one.difference.verdict is Verdict.UNTESTED for one in (*found.averaged, *found.simple)):
        return [ONE_SEED]
    factors = sorted(found.design.factors, key=lambda factor: -largest(found, factor))
    main = [sentence for factor in factors for sentence in factor_sentences(factor, found, metric, factors)]
    return [*main, *interaction_sentences(found)]


def largest(found: Effects, factor: Factor) -> float:
    """Return the size of the largest effect of a factor that is shown, averaged or at a level of others; 0 for none."""
    shown = [one for one in (*found.averaged, *found.simple) if one.is_about(factor) and one.is_shown]
    return max((abs(one.difference.mean or 0) for one in shown), default=0.0)


def factor_sentences(factor: Factor, found: Effects, metric: str, order: Sequence[Factor]) -> Iterator[str]:
    """Yield sentences about a factor; its interactions are told with the first factor of each pair in the `order`."""
    if factor in found.depends and not found.is_screening:
        later = [one for one in found.depends[factor] if order.index(one) > order.index(factor)]
        details = [interaction_detail(factor, one, found) for one in later]
        yield " ".join(filter(None, [dependent_sentence(factor, found), *details]))
        return
    own = found.of(factor)
    average = on_average(factor, found)
    if factor.is_numeric and not factor.has_control:
        yield from numeric_sentence(factor, found, metric, average)
        return
    shown = sorted((one for one in own if one.is_shown), key=lambda one: -abs(one.difference.mean or 0))
    yield from (f"{effect_sentence(one, metric)}{average}." for one in shown[:MOST_NAMED])
    if len(shown) > MOST_NAMED:
        yield f"{len(shown) - MOST_NAMED} more differences between levels of {factor.name} are shown: see the table."
    rest = [one for one in own if not one.is_shown]
    if len(rest) > MOST_NAMED:
        yield f"{len(rest)} {'other ' * bool(shown)}differences between levels of {factor.name} are not shown: " + (
            f"intervals {between(rest)}{average}."
        )
    else:
        yield from (f"{effect_sentence(one, metric)}{average}." for one in rest)


def on_average(factor: Factor, found: Effects) -> str:
    """Return the factors that an effect is averaged over; in a screening only those that it depends on."""
    others = [one.name for one in found.design.factors if one is not factor]
    if not others:
        return ""
    if not found.is_screening:
        return f", on average over {listed(others)}"
    partners = [one.name for one in found.depends.get(factor, ())]
    return f", on average over {listed(partners)}, on which it depends" if partners else ""


def effect_sentence(one: Effect, metric: str) -> str:
    """Return `optim=muon is worse than lion: val_loss is higher by 0.09 [0.08, 0.10]`, or what is not shown."""
    found = one.difference
    if not one.is_shown or found.mean is None:
        return f"{one.contrast.label}: {told(found, metric)}"
    (factor,), pair = one.contrast.factors, one.contrast.pair
    helps = found.mean < 0
    words = f"{factor.label(pair[0])} is {'better' if helps else 'worse'} than {factor.value(pair[1])}"
    if factor.levels[pair[0]] is True:
        words = f"{factor.label(pair[0])} {'helps' if helps else 'hurts'}"
    return f"{words}: {told(found, metric)}"


def dependent_sentence(factor: Factor, found: Effects) -> str:
    """Return the effects of a factor at each level of those that it depends on."""
    others = found.depends[factor]
    names = listed([other.name for other in others])
    pairs = [(factor, other) for other in others] + [(other, factor) for other in others]
    shown = any(one.is_shown for one in found.averaged if one.contrast.factors in pairs)
    first = f"The effect of {factor.name} depends on {names}"
    if not shown:
        first = f"The effect of {factor.name} is given at each {names}, because some combinations lack results"
    effects = [one for one in found.simple if one.is_about(factor)]
    if len(effects) > MOST_TOLD:
        return f"{first}; the table of effects has its {len(effects)} differences, each with its interval."
    rest = [other.name for other in found.design.factors if other is not factor and other not in others]
    average = f" (averaged over {listed(rest)})" if rest else ""
    combinations = math.prod(len(other.levels) for other in others)
    if len(effects) == combinations and common_sign(factor, effects):
        pair = effects[0].contrast.pair
        word = "worse" if common_sign(factor, effects) > 0 else "better"
        every = f"every{' combination of' * (len(others) > 1)} {names}{average}"
        sizes = listed([f"{size(one.difference)} with {where_of(one, others)}" for one in effects])
        return f"{factor.label(pair[0])} is {word} than {factor.value(pair[1])} with {every}: by {sizes}."
    by_pair: dict[str, list[str]] = {}
    for one in effects:
        values = by_pair.setdefault(pair_label(factor, one.contrast.pair), [])
        values.append(f"{signed(one.difference)} with {where_of(one, others, with_key=not values)}")
    for pair in {one.contrast.pair for one in effects}:
        values = by_pair[pair_label(factor, pair)]
        if len(values) < combinations:
            lacking = [] if rest else missing_cells(found.design, {factor: pair})
            few = 0 < len(lacking) <= MOST_NAMED
            which = f"without {listed(lacking)}" if few else "other combinations lack results"
            by_pair[pair_label(factor, pair)] = [f"{listed(values)} ({which})"]
    return f"{first}{average}. {'; '.join(f'{name}: {listed(values)}' for name, values in by_pair.items())}."


def where_of(one: Effect, others: Sequence[Factor], *, with_key: bool = False) -> str:
    """Return the levels that a simple effect is at: `optim.lr=0.01`, or of a single other factor `0.01`."""
    name = "label" if with_key or len(others) > 1 else "value"
    return " ".join(getattr(other, name)(level) for other, level in one.contrast.at)


def missing_cells(design: Design, of: Mapping[Factor, Pair] | None = None) -> list[str]:
    """Return the combinations without results, with `of` those that have one of two levels of a factor."""
    choices = [(of or {}).get(one, range(len(one.levels))) for one in design.factors]
    lacking = [levels for levels in itertools.product(*choices) if levels not in design.number_of_cell]
    return [" ".join(map(Factor.label, design.factors, levels)) for levels in lacking]


def common_sign(factor: Factor, effects: Sequence[Effect]) -> int:
    """Return the sign of the effects of a factor with two levels if all of them are shown and have the same, else 0."""
    signs = {math.copysign(1, one.difference.mean or 0) for one in effects if one.is_shown}
    every = len(factor.levels) == 2 and len(signs) == 1 and all(one.is_shown for one in effects)
    return int(signs.pop()) if every else 0


def interaction_detail(factor: Factor, other: Factor, found: Effects) -> str:
    """Return between which levels of another factor an effect of one sign is shown to differ; else nothing."""
    pairs = [(factor, other), (other, factor)]
    effects = [one for one in found.averaged if one.contrast.factors in pairs and all(one.contrast.pairs)]
    shown, rest = ([one for one in effects if one.is_shown is kind] for kind in (True, False))
    sign = common_sign(factor, [one for one in found.simple if one.is_about(factor)])
    if not sign or not shown or len(effects) > MOST_TOLD:
        return ""

    def between_levels(one: Effect, words: str) -> str:
        level, reference = one.contrast.pairs[one.contrast.factors.index(other)] or (0, 0)
        way = "smaller" if (one.difference.mean or 0) * sign < 0 else "larger"
        return words.format(way, other.value(level), other.value(reference), size(one.difference))

    differ = listed([between_levels(one, "{} with {} than with {} (by {})") for one in shown])
    unknown = listed([between_levels(one, "between {1} and {2} this is not shown (by {3})") for one in rest] or [""])
    return f"The difference is shown to be {'; '.join(filter(None, [differ, unknown]))}."


def numeric_sentence(factor: Factor, found: Effects, metric: str, average: str) -> Iterator[str]:
    """Yield the straight line of a numeric factor, or of one that is off it, each step between its levels."""
    of = {kind: [one for one in found.of(factor) if one.contrast.kind == kind] for kind in KINDS}
    line = f"a straight line in {'the logarithm of ' * (factor.scale == 'log')}{factor.name}"
    off = [one for one in of["departure"] if one.is_shown]
    if off:
        most = max(off, key=lambda one: abs(one.difference.mean or 0))
        label = most.contrast.label.removesuffix(" off the line")
        yield f"{metric} does not follow {line}: {label} is off it by {signed(most.difference)}{average}."
    elif of["trend"]:
        yield line_sentence(factor, of["trend"][0].difference, of["departure"], metric, line, average)
        return
    if len(of["difference"]) > MOST_TOLD:
        yield f"The table of effects has each of the {len(of['difference'])} steps of {factor.name}."
        return
    steps = [step(factor, one) for one in of["difference"]]
    if steps:
        yield f"Each step of {factor.name}{average}: {'; '.join(steps)}."


KINDS: tuple[Kind, ...] = ("trend", "departure", "difference")


def step(factor: Factor, one: Effect) -> str:
    pair = one.contrast.pair
    where = f"from {factor.value(pair[1])} to {factor.value(pair[0])}"
    if not one.is_shown:
        return f"{where} no difference is shown ({signed(one.difference)})"
    return f"{where} it {'falls' if (one.difference.mean or 0) < 0 else 'rises'} by {size(one.difference)}"


def line_sentence(
    factor: Factor, trend: Difference, departures: Sequence[Effect], metric: str, line: str, average: str
) -> str:
    ends = f"from {factor.label(0)} to {factor.value(-1)}"
    if trend.mean is None or trend.interval is None or trend.verdict is not Verdict.SHOWN:
        first = f"{metric} {ends}: {told(trend, metric)}"
        return f"{first}{average}."
    doublings = factor.positions[-1] - factor.positions[0]
    each = f", {abs(trend.mean) / doublings:.2g} for each doubling" if factor.scale == "log" else ""
    verb = "falls" if trend.mean < 0 else "rises"
    known = [one for one in departures if one.difference.interval is not None]
    fit = f"; departures from it are not shown (intervals {between(known)})" if known else ""
    return f"{metric} {verb} by {size(trend)} {ends}{average}, along {line}{each}{fit}."


def interaction_sentences(found: Effects) -> Iterator[str]:
    """Yield which pairs of factors of a screening interact, and for any design how large the others can be."""
    interactions = [one for one in found.averaged if one.contrast.kind == "interaction"]
    shown = sorted((one for one in interactions if one.is_shown), key=lambda one: one.difference.p or 0)
    if found.is_screening:
        yield from (interaction_sentence(found, one) for one in shown[:MOST_INTERACTIONS])
        if len(shown) > MOST_INTERACTIONS:
            yield f"{len(shown) - MOST_INTERACTIONS} more pairs of factors interact: see the table."
    pairs = {one.contrast.factors for one in shown}
    rest = [one for one in interactions if one.contrast.factors not in pairs and one.difference.interval is not None]
    others = list(dict.fromkeys(one.contrast.factors for one in rest))
    if others:
        of = {pair: [one for one in rest if one.contrast.factors == pair] for pair in others}
        named = [f"{' × '.join(one.name for one in pair)} ({between(own)})" for pair, own in of.items()]
        number = f"{len(others)} {'other ' * bool(pairs)}interactions of two factors are not shown"
        several = f"{number} (intervals {between(rest)})."
        yield several if len(others) > MOST_NAMED else f"Interactions not shown: {', '.join(named)}."
    if len(found.design.factors) > 2 and interactions:
        yield "Interactions of three or more factors were not examined."


def interaction_sentence(found: Effects, one: Effect) -> str:
    """Return how the effect of a two-level factor differs between the levels of another, by the means of the cells."""
    a, b = one.contrast.factors
    pair_a, pair_b = one.contrast.pairs
    means = marginal_means(found, a, b)
    assert pair_a is not None
    assert pair_b is not None
    effect = f"{a.label(pair_a[0])} against {a.value(pair_a[1])}"
    if means is None:
        return f"The effect of {effect} depends on {b.name}: {one.contrast.label} is {signed(one.difference)}."
    digits = decimals(one.difference.interval)
    at = {level: means[pair_a[0], level] - means[pair_a[1], level] for level in pair_b}
    values = listed([f"{value:+.{digits}f} with {b.label(level)}" for level, value in at.items()])
    return f"The effect of {effect} depends on {b.name}: {values}, a difference of {signed(one.difference)}."


def marginal_means(found: Effects, a: Factor, b: Factor) -> dict[tuple[int, int], float] | None:
    """Return the mean of the cells at each pair of levels; None if one has no cell."""
    places = [found.design.factors.index(factor) for factor in (a, b)]
    groups = grouped(found.design.cells, lambda cell: (cell.levels[places[0]], cell.levels[places[1]]))
    full = len(groups) == len(a.levels) * len(b.levels)
    return {at: fmean(cell.mean for cell in cells) for at, cells in groups.items()} if full else None
