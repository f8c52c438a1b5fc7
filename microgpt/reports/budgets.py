"""Budgets: the loss of a family's variants at equal training time, steps or parameters, seed by seed.

Time is step / steps_per_sec; it excludes evaluation, compilation and disk access.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from microgpt.reports.curves import Curve
from microgpt.reports.rows import Row
from microgpt.reports.run_families import Family, Variant
from microgpt.reports.settings import fingerprint, grouped, label

SIZES = ("model.n_embd", "model.n_head", "model.n_layer", "model.block_size")
ONLY_ENDS = 2  # evaluations of a run that is evaluated only before the first step and after the last step
MOST_NAMED = 12  # variants that a sentence lists
FEWEST_SECONDS = 1.0  # of training, for a comparison at equal time
CLOSE = 1e-6  # relative difference of times that are equal except for rounding
TOO_SHORT = (
    f"Not compared at equal time: the runs trained for less than {FEWEST_SECONDS:g} s, in which speed is not measured "
    "reliably."
)

Reader = Callable[[Row], Curve]
Evaluations = tuple[np.ndarray, np.ndarray]  # positions on an axis, ascending, and val_loss at each


@dataclass(frozen=True)
class Budget:
    """Losses at a common budget, for `comparisons(budget.family, budget.samples)`, or the reason why there are none."""

    axis: str  # seconds | steps | parameters
    family: Family  # contains the variants in `samples`; at equal parameters each covers several sizes
    sentence: str  # describes the budget and how the losses were computed, or why there are none
    at: float | None = None  # None without samples
    samples: dict[str, dict[int, float]] = field(default_factory=dict)  # name -> seed -> loss
    independent: bool = True  # False: runs share one measurement of time, so seeds are not repeated measurements


def at_equal_time(family: Family, read: Reader) -> Budget:
    """Return val_loss at the longest time that every run was trained for, interpolated between evaluations.

    There is none for short runs, whose speed is not measured reliably, and none if that time is before the first
    evaluation of a variant after step 0, where interpolation would start at the untrained model.
    """
    if is_too_short(family):
        return Budget("seconds", family, TOO_SHORT)
    budget = on_axis(family, "seconds", read)
    if budget.at is None:
        return budget
    early = early_steps(family, budget.at, read)
    if early:
        named = ", ".join([f"{name} at about step {steps:.0f}" for name, steps in list(early.items())[:MOST_NAMED]])
        reason = f"after {budget.at:.3g} s some variants were before their first evaluation: {named}"
        return Budget("seconds", family, f"Not compared at equal time: {reason}.")
    rates = [row.steps_per_sec for row in family.rows]
    if len(set(rates)) == len(rates):
        return budget
    shared = " Runs that were trained side by side share one measurement of time, so no test is made."
    return replace(budget, sentence=budget.sentence + shared, independent=False)


def is_too_short(family: Family) -> bool:
    """Whether all runs trained for less time than a reliable measurement of speed needs."""
    times = [row.steps / row.steps_per_sec for row in family.rows if row.steps and row.steps_per_sec]
    return bool(times) and max(times) < FEWEST_SECONDS


def early_steps(family: Family, seconds: float, read: Reader) -> dict[str, float]:
    """Return, for each variant that is before its first evaluation after step 0 at that time, the step it is at."""
    found: dict[str, float] = {}
    for variant in family.variants:
        for row in variant.rows.values():
            steps, _ = evaluations(read(row), "step")
            step = seconds * (row.steps_per_sec or 0.0)
            if len(steps) >= ONLY_ENDS and step < steps[1] * (1 - CLOSE):
                found[variant.name] = step
    return found


def at_equal_steps(family: Family, read: Reader) -> Budget:
    """Return the family's metric if all runs have the same number of steps; else val_loss at the shortest run's."""
    steps = {row.steps for row in family.rows}
    if len(steps) == 1:
        count = steps.pop()
        which = "Every completed run" if family.missing else "Every run"
        return Budget("steps", family, f"{which} has {count} steps.", count, family.samples())
    budget = on_axis(family, "step", read)
    schedule = " At that step the learning rate of a longer run may not have decayed as far."
    return replace(budget, sentence=budget.sentence + (schedule if budget.samples else ""))


def on_axis(family: Family, column: str, read: Reader) -> Budget:
    """Return val_loss at the largest x that every run reached. `column` is a column of Curve: seconds or step."""
    axis, name = ("seconds", "time") if column == "seconds" else ("steps", "steps")
    curves = {variant.name: curves_of(variant, column, read) for variant in family.variants if variant.rows}
    found = [curve for by_seed in curves.values() for curve in by_seed.values()]
    reason = obstacle(family, curves, found)
    if reason:
        return Budget(axis, family, f"Loss at equal {name} is not available: {reason}.")
    at = float(min(x[-1] for x, _ in found))
    samples = {
        name: {seed: float(np.interp(at, x, losses)) for seed, (x, losses) in by_seed.items()}
        for name, by_seed in curves.items()
    }
    lost = len(family.rows) - len(found)
    where = f"after {at:.3g} s of training" if axis == "seconds" else f"after {at:g} steps"
    sentence = f"val_loss {where}, which every run reached, interpolated linearly between evaluations."
    return Budget(axis, family, sentence + (f" Runs without a history: {lost}." if lost else ""), at, samples)


def curves_of(variant: Variant, column: str, read: Reader) -> dict[int, Evaluations]:
    """Return a variant's evaluations by seed, without runs that have fewer than two."""
    found = {seed: evaluations(read(row), column) for seed, row in variant.rows.items()}
    return {seed: curve for seed, curve in found.items() if len(curve[0]) >= ONLY_ENDS}


