"""Which plots a family of runs gets, of which variants, and what is said below them.

Takes histories from whoever reads them. How a plot looks is plots.py's business.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from microgpt.reports.curves import Band, Curve, Figure, over_runs
from microgpt.reports.plot_style import Plot
from microgpt.reports.plots import MOST_DOTS, Strip, curves, strips
from microgpt.reports.records import Row
from microgpt.reports.settings import short
from microgpt.reports.statistics import Difference, Factorial, summary
from microgpt.reports.variants import Comparison, Family, Variant

MOST_CURVES = 8  # variants that colours, dashes and markers tell apart
MOST_STRIPS = 16
LOSSES = {"val_loss": "validation loss", "mean_loss_last_n": "mean of the last training losses"}
UNIT = "nats per token"
SAME_TOKENS = 0.02  # variants whose numbers of tokens differ by less are not drawn against tokens as well


@dataclass(frozen=True)
class Shown:
    """The variants of a family that are drawn, each with a number that is its colour in all plots."""

    variants: tuple[Variant, ...]
    left_out: str  # a sentence; empty where all are drawn


def plots_of(
    family: Family,
    compared: Sequence[Comparison],
    effects: Factorial | None,
    references: Mapping[str, float],
    read: Callable[[Row], Curve],
) -> list[Plot]:
    """The plots of a family that has at least one completed run; `read` gives the history of a run."""
    shown = shown_variants(family, MOST_CURVES)
    histories = {variant.name: [read(row) for row in variant.rows.values()] for variant in shown.variants}
    return [
        *loss_curves(histories, references, shown.left_out),
        *distribution(family, references),
        *effect_plots(family, effects),
        *differences(family, compared),
        *training_curves(histories, shown.left_out),
        *against_compute(histories, references, shown.left_out),
    ]


def shown_variants(family: Family, most: int) -> Shown:
    """All variants with runs; of too many the best ones, the baseline, and the worst, in the family's own order."""
    ranked = [variant for variant, _ in family.ranked]
    if len(ranked) <= most:
        return Shown(tuple(variant for variant in family.variants if variant.rows), "")
    chosen = {family.baseline.name, ranked[-1].name}
    for variant in ranked:
        if len(chosen) < most:
            chosen.add(variant.name)
    left_out = f"Of {len(ranked)} variants the best, the baseline and the worst are drawn; the table has all."
    return Shown(tuple(variant for variant in family.variants if variant.name in chosen), left_out)


def bands_of(histories: Mapping[str, Sequence[Curve]], figure: Figure, x: str = "step") -> dict[str, Band]:
    found = {name: over_runs(runs, figure, x) for name, runs in histories.items()}
    return {name: band for name, band in found.items() if band is not None}


def band_caption(bands: Mapping[str, Band]) -> str:
    most = max(band.runs for band in bands.values())
    return "One run each, and so no band." if most == 1 else "Mean over seeds; the band is its 95 % interval."


def joined(*sentences: str) -> str:
    return " ".join(filter(None, sentences))


def loss_curves(histories: Mapping[str, Sequence[Curve]], references: Mapping[str, float], left_out: str) -> list[Plot]:
    bands = bands_of(histories, "val_loss")
    if not bands:
        return []
    caption = joined(band_caption(bands), left_out, reference_caption(references))
    whole = curves(bands, x_label="training steps", references=references)
    found = [Plot("curves", "Validation loss", caption, whole)]
    half = max(band.x[-1] for band in bands.values()) / 2
    if min((band.x >= half).sum() for band in bands.values()) >= 2:
        late = curves(bands, x_label="training steps", references=references, from_x=half)
        found.append(Plot("late", "Validation loss, the second half enlarged", caption, late))
    return found


def reference_caption(references: Mapping[str, float]) -> str:
    if not references:
        return ""
    values = ", ".join(f"{name} {loss:.4f}" for name, loss in references.items())
    return f"References, drawn where they are in range: {values}."


def training_curves(histories: Mapping[str, Sequence[Curve]], left_out: str) -> list[Plot]:
    bands = bands_of(histories, "loss")
    if not bands or max(len(band.x) for band in bands.values()) < 2:
        return []
    figure = curves(bands, x_label="training steps", y_label=f"training loss ({UNIT})")
    caption = joined("Loss of the step's batch alone.", band_caption(bands), left_out)
    return [Plot("training", "Training loss", caption, figure)]


