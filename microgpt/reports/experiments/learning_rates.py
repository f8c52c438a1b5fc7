"""The best learning rate of each setting of a sweep over optim.lr, with an interval over seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from microgpt.reports.budgets import Reader
from microgpt.reports.document import ends
from microgpt.reports.experiment_plan import Plan
from microgpt.reports.experiments.charts import Line, lines_chart
from microgpt.reports.paired_statistics import Interval, summary
from microgpt.reports.plot_style import drawn
from microgpt.reports.plots import LOSSES, MOST_CURVES, UNIT
from microgpt.reports.report import Analysis, Cells, Plot, Table
from microgpt.reports.run_families import ONLY, Family, Variant, alike
from microgpt.reports.settings import LR, exact, fingerprint, grouped, label, short
from microgpt.reports.tables import interval_cell

FEWEST_RATES, FEWEST_SEEDS = 4, 3
NEAR = 3.0  # the parabola is fitted to the rates within this factor of the best one
RESAMPLES = 1000
RATE = "{:.2g}"
CLOSE = 0.01  # nats per token
MOST_TOLD = 12  # settings, or trends, that each have a sentence
HEIGHT = 0.5  # nats per token above the lowest loss that the plot shows
NOTE = (
    "The optimum is that of a parabola through the mean losses over log(lr), fitted to the rates within a factor of "
    f"{NEAR:g} of the best one. Its 95 % interval is that of percentiles over {RESAMPLES:,} resamples of the seeds. "
    f"within {CLOSE}: the rates that were run whose mean loss is at most {CLOSE} above the lowest."
)


@dataclass(frozen=True)
class Curve:
    """Losses of one setting at several learning rates."""

    name: str
    settings: Mapping[str, Any]
    rates: np.ndarray  # (K,) ascending
    losses: np.ndarray  # (K, S), for the seeds that all rates have


@dataclass(frozen=True)
class Optimum:
    curve: Curve
    rate: float
    loss: float  # value of the parabola at `rate`
    resampled: np.ndarray  # the rate in each resample of the seeds
    is_at_edge: bool

    @property
    def interval(self) -> Interval:
        low, high = np.quantile(self.resampled, [0.025, 0.975])
        return Interval(float(low), float(high))


def learning_rate_analysis(family: Family, plan: Plan, read: Reader | None) -> Analysis | None:
    """Return the optimum of each setting; None for a family without enough learning rates."""
    if LR in plan.nuisance:
        return None
    optima = [optimum(curve) for curve in curves_of(family)]
    if not optima:
        return None
    draw = partial(plots_of, optima, family.metric)
    plots = drawn(f"learning rates of {family.key}", draw, []) if read else []
    table = Table("Learning rates", [row_of(one) for one in optima], NOTE)
    sentences = [sentence(one) for one in optima[:MOST_TOLD]]
    if len(optima) > MOST_TOLD:
        edges = sum(one.is_at_edge for one in optima)
        sentences = [f"The best learning rates of {len(optima)} settings are in their table; {edges} are at an edge."]
    changes = trends(optima)
    findings = [*sentences, *(line for line, _ in changes if len(changes) <= MOST_TOLD)]
    data = {
        "optima": [
            {
                "setting": one.curve.name, "lr": one.rate, **ends(one.interval), "loss": one.loss,
                "at_edge": one.is_at_edge, "seeds": one.curve.losses.shape[1],
            }
            for one in optima
        ],
        "trends": [trend for _, trend in changes],
    }  # fmt: skip
    return Analysis(findings, plots, [table], data)


def curves_of(family: Family) -> list[Curve]:
    """Return the losses of each setting with enough rates and seeds."""
    groups = alike((variant for variant in family.variants if LR in variant.settings), without=[LR])
    found = (curve_of(variants, family.metric) for variants in groups)
    return [curve for curve in found if curve is not None]


def curve_of(variants: Sequence[Variant], metric: str) -> Curve | None:
    samples = {float(variant.settings[LR]): variant.values(metric) for variant in variants}
    most = max(map(len, samples.values()))
    kept = {rate: sample for rate, sample in sorted(samples.items()) if rate > 0 and 2 * len(sample) >= most}
    seeds = sorted(set.intersection(*map(set, kept.values()))) if kept else []
    if len(kept) < FEWEST_RATES or len(seeds) < FEWEST_SEEDS:
        return None
    losses = np.array([[sample[seed] for seed in seeds] for sample in kept.values()])
    settings = {key: value for key, value in variants[0].settings.items() if key != LR}
    return Curve(label(settings) or ONLY, settings, np.array(list(kept)), losses)


def optimum(curve: Curve) -> Optimum:
    """Return the best learning rate; equal curves give equal intervals."""
    x, seeds = np.log(curve.rates), curve.losses.shape[1]
    chosen = np.random.default_rng(0).integers(seeds, size=(RESAMPLES, seeds))
    resampled = np.exp([lowest(x, curve.losses[:, rows].mean(axis=1))[0] for rows in chosen])
    place, loss = lowest(x, curve.losses.mean(axis=1))
    best = int(curve.losses.mean(axis=1).argmin())
    return Optimum(curve, math.exp(place), loss, resampled, best in (0, len(x) - 1))


def lowest(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return the position of the minimum of the parabola through the points near the lowest point, and its value.

    The lowest point itself, if it is the first or the last one, or if the parabola is not convex.
    """
    best = int(y.argmin())
    if best in (0, len(x) - 1):
        return float(x[best]), float(y[best])
    near = np.abs(x - x[best]) <= math.log(NEAR) + 1e-9
    near[best - 1 : best + 2] = True
    a, b, c = np.polyfit(x[near] - x[best], y[near], 2)
    if a <= 0:
        return float(x[best]), float(y[best])
    place = float(np.clip(-b / (2 * a), x[best - 1] - x[best], x[best + 1] - x[best]))
    return float(x[best]) + place, float(a * place**2 + b * place + c)


