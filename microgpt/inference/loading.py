"""Loads a model from a checkpoint, ready to generate, with engine, tokenizer and sampling policy."""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from microgpt.config.schema import Config, SampleConfig
from microgpt.data.tokenizer import Tokenizer
from microgpt.distributed import this_process
from microgpt.engines import make_engine
from microgpt.engines.auto_backend import check_available, choose
from microgpt.engines.base import Decoder, Engine
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.inference.generation import Continuation
from microgpt.inference.sampling import SamplingPolicy
from microgpt.model.spec import ModelSpec
from microgpt.runs.checkpoint import Checkpoint, load_checkpoint
from microgpt.runs.checkpoint_format import generator_from
from microgpt.runs.checkpoint_paths import resolve_checkpoint
from microgpt.runs.invocation import Invocation


@dataclass(frozen=True)
class TrainedModel:
    checkpoint: Checkpoint
    tokenizer: Tokenizer
    engine: Engine
    policy: SamplingPolicy

    @property
    def block_size(self) -> int:
        return self.checkpoint.meta.spec.block_size

    @property
    def is_chat(self) -> bool:
        return bool(self.tokenizer.special)

    def new_decoder(self) -> Decoder:
        return self.engine.decoder(0)

    def continuation(self, prompt: Sequence[int], rng: random.Random) -> Continuation:
        """Return a continuation to generate for `prompt` (token ids, BOS first)."""
        return Continuation(self.tokenizer, self.block_size, prompt, self.policy, rng)


def load_model(config: Config, invocation: Invocation) -> TrainedModel:
    """Load the model in `checkpoint`. Raises UserError if it cannot be read or its engine is not available."""
    checkpoint = load_checkpoint(resolve_checkpoint(config.checkpoint or "", config.outputs_dir))
    meta = checkpoint.meta
    options = engine_options(config, meta.spec, tokens=1)
    return TrainedModel(
        checkpoint,
        Tokenizer(meta.chars, meta.special),
        make_engine(options, meta.spec, OptimizerSpec("sgd"), None, checkpoint.state),
        sampling_policy(config.sample, style_of(config, invocation, checkpoint)),
    )


def engine_options(config: Config, spec: ModelSpec, tokens: float) -> EngineOptions:
    """Return the options of the engine. `tokens` is the number of targets per step. Raises UserError if unavailable."""
    backend = dict(vars(config.backend))
    given = EngineOptions(backend=backend.pop("name"), world_size=this_process().world_size, **backend)
    options = choose(given, spec, tokens)
    check_available(options)
    return options


def sampling_policy(sample: SampleConfig, style: dict[str, Any]) -> SamplingPolicy:
    """Return the sampling policy. `style` is the `style` node of the configuration, as recorded in a checkpoint."""
    return SamplingPolicy(
        temperature=sample.temperature,
        top_k=sample.top_k,
        max_new_tokens=sample.max_new_tokens,
        phrases=tuple(style["phrases"]),
        bias=style["bias"],
    )


def sample_generator(checkpoint: Checkpoint, seed: int | None, otherwise: int = Config.seed) -> random.Random:
    """Return a random number generator with the given seed or, without a seed, with the state that gives the samples of
    the training run.

    `otherwise` is the seed for a checkpoint without this state, such as an export.
    """
    recorded = checkpoint.progress.rng_state
    if seed is None and recorded is not None:
        return generator_from(recorded)
    return random.Random(otherwise if seed is None else seed)


def style_of(config: Config, invocation: Invocation, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the checkpoint's style, or style=<name> if given, with any style.<key>= overrides applied."""
    chosen = asdict(config.style)
    keys = invocation.keys()
    own = checkpoint.meta.style or {"phrases": [], "bias": 0.0}  # the earlier format has no styles
    style = chosen if "style" in keys else dict(own)
    return style | {key: chosen[key] for key in chosen if f"style.{key}" in keys}
