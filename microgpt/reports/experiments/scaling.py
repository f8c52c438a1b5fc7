"""Loss against the numbers of parameters and tokens, for a sweep over the size of a model and of its training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from microgpt.reports.budgets import Reader
from microgpt.reports.document import ends
from microgpt.reports.experiment_plan import Plan
from microgpt.reports.experiments.charts import Line, lines_chart
from microgpt.reports.experiments.power_laws import RESAMPLES, STEEPEST, Fit, fit
from microgpt.reports.paired_statistics import paired, t_interval
from microgpt.reports.phrases import signed
from microgpt.reports.plot_style import drawn
from microgpt.reports.plots import LOSSES, MOST_CURVES, UNIT
from microgpt.reports.report import Analysis, Cells, Plot, Table
from microgpt.reports.run_families import Family, Variant, alike
from microgpt.reports.settings import LR, grouped
from microgpt.reports.tables import interval_cell

SIZES = (
    "model.n_embd", "model.n_head", "model.n_layer", "model.n_kv_head", "model.mlp_width", "train.steps",
    "train.batch_size",
)  # fmt: skip
FEWEST_LEVELS, FEWEST_SEEDS = 4, 3
NOTABLE = 3.0  # standard errors of the means
TERMS = {"N": "A N^-a", "D": "B D^-b"}
LETTERS = {"N": "a", "D": "b"}  # the exponents
NOTE = (
    "N is the number of parameters, D that of target tokens that were trained on, E the loss that remains. Fitted by "
    f"robust least squares from several starts, with exponents up to {STEEPEST:g}; 95 % intervals are percentiles over "
    f"{RESAMPLES} resamples of the seeds. residual: standard deviation of the means around the curve."
)
LIMITS = (
    "The intervals are for seeds only and assume that this form is true. The curve describes these sizes and this "
    "training; other curves were not tried, and E is not a limit for longer training."
)


@dataclass(frozen=True)
class Point:
    """One size: the losses by seed at its best learning rate."""

    parameters: int
    tokens: float  # mean over seeds
    losses: Mapping[int, float]
    rate: float = 0.0  # optim.lr, if it was swept

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.losses.values())))


@dataclass(frozen=True)
class Law:
    """A fit and its points."""

    where: str  # "at 50,123 tokens"; empty for all points
    fit: Fit
    points: Sequence[Point]

    @property
    def rise(self) -> tuple[float, float] | None:
        """The sizes between which the loss rises by more than the noise, which a power law cannot do."""
        if len(self.fit.names) > 1:
            return None
        sizes = [one.parameters if self.fit.names == ("N",) else one.tokens for one in self.points]
        order = sorted(range(len(sizes)), key=sizes.__getitem__)
        for a, b in pairwise(order):
            if self.points[b].mean - self.points[a].mean > NOTABLE * self.fit.noise:
                return sizes[a], sizes[b]
        return None

    @property
    def formula(self) -> str:
        return " + ".join(["L = E", *(TERMS[name] for name in self.fit.names)])


def scaling_analysis(family: Family, plan: Plan, read: Reader | None) -> Analysis | None:
    """Return the power laws of a sweep over sizes; None for another family, and for too few sizes."""
    points, tuned, at_edge = points_of(family)
    laws = laws_of(points)
    if not laws:
        return None
    draw = partial(plots_of, laws[-1], family.metric)
    plots = drawn(f"scaling of {family.key}", draw, []) if read else []
    rows = [row_of(law) for law in laws]
    columns = [column for column in rows[0] if any(row[column] for row in rows)]
    table = Table("Power laws", [{column: row[column] for column in columns} for row in rows], NOTE)
    rates = ["For each combination of sizes, the learning rate with the lowest mean loss counts."] * tuned
    if at_edge:
        rates[0] += f" For {at_edge} of {len(points)} combinations it is the lowest or the highest rate that was run."
    findings = [*(sentence for law in laws for sentence in sentences(law)), *rates]
    return Analysis(plots=plots, blocks=[table], data={"laws": [data_of(law) for law in laws]}, last=findings)


def points_of(family: Family) -> tuple[list[Point], bool, int]:
    """Return the sizes of a family in which only sizes vary.

    Also whether a learning rate was chosen for them, and for how many of them at the edge of those that were run.
    """
    if not family.variants or not set(family.variants[0].settings) <= {*SIZES, LR}:
        return [], False, 0
    every = ([point_of(one, family.metric) for one in group] for group in alike(family.variants, without=[LR]))
    groups = [known for points in every if (known := [point for point in points if point])]
    best = [min(points, key=lambda one: one.mean) for points in groups]
    tuned = any(len(points) > 1 for points in groups)
    rates = sorted({point.rate for points in groups for point in points})
    return best, tuned, sum(point.rate in (rates[0], rates[-1]) for point in best) if tuned else 0


def point_of(variant: Variant, metric: str) -> Point | None:
    losses = variant.values(metric)
    tokens = [row.tokens_seen for row in variant.rows.values() if row.tokens_seen]
    if not variant.parameters or not tokens or len(losses) < FEWEST_SEEDS:
        return None
    return Point(variant.parameters, float(np.mean(tokens)), losses, variant.settings.get(LR, 0.0))


def laws_of(points: Sequence[Point]) -> list[Law]:
    """Return the law of N at the most tokens, that of D with the most parameters, and that of both."""
    steps = group_by(points, lambda one: round(one.tokens, -2))
    models = group_by(points, lambda one: one.parameters)
    found = []
    if steps and len({one.parameters for one in steps[-1]}) >= FEWEST_LEVELS:
        found.append(law(("N",), f"at {steps[-1][0].tokens:,.0f} tokens (mean over seeds)", steps[-1]))
    if models and len(models[-1]) >= FEWEST_LEVELS:
        found.append(law(("D",), f"with {models[-1][0].parameters:,} parameters", models[-1]))
    if len(models) >= FEWEST_LEVELS - 1 and len(steps) >= FEWEST_LEVELS - 1 and len(points) > 1 + 2 * len(TERMS):
        found.append(law(("N", "D"), "", points))
    return [one for one in found if one is not None]


def group_by(points: Sequence[Point], key: Any) -> list[list[Point]]:
    return list(grouped(sorted(points, key=key), key).values())


def law(names: tuple[str, ...], where: str, points: Sequence[Point]) -> Law | None:
    """Return a fit over the seeds that all points share, or None if these are too few or the losses do not vary."""
    seeds = sorted(set.intersection(*(set(point.losses) for point in points)))
    losses = np.array([[point.losses[seed] for seed in seeds] for point in points])
    if len(seeds) < FEWEST_SEEDS or not losses.std(axis=1).any():
        return None
    return Law(where, fit(names, sizes_of(names, points), losses), points)


def sizes_of(names: Sequence[str], points: Sequence[Point]) -> list[np.ndarray]:
    known = {"N": [float(one.parameters) for one in points], "D": [one.tokens for one in points]}
    return [np.array(known[name]) for name in names]


def sentences(law: Law) -> list[str]:
    """Return a sentence with the fitted numbers and the reasons why they are unreliable."""
    found, where = law.fit, f" {law.where}" if law.where else ""
    if found.is_at_bound:
        exponents = " and ".join(f"{power:.2f}" for power in found.exponents)
        reason = f"the fit ends at a bound (exponent {exponents}, E {found.level:.2f})"
        return [f"No power law describes the loss{where}: {reason}."]
    if law.rise is not None:
        return [f"No power law describes the loss{where}: it rises from {law.rise[0]:,.0f} to {law.rise[1]:,.0f}."]
    exponents = zip(found.names, found.exponents, found.exponent_intervals, strict=True)
    powers = ", ".join(
        f"{LETTERS[name]} = {power:.2f} {interval_cell(interval, '{:.2f}')}" for name, power, interval in exponents
    )
    level = f"E = {found.level:.3f} {interval_cell(found.level_interval, '{:.3f}')}"
    text = f"A curve {law.formula} through the {len(law.points)} means{where} has {powers} and {level}"
    remarks = "".join(f"; {remark}" for remark in found.remarks())
    return [f"{text}{remarks}. {LIMITS}{last_step(law)}"]


def last_step(law: Law) -> str:
    """Return a sentence if the curve is off the measured difference between the two largest sizes; else nothing."""
    if len(law.fit.names) > 1:
        return ""
    (sizes,) = sizes_of(law.fit.names, law.points)
    a, b = np.argsort(sizes)[-2:].tolist()
    change = float(np.diff(law.fit.at([sizes[[a, b]]]))[0])
    found = paired(law.points[b].losses, law.points[a].losses)
    if found.interval is None or found.interval.low <= change <= found.interval.high:
        return ""
    what = "parameters" if law.fit.names == ("N",) else "tokens"
    return (
        f" The curve falls by {-change:.4f} from {sizes[a]:,.0f} to {sizes[b]:,.0f} {what}, where a change of "
        f"{signed(found)}, its own 95 % interval, was measured: do not extrapolate it."
    )


def row_of(law: Law) -> Cells:
    found = law.fit
    cells = {"law": law.formula, "of": law.where or "all sizes", "points": str(len(law.points))}
    cells["E"] = f"{found.level:.3f} {interval_cell(found.level_interval, '{:.3f}')}"
    numbers = zip(found.factors, found.exponents, found.exponent_intervals, strict=True)
    of = dict(zip(found.names, numbers, strict=True))
    for name, letter in LETTERS.items():
        factor, power, interval = of.get(name, (None, None, None))
        cells[letter.upper()] = "" if factor is None else f"{factor:.3g}"
        cells[letter] = "" if power is None else f"{power:.3f} {interval_cell(interval, '{:.3f}')}"
    return {**cells, "residual": f"{found.spread:.4f}"}


def data_of(law: Law) -> dict[str, Any]:
    found = law.fit
    return {
        "law": law.formula,
        "of": law.where,
        "points": [
            {"N": one.parameters, "D": one.tokens, "loss": one.mean, "seeds": len(one.losses)} for one in law.points
        ],
        "E": {"estimate": found.level, **ends(found.level_interval)},
        "factors": dict(zip(found.names, found.factors, strict=True)),
        "exponents": {
            name: {"estimate": power, **ends(interval)}
            for name, power, interval in zip(found.names, found.exponents, found.exponent_intervals, strict=True)
        },
        "residual": found.spread,
        "noise": found.noise,
        "remarks": found.remarks(),
    }  # fmt: skip


def plots_of(law: Law, metric: str) -> list[Plot]:
    """Return the losses with the law's curves against N or, if it has no N, against D, and its residuals."""
    has_size = "N" in law.fit.names
    groups = group_by(law.points, lambda one: round(one.tokens, -2)) if has_size else [list(law.points)]
    shown = groups[:: max(1, -(-len(groups) // MOST_CURVES))]
    losses, residuals = {}, {}
    of = {id(point): residual for point, residual in zip(law.points, law.fit.residuals, strict=True)}
    own = without_seeds(law.points)
    for group in shown:
        members = sorted(group, key=lambda one: one.parameters if has_size else one.tokens)
        name = f"{members[0].tokens:,.0f} tokens" if has_size else f"{members[0].parameters:,} parameters"
        x = [one.parameters if has_size else one.tokens for one in members]
        halves = [half_width(list(one.losses.values())) for one in members]
        grid = np.geomspace(min(x), max(x), 60)
        sizes = {"N": grid, "D": np.full(60, members[0].tokens)} if has_size else {"D": grid}
        curve = (grid, law.fit.at([sizes[one] for one in law.fit.names]))
        losses[name] = line(x, [one.mean for one in members], halves, curve)
        residuals[name] = line(x, [of[id(one)] for one in members], [half_width(own[id(one)]) for one in members])
    x_label = "parameters" if has_size else "target tokens"
    caption = f"Means over seeds with 95 % intervals; the lines are {law.formula}."
    found = lines_chart(losses, x_label=x_label, y_label=f"{LOSSES[metric]} ({UNIT})")
    left = lines_chart(residuals, x_label=x_label, y_label=f"residual ({UNIT})", zero=True)
    return [
        Plot("scaling", f"Loss against {x_label}", caption, found),
        Plot(
            "residuals",
            f"Residuals of {law.formula}",
            "Mean loss minus the fit, with 95 % intervals without the part of a seed's loss that all sizes share.",
            left,
        ),
    ]


def line(x: Sequence[float], y: Sequence[float], halves: Sequence[float], curve: Any = None) -> Line:
    low, high = np.subtract(y, halves), np.add(y, halves)
    return Line(list(x), list(y), list(low), list(high), curve)


def without_seeds(points: Sequence[Point]) -> dict[int, np.ndarray]:
    """Return by point its losses minus the means of their seeds over all points.

    They are scaled by the root of K / (K - 1) for K points (Morey, Tutorials in Quantitative Methods for Psychology 4,
    2008).
    """
    seeds = sorted(set.intersection(*(set(point.losses) for point in points)))
    losses = np.array([[point.losses[seed] for seed in seeds] for point in points])
    scaled = (losses - losses.mean(axis=0)) * (len(points) / (len(points) - 1)) ** 0.5
    return {id(point): row for point, row in zip(points, scaled, strict=True)}


def half_width(values: Sequence[float] | np.ndarray) -> float:
    values = np.asarray(values)
    return t_interval(0.0, float(values.std(ddof=1)) / len(values) ** 0.5, len(values) - 1).high
