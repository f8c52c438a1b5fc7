"""Groups the jobs of a sweep that one engine can train side by side, and limits the size of a group."""

import json
import os
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from microgpt.config.identity import identity
from microgpt.config.schema import Config
from microgpt.model.spec import ModelSpec
from microgpt.sweeps.hydra_job import HydraJob

Item = TypeVar("Item")
# Keys that may differ within a group: an engine keeps an order of examples and a learning rate per replica.
OWN = (("seed",), ("optim", "lr"), ("schedule",), ("sample",))
MOST_ON_CPU = 64  # more jobs do not train faster, and a killed process loses the progress of the whole group
MOST_ON_GPU = 4096
MOST_FLOATS_ON_CPU = 2**26  # parameters, gradients, moments and activations: 256 MB
MOST_FLOATS_ON_GPU = 2**31


@dataclass(frozen=True)
class Job:
    """A training job of a sweep, composed and checked."""

    number: int
    config: Config
    overrides: tuple[str, ...]
    name: str = ""  # name of the folder, if it is not the number
    is_trial: bool = False  # whether the job is the trial of a study with the same number
    hydra: HydraJob = field(default=HydraJob(), compare=False)

    @property
    def folder_name(self) -> str:
        return self.name or str(self.number)

    @property
    def resumes(self) -> bool:
        """Whether the job continues or reuses earlier attempts."""
        return self.config.train.resume != "never"


def shape_of(config: Config) -> str:
    """Return a key that is equal for runs that one engine can train side by side."""
    plain: dict[str, Any] = identity(config)
    for key, *inner in OWN:
        if inner:
            del plain[key][inner[0]]
        else:
            del plain[key]
    plain["max_memory_growth"] = config.train.max_memory_growth
    return json.dumps(plain, sort_keys=True)


def group(items: Iterable[Item], key: Callable[[Item], Hashable], most: Callable[[Item], int]) -> list[list[Item]]:
    """Group items with equal keys in their order. A group has at most `most(first item)` items, which is at least 1."""
    found: dict[Hashable, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return [
        members[begin : begin + size]
        for members in found.values()
        for size in [most(members[0])]
        for begin in range(0, len(members), size)
    ]


def most_together(config: Config, spec: ModelSpec, on_gpu: bool, most: int | None) -> int:
    """Return how many models of this kind to train side by side, at most `most`.

    Untrained baselines and models in plain Python run alone, because they would not be faster side by side.
    """
    if config.train.steps == 0 or config.backend.name == "python":
        return 1
    limit = MOST_ON_GPU if on_gpu else max(MOST_ON_CPU, 2 * (os.cpu_count() or 1))
    fitting = (MOST_FLOATS_ON_GPU if on_gpu else MOST_FLOATS_ON_CPU) // floats(config, spec)
    return max(1, min(limit if most is None else most, fitting))


def floats(config: Config, spec: ModelSpec) -> int:
    """Return the approximate number of floats for training one model: four per parameter, plus activations."""
    tokens = config.train.batch_size * spec.block_size
    mlp = (3 if spec.gated_mlp else 2) * spec.mlp_features
    per_token = spec.n_layer * (6 * spec.n_embd + mlp + spec.n_head * spec.block_size) + 4 * spec.n_embd
    return 4 * spec.parameter_count() + tokens * (per_token + 2 * spec.vocab_size)