def obstacle(family: Family, curves: dict[str, dict[int, Evaluations]], found: list[Evaluations]) -> str:
    """Return the reason why losses cannot be interpolated; empty if they can."""
    if family.metric != "val_loss":
        return "not every run was validated"
    if not found or not all(curves.values()):
        return "histories with evaluations are missing"
    if all(len(x) == ONLY_ENDS for x, _ in found) and len({float(x[-1]) for x, _ in found}) > 1:
        return "the runs were evaluated only before the first step and after the last (train.eval_every)"
    return ""


def evaluations(curve: Curve, axis: str) -> Evaluations:
    x = curve.x(axis)
    known = np.isfinite(curve.val_loss) & np.isfinite(x)
    return x[known], curve.val_loss[known]


def at_equal_parameters(family: Family) -> Budget:
    """Return the metric at a parameter count that lies within the sizes of all kinds of model.

    It is interpolated seed by seed, linearly in log(parameters). If not several kinds were run in several sizes, the
    sentence names the variants that have equally many parameters.
    """
    samples = family.samples()
    variants = [variant for variant in family.variants if variant.name in samples]
    by_count = grouped(variants, lambda one: one.parameters or 0)
    if len(by_count) == 1:
        count = next(iter(by_count))
        which = "All variants" if len(variants) == len(family.variants) else "All variants with results"
        return Budget("parameters", family, f"{which} have {count} parameters.", count, samples)
    kinds = [kind for kind in kinds_of(variants, family.metric) if len(kind.sizes) > 1]
    low = max((min(kind.sizes) for kind in kinds), default=0)
    high = min((max(kind.sizes) for kind in kinds), default=0)
    if len(kinds) > 1 and low <= high and not family.obstacle:
        return between_sizes(family, kinds, math.sqrt(low * high))
    if len(variants) > MOST_NAMED:
        counts = f"{len(by_count)} parameter counts from {min(by_count):,} to {max(by_count):,}"
        return Budget("parameters", family, f"The variants have {counts}, which are in their table.")
    several = {count: [one.name for one in members] for count, members in by_count.items() if len(members) > 1}
    equal = [f"{' and '.join(names)} ({count})" for count, names in several.items()]
    if equal:
        return Budget("parameters", family, f"Equal parameter counts: {'; '.join(equal)}.")
    counts = ", ".join(map(str, sorted(by_count)))
    if len(kinds) < 2:  # only sizes were swept, or no size was
        return Budget("parameters", family, f"No two variants have the same number of parameters ({counts}).")
    sizes = "not all variants are comparable" if family.obstacle else "the ranges of sizes do not overlap"
    reason = f"no two variants have the same number ({counts}), and {sizes}"
    return Budget("parameters", family, f"Loss at equal parameters is not available: {reason}.")


@dataclass(frozen=True)
class Kind:
    """Variants that differ only in size."""

    settings: dict[str, Any]  # those that differ in the family, without sizes
    sizes: dict[int, list[dict[int, float]]]  # parameter count -> for each variant of that size: seed -> loss


def kinds_of(variants: list[Variant], metric: str) -> list[Kind]:
    found: dict[str, Kind] = {}
    for variant in variants:
        settings = {key: value for key, value in variant.settings.items() if key not in SIZES}
        kind = found.setdefault(fingerprint(settings), Kind(settings, {}))
        kind.sizes.setdefault(variant.parameters or 0, []).append(variant.values(metric))
    return list(found.values())


def between_sizes(family: Family, kinds: list[Kind], at: float) -> Budget:
    variants, samples = [], {}
    for kind in kinds:
        name = label(kind.settings)
        variants.append(Variant(name, kind.settings, rows={}, failed=0, unfinished=0))
        counts = sorted(kind.sizes)
        every = [sample for count in counts for sample in kind.sizes[count]]
        seeds = sorted(set(every[0]).intersection(*every[1:]))
        samples[name] = {
            seed: float(np.interp(math.log(at), np.log(counts), [
                np.mean([sample[seed] for sample in kind.sizes[count]]) for count in counts
            ]))
            for seed in seeds
        }  # fmt: skip
    sentence = (
        f"{family.metric} at {at:.0f} parameters, which is within the sizes of every kind of model: interpolated seed "
        f"by seed, linearly in log(parameters), over the seeds that were run in all sizes."
    )
    samples = {name: values for name, values in samples.items() if values}
    return Budget("parameters", replace(family, variants=tuple(variants)), sentence, at, samples)