def sentence(one: Optimum) -> str:
    name = "The best learning rate" + ("" if one.curve.name == ONLY else f" of {one.curve.name}")
    if one.is_at_edge:
        side = "lowest" if one.rate == one.curve.rates[0] else "highest"
        return f"{name} is the {side} one that was run, {one.rate:.2g}, so that the optimum may lie beyond it."
    return f"{name} is {one.rate:.2g} {interval_cell(one.interval, RATE)}."


def trends(optima: Sequence[Optimum]) -> list[tuple[str, dict[str, Any]]]:
    """Return, for each numeric key, the change of the optimum when the key doubles, other settings being equal.

    A pair has a sentence and the numbers.
    """
    found = []
    keys = [key for key, value in optima[0].curve.settings.items() if is_size(value)]
    for key in keys:
        groups = grouped(optima, lambda one, key=key: fingerprint(one.curve.settings, without=[key]))
        for members in groups.values():
            if len({exact(one.curve.settings, key) for one in members}) < 2 or any(one.is_at_edge for one in members):
                continue
            x = np.log2([one.curve.settings[key] for one in members])
            slope = np.polyfit(x, np.log([one.rate for one in members]), 1)[0]
            resampled = np.polyfit(x, np.log([one.resampled for one in members]), 1)[0]
            low, high = np.exp(np.quantile(resampled, [0.025, 0.975]))
            rest = label({name: value for name, value in members[0].curve.settings.items() if name != key})
            factor, interval = math.exp(slope), Interval(float(low), float(high))
            text = f"When {short(key)} doubles, the best learning rate{f' of {rest}' if rest else ''} is multiplied by "
            numbers = {"key": key, "setting": rest, "factor": factor, **ends(interval)}
            found.append((f"{text}{factor:.2f} {interval_cell(interval, '{:.2f}')}.", numbers))
    return found


def is_size(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def row_of(one: Optimum) -> Cells:
    means = one.curve.losses.mean(axis=1)
    best = int(means.argmin())
    close = one.curve.rates[means <= means[best] + CLOSE]
    return {
        "setting": one.curve.name,
        "optimum": RATE.format(one.rate),
        "95 % interval": interval_cell(one.interval, RATE),
        "loss there": f"{one.loss:.4f}",
        "best rate run": f"{one.curve.rates[best]:g}",
        f"within {CLOSE}": f"{close[0]:g} to {close[-1]:g}",
        "rates": str(len(means)),
        "seeds": str(one.curve.losses.shape[1]),
        "remark": "at the edge of the rates" if one.is_at_edge else "",
    }


def plots_of(optima: Sequence[Optimum], metric: str) -> list[Plot]:
    """Return a plot for each setting other than a size, such as each optimizer, with a line for each size."""
    groups = grouped(optima, lambda one: label({k: v for k, v in one.curve.settings.items() if not is_size(v)}))
    return [plot_of(name, members, metric, number) for number, (name, members) in enumerate(groups.items())]


def plot_of(name: str, optima: Sequence[Optimum], metric: str, number: int) -> Plot:
    lines = {}
    for one in optima[:MOST_CURVES]:
        sizes = label({key: value for key, value in one.curve.settings.items() if is_size(value)})
        known = [summary(row) for row in one.curve.losses]
        lines[sizes or name or ONLY] = Line(
            list(one.curve.rates),
            [found.mean for found in known],
            [found.interval.low if found.interval else found.mean for found in known],
            [found.interval.high if found.interval else found.mean for found in known],
            marked=(one.rate, one.loss, one.interval),
        )
    lowest_loss = min(min(line.y) for line in lines.values())
    highest = max(max(line.y) for line in lines.values())
    limits = (lowest_loss - 0.05 * HEIGHT, min(highest + 0.05 * HEIGHT, lowest_loss + HEIGHT))
    figure = lines_chart(lines, x_label="learning rate", y_label=f"{LOSSES[metric]} ({UNIT})", y_limits=limits)
    some = f" The first {len(lines)} of {len(optima)} settings are drawn." * (len(lines) < len(optima))
    caption = f"Means over seeds with 95 % intervals; a star marks the optimum, with its interval.{some}"
    title = f"Loss against learning rate{f' of {name}' if name else ''}"
    return Plot(f"learning-rates{f'-{number + 1}' if number else ''}", title, caption, figure)
