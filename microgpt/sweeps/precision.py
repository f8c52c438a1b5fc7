"""hydra/sweeper=precision: all combinations of the swept keys, with enough seeds for intervals of a given width."""

import time
from collections.abc import Sequence
from itertools import product
from math import isfinite
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus

from microgpt.config.hydra_settings import Options, check_options
from microgpt.config.schema import Config
from microgpt.errors import UserError
from microgpt.runs.record import RunRecord, timestamp
from microgpt.sweeps.failures import FailedJob
from microgpt.sweeps.sweepers import PlannedSweeper, Stage, Stages, values_of, what_is_trained

if TYPE_CHECKING:
    from microgpt.reports.precision_intervals import Precise

FIRST_SEEDS = 32
MOST_PRINTED = 12  # intervals printed at the end


def is_count(value: Any) -> bool:
    return type(value) is int and value >= 2


def is_width(value: Any) -> bool:
    return isinstance(value, int | float) and isfinite(value) and value > 0


OPTIONS: Options = {
    "half_width": (is_width, "a number above 0, for example 0.003"),
    "max_seeds": (is_count, "a whole number of at least 2"),
    "first_seeds": (lambda value: value is None or is_count(value), "a whole number of at least 2, or null"),
}


class PrecisionSweeper(PlannedSweeper):
    """Runs a first stage of seeds, then as many more as Stein's procedure requires (reports/two_stage.py)."""

    node = "precision"

    def __init__(self, half_width: Any, max_seeds: Any, first_seeds: Any = None, **options: Any):
        super().__init__(**options)
        self.half_width = half_width
        self.max_seeds = max_seeds
        self.first_seeds = first_seeds

    def stages(self, overrides: list[Override]) -> Stages:
        check_options(vars(self), OPTIONS)
        values = values_of(overrides)
        given = values.pop("seed", [])
        variants = self.variants(values)
        seeds = self.seeds([self.seed_of([*variants[0], one]) for one in given] or [self.master.seed])
        stated = f"precision.half_width={self.half_width}", f"precision.first_seeds={len(seeds)}"
        began, clock = timestamp(), time.perf_counter()
        results = yield Stage(
            [[*variant, *stated, f"seed={seed}"] for variant, seed in product(variants, seeds)],
            [
                f"first stage: {len(variants)} variants, {len(seeds)} seeds each: {len(variants) * len(seeds):,} runs; "
                f"then as many as a half-width of {self.half_width} needs, at most {self.max_seeds} seeds each: "
                f"{len(variants) * self.max_seeds:,} runs"
            ],
        )
        seconds = self.seconds_of_a_run(began, time.perf_counter() - clock)
        found = self.found()
        if found is None:
            print("no contrast can be estimated: fewer than two variants have all seeds of the first stage", flush=True)
            return
        whole = [variant for n, variant in enumerate(variants) if is_whole(results[n * len(seeds) :][: len(seeds)])]
        more = min(found.seeds_needed, self.max_seeds) - len(seeds)
        lines = self.after_first_stage(found, more, len(whole) * more, seconds)
        if more > 0:
            start = max(seeds) + 1
            added = range(start, start + more)
            yield Stage([[*variant, *stated, f"seed={seed}"] for variant, seed in product(whole, added)], lines)
            found = self.found() or found
            lines = found.sentences()
        print("\n".join([*lines, *printed(found)]), flush=True)

    def seed_of(self, job: Sequence[str]) -> int:
        """Return the seed that the last override of a job sets, which may be an interpolation. Raises UserError."""
        value = job[-1].partition("=")[2]
        if value.isdecimal():
            return int(value)
        (found,) = self.probe([job])
        if isinstance(found, FailedJob):
            raise found.error
        return found.seed

    def seeds(self, given: Sequence[int]) -> list[int]:
        """Return the seeds of the first stage: the listed seeds, or `first_seeds` seeds starting at a single one.

        Raises UserError.
        """
        found = list(dict.fromkeys(given))
        if len(found) == 1:
            found = list(range(found[0], found[0] + (self.first_seeds or FIRST_SEEDS)))
        elif self.first_seeds not in (None, len(found)):
            raise UserError(
                f"hydra.sweeper.first_seeds={self.first_seeds} is not allowed: seed lists the first {len(found)} seeds"
            )
        if self.max_seeds < len(found):
            raise UserError(
                f"hydra.sweeper.max_seeds={self.max_seeds} is not allowed: the first stage has {len(found)} seeds"
            )
        return found

    def variants(self, values: dict[str, list[str]]) -> list[list[str]]:
        """Return the overrides of each variant. Raises UserError if there are fewer than two."""
        for key, given in values.items():
            if key.startswith(f"{self.node}."):
                name = key.partition(".")[2]
                raise UserError(f"{given[0]} is not allowed: the sweeper sets it; use hydra.sweeper.{name}")
        if self.master.task.name != "train":
            raise UserError(
                f"hydra/sweeper={self.node} is not allowed with task={self.master.task.name}: it needs task=train"
            )
        if self.master.report.nuisance:
            raise UserError(
                f"report.nuisance is not allowed with hydra/sweeper={self.node}: a value must not be chosen with the "
                "seeds of the estimate"
            )
        found = [list(one) for one in product(*values.values())]
        trained = {what_is_trained(one) for one in self.probe(found) if isinstance(one, Config)}
        if len(found) < 2 or len(trained) == 1:
            raise UserError(
                f"hydra/sweeper={self.node} needs two or more variants that train differently: give a key several "
                "values, for example optim.lr=0.01,0.02"
            )
        return found

    def found(self) -> "Precise | None":
        """Return the contrasts computed from the records in the sweep's folder."""
        from microgpt.reports.precision_intervals import precise
        from microgpt.reports.records import read_rows
        from microgpt.reports.run_families import sweep_family, with_data

        rows = [row for row in read_rows([self.folder]).rows if row.job]
        if not rows:
            return None
        family = sweep_family(with_data(rows))
        return precise(family, family.plan, self.half_width)

    def seconds_of_a_run(self, began: str, seconds: float) -> float | None:
        """Return the mean time of the runs that ended since `began`, without compilation; None if there are none."""
        from microgpt.runs.folders import run_folders

        records = [record for path in run_folders(self.folder) if (record := RunRecord.read(path))]
        ended = [record for record in records if str(record.finished_at) >= began]
        compiled = max((record.timings.compile for record in ended if record.timings), default=0.0)
        return max(0.0, seconds - compiled) / len(ended) if ended else None

    def after_first_stage(self, found: "Precise", more: int, runs: int, seconds: float | None) -> list[str]:
        """Return the lines about the result of the first stage and the number of runs that follow."""
        first, needed, count = found.stage.seeds, found.seeds_needed, len(found.labels)
        together = f", the widest of {count} simultaneous intervals" if count > 1 else ""
        width = found.stage.half_widths(first).max()
        lines = [
            f"the first {first} seeds give a half-width of {width:.3g} (95 %{together}); "
            f"{self.half_width} needs {needed} seeds"
        ]
        if needed > self.max_seeds:
            width = float(found.stage.half_widths(self.max_seeds).max())
            lines[0] += f", more than hydra.sweeper.max_seeds={self.max_seeds}, which gives {width:.3g}"
        if more > 0:
            about = "" if seconds is None else f", about {duration(runs * seconds)}"
            lines.append(f"second stage: {more} more seeds of each variant: {runs:,} runs{about}")
        return [*lines, *found.remarks]


def is_whole(results: Sequence[JobReturn]) -> bool:
    return all(one.status == JobStatus.COMPLETED for one in results)


def printed(found: "Precise") -> list[str]:
    lines = [f"  {label}: {mean:+.5f} +- {half:.5f}" for label, mean, half in found.intervals()]
    more = len(lines) - MOST_PRINTED
    return [*lines[:MOST_PRINTED], *([f"  {more} more are in the report"] if more > 0 else [])]


def duration(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 100 else f"{round(seconds / 60)} minutes"
