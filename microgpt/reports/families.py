"""From rows to families: runs that are looked at together, as variants of each other.

A family is a sweep (the runs below one outputs/sweeps/<name>_<hash>), or an ablation: runs from anywhere that differ in
nothing but the two toggles and the seed. Knows no statistics.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from microgpt.reports.comparability import measured_alike
from microgpt.reports.records import Row, variant_name
from microgpt.reports.settings import (
    DATA,
    TOGGLES,
    Settings,
    comparison_key,
    differing_keys,
    fingerprint,
    label,
    settings_of,
)
from microgpt.reports.variants import Family, Variant, is_figure

JOB = re.compile(r"(?:sweeps/)?([^/]+)/(\d+)(?:-\d+)?")  # run_id of a sweep's job: the sweep, the job's number
ABLATION = tuple(variant_name(tied, normed) for tied in (True, False) for normed in (False, True))
ONLY = "all runs"  # the name of a variant that is alone


@dataclass(frozen=True)
class Run:
    """A row, and what of its configuration has an effect."""

    row: Row
    settings: Settings
    completed: bool


def families(rows: list[Row]) -> list[Family]:
    """The sweeps of two runs or more, and the whole ablations, in the order in which the first run of each began.

    `rows` are oldest first, and may be of several styles. A sweep whose completed runs all belong to one whole ablation
    is not told twice. What has no completed run is no family.
    """
    runs = known_runs(rows)
    ablations = ablation_groups(runs)
    told = {id(run): key for key, members in ablations.items() for run in members}
    sweeps: dict[Path, list[Run]] = {}
    for run in runs:
        if JOB.fullmatch(str(run.row["run_id"])):
            sweeps.setdefault(Path(run.row["path"]).parent, []).append(run)
    place = {id(run): number for number, run in enumerate(runs)}
    found = [(place[id(members[0])], ablation_family(key, members)) for key, members in ablations.items()]
    for members in sweeps.values():
        keys = {told.get(id(run)) for run in members if run.completed}
        if len(members) > 1 and keys and (len(keys) > 1 or None in keys):
            found.append((place[id(members[0])], sweep_family(members)))
    return [family for _, family in sorted(found, key=lambda pair: pair[0])]


def ablations(rows: list[Row]) -> list[Family]:
    """The ablations alone: only those in which all four variants have been completed."""
    return [ablation_family(key, members) for key, members in ablation_groups(known_runs(rows)).items()]


def known_runs(rows: list[Row]) -> list[Run]:
    """Rows with their settings. A run that failed before it read its data is taken to be of the data of its like."""
    runs = [Run(row, settings_of(row), is_completed(row)) for row in rows]
    lost = [run for run in runs if not run.completed and run.settings[DATA] is None]
    if lost:
        data = {without_data(run.settings): run.settings[DATA] for run in runs if run.completed}
        for run in lost:
            run.settings[DATA] = data.get(without_data(run.settings))
    return runs


def is_completed(row: Row) -> bool:
    """With a finite figure: in a record that was written by hand a loss may be too large for a number."""
    losses = (row["mean_loss_last_n"], row["val_loss"])
    return row["status"] == "completed" and all(loss is None or is_figure(loss) for loss in losses)


def without_data(settings: Settings) -> str:
    return fingerprint({**settings, DATA: None})


def ablation_groups(runs: list[Run]) -> dict[str, list[Run]]:
    """Runs by what they may be compared with: the groups in which all four variants have been completed."""
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: not run.completed):  # groups in the order of their completed runs
        groups.setdefault(comparison_key(run.settings), []).append(run)
    whole = {key for key, group in groups.items() if {r.row["variant"] for r in group if r.completed} == set(ABLATION)}
    return {key: group for key, group in groups.items() if key in whole}


def ablation_family(key: str, runs: list[Run]) -> Family:
    return new_family("ablation", key, runs, [ABLATION.index(run.row["variant"]) for run in runs])


def sweep_family(runs: list[Run]) -> Family:
    jobs = [job for run in runs if (job := JOB.fullmatch(run.row["run_id"]))]
    return new_family("sweep", f"sweeps/{jobs[0][1]}", runs, [int(job[2]) for job in jobs])


def new_family(kind: Literal["sweep", "ablation"], key: str, runs: list[Run], places: list[int]) -> Family:
    """A family of runs, oldest first; its variants are in the order of the least place of their runs."""
    members: dict[str, list[Run]] = {}
    order: dict[str, int] = {}
    for run, place in zip(runs, places, strict=True):
        variant = fingerprint(run.settings)
        members.setdefault(variant, []).append(run)
        order[variant] = min(place, order.get(variant, place))
    groups = [members[variant] for variant in sorted(members, key=order.__getitem__)]
    keys = differing_keys([group[0].settings for group in groups])
    variants = [new_variant(group, keys) for group in groups]
    rows = [row for variant in variants for row in variant.rows.values()]
    figure = "val_loss" if all(row["val_loss"] is not None for row in rows) else "mean_loss_last_n"
    measured = [variant for variant in variants if variant.rows]
    numbers, obstacle = measured_alike([next(iter(variant.rows.values())) for variant in measured], figure)
    group_of = {variant.name: number for variant, number in zip(measured, numbers, strict=True)}
    grouped = tuple(replace(variant, group=group_of.get(variant.name, 0)) for variant in variants)
    return Family(kind, key, grouped, figure, obstacle)


def new_variant(runs: list[Run], keys: list[str]) -> Variant:
    """A variant of runs that are oldest first; `keys` are those in which the family's variants differ."""
    newest: dict[str, Run] = {}
    for run in runs:
        seed = str(run.row["seed"])  # of a run that failed it may be anything
        if run.completed or seed not in newest or not newest[seed].completed:
            newest[seed] = run
    rows = sorted((run.row for run in newest.values() if run.completed), key=lambda row: row["seed"])
    statuses = [run.row["status"] for run in newest.values() if not run.completed]
    failed = sum(status in ("failed", "completed") for status in statuses)
    settings = {key: runs[0].settings.get(key) for key in keys}
    text = label(settings, keys)
    return Variant(
        name=runs[0].row["variant"] if set(keys) == set(TOGGLES) else text or ONLY,
        label=text,
        settings=settings,
        rows={row["seed"]: row for row in rows},
        failed=failed,
        unfinished=len(statuses) - failed,
    )
