"""The charts of the experiments: a ladder of models, loss against learning rate, and loss against size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from microgpt.reports.charts import LEGEND_ROW
from microgpt.reports.paired_statistics import Interval, Summary
from microgpt.reports.plot_style import INK, line_style, new_axes, plot_style, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROW = 0.2  # inches


@dataclass(frozen=True)
class Line:
    """Points with intervals, and the fitted curve if there is one."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    curve: tuple[np.ndarray, np.ndarray] | None = None
    marked: tuple[float, float, Interval] | None = None  # a point of interest, and the interval of its x


def ladder_chart(series: Mapping[str, Sequence[tuple[str, Summary]]], *, x_label: str) -> "Figure":
    """Draw a labelled row for each model, the first on top: its mean and interval, joined by a line, in each series."""
    rows = next(iter(series.values()))
    legend = LEGEND_ROW * len(series)
    with plot_style():
        figure, axes = new_axes(0.7 + ROW * len(rows) + legend, left=1.75, bottom=0.46 + legend)
        places = np.arange(len(rows))
        for number, (name, found) in enumerate(series.items()):
            style, at = line_style(number), places + 0.16 * number
            axes.plot([one.mean for _, one in found], at, label=name, alpha=0.9, **style)
            for place, (_, one) in zip(at, found, strict=True):
                if one.interval is not None:
                    axes.plot(
                        [one.interval.low, one.interval.high], [place, place], color=style["color"], linewidth=1.2
                    )
        axes.set_yticks(places, [shortened(label, 30) for label, _ in rows], fontsize=7.5)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(x_label)
        figure.legend(loc="lower center", bbox_to_anchor=(0.5, 0))
    return figure


def lines_chart(
    lines: Mapping[str, Line],
    *,
    x_label: str,
    y_label: str,
    y_limits: tuple[float, float] | None = None,
    zero: bool = False,
) -> "Figure":
    """Draw points with intervals and their fitted curves over a logarithmic x-axis; marked points are stars.

    `zero` adds a line at zero.
    """
    legend = LEGEND_ROW * ((len(lines) + 1) // 2)
    with plot_style():
        from matplotlib.ticker import LogLocator, NullFormatter

        figure, axes = new_axes(2.9 + legend, bottom=0.46 + legend)
        for number, (name, line) in enumerate(lines.items()):
            style = line_style(number)
            y, errors = np.array(line.y), np.array([np.subtract(line.y, line.low), np.subtract(line.high, line.y)])
            points = {"linestyle": "none"} if line.curve is not None else {}
            axes.errorbar(line.x, y, errors, label=shortened(name, 32), elinewidth=1, **{**style, **points})
            if line.curve is not None:
                axes.plot(*line.curve, color=style["color"], linestyle=style["linestyle"], linewidth=1.2)
            if line.marked is not None:
                place, height, interval = line.marked
                axes.plot([interval.low, interval.high], [height, height], color=INK, linewidth=2, zorder=3)
                axes.plot(
                    [place], [height], marker="*", markersize=11, color=style["color"], markeredgecolor=INK, zorder=4
                )
        if zero:
            axes.axhline(0, color=INK, linewidth=1, zorder=1.5)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        if y_limits is not None:
            axes.set_ylim(*y_limits)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        figure.legend(loc="lower center", ncols=2, bbox_to_anchor=(0.5, 0))
    return figure
