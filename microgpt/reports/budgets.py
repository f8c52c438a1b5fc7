"""Loss at equal time, steps and parameters: figures of a family's variants on a common budget, seed by seed.

Histories are read only when asked. Time is that of training proper, step / steps_per_sec, without evaluation and disk.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from microgpt.reports.curves import Curve, read_curve
from microgpt.reports.records import Row
from microgpt.reports.settings import fingerprint, label
from microgpt.reports.variants import Family, Variant

SIZES = ("model.n_embd", "model.n_head", "model.n_layer", "model.block_size")
ONLY_ENDS = 2  # evaluations of a run that was evaluated before its first and after its last step alone

Reader = Callable[[Row], Curve]
Evaluations = tuple[np.ndarray, np.ndarray]  # where on an axis a run was evaluated, ascending, and val_loss there


@dataclass(frozen=True)
class Budget:
    """Figures on a common budget, for `comparisons(budget.family, budget.samples)`; or why there are none."""

    axis: str  # seconds | steps | parameters
    family: Family  # whose variants the samples name: at equal parameters these stand for several sizes each
    sentence: str  # what the budget is and how the figures were made, or why there are none
    at: float | None = None  # None where there are no samples
    samples: dict[str, dict[int, float]] = field(default_factory=dict)  # name -> seed -> figure
    independent: bool = True  # False: runs share a measurement that the figures depend on, and seeds are no repetitions


def read_history(row: Row) -> Curve:
    return read_curve(Path(row["path"]), row["steps_per_sec"])


def at_equal_time(family: Family, read: Reader = read_history) -> Budget:
    """val_loss at the longest time that every run was trained for, on straight lines between a run's evaluations."""
    budget = on_axis(family, "seconds", read)
    rates = [row["steps_per_sec"] for row in family.rows]
    if budget.at is None or len(set(rates)) == len(rates):
        return budget
    shared = " Runs that were trained side by side share one measurement of time; measured again, it might be another: "
    return replace(budget, sentence=f"{budget.sentence}{shared}no test is made.", independent=False)


def at_equal_steps(family: Family, read: Reader = read_history) -> Budget:
    """The family's own figure where all runs have equally many steps; else val_loss where the shortest run ended."""
    steps = {row["steps"] for row in family.rows}
    if len(steps) == 1:
        count = steps.pop()
        return Budget("steps", family, f"Every run has {count} steps.", count, family.samples())
    budget = on_axis(family, "step", read)
    schedule = " At that step the learning rate of a longer run may have had further to fall."
    return replace(budget, sentence=budget.sentence + (schedule if budget.samples else ""))


def on_axis(family: Family, column: str, read: Reader) -> Budget:
    """val_loss at the largest x that every run reached. `column` is of a Curve: seconds or step."""
    axis, name = ("seconds", "time") if column == "seconds" else ("steps", "steps")
    curves = {variant.name: curves_of(variant, column, read) for variant in family.variants if variant.rows}
    found = [curve for by_seed in curves.values() for curve in by_seed.values()]
    why = why_not(family, curves, found)
    if why:
        return Budget(axis, family, f"Loss at equal {name} cannot be said: {why}.")
    at = float(min(x[-1] for x, _ in found))
    samples = {
        name: {seed: float(np.interp(at, x, losses)) for seed, (x, losses) in by_seed.items()}
        for name, by_seed in curves.items()
    }
    lost = len(family.rows) - len(found)
    where = f"after {at:.3g} s of training" if axis == "seconds" else f"after {at:g} steps"
    sentence = f"val_loss {where}, which every run reached, on straight lines between a run's evaluations."
    return Budget(axis, family, sentence + (f" Without a history: {lost} run(s)." if lost else ""), at, samples)


