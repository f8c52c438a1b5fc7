"""The plan of an experiment: the question, and the contrasts that are specified before the runs begin (`report.*`).

The records keep it. A contrast is one of

    optim=adam - optim=lion              means over the variants that have these values, the first minus the second
    optim=adam lr=0.01 - optim=lion lr=0.003
    optim                                all that is said about a factor: its pairs, or its trend
    optim x model.activation             the interaction of two factors
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from microgpt.errors import UserError
from microgpt.reports.settings import differing_keys, setting, short, written

MINUS = re.compile(r"\s+[-−]\s+")
TIMES = re.compile(r"\s+[x×]\s+|:")

Levels = Mapping[str, Sequence[Any]]  # swept key -> its values
Side = Mapping[str, Any]  # key -> value


@dataclass(frozen=True)
class PlannedContrast:
    sides: tuple[Side, Side] | None = None  # a difference of means
    factors: tuple[str, ...] = ()  # else a factor, or two of them for their interaction


@dataclass(frozen=True)
class Plan:
    """The `report` group of a recorded configuration."""

    question: str | None = None
    contrasts: tuple[str, ...] = ()
    control: str | None = None  # settings with which the others are compared: `optim=adam`
    nuisance: tuple[str, ...] = ()  # swept keys that are not factors
    remark: str = ""  # on runs of the family that were recorded with a different plan


def plan_of(configs: Sequence[Mapping[str, Any]]) -> Plan:
    """Return the newest plan of a family's runs, which are oldest first, with a remark if other runs differ."""
    plans = [recorded(config.get("report")) if config.get("report") else Plan() for config in configs]
    if not plans:
        return Plan()
    newest = plans[-1]
    other = sum(plan != newest for plan in plans)
    if not other:
        return newest
    questions = " / ".join(dict.fromkeys(f"“{plan.question}”" if plan.question else "none" for plan in plans))
    remark = (
        f"{other} of {len(plans)} runs were begun with another plan than the newest run (questions: {questions}), so "
        "what is called planned was not named before all of the runs."
    )
    return Plan(newest.question, newest.contrasts, newest.control, newest.nuisance, remark)


def recorded(node: Any) -> Plan:
    node = node if isinstance(node, dict) else {}
    contrasts, nuisance = (tuple(map(str, node.get(key) or ())) for key in ("contrasts", "nuisance"))
    question, control = (None if node.get(key) is None else str(node[key]) for key in ("question", "control"))
    return Plan(question, contrasts, control, nuisance)


def levels_of(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the keys in which the settings differ, with their values in order."""
    found: dict[str, list[Any]] = {}
    for key in differing_keys(settings):
        values = {written(value): value for value in (setting(one, key) for one in settings)}
        found[key] = list(values.values())
    return found


def check_plan(plan: Plan, levels: Levels) -> None:
    """Raise UserError for a plan with a key or a value that is not swept."""
    for key in plan.nuisance:
        key_named(key, levels, f"report.nuisance=[{key}]")
    factors = {key: values for key, values in levels.items() if key not in nuisance_of(plan, levels)}
    for text in plan.contrasts:
        parsed(text, factors)
    control_of(plan, factors)


def nuisance_of(plan: Plan, levels: Levels) -> list[str]:
    """Return the swept keys that are not factors."""
    return [key for key in levels if key in plan.nuisance or short(key) in plan.nuisance]


def control_of(plan: Plan, levels: Levels) -> dict[str, Any]:
    """Return the value of each factor in report.control."""
    return side(plan.control, levels, f"report.control={plan.control}") if plan.control else {}


def parsed(text: str, levels: Levels) -> PlannedContrast:
    """Read a contrast. Raises UserError for a key or a value that is not among the levels."""
    where = f"report.contrasts: {text!r}"
    sides = MINUS.split(text.strip())
    if len(sides) == 2 and "=" in text:
        first, second = (side(one, levels, where) for one in sides)
        if first == second:
            raise UserError(f"{where} compares {sides[0]} with itself")
        return PlannedContrast((first, second))
    names = TIMES.split(text.strip())
    if "=" in text or len(names) > 2:
        raise UserError(
            f"{where} is not a contrast: write key=value - key=value, a key, or key x key for an interaction"
        )
    keys = tuple(key_named(name, levels, where) for name in names)
    if len(set(keys)) < len(keys):
        raise UserError(f"{where} is not an interaction: it names {names[0]} twice")
    return PlannedContrast(factors=keys)


def side(text: str, levels: Levels, where: str) -> dict[str, Any]:
    """Read `optim=adam optim.lr=0.01`."""
    found = {}
    for part in text.split():
        name, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"{where}: {part!r} is not a setting: write key=value")
        key = key_named(name, levels, where)
        known = [level for level in levels[key] if is_written_as(level, value)]
        if not known:
            among = ", ".join(map(written, levels[key]))
            raise UserError(f"{where}: {part} is no value of this sweep, in which {name} is one of {among}")
        found[key] = known[0]
    return found


def key_named(name: str, levels: Levels, where: str) -> str:
    key = next((key for key in levels if name in (key, short(key), key.removeprefix("model."))), None)
    if key is None:
        swept = (
            f"the keys that are swept are {', '.join(map(short, levels))}" if levels else "nothing is swept but seeds"
        )
        raise UserError(f"{where}: {name} is not swept; {swept}")
    return key


def is_written_as(level: Any, text: str) -> bool:
    """Return whether text from the command line denotes a value: 0.010 and 1e-2 are the same number."""
    if written(level) == text:
        return True
    try:
        return not isinstance(level, bool) and isinstance(level, int | float) and float(text) == level
    except ValueError:
        return False
