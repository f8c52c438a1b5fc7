"""The experiments of docs/findings.md: their commands, and the figures that are read from the data of their reports."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from microgpt.reports.paired_statistics import Interval
from microgpt.reports.tables import decimals

TEXTS = {"names": ("data=names",), "Alice": ("data=alice",)}
ALL_CHANGES = " against the first model"


@dataclass(frozen=True)
class Figure:
    estimate: float
    low: float
    high: float

    @property
    def is_shown(self) -> bool:
        return self.low > 0 or self.high < 0

    def written(self, signed: bool) -> str:
        """Return `+0.0123 [+0.0100, +0.0146]` with the digits that the interval justifies."""
        form = f"{{:{'+' * signed}.{decimals(Interval(self.low, self.high))}f}}".format
        return f"{form(self.estimate)} [{form(self.low)}, {form(self.high)}]"


Figures = dict[str, Figure]  # by what they are of


def from_data(data: Mapping[str, Any], estimate: str = "estimate") -> Figure:
    return Figure(data[estimate], data["low"], data["high"])


def known(found: Mapping[str, Any] | None) -> bool:
    return found is not None and None not in (found["estimate"], found["low"], found["high"])


def figures_of_ladder(data: Mapping[str, Any]) -> Figures:
    """Return the effect of each change, and that of all changes up to each named model."""
    steps = [step for step in data["ladder"] if known(step["from_before"])]
    found = {f"{number}. {step['change']}": from_data(step["from_before"]) for number, step in enumerate(steps, 1)}
    named = {step["change"].rpartition("(")[2][:-1]: step for step in steps if step["change"].endswith(")")}
    return found | {f"{name}{ALL_CHANGES}": from_data(step["from_first"]) for name, step in named.items()}


def figures_of_effects(data: Mapping[str, Any]) -> Figures:
    return {one["label"]: from_data(one) for one in data["effects"] if known(one)}


def figures_of_learning_rates(data: Mapping[str, Any]) -> Figures:
    """Return the best rate of each setting, and the factor by which it changes when a size doubles."""
    best = {one["setting"]: from_data(one, "lr") for one in data["optima"] if not one["at_edge"]}
    of = "factor when {key} doubles, {setting}".format_map
    return best | {of(one): from_data(one, "factor") for one in data["trends"]}


def figures_of_scaling(data: Mapping[str, Any]) -> Figures:
    """Return E and the exponents of the last law, which is that of all points."""
    law = data["laws"][-1]
    powers = {f"exponent of {name}": from_data(one) for name, one in law["exponents"].items() if known(one)}
    return {"E": from_data(law["E"]), **powers}


def figures_of_precision(data: Mapping[str, Any]) -> Figures:
    return {one["label"]: from_data(one) for one in data["contrasts"]}


@dataclass(frozen=True)
class Study:
    analysis: str  # whose figures are read (microgpt/reports/analyses.py)
    figures: Callable[[Mapping[str, Any]], Figures]
    options: tuple[str, ...]
    are_differences: bool = True
    is_drawn: bool = False  # both texts in one plot; else the report's own plot of each
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: TEXTS)
    runs_of: str = ""  # the study whose runs these are; empty: runs of its own

    def command(self, text: str) -> list[str]:
        return [*self.options, *self.texts[text]]


LEARNING_RATE = "experiment=learning_rate", "seed=range(16)"
FACTORS = "tie_lm_head,input_rmsnorm,norm,bias,position,activation,gated_mlp,init"
STUDIES = {
    "architecture": Study(
        "ladder", figures_of_ladder, ("experiment=architecture", "ladder.equal_size=false", "seed=range(32)"),
        is_drawn=True,
    ),
    "screening": Study(
        "effects",
        figures_of_effects,
        (
            "experiment=screening",
            "screening.factors=[" + ",".join(f"model.{name}" for name in FACTORS.split(",")) + "]",
            "screening.max_runs=1024",
        ),
        is_drawn=True,
    ),
    "learning_rate": Study("learning_rate", figures_of_learning_rates, LEARNING_RATE, are_differences=False),
    "optimizers": Study("effects", figures_of_effects, LEARNING_RATE, runs_of="learning_rate"),
    "scaling": Study(
        "scaling",
        figures_of_scaling,
        (
            "experiment=scaling", "model.n_embd=4,8,16,32", "model.n_layer=1", "train.steps=125,250,500,1000,2000",
            "optim.lr=0.002,0.004,0.008,0.016,0.032", "seed=range(6)",
        ),
        are_differences=False,
    ),
    "precision": Study(
        "precision",
        figures_of_precision,
        (
            "-m", "hydra/sweeper=precision", "hydra.sweeper.half_width=0.002", "hydra.sweeper.max_seeds=1024",
            "mode=tensor", "style=classic", "train.eval_every=null", "train.eval_documents=1000",
            "train.checkpoint_every=null", "sample.num_samples=0", "seed=1000", "model.position=learned,rope",
            "report.question='Does the effect of RoPE depend on where texts begin, or on the length of training?'",
            "report.contrasts=['model.position=rope - model.position=learned']",
        ),
        texts={
            "names": ("data=names", "train.steps=500"),
            "Alice": ("data=alice", "train.steps=500"),
            "Alice, paragraphs": ("data=alice", "data.format=lines", "train.steps=500"),
            "Alice, 5000 steps": ("data=alice", "train.steps=5000"),
        },
    ),
}  # fmt: skip
