"""Sentences that put a family's means in context: references, failed runs, and the learning rates that were tried."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

from microgpt.reports.factor_effects import Compared
from microgpt.reports.paired_statistics import Difference, Verdict, difference, number_of_seeds, summary
from microgpt.reports.phrases import listed, size
from microgpt.reports.provenance import LOSS_AT_STEP
from microgpt.reports.rows import Row
from microgpt.reports.run_families import Family, Variant, alike
from microgpt.reports.settings import LR, label
from microgpt.reports.simultaneous import adjusted
from microgpt.reports.wording import MOST_NAMED

OPTIMIZER = "optim.name"
COARSE = 10.0  # ratio of neighbouring rates, from which the best one is not located between them
MOST_SETTINGS = 6  # settings whose best learning rates one sentence lists


def common_references(rows: Sequence[Row]) -> dict[str, float]:
    """Return the reference losses if they are the same for all runs, else an empty dictionary."""
    return rows[0].baselines if rows and all(row.baselines == rows[0].baselines for row in rows) else {}


def reference_sentences(family: Family) -> Iterator[str]:
    """Yield sentences on the variants that end above a reference loss."""
    references = common_references(family.rows) if family.metric == "val_loss" else {}
    known = [variant for variant in family.variants if variant.values("val_loss")]
    if "uniform" in references:
        loss = references["uniform"]
        for variant in known:
            values = variant.values("val_loss")
            above = {seed: value for seed, value in values.items() if value > loss}
            if above:
                firsts = [variant.rows[seed].first_val_loss or loss for seed in above]
                mean = summary(above.values()).mean
                what = "diverged without becoming infinite" if mean > summary(firsts).mean else "did not learn"
                part = "all" if len(above) == len(values) else f"{len(above)} of"
                seeds = f" in {part} {len(values)} seeds ({mean:.4f} on average)"
                where = seeds if len(values) > 1 else f" ({mean:.4f})"
                yield f"{variant.name} {what}: it ends above the uniform reference ({loss:.4f}){where}."
    means = {one.name: one.summary("val_loss").mean for one in known}
    for name, higher in (("unigram", "uniform"), ("bigram", "unigram")):
        if name not in references:
            continue
        limit = references.get(higher, float("inf"))
        above_it = [one for one, mean in means.items() if references[name] < mean <= limit]
        if above_it and len(above_it) == len(known):
            yield f"All variants end above the {name} reference ({references[name]:.4f})."
        elif above_it:
            few = listed(above_it) if len(above_it) <= MOST_NAMED else f"{len(above_it)} of {len(known)} variants"
            verb = "ends" if len(above_it) == 1 else "end"
            yield f"{few} {verb} above the {name} reference ({references[name]:.4f})."


def failure_sentences(family: Family) -> Iterator[str]:
    """Yield a sentence on each variant of which some runs failed: its mean is that of the survivors."""
    failing = [variant for variant in family.variants if variant.failed and variant.rows]
    everywhere = [variant for variant in family.variants if variant.failed]
    for variant in failing[:MOST_NAMED]:
        seeds = len(variant.rows) + variant.failed + variant.unfinished
        own = [row for row in family.missing if family.names[row.fingerprint] == variant.name]
        verb = "diverged" if own and all(LOSS_AT_STEP.search(str(row.error)) for row in own) else "failed"
        alone = "; no other variant failed" if len(everywhere) == 1 else ""
        mean = variant.summary(family.metric).mean
        survivors = len(variant.rows)
        whose = "the only survivor" if survivors == 1 else f"the {survivors} survivors"
        yield (
            f"{variant.name} {verb} in {variant.failed} of {number_of_seeds(seeds)}{alone}. "
            f"Its mean {mean:.4f} is that of {whose} and probably too low."
        )
    if len(failing) > MOST_NAMED:
        yield f"{len(failing) - MOST_NAMED} more variants have failed runs: see the column failed."


def fixed_rates(family: Family) -> Iterator[str]:
    """Yield a sentence on the learning rate if it was not varied."""
    rates = {str(row.setting("optim", "name")): row.setting("optim", "lr") for row in family.rows}
    known = all(isinstance(rate, int | float) for rate in rates.values())
    if len(family.variants) < 2 or LR in family.variants[0].settings or not known:
        return
    if len(set(rates.values())) == 1:
        yield (
            f"lr {next(iter(rates.values())):g} was used for all variants and was not tuned for each: the order may "
            "change with tuned rates."
        )
    else:
        stated = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
        yield f"Each optimizer has one learning rate ({stated}): at other rates, their order may differ."


def tried_rates(family: Family, compared: Compared) -> Iterator[str]:
    """Yield sentences on the best learning rate tried for each other setting, and on best rates at an edge."""
    if not all(isinstance(one.settings.get(LR), int | float) for one in family.variants):
        return
    groups = alike(family.variants, without=[LR])
    best = [(*chosen, group) for group in groups if len(group) > 1 and (chosen := best_rate(group, family.metric))]
    if not best:
        return
    names = {one.name: label(without_rate(one.settings)) for one, *_ in best}
    order = sorted(best, key=lambda item: item[1])
    tried = max(map(len, groups))
    if 1 < len(order) <= MOST_SETTINGS and order[0][0].name == compared.best.name and not family.obstacle:
        means = ", ".join(f"{names[one.name]} {mean:.4f} (lr {rate_of(one):g})" for one, mean, _ in order)
        pairs = list(itertools.combinations([one for one, *_ in order], 2))
        if len(order) > MOST_NAMED:
            pairs = [(order[0][0], one) for one, *_ in order[1:]]
        found = [difference(b.values(family.metric), a.values(family.metric)) for a, b in pairs]
        gaps = "".join(
            gap_sentence(names[a.name], names[b.name], one)
            for (a, b), one in zip(pairs, adjusted(found, compared.pairs), strict=True)
        )
        yield (
            f"Each setting at its best of the {tried} values of {LR} tried: {means}. {gaps}The rates were "
            "chosen on the same seeds, so these means are slightly too low."
        )
    if OPTIMIZER in family.variants[0].settings:
        yield (
            f"A value of {LR} is not the same step size for different optimizers: differences at equal "
            f"{LR} do not rank them."
        )
    at_edge = [names[one.name] for one, _, group in best if is_at_edge(one, group)]
    if at_edge:
        of = "" if len(best) == 1 else f" of {listed(at_edge)}" if len(at_edge) <= MOST_NAMED else (
            f" of {len(at_edge)} of {len(best)} settings"
        )  # fmt: skip
        order_may_change = ", and the order of the settings may change" if len(best) > 1 else ""
        yield (f"The best {LR}{of} is at the edge of those tried: better values may lie outside{order_may_change}.")
    elif len(best) == 1 and compared.best.name == best[0][0].name:
        yield from unlocated_rate(best[0][0], best[0][2], compared)


def unlocated_rate(best: Variant, group: Sequence[Variant], compared: Compared) -> Iterator[str]:
    """Yield why the best rate of a setting is not known, although a lower and a higher one were tried."""
    members = sorted(group, key=rate_of)
    ends = [compared.from_best.get(one.name) for one in (members[0], members[-1])]
    reasons = [
        f"{rate_of(one):g}, at the edge of those tried, is not shown to be worse than {rate_of(best):g}"
        for one, found in zip((members[0], members[-1]), ends, strict=True)
        if found is not None and found.verdict is Verdict.NOT_SHOWN
    ]
    near = itertools.pairwise(map(rate_of, members))
    wide = [f"between {a:g} and {b:g}" for a, b in near if rate_of(best) in (a, b) and b > COARSE * a]
    reasons += [f"nothing was tried {listed(wide)}"] if wide else []
    if reasons:
        yield f"The best {LR} is not located: {', and '.join(reasons)}."


def best_rate(group: Sequence[Variant], metric: str) -> tuple[Variant, float] | None:
    """Return the variant with the lowest mean, and its mean. Variants with failed runs count only if all have some."""
    known = [one for one in group if one.values(metric)]
    known = [one for one in known if not one.failed] or known
    means = [(one, one.summary(metric).mean) for one in known]
    return min(means, key=lambda item: item[1]) if means else None


def is_at_edge(variant: Variant, group: Sequence[Variant]) -> bool:
    rates = [rate_of(one) for one in group]
    return rate_of(variant) in (min(rates), max(rates))


def gap_sentence(first: str, second: str, found: Difference | None) -> str:
    if found is None or found.mean is None:
        return ""
    if found.verdict is Verdict.SHOWN:
        return f"{first} is lower than {second} by {size(found)}. "
    return f"No difference between {first} and {second} is shown ({size(found)}). "


def without_rate(settings: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in settings.items() if key != LR}


def rate_of(variant: Variant) -> float:
    return float(variant.settings[LR])
