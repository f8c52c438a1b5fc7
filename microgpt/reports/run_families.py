"""Families: runs that are compared with each other, as variants.

A family is a sweep (the runs below one outputs/sweeps/<name>_<hash>), or an ablation: runs from anywhere that differ
only in the two toggles and the seed. A variant is a configuration without the seed and without what does not affect the
results.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from microgpt.reports.comparability import comparable_groups
from microgpt.reports.experiment_plan import Plan, plan_of
from microgpt.reports.paired_statistics import Summary, summary
from microgpt.reports.rows import Row, is_finite, variant_name
from microgpt.reports.settings import TOGGLES, defaults_among, differing_keys, fingerprint, grouped, label, setting

ABLATION = tuple(variant_name(tied, normed) for tied in (True, False) for normed in (False, True))
MOST_ABLATIONS = 4  # of one sweep
ONLY = "all runs"  # the name of the only variant of a family

Samples = Mapping[str, Mapping[int, float]]  # of a metric: name of variant -> seed -> value


@dataclass(frozen=True)
class Variant:
    name: str  # unique in its family: `optim.lr=0.005`, or tied_no_input_rmsnorm and so on if only toggles differ
    settings: Mapping[str, Any]  # those that differ in the family: {"model.tie_lm_head": True, "optim.lr": 0.005}
    rows: Mapping[int, Row]  # by seed, ascending: its newest completed run
    failed: int  # seeds without a completed run whose newest run failed
    unfinished: int  # seeds without a completed run whose newest run is running or was interrupted
    group: int = 0  # variants of one group are comparable

    @property
    def first(self) -> Row:
        """The run with the least seed. Raises StopIteration if no run was completed."""
        return next(iter(self.rows.values()))

    @property
    def parameters(self) -> int | None:
        """Parameter count; None if no run was completed."""
        return next((row.parameter_count for row in self.rows.values()), None)

    def values(self, column: str) -> dict[int, float]:
        """Return the finite values of a column by seed."""
        found = {seed: getattr(row, column) for seed, row in self.rows.items()}
        return {seed: value for seed, value in found.items() if is_finite(value)}

    def summary(self, column: str) -> Summary:
        """Summarize the finite values of a column. Raises ValueError if there are none."""
        return summary(self.values(column).values())


@dataclass(frozen=True)
class Family:
    kind: Literal["sweep", "ablation"]
    key: str  # sweeps/<name>_<hash>, or an ablation's comparison key (eight hex digits)
    variants: tuple[Variant, ...]  # in the order of the sweep's jobs, or in that of ABLATION
    metric: str  # ranks the variants: val_loss, or mean_loss_last_n if a run has no validation
    members: tuple[Row, ...]  # all its runs
    obstacle: str | None = None  # a sentence on why some variants are not comparable
    names: Mapping[str, str] = field(default_factory=dict)  # fingerprint of a run -> name of its variant

    @cached_property
    def baseline(self) -> Variant:
        return baseline_of(self.variants)

    @cached_property
    def plan(self) -> Plan:
        return plan_of([row.config for row in sorted(self.members, key=lambda row: row.started_at)])

    @cached_property
    def rows(self) -> list[Row]:
        """The completed runs, ordered by variant and seed."""
        return [row for variant in self.variants for row in variant.rows.values()]

    @cached_property
    def not_completed(self) -> list[Row]:
        return [row for row in self.members if row.status != "completed"]

    @cached_property
    def missing(self) -> list[Row]:
        """The runs that were not completed, without those of a variant and seed that another run completed."""
        completed = {(row.fingerprint, str(row.seed)) for row in self.rows}
        return [row for row in self.not_completed if (row.fingerprint, str(row.seed)) not in completed]

    def samples(self) -> dict[str, dict[int, float]]:
        """Return the metric of every variant that has values: name -> seed -> value."""
        found = {variant.name: variant.values(self.metric) for variant in self.variants}
        return {name: values for name, values in found.items() if values}

    @cached_property
    def ranked(self) -> list[tuple[Variant, Summary]]:
        """The variants that have runs, with the summary of the metric, lowest mean first."""
        known = [(one, one.summary(self.metric)) for one in self.variants if one.values(self.metric)]
        return sorted(known, key=lambda pair: pair[1].mean)


def baseline_of(variants: Iterable[Variant]) -> Variant:
    """Return the variant with completed runs that has the most settings at their default; of equals the first."""
    return max(variants, key=lambda one: (bool(one.rows), defaults_among(one.settings)))


def baseline_words(family: Family) -> str:
    """Return why a variant is the baseline, and its name."""
    base = family.baseline
    count = defaults_among(base.settings)
    why = "the first" if not count else f"with {'the' if count == len(base.settings) else 'the most'} default values"
    return f"the baseline ({why}: {base.name})"


def alike(variants: Iterable[Variant], without: Sequence[str]) -> list[list[Variant]]:
    """Return the variants in groups with equal settings, ignoring the keys `without`."""
    return list(grouped(variants, lambda one: fingerprint(one.settings, without)).values())


def families(rows: Sequence[Row]) -> list[Family]:
    """Return the sweeps with two or more runs and the complete ablations, in the order of their first runs.

    `rows` are oldest first and may belong to several styles. A sweep whose completed runs all belong to one ablation is
    left out, and so is one without completed runs.
    """
    rows = with_data(rows)
    place = {row: number for number, row in enumerate(rows)}
    ablations = ablation_groups(rows)
    ablation_of = {row: key for key, members in ablations.items() for row in members}
    sweeps = grouped((row for row in rows if row.job), lambda row: row.folder.parent)
    found = [
        (place[members[0]], new_family("ablation", key, members, [ABLATION.index(row.variant) for row in members]))
        for key, members in ablations.items()
    ]
    for members in sweeps.values():
        keys = {ablation_of.get(row) for row in members if row.is_completed}
        if len(members) > 1 and keys and (len(keys) > 1 or None in keys):
            found.append((place[members[0]], sweep_family(members)))
    return [family for _, family in sorted(found, key=lambda pair: pair[0])]


def with_data(rows: Sequence[Row]) -> list[Row]:
    """Return the rows; runs that failed before they read their data get the hash of a completed run's on that data."""

    def source(row: Row) -> tuple[Any, Any]:
        return row.setting("data", "name"), row.setting("data", "path")

    if all(row.is_completed or row.data_sha256 is not None for row in rows):
        return list(rows)
    data = {source(row): row.data_sha256 for row in rows if row.is_completed}
    return [
        replace(row, data_sha256=data.get(source(row))) if row.data_sha256 is None and not row.is_completed else row
        for row in rows
    ]


