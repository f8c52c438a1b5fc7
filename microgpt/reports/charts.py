"""The two kinds of chart in a report: curves with bands, and strips of dots.

Each function returns a matplotlib figure; matplotlib is imported when the first one is drawn.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from microgpt.reports.curves import Band
from microgpt.reports.paired_statistics import Interval
from microgpt.reports.plot_style import FAINT, INK, PAPER, WIDTH, line_style, new_axes, plot_style, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

LOSS = "validation loss (nats per token)"
MOST_DOTS = 300  # in one strip
STRIP_HEIGHT = 0.5  # inches
LEGEND_ROW = 0.19  # inches
MARGIN = 0.42  # inches, for the names of references
REFERENCE_NAMES = {"unigram": "unigram\ncounts", "bigram": "bigram\ncounts"}


@dataclass(frozen=True)
class Strip:
    """A row of dots with their mean and its interval."""

    label: str
    values: Sequence[float]
    mean: float
    interval: Interval | None
    series: int | None = 0  # number of the colour and marker; None if the other plots do not draw the variant


def curves(
    bands: Mapping[str, Band],
    *,
    x_label: str,
    y_label: str = LOSS,
    references: Mapping[str, float] | None = None,
    from_x: float | None = None,
    highest: float | None = None,
) -> "Figure":
    """Draw a line with a band for each name; with `from_x`, only the part from there on.

    References are horizontal lines; one outside of the range of the curves is left out. The y-axis spans the curves
    that are not above `highest`, if there are any.
    """
    high = [name for name, band in bands.items() if highest is not None and is_above(band.mean, highest)]
    columns = 1 if max(map(len, bands), default=0) > 24 or high else 2
    legend = LEGEND_ROW * math.ceil(len(bands) / columns)
    with plot_style():
        figure, axes = new_axes(2.75 + legend, bottom=0.46 + legend)
        shown = bands if from_x is None else {name: band.since(from_x) for name, band in bands.items()}
        lines: list[Line2D] = []
        for number, (name, band) in enumerate(shown.items()):
            style, every = line_style(number), max(1, len(band.x) // 8)
            label, marked = shortened(name, 54), (number % every, every)
            lines += axes.plot(band.x, band.mean, label=label, markevery=marked, **style)
            axes.fill_between(band.x, band.low, band.high, color=style["color"], alpha=0.18, linewidth=0)
        inside = [band for name, band in shown.items() if name not in high]
        means = [band.mean for band in inside or shown.values()]
        ends = [end for band in inside for end in (band.low, band.high)] or means
        limit_to(axes, np.concatenate(means), np.concatenate(ends))
        for line in lines:
            values = np.asarray(line.get_ydata())
            if values[len(values) > 1 :].min() > axes.get_ylim()[1]:
                line.set_label(f"{line.get_label()} is outside this plot (final mean {values[-1]:.4f})")
        mark_references(axes, references or {})
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        figure.legend(loc="lower center", ncols=columns, bbox_to_anchor=(0.5, 0))
    return figure


def is_above(mean: np.ndarray, highest: float) -> bool:
    """Whether a curve exceeds a loss anywhere after its first point, the loss of the untrained model."""
    return bool((mean[1:] if len(mean) > 1 else mean).max() > highest)


def limit_to(axes: "Axes", means: np.ndarray, bands: np.ndarray) -> None:
    """Limit the y-axis to the means, plus the bands up to the range of the means: bands of two seeds are very wide."""
    low, high = float(means.min()), float(means.max())
    most = (high - low) or 0.05 * abs(high)
    known = bands[np.isfinite(bands)]
    if len(known):
        low, high = min(low, max(known.min(), low - most)), max(high, min(known.max(), high + most))
    air = 0.06 * (high - low) or 0.01
    axes.set_ylim(low - air, high + air)


def mark_references(axes: "Axes", references: Mapping[str, float]) -> None:
    """Draw a line at each reference loss, with its name to the right of the axes."""
    low, high = axes.get_ylim()
    known = {name: value for name, value in references.items() if low <= value <= high}
    if known:
        place = axes.get_position()
        axes.set_position((place.x0, place.y0, place.width - MARGIN / WIDTH, place.height))
    for name, value in known.items():
        axes.axhline(value, color=FAINT, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1.5)
        axes.annotate(
            REFERENCE_NAMES.get(name, name), (1, value), xycoords=("axes fraction", "data"), xytext=(3, 0),
            textcoords="offset points", va="center", fontsize=7.5, color=FAINT, linespacing=0.9,
        )  # fmt: skip


def strips(
    rows: Sequence[Strip],
    *,
    x_label: str,
    zero: bool = False,
    references: Mapping[str, float] | None = None,
    highest: float | None = None,
) -> "Figure":
    """Draw a row for each strip, the first on top: dots for the values, and below them the mean and its 95 % interval.

    Labels are above their rows, so that they may be long. `zero` adds a line at zero. References are vertical lines;
    one outside of the range of the rows is left out. The x-axis spans the rows with a mean that is not above `highest`,
    if there are any; the means of others are printed at its right end.
    """
    with plot_style():
        top = 0.36 if references else 0.12  # names of references are above the axes
        figure, axes = new_axes(0.58 + top + STRIP_HEIGHT * len(rows), left=0.22, bottom=0.5, top=top)
        axes.set_ylim(len(rows) - 0.5, -0.66)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        if zero:
            axes.axvline(0, color=FAINT, linewidth=0.9, zorder=1.5)
        inside = [row for row in rows if highest is None or row.mean <= highest] or rows
        for place, row in enumerate(rows):
            draw_strip(axes, place, row)
        if len(inside) < len(rows):
            limit_strips(axes, inside)
        low, high = axes.get_xlim()
        for place, row in enumerate(rows):
            if row.mean > high:
                axes.annotate(
                    f"mean {row.mean:.3f} →", (1, place), xycoords=("axes fraction", "data"), ha="right",
                    va="center", fontsize=8, color=FAINT,
                )  # fmt: skip
        known = {name: value for name, value in (references or {}).items() if low <= value <= high}
        for name, value in known.items():
            axes.axvline(value, color=FAINT, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1.5)
            at = (value - low) / (high - low)
            axes.annotate(
                REFERENCE_NAMES.get(name, name), (value, 1), xycoords=("data", "axes fraction"), xytext=(0, 2),
                ha="right" if at > 0.9 else "left" if at < 0.1 else "center", textcoords="offset points", fontsize=7.5,
                color=FAINT, linespacing=0.9,
            )  # fmt: skip
        axes.locator_params(axis="x", nbins=7)
        axes.set_xlabel(x_label)
    return figure


def limit_strips(axes: "Axes", rows: Sequence[Strip]) -> None:
    """Limit the x-axis to the values and intervals of the given rows."""
    ends = [end for row in rows for end in (*row.values, row.mean)]
    ends += [end for row in rows if row.interval for end in (row.interval.low, row.interval.high)]
    air = 0.06 * (max(ends) - min(ends)) or 0.01
    axes.set_xlim(min(ends) - air, max(ends) + air)


def draw_strip(axes: "Axes", place: int, row: Strip) -> None:
    """Draw, from top to bottom, the label, the dots, and the mean, which would hide dots at the same height."""
    style = {"color": INK, "marker": "."} if row.series is None else line_style(row.series)
    values = thinned(row.values)
    few = len(values) <= 24
    axes.scatter(
        values, place + spread(len(values)), s=20 if few else 9, color=style["color"], marker=style["marker"],
        alpha=0.8 if few else 0.45, linewidth=0,
    )  # fmt: skip
    below = place + 0.24
    if row.interval is not None:
        axes.plot([row.interval.low, row.interval.high], [below, below], color=INK, linewidth=2, solid_capstyle="butt")
    axes.plot([row.mean], [below], marker="D", markersize=5, color=INK, markerfacecolor=PAPER, linestyle="none")
    axes.annotate(
        shortened(row.label, 60), (0, place - 0.26), xycoords=("axes fraction", "data"), va="bottom", fontsize=8.5,
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.8},
    )  # fmt: skip


def thinned(values: Sequence[float]) -> np.ndarray:
    """Return at most MOST_DOTS of the values, evenly spaced in the order of the seeds."""
    array = np.asarray(values, float)
    if len(array) <= MOST_DOTS:
        return array
    return array[np.linspace(0, len(array) - 1, MOST_DOTS).round().astype(int)]


def spread(count: int) -> np.ndarray:
    """Return heights that separate dots with close values: multiples of the golden ratio keep neighbours apart."""
    return ((np.arange(count) * 0.6180339887) % 1 - 0.5) * (0.3 if count > 1 else 0)