def against_compute(
    histories: Mapping[str, Sequence[Curve]], references: Mapping[str, float], left_out: str
) -> list[Plot]:
    """Against seconds, and against tokens where variants differ in how many they see."""
    found = []
    seconds = bands_of(histories, "val_loss", "seconds")
    if seconds:
        scale, unit = (1000, "milliseconds") if max(band.x[-1] for band in seconds.values()) < 0.5 else (1, "seconds")
        scaled = {name: Band(b.x * scale, b.mean, b.low, b.high, b.runs) for name, b in seconds.items()}
        figure = curves(scaled, x_label=f"{unit} of training", references=references)
        rates = [run.steps_per_sec for runs in histories.values() for run in runs]
        shared = "Runs that were trained side by side share one measurement of time." * (len(set(rates)) < len(rates))
        caption = joined("Time of training alone, by each run's mean rate on its machine.", shared, left_out)
        found.append(Plot("seconds", "Validation loss against training time", caption, figure))
    tokens = bands_of(histories, "val_loss", "tokens")
    ends = [band.x[-1] for band in tokens.values()]
    if ends and max(ends) > min(ends) * (1 + SAME_TOKENS):
        figure = curves(tokens, x_label="target tokens seen", references=references)
        found.append(Plot("tokens", "Validation loss against tokens", joined("Targets trained on.", left_out), figure))
    return found


def distribution(family: Family, references: Mapping[str, float]) -> list[Plot]:
    shown = shown_variants(family, MOST_STRIPS)
    numbers = {variant.name: number for number, variant in enumerate(shown_variants(family, MOST_CURVES).variants)}
    rows = []
    for variant in shown.variants:
        values = list(variant.values(family.figure).values())
        if values:
            found = summary(values)
            rows.append(Strip(variant.name, values, found.mean, found.interval, numbers.get(variant.name, 7)))
    if not rows:
        return []
    figure = strips(rows, x_label=f"{LOSSES[family.figure]} ({UNIT})", references=references)
    return [Plot("seeds", "Distribution over seeds", joined(dots_caption("run", rows), shown.left_out), figure)]


def dots_caption(what: str, rows: Sequence[Strip]) -> str:
    most = max(len(row.values) for row in rows)
    fewer = f"Of {most:,} {MOST_DOTS} dots are drawn, evenly spaced in the order of the seeds." * (most > MOST_DOTS)
    return joined(f"A dot is a {what}; the diamond is the mean, the bar its 95 % interval.", fewer)


def difference_strip(label: str, found: Difference, series: int = 0) -> list[Strip]:
    if found.mean is None:
        return []
    return [Strip(label, found.values, found.mean, found.interval, series)]


def effect_plots(family: Family, effects: Factorial | None) -> list[Plot]:
    if effects is None or family.factors is None:
        return []
    a, b = (short(factor.key) for factor in family.factors)
    named = (
        (family.factors[0].label, effects.a),
        (family.factors[1].label, effects.b),
        (f"interaction of {a} and {b}", effects.interaction),
    )
    rows = [strip for name, found in named for strip in difference_strip(name, found)]
    if not rows:
        return []
    figure = strips(rows, x_label=f"effect on the {LOSSES[family.figure]} ({UNIT})", zero=True)
    caption = joined("Left of zero the loss is lower with the first value.", dots_caption("seed", rows))
    return [Plot("effects", "Main effects and interaction", caption, figure)]


def differences(family: Family, compared: Sequence[Comparison]) -> list[Plot]:
    tested = [one for one in compared if one.difference.mean is not None]
    if not tested:
        return []
    chosen = tested
    if len(tested) > MOST_STRIPS:
        surest = sorted(tested, key=lambda one: (one.difference.p is None, one.difference.p or 0))[:MOST_STRIPS]
        chosen = [one for one in tested if one in surest]
    rows = [strip for one in chosen for strip in difference_strip(f"{one.a.name} − {one.b.name}", one.difference)]
    figure = strips(rows, x_label=f"difference of the {LOSSES[family.figure]} ({UNIT})", zero=True)
    some = f"Of {len(tested)} comparisons the {len(chosen)} with the smallest p are drawn." * (chosen is not tested)
    paired = "A dot is a seed's difference" if any(one.difference.paired for one in chosen) else ""
    rest = "the diamond is the mean, the bar its 95 % interval, not adjusted for other comparisons."
    caption = f"{paired}; {rest}" if paired else rest.capitalize()
    return [Plot("differences", "Differences between variants", joined(caption, some), figure)]
