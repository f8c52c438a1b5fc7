"""The keys of the sweepers that compose a sweep from a design. These groups of the schema do not affect a run."""

# ruff: noqa: RUF009 (`key` returns dataclass fields)
from dataclasses import dataclass
from typing import Any

from microgpt.config.keys import key


def are_overrides(values: list[Any]) -> bool:
    return all(isinstance(value, str) and value and all("=" in part for part in value.split()) for value in values)


@dataclass(frozen=True)
class LadderConfig:
    """hydra/sweeper=ladder: a model, and the changes from each model to the next."""

    rungs: list[str] = key(
        [], "overrides of the first model, then the overrides that each further model adds, separated by spaces",
        holds=are_overrides, allowed="each must be one or more key=value, separated by spaces",
    )  # fmt: skip
    equal_size: bool = key(
        True, "train a model of another size a second time, with model.mlp_width set to match the first model's size"
    )
    rung: int | None = key(None, "set by the sweeper: index of the job's last rung, from 0")
    resized: bool = key(False, "set by the sweeper: whether model.mlp_width matches the first model's size")


@dataclass(frozen=True)
class ScreeningConfig:
    """hydra/sweeper=screening: a two-level design."""

    factors: list[str] = key([], "swept keys with two values to vary; empty: all of them")
    max_runs: int = key(4096, "maximum number of runs; if exceeded, a fraction of the combinations is run", at_least=8)
    resolution: int = key(4, "minimum resolution of a fraction", at_least=3, at_most=5)
    tune_lr: bool = key(False, "choose optim.lr for each combination, with seeds that the results do not use")
    lr: list[float] = key(
        [0.003, 0.01, 0.03], "tune_lr: learning rates to choose from", allowed="give two or more rates above 0",
        holds=lambda rates: len(set(rates)) > 1 and min(rates) > 0,
    )  # fmt: skip
    tuning_seeds: int = key(3, "tune_lr: number of seeds per rate", at_least=1)


@dataclass(frozen=True)
class PrecisionConfig:
    """hydra/sweeper=precision: the options of the sweeper that the report needs."""

    half_width: float | None = key(None, "set by the sweeper: requested half-width of the intervals")
    first_seeds: int | None = key(None, "set by the sweeper: number of seeds of the first stage")


DESIGNS = ("ladder", "screening", "precision")  # nodes; only hydra/sweeper=<node> reads each
