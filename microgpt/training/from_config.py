"""Build objects from a configuration: corpus, model, optimizer, schedule, and the seed's initial state."""

import random
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from microgpt.config.schema import Config, DataConfig, OptimConfig, TrainConfig
from microgpt.data.batches import BatchOrder
from microgpt.data.conversations import build_chat_corpus
from microgpt.data.corpus import Corpus, build_corpus
from microgpt.data.sources import read_source
from microgpt.engines import random_functions
from microgpt.engines.base import EngineState
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.model.init import init_parameters
from microgpt.model.spec import ModelSpec
from microgpt.training.schedules import Schedule

CHECKPOINT_SECONDS = 5.0  # between checkpoints on disk, unless the configuration sets which steps are written
PYTHON = EngineOptions("python")


def read_corpus(
    data: DataConfig, block_size: int, style_documents: tuple[str, ...], style_long_documents: str
) -> Corpus:
    """Read, split and tokenize the documents. Raises UserError for data that cannot be read."""
    source = read_source(data.name, data.path)
    if data.name == "chat":
        return build_chat_corpus(
            source,
            val_fraction=data.val_fraction,
            split_seed=data.split_seed,
            block_size=block_size,
            loss_on=data.loss_on,
        )
    return build_corpus(
        source,
        text_format=data.format,
        long_documents=data.long_documents,
        val_fraction=data.val_fraction,
        split_seed=data.split_seed,
        block_size=block_size,
        style_documents=style_documents,
        style_long_documents=style_long_documents,
    )


def model_spec(config: Config, vocab_size: int) -> ModelSpec:
    """Return the model that the keys of `model` describe; keys that its kind of model lacks have their defaults."""
    model: dict[str, Any] = vars(config.model)
    given: dict[str, Any] = {f.name: model[f.name] for f in fields(ModelSpec) if model.get(f.name) is not None}
    given = {"vocab_size": vocab_size, "n_embd": vocab_size, "n_head": 1, "n_layer": 0, **given}
    if config.model.zero_init_residual:
        given["residual_init"] = "zero"
    return ModelSpec(**given)


def optimizer_spec(optim: OptimConfig) -> OptimizerSpec:
    chosen = {key: value for key, value in vars(optim).items() if key != "lr" and value is not None}
    return OptimizerSpec(**chosen)


def make_schedule(config: Config) -> Schedule:
    schedule = config.schedule
    total = config.train.steps if schedule.total_steps is None else schedule.total_steps
    return Schedule(schedule.name, max(total, 1), schedule.warmup_steps, schedule.warmdown_steps)


def checkpoint_seconds(train: TrainConfig) -> float:
    """Return the minimum number of seconds between writing checkpoints: 0 if every due step is written to disk."""
    if train.checkpoint_seconds is not None:
        return train.checkpoint_seconds
    return 0.0 if chooses_checkpoints(train) else CHECKPOINT_SECONDS


def chooses_checkpoints(train: TrainConfig) -> bool:
    """Return whether the configuration sets which steps are written to disk."""
    default = TrainConfig()
    return (train.checkpoint_every, train.keep_checkpoints) != (default.checkpoint_every, default.keep_checkpoints)


def keeps_optimizer_state(train: TrainConfig, is_job: bool) -> bool:
    """Return whether the checkpoints of a completed run contain the moments; `is_job`: it is a job of a sweep."""
    if train.keep_optimizer_state is not None:
        return train.keep_optimizer_state
    return not is_job or chooses_checkpoints(train)


@dataclass(frozen=True)
class InitialState:
    """Everything that a seed determines before the first step, drawn from one generator in microgpt.py's order."""

    order: BatchOrder
    engine_state: EngineState  # R = 1
    rng: random.Random  # after the last draw; sampling continues from here


def example_order(seed: int, count: int, options: EngineOptions = PYTHON) -> tuple[np.ndarray, tuple[Any, ...]]:
    """Return the order of the examples for a seed, and the state of the generator after the shuffle."""
    rng = random.Random(seed)
    shuffled, _ = random_functions(options)
    return shuffled(count, rng), rng.getstate()


def initial_state(
    seed: int,
    corpus: Corpus,
    spec: ModelSpec,
    batch_size: int,
    style_share: float,
    options: EngineOptions = PYTHON,
    example_order: Callable[[int, int, EngineOptions], tuple[np.ndarray, tuple[Any, ...]]] = example_order,
) -> InitialState:
    """Shuffle the examples, then draw the initial weights. Training itself draws nothing.

    In `corpus.examples`, the style's examples follow those of the corpus; they are not shuffled.
    """
    count = len(corpus.train.examples)
    corpus_order, rng_state = example_order(seed, count, options)
    rng = random.Random()
    rng.setstate(rng_state)
    order = BatchOrder(
        corpus=corpus_order,
        style=range(count, count + len(corpus.style_train.examples)),
        style_share=style_share if corpus.style_train.examples else 0.0,
        batch_size=batch_size,
    )
    _, normals = random_functions(options)
    weights = {name: np.array([matrix]) for name, matrix in init_parameters(spec, rng, normals).items()}
    return InitialState(order, EngineState(weights), rng)
