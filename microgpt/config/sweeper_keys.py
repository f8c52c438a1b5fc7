"""The keys of the sweepers that compose a sweep from a design: groups of the schema without effect on a run."""

# ruff: noqa: RUF009 (`key` returns dataclass fields)
from dataclasses import dataclass
from typing import Any

from microgpt.config.keys import key


def are_overrides(values: list[Any]) -> bool:
    return all(isinstance(value, str) and value and all("=" in part for part in value.split()) for value in values)


@dataclass(frozen=True)
class LadderConfig:
    """hydra/sweeper=ladder: a model, and what changes from each to the next."""

    rungs: list[str] = key(
        [], "overrides of the first model, then those that each next one adds, separated by blanks",
        holds=are_overrides, allowed="each is one or more key=value, separated by blanks",
    )  # fmt: skip
    equal_size: bool = key(True, "train models of another size again, with model.mlp_width for the first one's size")
    rung: int | None = key(None, "set by the sweeper: number of the job's last change, from 0")
    resized: bool = key(False, "set by the sweeper: the job has the size of the first model")


@dataclass(frozen=True)
class ScreeningConfig:
    """hydra/sweeper=screening: a two-level design."""

    factors: list[str] = key([], "keys to vary, of those with two values; empty: all of them")
    max_runs: int = key(4096, "most runs; above, a fraction of the combinations is run", at_least=8)
    resolution: int = key(4, "least resolution of a fraction", at_least=3, at_most=5)
    tune_lr: bool = key(False, "choose optim.lr for each combination, on other seeds than those of the results")
    lr: list[float] = key(
        [0.003, 0.01, 0.03], "tune_lr: learning rates to choose from", allowed="name two or more rates above 0",
        holds=lambda rates: len(set(rates)) > 1 and min(rates) > 0,
    )  # fmt: skip
    tuning_seeds: int = key(3, "tune_lr: seeds of each rate", at_least=1)


@dataclass(frozen=True)
class PrecisionConfig:
    """hydra/sweeper=precision: what the report needs to know of the sweeper's options."""

    half_width: float | None = key(None, "set by the sweeper: stated half-width of the intervals")
    first_seeds: int | None = key(None, "set by the sweeper: number of seeds of the first stage")


DESIGNS = ("ladder", "screening", "precision")  # nodes, each read by hydra/sweeper=<node> only
