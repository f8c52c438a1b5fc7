"""The table of a ladder: the model after each change, compared with the model before it and with the first model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from microgpt.reports.budgets import Reader
from microgpt.reports.context_sentences import failure_sentences, reference_sentences
from microgpt.reports.document import difference_object
from microgpt.reports.experiment_plan import Plan
from microgpt.reports.experiments.charts import ladder_chart
from microgpt.reports.paired_statistics import Difference, Interval, Verdict, difference
from microgpt.reports.plot_style import drawn
from microgpt.reports.plots import LOSSES, UNIT
from microgpt.reports.report import Analysis, Cells, Plot, Table
from microgpt.reports.rows import Row
from microgpt.reports.run_families import Family, Variant
from microgpt.reports.settings import differing_keys, label, setting
from microgpt.reports.simultaneous import together
from microgpt.reports.tables import interval_cell

NAME, WIDTH = "model.name", "model.mlp_width"
MOST_NAMED = 3  # changes in a sentence
NOTE = (
    "Differences are means over seeds of differences that are taken seed by seed; below zero, the loss is lower. "
    "Their 95 % intervals are simultaneous for this table; a star marks those that do not contain zero. time is "
    "that of a training step, relative to the first model; models were trained side by side."
)


@dataclass(frozen=True)
class Step:
    """A model in a ladder, and the change that led to it."""

    change: str
    variant: Variant
    before: Difference | None = None  # from the model before it; None for the first model
    first: Difference | None = None  # from the first model


def ladder_analysis(family: Family, plan: Plan, read: Reader | None) -> Analysis | None:
    """Return the tables of a sweep by hydra/sweeper=ladder; None for another family."""
    own, resized = rungs_of(family, resized=False), rungs_of(family, resized=True)
    if len(own) < 2:
        return None
    ladders = {"ladder": steps_of(own, family.metric)}
    if resized:
        at_equal_size = {rung: resized.get(rung, variant) for rung, variant in own.items()}
        ladders["ladder at equal parameters"] = steps_of(at_equal_size, family.metric)
    plots = drawn(f"ladder of {family.key}", lambda: [plot_of(ladders, family.metric)], []) if read else []
    return Analysis(
        findings=[
            *(sentence for name, steps in ladders.items() for sentence in sentences(name, steps, family.metric)),
            *failure_sentences(family),
            *reference_sentences(family),
        ],
        plots=plots,
        blocks=[Table(name.capitalize(), rows_of(steps, family.metric), NOTE) for name, steps in ladders.items()],
        data={name: [data_of(step) for step in steps] for name, steps in ladders.items()},
    )


def rungs_of(family: Family, *, resized: bool) -> dict[int, Variant]:
    """Return the models of a ladder that have results, by their number."""
    found: dict[int, Variant] = {}
    for variant in family.variants:
        node = variant.first.config.get("ladder") or {} if variant.rows else {}
        if node.get("rung") is not None and bool(node.get("resized")) == resized:
            found[int(node["rung"])] = variant
    return dict(sorted(found.items()))


def steps_of(rungs: Mapping[int, Variant], metric: str) -> list[Step]:
    """Return the models with their differences, whose intervals are simultaneous."""
    variants = list(rungs.values())
    samples = [variant.values(metric) for variant in variants]
    unit = np.eye(len(variants))
    pairs = [(n, n - 1) for n in range(1, len(variants))] + [(n, 0) for n in range(2, len(variants))]
    compared = [difference(samples[a], samples[b]) for a, b in pairs]
    found = dict(zip(pairs, together(compared, np.array([unit[a] - unit[b] for a, b in pairs])), strict=True))
    steps = [Step(variants[0].first.model, variants[0])]
    for n in range(1, len(variants)):
        text = change(variants[n - 1].first, variants[n].first)
        steps.append(Step(text, variants[n], found[n, n - 1], found.get((n, 0), found[1, 0])))
    return steps


def change(before: Row, after: Row) -> str:
    """Return what differs between two models, with the name of the second if it has another name."""
    own = [{key: value for key, value in row.settings.items() if key not in (NAME, WIDTH)} for row in (before, after)]
    text = label({key.removeprefix("model."): setting(own[1], key) for key in differing_keys(own)})
    return text if before.model == after.model else f"{text} ({after.model})"


def rows_of(steps: Sequence[Step], metric: str) -> list[Cells]:
    seconds = [
        fmean(1 / row.steps_per_sec for row in step.variant.rows.values() if row.steps_per_sec) for step in steps
    ]
    rows = []
    for number, (step, time) in enumerate(zip(steps, seconds, strict=True)):
        found = step.variant.summary(metric)
        parameters = step.variant.parameters
        rows.append({
            "": str(number),
            "change": step.change,
            "parameters": "" if parameters is None else f"{parameters:,}",
            "time": f"{time / seconds[0]:.2f}",
            "seeds": str(found.n),
            metric: f"{found.mean:.4f}{half_width(found.mean, found.interval)}",
            "from the model before": told(step.before),
            "from the first": told(step.first),
        })  # fmt: skip
    return rows


def half_width(mean: float, interval: Interval | None) -> str:
    return "" if interval is None else f" ± {interval.high - mean:.4f}"


def told(found: Difference | None) -> str:
    """Return `+0.0123 [+0.0100, +0.0146] *`."""
    if found is None or found.mean is None:
        return ""
    if found.interval is None:
        return f"{found.mean:+.4f}"
    return f"{found.mean:+.4f} {interval_cell(found.interval, '{:+.4f}')}{' *' * is_shown(found)}"


def is_shown(found: Difference | None) -> bool:
    return found is not None and found.verdict in (Verdict.SHOWN, Verdict.EQUAL)


def sentences(name: str, steps: Sequence[Step], metric: str) -> list[str]:
    """Return sentences on the changes that lower and raise the loss most, and on each named model."""
    known = [step for step in steps[1:] if step.before is not None and step.before.mean is not None]
    shown = sorted((step for step in known if is_shown(step.before)), key=lambda step: mean_of(step.before))
    lower = [step for step in shown if mean_of(step.before) < 0][:MOST_NAMED]
    higher = [step for step in reversed(shown) if mean_of(step.before) > 0][:MOST_NAMED]
    found = [f"Of the {len(known)} changes in the {name}, {len(shown)} are shown to change the {LOSSES[metric]}."]
    for word, chosen in (("lowered", lower), ("raised", higher)):
        if chosen:
            named = "; ".join(f"{step.change} {told(step.before).rstrip(' *')}" for step in chosen)
            found.append(f"In the {name} it is {word} most by {named}.")
    ends = [step for step in steps[1:] if step.change.endswith(")")]
    for step in ends:
        words = "is lower than" if mean_of(step.first) < 0 else "is higher than"
        verdict = words if is_shown(step.first) else "is not shown to differ from"
        first = f"In the {name}, the loss of {step.variant.first.model} {verdict} that of {steps[0].change}"
        found.append(f"{first}: {told(step.first).rstrip(' *')}.")
    return found


def mean_of(found: Difference | None) -> float:
    return 0.0 if found is None or found.mean is None else found.mean


def plot_of(ladders: Mapping[str, Sequence[Step]], metric: str) -> Plot:
    series = {name: [(step.change, step.variant.summary(metric)) for step in steps] for name, steps in ladders.items()}
    figure = ladder_chart(series, x_label=f"{LOSSES[metric]} ({UNIT})")
    caption = "Mean over seeds after each change, the first model on top; the bar is the 95 % interval of the mean."
    return Plot("ladder", "The model after each change", caption, figure)


def data_of(step: Step) -> dict[str, Any]:
    both = {"from_before": step.before, "from_first": step.first}
    return {
        "change": step.change,
        "variant": step.variant.name,
        "parameters": step.variant.parameters,
        **{name: None if one is None else difference_object(one) for name, one in both.items()},
    }