def curves_of(variant: Variant, column: str, read: Reader) -> dict[int, Evaluations]:
    """A variant's runs by seed, without those whose history has no two evaluations."""
    found = {seed: evaluations(read(row), column) for seed, row in variant.rows.items()}
    return {seed: curve for seed, curve in found.items() if len(curve[0]) >= ONLY_ENDS}


def why_not(family: Family, curves: dict[str, dict[int, Evaluations]], found: list[Evaluations]) -> str:
    """What is in the way of interpolating; empty where nothing is."""
    if family.figure != "val_loss":
        return "not every run was validated"
    if not found or not all(curves.values()):
        return "histories with evaluations are missing"
    if all(len(x) == ONLY_ENDS for x, _ in found) and len({float(x[-1]) for x, _ in found}) > 1:
        return "the runs were evaluated before the first step and after the last alone (train.eval_every)"
    return ""


def evaluations(curve: Curve, axis: str) -> Evaluations:
    x = curve.x(axis)
    known = np.isfinite(curve.val_loss) & np.isfinite(x)
    return x[known], curve.val_loss[known]


def at_equal_parameters(family: Family) -> Budget:
    """Where several kinds of models were run in several sizes: the figure at a parameter count within all their ranges.

    Interpolated seed by seed, linearly in log(parameters). Else the sentence says which variants have equally many.
    """
    samples = family.samples()
    variants = [variant for variant in family.variants if variant.name in samples]
    by_count: dict[int, list[str]] = {}
    for variant in variants:
        by_count.setdefault(variant.parameters or 0, []).append(variant.name)
    if len(by_count) == 1:
        count = next(iter(by_count))
        return Budget("parameters", family, f"All variants have {count} parameters.", count, samples)
    kinds = [kind for kind in kinds_of(variants, family.figure) if len(kind.sizes) > 1]
    low = max((min(kind.sizes) for kind in kinds), default=0)
    high = min((max(kind.sizes) for kind in kinds), default=0)
    if len(kinds) > 1 and low <= high and not family.obstacle:
        return between_sizes(family, kinds, math.sqrt(low * high))
    equal = [f"{' and '.join(names)} have {count} each" for count, names in by_count.items() if len(names) > 1]
    if equal:
        return Budget("parameters", family, f"At equal parameters are: {'; '.join(equal)}.")
    sizes = "sizes were not swept for two kinds of models or more (as by model.n_embd=8,16,32)"
    if len(kinds) > 1:
        sizes = "not all may be compared" if family.obstacle else "the ranges of sizes do not overlap"
    reason = f"no two variants have equally many ({', '.join(map(str, sorted(by_count)))}), and {sizes}"
    return Budget("parameters", family, f"Loss at equal parameters cannot be said: {reason}.")


@dataclass(frozen=True)
class Kind:
    """Variants that differ in size alone."""

    settings: dict[str, Any]  # those that differ in the family, without sizes
    sizes: dict[int, list[dict[int, float]]]  # parameter count -> for each variant of that size: seed -> figure


def kinds_of(variants: list[Variant], figure: str) -> list[Kind]:
    found: dict[str, Kind] = {}
    for variant in variants:
        settings = {key: value for key, value in variant.settings.items() if key not in SIZES}
        kind = found.setdefault(fingerprint(settings), Kind(settings, {}))
        kind.sizes.setdefault(variant.parameters or 0, []).append(variant.values(figure))
    return list(found.values())


def between_sizes(family: Family, kinds: list[Kind], at: float) -> Budget:
    variants, samples = [], {}
    for kind in kinds:
        name = label(kind.settings, list(kind.settings))
        variants.append(Variant(name, name, kind.settings, rows={}, failed=0, unfinished=0))
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
        f"{family.figure} at {at:.0f} parameters, within the sizes of all kinds: seed by seed on straight lines in "
        f"log(parameters), over the seeds that were run in all sizes."
    )
    samples = {name: values for name, values in samples.items() if values}
    return Budget("parameters", replace(family, variants=tuple(variants)), sentence, at, samples)
