"""The plots of a family: which ones it has, of which variants, with which captions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from microgpt.reports.budgets import is_too_short
from microgpt.reports.charts import MOST_DOTS, Strip, curves, is_above, strips
from microgpt.reports.curves import Band, Curve, Loss, over_runs
from microgpt.reports.paired_statistics import Difference, summary
from microgpt.reports.plot_style import drawn
from microgpt.reports.report import Plot
from microgpt.reports.rows import Row
from microgpt.reports.run_families import ABLATION, Family, Variant, baseline_words
from microgpt.reports.settings import with_short_keys
from microgpt.reports.tables import counted
from microgpt.reports.variant_comparisons import Comparison

MOST_CURVES = 8  # variants that colours, dashes and markers distinguish
MOST_STRIPS = 16
MOST_LEFT_OUT = 2  # variants that a caption names
LOSSES = {"val_loss": "validation loss", "mean_loss_last_n": "mean of the last training losses"}
UNIT = "nats per token"
BATCHES = "Loss of the batches of the steps in history.jsonl (train.log_every)"
TOGGLE_NAMES = "tied: tie_lm_head=true, untied: false; no_input_rmsnorm: input_rmsnorm=false, input_rmsnorm: true."
SAME_TOKENS = 0.02  # relative difference in tokens seen, up to which there is no plot against tokens

Histories = Mapping[str, Sequence[Curve]]  # name of variant -> curves of its runs


@dataclass(frozen=True)
class Selection:
    """The variants that are drawn; the place of one is the number of its colour in all plots."""

    variants: tuple[Variant, ...]
    note: str  # what was left out, a sentence; empty if all are drawn


def plots_of(
    family: Family,
    compared: Sequence[Comparison],
    analyses: Sequence[Plot],
    references: Mapping[str, float],
    read: Callable[[Row], Curve],
) -> list[Plot]:
    """Return the plots of a family with at least one completed run, with those of its analyses.

    `read` returns the history of a run.
    """
    selected = select(family, MOST_CURVES)
    histories = {
        with_short_keys(variant.name, list(variant.settings)): [read(row) for row in variant.rows.values()]
        for variant in selected.variants
    }
    plots: list[Plot] = []
    for name, draw in {
        "validation loss": lambda: loss_curves(histories, references, selected.note),
        "distribution over seeds": lambda: distribution(family, references),
        "analyses": lambda: list(analyses),
        "differences": lambda: difference_plots(family, compared),
        "training loss": lambda: training_curves(histories, references, selected.note),
        "loss against time and tokens": lambda: compute_curves(family, histories, references, selected.note),
    }.items():
        plots += drawn(f"{name} of {family.key}", draw, [])
    return plots


def select(family: Family, most: int) -> Selection:
    """Return all variants with runs; of too many the best ones, the baseline, and the worst, in the family's order."""
    ranked = [variant for variant, _ in family.ranked]
    if len(ranked) <= most:
        return Selection(tuple(variant for variant in family.variants if variant.rows), "")
    chosen = {family.baseline.name, ranked[-1].name}
    for variant in ranked:
        if len(chosen) < most:
            chosen.add(variant.name)
    best = next(number for number, variant in enumerate([*ranked, None]) if not variant or variant.name not in chosen)
    is_among = family.baseline.name in [variant.name for variant in ranked[:best]]
    listed = f"the {best} best, {'among them ' * is_among}{baseline_words(family)}, and the worst"
    left_out = [variant.name for variant in ranked if variant.name not in chosen]
    drawn = f"{len(chosen)} of {len(ranked)} variants are drawn"
    which = f"{drawn}: {listed}"
    rest = f"Not drawn: {', '.join(left_out)}." if len(left_out) <= MOST_LEFT_OUT else "The table has all."
    return Selection(tuple(variant for variant in family.variants if variant.name in chosen), f"{which}. {rest}")


def bands_of(histories: Histories, loss: Loss, x: str = "step") -> dict[str, Band]:
    found = {name: over_runs(runs, loss, x) for name, runs in histories.items()}
    return {name: band for name, band in found.items() if band is not None}


def band_caption(bands: Mapping[str, Band]) -> str:
    numbers = {band.runs for band in bands.values()}
    if max(numbers) == 1:
        return "One run per variant, so there is no band."
    whose = "seeds" if len(numbers) == 1 else "the completed runs of each variant"
    return f"Mean over {whose}; the band is its 95 % interval."


def joined(*sentences: str) -> str:
    return " ".join(filter(None, sentences))


def loss_curves(histories: Histories, references: Mapping[str, float], note: str) -> list[Plot]:
    bands = bands_of(histories, "val_loss")
    if not bands:
        return []
    highest = references.get("uniform")
    caption = joined(band_caption(bands), clipped(bands, highest), note, reference_caption(references))
    whole = curves(bands, x_label="training steps", references=references, highest=highest)
    found = [Plot("curves", "Validation loss", caption, whole)]
    half = max(band.x[-1] for band in bands.values()) / 2
    if min((band.x >= half).sum() for band in bands.values()) >= 2:
        late = curves(bands, x_label="training steps", references=references, from_x=half, highest=highest)
        found.append(Plot("late", "Validation loss, second half enlarged", caption, late))
    return found


def clipped(bands: Mapping[str, Band], highest: float | None) -> str:
    """Return which curves the y-axis does not span."""
    high = [name for name, band in bands.items() if highest is not None and is_above(band.mean, highest)]
    if not high or len(high) == len(bands):
        return ""
    named = ", ".join(high) if len(high) <= MOST_LEFT_OUT else f"{len(high)} variants"
    return f"The y-axis does not span curves that rise above uniform ({named})."


