"""Reports each cause of failure once, with the numbers of its jobs, and records the failed jobs."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from microgpt.config.hydra_errors import report
from microgpt.errors import RECORDED_IN, describe
from microgpt.runs.invocation import Invocation
from microgpt.sweeps.hydra_job import HydraJob

MOST_REPORTED = 3  # printed failures of a group of jobs that train side by side
MOST_RANGES = 8  # ranges of job numbers in a line


@dataclass(frozen=True)
class FailedJob:
    """A job that failed before its folder was created."""

    error: Exception
    invocation: Invocation
    config: dict[str, Any] | None  # as composed, perhaps invalid; None if it could not be composed
    hydra: HydraJob = field(default=HydraJob(), compare=False)


def by_cause(errors: Mapping[int, Exception]) -> list[list[int]]:
    """Return the job numbers for each cause of failure, ordered by each cause's first job."""
    causes: dict[str, list[int]] = {}
    for number in sorted(errors):
        causes.setdefault(describe(errors[number]), []).append(number)
    return list(causes.values())


def report_by_cause(errors: Mapping[int, Exception]) -> None:
    """Print each cause once: `job 3: error: ...`, `64 jobs (0-31, 64-95): error: ...`."""
    for numbers in by_cause(errors):
        several = f"{len(numbers)} jobs ({ranges(numbers)})"
        report(errors[numbers[0]], prefix=f"{several if len(numbers) > 1 else f'job {numbers[0]}'}: ")


def report_first(errors: Mapping[int, Exception]) -> None:
    """Print the errors of the first jobs of a group that failed individually, and the number of further failures."""
    numbers = sorted(errors)
    for number in numbers[:MOST_REPORTED]:
        report(errors[number], prefix=f"job {number}: ")
    more = numbers[MOST_REPORTED:]
    if more:
        which = f"{len(more)} more jobs of its group" if len(more) > 1 else "another job of its group"
        print(f"{which} failed ({ranges(more)}): see run.json in the job's folder", file=sys.stderr)


def ranges(numbers: Iterable[int]) -> str:
    """Return ascending numbers as `0-3, 7, 9-12`. If there are many ranges, only the first ones and the last."""
    found = []
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        found.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    if len(found) > MOST_RANGES:
        found[MOST_RANGES - 1 : -1] = ["..."]
    return ", ".join(found)


def record_failures(failed: Iterable[FailedJob]) -> None:
    """Record the failed jobs that could be composed. Must be called within `SweepFolder.creating_folders`."""
    from microgpt.runs.folders import record_failed_job  # imports numpy, which --help does not need

    for one in failed:
        if one.config is not None:
            one.hydra.start(record_failed_job(one.config, one.invocation, one.error))
            one.hydra.end(one.error)
        one.error.add_note(f"{RECORDED_IN} the sweep's folder")