def ablation_groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return by comparison key the groups in which all four variants have completed runs, completed runs first.

    A sweep of many more settings, such as a screening, is left out: the effects of its factors contain them.
    """
    groups = grouped(sorted(rows, key=lambda row: not row.is_completed), lambda row: row.shared.comparison_key)
    completed = {key: {row.variant for row in members if row.is_completed} for key, members in groups.items()}
    found = {key: members for key, members in groups.items() if completed[key] == set(ABLATION)}
    sweeps = {key: {row.job and row.folder.parent for row in members} for key, members in found.items()}
    of_sweep = Counter(next(iter(own)) for own in sweeps.values() if len(own) == 1 and None not in own)
    many = {sweep for sweep, number in of_sweep.items() if number > MOST_ABLATIONS}
    return {key: members for key, members in found.items() if not (len(sweeps[key]) == 1 and sweeps[key] <= many)}


def sweep_family(rows: Sequence[Row]) -> Family:
    jobs = [row.job for row in rows if row.job]
    return new_family("sweep", f"sweeps/{jobs[0][1]}", rows, [int(job[2]) for job in jobs])


def family_of(rows: Sequence[Row], key: str = "") -> Family:
    """Return the given runs, oldest first or in the order of their jobs, as one family, whatever they belong to."""
    return new_family("sweep", key, with_data(rows), range(len(rows)))


def new_family(kind: Literal["sweep", "ablation"], key: str, rows: Sequence[Row], places: Sequence[int]) -> Family:
    """Return a family of runs, oldest first; its variants are ordered by the least place of their runs."""
    members = grouped(zip(rows, places, strict=True), lambda pair: pair[0].fingerprint).values()
    ordered = sorted(members, key=lambda pairs: min(place for _, place in pairs))
    groups = [[row for row, _ in pairs] for pairs in ordered]
    keys = differing_keys([group[0].settings for group in groups])
    variants = [new_variant(group, keys) for group in groups]
    counted = [row for variant in variants for row in variant.rows.values()]
    metric = "val_loss" if all(row.val_loss is not None for row in counted) else "mean_loss_last_n"
    measured = [variant for variant in variants if variant.rows]
    numbers, obstacle = comparable_groups([variant.first for variant in measured], metric)
    group_of = {variant.name: number for variant, number in zip(measured, numbers, strict=True)}
    in_groups = tuple(replace(variant, group=group_of.get(variant.name, 0)) for variant in variants)
    names = {group[0].fingerprint: variant.name for group, variant in zip(groups, variants, strict=True)}
    return Family(kind, key, in_groups, metric, tuple(rows), obstacle, names)


def new_variant(rows: Sequence[Row], keys: Sequence[str]) -> Variant:
    """Return a variant of runs that are oldest first; `keys` are those in which the family's variants differ."""
    newest: dict[str, Row] = {}
    for row in rows:
        seed = str(row.seed)
        if row.is_completed or seed not in newest or not newest[seed].is_completed:
            newest[seed] = row
    completed = sorted((row for row in newest.values() if row.is_completed), key=lambda row: row.seed)
    statuses = [row.status for row in newest.values() if not row.is_completed]
    failed = sum(status in ("failed", "completed") for status in statuses)  # completed with a loss that is not finite
    settings = {key: setting(rows[0].settings, key) for key in keys}
    return Variant(
        name=rows[0].variant if set(keys) == set(TOGGLES) else label(settings) or ONLY,
        settings=settings,
        rows={row.seed: row for row in completed},
        failed=failed,
        unfinished=len(statuses) - failed,
    )
