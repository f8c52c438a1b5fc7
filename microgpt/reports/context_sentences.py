"""Sentences that put a family's means in context: references, failed runs, and the learning rates that were tried."""

from collections.abc import Iterator, Mapping, Sequence

from microgpt.reports.factor_effects import Compared
from microgpt.reports.paired_statistics import Difference, Verdict, number_of_seeds, summary
from microgpt.reports.provenance import LOSS_AT_STEP
from microgpt.reports.rows import Row
from microgpt.reports.run_families import Family, Variant
from microgpt.reports.settings import fingerprint, label
from microgpt.reports.wording import MOST_NAMED, listed, size

LEARNING_RATE = "optim.lr"
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
            values = variant.values("val_loss").values()
            above = sum(value > loss for value in values)
            if above:
                part = "all" if above == len(values) else f"{above} of"
                runs = "this run" if above == 1 else "these runs"
                seeds = f" in {part} {len(values)} seeds" if len(values) > 1 else ""
                yield f"{variant.name} ends above the uniform reference ({loss:.4f}){seeds}: {runs} did not learn."
    means = {one.name: summary(list(one.values("val_loss").values())).mean for one in known}
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
        mean = summary(list(variant.values(family.metric).values())).mean
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
    if len(family.variants) < 2 or LEARNING_RATE in family.variants[0].settings or not known:
        return
    if len(set(rates.values())) == 1:
        yield f"lr {next(iter(rates.values())):g} was used for all variants and was not tuned for each."
    else:
        stated = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
        yield f"Each optimizer has one learning rate ({stated}): at other rates, their order may differ."


def tried_rates(family: Family, compared: Compared) -> Iterator[str]:
    """Yield sentences on the best learning rate tried for each other setting, and on best rates at an edge."""
    if not all(isinstance(one.settings.get(LEARNING_RATE), int | float) for one in family.variants):
        return
    groups: dict[str, list[Variant]] = {}
    for variant in family.variants:
        groups.setdefault(fingerprint(variant.settings, without=[LEARNING_RATE]), []).append(variant)
    best = [chosen for group in groups.values() if len(group) > 1 and (chosen := best_rate(group, family.metric))]
    if not best:
        return
    names = {one.name: label(without_rate(one.settings)) for one, _ in best}
    order = sorted(best, key=lambda item: item[1])
    tried = max(map(len, groups.values()))
    if 1 < len(order) <= MOST_SETTINGS and order[0][0].name == compared.best.name:
        means = ", ".join(f"{names[one.name]} {mean:.4f} (lr {rate_of(one):g})" for one, mean in order)
        first, second = order[0][0], order[1][0]
        gap = gap_sentence(names[first.name], names[second.name], compared.from_best.get(second.name))
        yield (
            f"Each setting at its best of the {tried} values of {LEARNING_RATE} tried: {means}. {gap}The rates were "
            "chosen on the same seeds, so these means are slightly too low."
        )
    at_edge = [names[one.name] for one, _ in best if is_at_edge(one, groups)]
    if at_edge:
        of = "" if len(best) == 1 else f" of {listed(at_edge)}" if len(at_edge) <= MOST_NAMED else (
            f" of {len(at_edge)} of {len(best)} settings"
        )  # fmt: skip
        order_may_change = ", and the order of the settings may change" if len(best) > 1 else ""
        yield (
            f"The best {LEARNING_RATE}{of} is at the edge of those tried: better values may lie outside"
            f"{order_may_change}."
        )


def best_rate(group: Sequence[Variant], metric: str) -> tuple[Variant, float] | None:
    """Return the variant with the lowest mean, and its mean. Variants with failed runs count only if all have some."""
    known = [one for one in group if one.values(metric)]
    known = [one for one in known if not one.failed] or known
    means = [(one, summary(list(one.values(metric).values())).mean) for one in known]
    return min(means, key=lambda item: item[1]) if means else None


def is_at_edge(variant: Variant, groups: Mapping[str, Sequence[Variant]]) -> bool:
    group = groups[fingerprint(variant.settings, without=[LEARNING_RATE])]
    rates = sorted(rate_of(one) for one in group)
    return rate_of(variant) in (rates[0], rates[-1])


def gap_sentence(first: str, second: str, found: Difference | None) -> str:
    if found is None or found.mean is None:
        return ""
    if found.verdict is Verdict.SHOWN:
        return f"{first} is lower than {second} by {size(found)}. "
    return f"No difference between {first} and {second} is shown ({size(found)}). "


def without_rate(settings: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in settings.items() if key != LEARNING_RATE}


def rate_of(variant: Variant) -> float:
    return float(variant.settings[LEARNING_RATE])
