"""Plots of the effects of factors: by seed, by size, against chance, and interactions."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from microgpt.reports.charts import STRIP_HEIGHT, strips
from microgpt.reports.factor_effects import Effect, Effects
from microgpt.reports.factors import Factor
from microgpt.reports.paired_statistics import Summary, summary
from microgpt.reports.plot_style import COLOURS, FAINT, INK, line_style, new_axes, plot_style, shortened
from microgpt.reports.plots import LOSSES, MOST_STRIPS, UNIT, difference_strips, dots_caption, joined
from microgpt.reports.report import Plot
from microgpt.reports.run_families import Family
from microgpt.reports.settings import with_short_keys
from microgpt.reports.wording import missing_cells

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_BARS = 20
FEWEST_RANKED = 5  # effects, from which they are drawn by size and, if they are independent, against chance
MOST_INTERACTIONS = 3
MOST_LABELS, LABEL_HEIGHT = 6, 0.06  # of the effects against chance; the height in parts of the largest
SIMULTANEOUS = "The 95 % hold for all intervals together."
COLOURED = "Coloured: the interval excludes zero. Grey: it contains zero."
LARGEST_DRAWN = 12  # levels of a factor in the plot of an interaction
SIZES = ("trend", "difference", "interaction")  # kinds of effects that are ranked; a departure belongs to its trend


def plots_of_effects(family: Family, found: Effects) -> list[Plot]:
    known = [one for one in found.stated if one.difference.mean is not None]
    ranked = [one for one in known if one.contrast.kind in SIZES]
    keys = [factor.key for factor in found.design.factors]
    plots = effect_strips(family, known, keys)
    if len(keys) > 1 and len(ranked) >= FEWEST_RANKED:
        plots.append(pareto(family, ranked, keys))
        plots += [half_normal(ranked, keys)] if found.is_screening else []
    return plots + interactions(family, found)


def effect_strips(family: Family, known: Sequence[Effect], keys: Sequence[str]) -> list[Plot]:
    """Return the plot of the effects seed by seed; of many effects, those with the smallest p."""
    chosen = sorted(known, key=lambda one: (one.difference.p is None, one.difference.p or 0))[:MOST_STRIPS]
    rows = difference_strips({
        with_short_keys(one.contrast.label, keys): one.difference for one in known if one in chosen
    })  # fmt: skip
    if not rows:
        return []
    figure = strips(rows, x_label=f"effect on the {LOSSES[family.metric]} ({UNIT})", zero=True)
    some = f"The {len(chosen)} of {len(known)} effects with the smallest p are drawn." * (len(chosen) < len(known))
    caption = joined("Left of zero, the loss is lower.", dots_caption("seed", rows), SIMULTANEOUS, some)
    return [Plot("effects", "Effects" if len(keys) > 1 else "Differences between levels", caption, figure)]


def pareto(family: Family, ranked: Sequence[Effect], keys: Sequence[str]) -> Plot:
    """Return bars of the effects, the largest on top, with their intervals."""
    rows = sorted(ranked, key=lambda one: -abs(one.difference.mean or 0))[:MOST_BARS]
    with plot_style():
        figure, axes = new_axes(0.6 + STRIP_HEIGHT * 0.8 * len(rows), left=0.22, bottom=0.5)
        axes.set_ylim(len(rows) - 0.4, -0.75)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        for place, one in enumerate(rows):
            mean, interval = one.difference.mean or 0, one.difference.interval
            axes.barh(
                place, mean, 0.34, color=COLOURS[0] if one.is_shown else FAINT, alpha=0.85 if one.is_shown else 0.5
            )
            if interval is not None:
                axes.plot([interval.low, interval.high], [place, place], color=INK, linewidth=1.4)
            label = with_short_keys(one.contrast.label, keys) + " (contains zero)" * (not one.is_shown)
            axes.annotate(
                shortened(label, 66), (0, place - 0.22), xycoords=("axes fraction", "data"),
                va="bottom", fontsize=8.5,
            )  # fmt: skip
        axes.axvline(0, color=FAINT, linewidth=0.9, zorder=1.5)
        axes.set_xlabel(f"effect on the {LOSSES[family.metric]} ({UNIT})")
    some = f"The {len(rows)} largest of {len(ranked)}." * (len(rows) < len(ranked))
    caption = joined(f"{COLOURED} The line is the 95 % interval. {SIMULTANEOUS}", some)
    return Plot("pareto", "Effects by size", caption, figure)


def half_normal(ranked: Sequence[Effect], keys: Sequence[str]) -> Plot:
    """Return the effects in units of their standard errors against the quantiles expected by chance."""
    from scipy.special import ndtri

    tested = all(one.difference.t is not None for one in ranked)
    rows = sorted(ranked, key=lambda one: size_of(one, tested))
    places = ndtri(0.5 + (np.arange(len(rows)) + 0.5) / (2 * len(rows)))
    sizes = np.array([size_of(one, tested) for one in rows])
    with plot_style():
        figure, axes = new_axes(3.0)
        shown = np.array([one.is_shown for one in rows])
        if tested:
            end = float(places[-1]) * 1.08
            axes.plot([0, end], [0, end], color=FAINT, linewidth=1, linestyle=(0, (4, 2)))
        for is_shown, colour in ((False, FAINT), (True, COLOURS[0])):
            axes.scatter(places[shown == is_shown], sizes[shown == is_shown], s=22, color=colour, linewidth=0)
        above = float("inf")
        for number in np.flatnonzero(shown)[-MOST_LABELS:][::-1]:
            if above - sizes[number] < LABEL_HEIGHT * sizes[-1]:
                continue
            above = sizes[number]
            left = places[number] > 0.5 * places[-1]  # where the label has room
            axes.annotate(
                shortened(with_short_keys(rows[number].contrast.label, keys), 44), (places[number], sizes[number]),
                xytext=(-6 if left else 6, 0), textcoords="offset points", ha="right" if left else "left",
                va="center", fontsize=8,
            )  # fmt: skip
        axes.set_xlim(0, float(places[-1]) * 1.1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("half-normal quantile")
        axes.set_ylabel("|effect| / standard error" if tested else f"|effect| ({UNIT})")
    line = f"Effects of chance alone lie {'near the dashed line' if tested else 'on a line from zero'}"
    return Plot("halfnormal", "Effects against chance", f"{line}; those far above it stand out. {COLOURED}", figure)


def size_of(one: Effect, in_errors: bool) -> float:
    return abs((one.difference.t if in_errors else one.difference.mean) or 0)


def interactions(family: Family, found: Effects) -> list[Plot]:
    """Return a plot of the means for each pair of factors shown to interact, the smallest p first."""
    shown = sorted(
        (one for one in found.averaged if one.is_shown and one.contrast.kind == "interaction"),
        key=lambda one: one.difference.p or 0,
    )
    plots = []
    for factors in list(dict.fromkeys(one.contrast.factors for one in shown))[:MOST_INTERACTIONS]:
        figure = interaction(family, found, *factors)
        if figure is not None:
            names = " and ".join(factor.name for factor in factors)
            lacking = missing_cells(found.design) if len(found.design.factors) == 2 else []
            caption = joined(
                "Mean over seeds and the other factors; the bar is the 95 % interval of that mean. Do not judge "
                "differences by the overlap of the bars. Parallel lines: no interaction.",
                f"Not drawn, since left out of the effects: {', '.join(lacking)}." if lacking else "",
            )
            name = f"interaction{'abc'[len(plots)]}" if plots else "interaction"
            plots.append(Plot(name, f"Interaction of {names}", caption, figure))
    return plots


def interaction(family: Family, found: Effects, a: Factor, b: Factor) -> "Figure | None":
    """Draw the means against the levels of the factor with more levels, with a line for each level of the other."""
    along, lines = sorted((a, b), key=lambda factor: (factor.is_numeric, len(factor.levels)), reverse=True)
    if len(along.levels) > LARGEST_DRAWN or len(lines.levels) > len(COLOURS):
        return None
    numbers = [found.design.factors.index(factor) for factor in (along, lines)]
    with plot_style():
        rows = math.ceil(len(lines.levels) / 2)
        figure, axes = new_axes(2.6 + 0.19 * rows, bottom=0.46 + 0.19 * rows)
        places = np.array(along.positions) if along.is_numeric else np.arange(len(along.levels), dtype=float)
        step = float(places[-1] - places[0]) / 60
        for line, _ in enumerate(lines.levels):
            shift = (line - (len(lines.levels) - 1) / 2) * step
            points = [mean_at(found, numbers, (level, line)) for level in range(len(along.levels))]
            known = {number: point for number, point in enumerate(points) if point is not None}
            at = places[list(known)] + shift
            axes.plot(
                at, [one.mean for one in known.values()], label=shortened(lines.label(line), 40), **line_style(line)
            )
            for x, one in zip(at, known.values(), strict=True):
                if one.interval is not None:
                    ends = [one.interval.low, one.interval.high]
                    axes.plot([x, x], ends, color=line_style(line)["color"], linewidth=1.6, alpha=0.7)
        axes.set_xticks(places, [shortened(along.value(level), 14) for level in range(len(along.levels))])
        axes.margins(x=0.12)
        axes.set_xlabel(along.name)
        axes.set_ylabel(f"{LOSSES[family.metric]} ({UNIT})")
        figure.legend(loc="lower center", ncols=2, bbox_to_anchor=(0.5, 0))
    return figure


def mean_at(found: Effects, numbers: Sequence[int], at: tuple[int, int]) -> Summary | None:
    """Summarize, over seeds, the mean of the cells with the given levels of two factors."""
    samples = [cell.sample for cell in found.design.cells if (cell.levels[numbers[0]], cell.levels[numbers[1]]) == at]
    seeds = sorted(set(samples[0]).intersection(*samples[1:])) if samples else []
    return summary(fmean(sample[seed] for sample in samples) for seed in seeds) if seeds else None
