"""The plan of an experiment, which its runs keep: the question and the contrasts that were named before they began."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from microgpt.reports.records import Row


@dataclass(frozen=True)
class Plan:
    """`report` of the configuration, as the records of a family have it."""

    question: str | None = None
    contrasts: tuple[str, ...] = ()
    control: tuple[str, ...] = ()  # overrides: `optim=adam`
    nuisance: tuple[str, ...] = ()  # keys that are no factors
    remarks: tuple[str, ...] = field(default=())  # about records that do not have this plan


def plan_of(rows: Sequence[Row]) -> Plan:
    """Return the plan of a family's runs: that of the newest run, with a remark if others have another one."""
    plans = list(dict.fromkeys(recorded(row.config.get("report") or {}) for row in rows))
    return plans[-1] if plans else Plan()


def recorded(node: Mapping[str, Any]) -> Plan:
    lists = {key: tuple(map(str, node.get(key) or ())) for key in ("contrasts", "control", "nuisance")}
    question = node.get("question")
    return Plan(None if question is None else str(question), **lists)
