"""hydra/sweeper=screening: a two-level design over the keys with two values. Each combination runs with all seeds."""

from collections.abc import Iterator, Sequence
from itertools import combinations, islice, product
from math import inf, isfinite

from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus

from microgpt.config.schema import Config
from microgpt.errors import UserError
from microgpt.sweeps.failures import FailedJob
from microgpt.sweeps.sweepers import PlannedSweeper, Stage, Stages, values_of, what_is_trained
from microgpt.sweeps.two_level_designs import Design, choose

LR = "optim.lr"
NUMERALS = {3: "III", 4: "IV", 5: "V"}
MOST_NAMED = 5  # combinations of levels that an error lists


class ScreeningSweeper(PlannedSweeper):
    """Runs all combinations of the factors or a fraction of them; with tune_lr, it chooses learning rates first."""

    node = "screening"

    def stages(self, overrides: list[Override]) -> Stages:
        settings = self.master.screening
        values = values_of(overrides)
        seeds = values.pop("seed", ["seed=42"])
        factors = self.factors(values)
        fixed = [choices[0] for key, choices in values.items() if key not in factors]
        design = self.design(factors, len(seeds))
        cells = [
            [*fixed, *(factors[key][level] for key, level in zip(factors, row, strict=True))] for row in design.rows
        ]
        self.check_cells(factors, design, cells, fixed)
        plan = plan_of(list(factors), design, len(seeds))
        if settings.tune_lr:
            nuisance = dict.fromkeys([*self.master.report.nuisance, LR])
            cells = [[*cell, f"report.nuisance=[{','.join(nuisance)}]"] for cell in cells]
            rates = [f"{LR}={rate}" for rate in settings.lr]
            tuning = list(islice(others(seeds), settings.tuning_seeds))
            jobs = [[*cell, *tried] for cell in cells for tried in product(rates, tuning)]
            lines = [f"before that: {len(rates)} learning rates, {len(tuning)} other seeds each: {len(jobs):,} runs"]
            results = yield Stage(jobs, [*plan, *lines])
            of_cell = len(rates) * len(tuning)
            chosen = [best_of(results[start : start + of_cell], len(tuning)) for start in range(0, len(jobs), of_cell)]
            plan = [f"learning rates chosen: {frequencies(settings.lr, chosen)}"]
            cells = [[*cell, rates[best]] for cell, best in zip(cells, chosen, strict=True)]
        yield Stage([[*cell, seed] for cell, seed in product(cells, seeds)], plan)

    def factors(self, values: dict[str, list[str]]) -> dict[str, list[str]]:
        """Return the overrides for both levels of each factor, by key. Raises UserError."""
        named = list(self.master.screening.factors)
        for key in named:
            if len(values.get(key, ())) != 2:
                raise UserError(f"screening.factors={key} is not allowed: {key} does not have two values in this sweep")
        for key, choices in values.items():
            if len(choices) > 2:
                raise UserError(f"{key} has {len(choices)} values: a factor of a screening must have two")
        found = {key: choices for key, choices in values.items() if len(choices) == 2 and (not named or key in named)}
        if len(found) < 2:
            raise UserError(f"a screening needs two or more keys with two values, but this sweep has {len(found)}")
        if self.master.screening.tune_lr and LR in found:
            raise UserError(f"screening.tune_lr=true is not allowed: {LR} is a factor")
        return found

    def design(self, factors: dict[str, list[str]], seeds: int) -> Design:
        settings = self.master.screening
        found = choose(len(factors), settings.max_runs // seeds, settings.resolution)
        if found is None:
            raise UserError(
                f"screening.max_runs={settings.max_runs} is not allowed: with {seeds} seeds it leaves "
                f"{settings.max_runs // seeds} combinations, too few for {len(factors)} factors with resolution "
                f"{NUMERALS[settings.resolution]}"
            )
        return found

    def check_cells(
        self, factors: dict[str, list[str]], design: Design, cells: Sequence[Sequence[str]], fixed: Sequence[str]
    ) -> None:
        """Raise UserError for levels that cannot be combined, and for a factor whose levels train the same model."""
        keys = list(factors)
        found = self.probe(cells)
        failed = [number for number, one in enumerate(found) if isinstance(one, FailedJob)]
        if failed:
            rows = [tuple(factors[key][level] for key, level in zip(keys, row, strict=True)) for row in design.rows]
            first = found[failed[0]]
            assert isinstance(first, FailedJob)
            if len(failed) == len(rows):
                raise first.error
            named = "; ".join(map(" with ".join, impossible(rows, set(failed))))
            raise UserError(f"{named or 'some levels'} cannot be combined: {first.error}")
        first_levels = [factors[key][0] for key in keys]
        changed = [[*fixed, *first_levels[:n], factors[key][1], *first_levels[n + 1 :]] for n, key in enumerate(keys)]
        trained = [
            isinstance(one, Config) and what_is_trained(one) for one in self.probe([[*fixed, *first_levels], *changed])
        ]
        for key, one in zip(keys, trained[1:], strict=True):
            if one is not False and one == trained[0]:
                raise UserError(f"{' and '.join(factors[key])} train the same model, so {key} cannot be a factor")


def impossible(rows: Sequence[Sequence[str]], failed: set[int]) -> list[tuple[str, ...]]:
    """Return the smallest sets of up to three levels that occur only in failed rows, at most MOST_NAMED of them."""
    for size in (1, 2, 3):
        in_failed = {levels for number in failed for levels in combinations(rows[number], size)}
        possible = {levels for n, row in enumerate(rows) if n not in failed for levels in combinations(row, size)}
        if in_failed - possible:
            return sorted(in_failed - possible)[:MOST_NAMED]
    return []


def plan_of(keys: Sequence[str], design: Design, seeds: int) -> list[str]:
    """Return the lines of the plan: the runs and, for a fraction, the generators and aliased effects."""
    cells = 2**design.base
    lines = [f"screening of {len(keys)} factors: "]
    if design.resolution is None:
        lines[0] += f"all {cells:,} combinations"
    else:
        lines[0] += f"{cells:,} of {2 ** len(keys):,} combinations, resolution {NUMERALS[design.resolution]}"
        generated = [(key, design.generator(n)) for n, key in enumerate(keys)]
        lines += [
            f"generator: {key} = {' x '.join(keys[one] for one in base)}" for key, base in generated if len(base) > 1
        ]
        lines += [
            f"aliased: {' = '.join(' x '.join(keys[one] for one in effect) for effect in effects)}"
            for effects in design.aliases()
        ]
    lines[0] += f", {seeds} seeds each: {cells * seeds:,} runs"
    return lines


def others(seeds: Sequence[str]) -> Iterator[str]:
    """Yield seeds above the largest of the given ones."""
    number = max(int(seed.partition("=")[2]) for seed in seeds)
    while True:
        number += 1
        yield f"seed={number}"


def best_of(results: Sequence[JobReturn], seeds: int) -> int:
    """Return the index of the learning rate with the lowest mean loss. Each rate has `seeds` consecutive results.

    A rate with a failed run is chosen only if every rate has one.
    """
    losses = [one.return_value if one.status == JobStatus.COMPLETED else inf for one in results]
    means = [sum(losses[start : start + seeds]) / seeds for start in range(0, len(losses), seeds)]
    return min(range(len(means)), key=lambda n: means[n] if isfinite(means[n]) else inf)


def frequencies(rates: Sequence[float], chosen: Sequence[int]) -> str:
    return (
        ", ".join(f"{rate} for {chosen.count(n)}" for n, rate in enumerate(rates)) + f" of {len(chosen)} combinations"
    )