def reference_caption(references: Mapping[str, float]) -> str:
    if not references:
        return ""
    values = ", ".join(f"{name} {loss:.4f}" for name, loss in references.items())
    return f"References (losses of counting), drawn if they are in range: {values}."


def training_curves(histories: Histories, references: Mapping[str, float], note: str) -> list[Plot]:
    bands = {name: without_interval(band) for name, band in bands_of(histories, "loss").items()}
    if not bands or max(len(band.x) for band in bands.values()) < 2:
        return []
    several = max(band.runs for band in bands.values()) > 1  # the loss of one batch of one run may be any
    highest = 1.2 * references["uniform"] if several and "uniform" in references else None
    figure = curves(bands, x_label="training steps", y_label=f"training loss ({UNIT})", highest=highest)
    caption = joined(f"{BATCHES}{', mean over seeds' * several}.", clipped(bands, highest), note)
    return [Plot("training", "Training loss", caption, figure)]


def without_interval(band: Band) -> Band:
    """Return a band without its interval, which for losses of small batches hides the curves."""
    return replace(band, low=np.full_like(band.low, np.nan), high=np.full_like(band.high, np.nan))


def compute_curves(family: Family, histories: Histories, references: Mapping[str, float], note: str) -> list[Plot]:
    """Return plots against seconds, of runs that are long enough, and, if variants saw more tokens, against tokens."""
    found, highest = [], references.get("uniform")
    seconds = {} if is_too_short(family) else bands_of(histories, "val_loss", "seconds")
    if seconds:
        figure = curves(seconds, x_label="seconds of training", references=references, highest=highest)
        rates = [run.steps_per_sec for runs in histories.values() for run in runs]
        shared = "Runs that were trained side by side have the same speed, which was measured once." * (
            len(set(rates)) < len(rates)
        )
        caption = joined("Training time only, by each run's mean rate on its machine.", shared, note)
        found.append(Plot("seconds", "Validation loss against training time", caption, figure))
    tokens = bands_of(histories, "val_loss", "tokens")
    ends = [band.x[-1] for band in tokens.values()]
    if ends and max(ends) > min(ends) * (1 + SAME_TOKENS):
        figure = curves(tokens, x_label="target tokens seen", references=references, highest=highest)
        found.append(
            Plot("tokens", "Validation loss against tokens", joined("Target tokens trained on.", note), figure)
        )
    return found


def distribution(family: Family, references: Mapping[str, float]) -> list[Plot]:
    selected = select(family, MOST_STRIPS)
    numbers = {variant.name: number for number, variant in enumerate(select(family, MOST_CURVES).variants)}
    rows = []
    for variant in selected.variants:
        values = list(variant.values(family.metric).values())
        if values:
            found = summary(values)
            name = with_short_keys(variant.name, list(variant.settings))
            rows.append(Strip(name, values, found.mean, found.interval, numbers.get(variant.name)))
    if not rows:
        return []
    highest = references.get("uniform")
    figure = strips(rows, x_label=f"{LOSSES[family.metric]} ({UNIT})", references=references, highest=highest)
    names = TOGGLE_NAMES if {variant.name for variant in family.variants} <= set(ABLATION) else ""
    end = figure.axes[0].get_xlim()[1]
    number = len([value for row in rows for value in row.values if value > end])
    outside = f"{counted(number, 'run')} {'is' if number == 1 else 'are'} outside this plot." if number else ""
    is_black = any(row.series is None for row in rows)
    black = "Small black dots: variants that are not drawn as curves." if is_black else ""
    caption = joined(dots_caption("run", rows), outside, black, names, reference_caption(references), selected.note)
    return [Plot("seeds", "Distribution over seeds", caption, figure)]


def dots_caption(what: str, rows: Sequence[Strip]) -> str:
    most = max(len(row.values) for row in rows)
    fewer = f"{MOST_DOTS} of {most:,} dots are drawn, evenly spaced in the order of the seeds." * (most > MOST_DOTS)
    return joined(f"A dot is a {what}; the diamond is the mean, the bar its 95 % interval.", fewer)


def difference_strips(found: Mapping[str, Difference]) -> list[Strip]:
    return [Strip(name, one.values, one.mean, one.interval) for name, one in found.items() if one.mean is not None]


def difference_plots(family: Family, compared: Sequence[Comparison]) -> list[Plot]:
    known = [one for one in compared if one.difference.mean is not None]
    if not known:
        return []
    chosen = known
    if len(known) > MOST_STRIPS:
        surest = sorted(known, key=lambda one: (one.difference.p is None, one.difference.p or 0))[:MOST_STRIPS]
        chosen = [one for one in known if one in surest]
    rows = difference_strips({f"{one.a.name} − {one.b.name}": one.difference for one in chosen})
    figure = strips(rows, x_label=f"difference of the {LOSSES[family.metric]} ({UNIT})", zero=True)
    some = f"The {len(chosen)} of {len(known)} comparisons with the smallest p are drawn." * (chosen is not known)
    paired = "A dot is a seed's difference" if any(one.difference.paired for one in chosen) else ""
    rest = "the diamond is the mean, the bar its simultaneous 95 % interval."
    caption = f"{paired}; {rest}" if paired else rest.capitalize()
    return [Plot("differences", "Differences between variants", joined(caption, some), figure)]
