"""`Runs.compare`: the paired differences between the values of one key, computed as in the report, as a DataFrame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from microgpt.api.differences import belongs, differing, differs
from microgpt.errors import UserError
from microgpt.reports.rows import Row
from microgpt.reports.run_families import Family, family_of
from microgpt.reports.settings import abbreviated, label, written
from microgpt.reports.variant_comparisons import comparisons_in

if TYPE_CHECKING:
    import pandas as pd


def comparison_table(rows: Sequence[Row], key: str) -> pd.DataFrame:
    """See `Runs.compare`."""
    import pandas as pd

    family = family_of(rows)
    own, others = keys_of_comparison(family, key)
    found = []
    for one in comparisons_in(family, own):
        difference, interval = one.difference, one.difference.interval
        found.append({
            **{other: one.a.settings[other] for other in others},
            key: shown(one.a.settings, own),
            "against": shown(one.b.settings, own),
            "metric": family.metric,
            "seeds": difference.n,
            "difference": difference.mean,
            "low": None if interval is None else interval.low,
            "high": None if interval is None else interval.high,
            "p": difference.p,
            "p_holm": difference.p_adjusted,
            "verdict": difference.sentence,
        })  # fmt: skip
    if not found:
        why = obstacle(family, own) or f"no two completed runs differ only in {key}"
        raise UserError(f"compare({key!r}) is not possible: {why}")
    return pd.DataFrame(found).astype(dict.fromkeys(("difference", "low", "high", "p", "p_holm"), float))


def obstacle(family: Family, keys: Sequence[str]) -> str | None:
    """Return the sentence on why the runs that differ only in these keys are not comparable; None if there are none."""
    one_group = replace(family, variants=tuple(replace(variant, group=0) for variant in family.variants))
    return (family.obstacle or "").rstrip(".") if comparisons_in(one_group, keys) else None


def keys_of_comparison(family: Family, key: str) -> tuple[list[str], list[str]]:
    """Return the settings that belong to a key or group, and the other settings in which the runs differ."""
    compared = list(family.variants[0].settings) if family.variants else []
    own = [setting for setting in compared if belongs(setting, key)]
    if not own:
        raise UserError(f"compare({key!r}) is not possible: {why_not(family.members, key)}")
    return own, [setting for setting in compared if setting not in own]


def why_not(rows: Sequence[Row], key: str) -> str:
    """Return why the values of a key cannot be compared: no completed runs have different losses because of it."""
    if not rows:
        return "there are no runs"
    found = differing(rows)
    among = f"the runs differ in {', '.join(found)}" if found else "the runs do not differ in any key"
    if key == "seed":
        return f"the values of other keys are compared seed by seed; {among}"
    if any(belongs(one, key) for one in found):
        return f"{key} has no effect on the losses; {among}"
    if differs(rows, key):
        return f"{key} differs only together with other keys; {among}"
    return f"the runs do not differ in {key}; {among}"


def shown(settings: Any, keys: Sequence[str]) -> Any:
    """Return the value of a single key unchanged, or as text if it is long or there are several keys."""
    if len(keys) > 1:
        return label({key: settings[key] for key in keys})
    value = settings[keys[0]]
    return value if isinstance(value, int | float) or value is None else abbreviated(written(value))
