"""The keys in which runs differ, and the table of runs, which begins with these keys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

from microgpt.config.identity import settings_with
from microgpt.config.keys import Effect
from microgpt.config.sweeper_keys import DESIGNS
from microgpt.reports.rows import COLUMNS, Row
from microgpt.reports.run_families import with_data
from microgpt.reports.settings import DATA, SharedSettings, all_defaults, differing_keys, exact

if TYPE_CHECKING:
    import pandas as pd

LEFT_OUT = ("seed", "report", "sweep", *DESIGNS)  # the seed, and groups of keys that describe a sweep, not its runs
# Columns after those of the keys in which the runs differ
RESULTS = (
    "val_loss", "mean_loss_last_n", "final_loss", "best_val_loss", "best_step", "bits_per_character", "perplexity",
    "steps_per_sec", "tokens_per_sec", "status",
)  # fmt: skip


def table(rows: Sequence[Row]) -> pd.DataFrame:
    """See `Runs.dataframe`."""
    import pandas as pd

    keys = ["data_sha256" if key == DATA else key for key in differing(rows)]
    found = [{key: own.get(key) for key in keys} | row.columns()
             for row, own in zip(rows, settings(rows), strict=True)]  # fmt: skip
    return pd.DataFrame(found, columns=list(dict.fromkeys([*keys, *RESULTS, *COLUMNS])) if found else None)


def differing(rows: Sequence[Row]) -> list[str]:
    """Return the keys in which runs differ, `seed` last, without keys that follow from another key (differing_keys)."""
    seeds = {json.dumps(row.seed) for row in rows}
    return [*differing_keys(settings(with_data(rows))), *(["seed"] if len(seeds) > 1 else [])]


def differs(rows: Sequence[Row], keys: str) -> bool:
    """Return whether the runs differ in a key, or in a group of keys, including keys that follow from another key."""
    found = list({id(one): one for one in settings(with_data(rows))}.values())
    names = {name for one in found for name in one if belongs(name, keys)}
    return any(len({exact(one, name) for one in found}) > 1 for name in names)


def belongs(key: str, group: str) -> bool:
    """Return whether a key is the given one, or in the given group."""
    return key == group or key.startswith(f"{group}.")


def settings(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return all keys of each run except those of its sweep and the seed. Runs with equal keys share a dictionary."""
    found: dict[SharedSettings, dict[str, Any]] = {}
    for shared in {row.shared for row in rows}:
        every = all_defaults() | settings_with(get_args(Effect), json.loads(shared.config_text))
        own = {key: value for key, value in every.items() if key.partition(".")[0] not in LEFT_OUT}
        found[shared] = own | {DATA: shared.data_sha256}
    return [found[row.shared] for row in rows]
