"""A trained model as the tasks use it: checkpoint, tokenizer, engine, and how to sample."""

from dataclasses import asdict, dataclass
from typing import Any

from microgpt.config.schema import Config, SampleConfig
from microgpt.data.tokenizer import Tokenizer
from microgpt.distributed import processes
from microgpt.engines import make_engine
from microgpt.engines.base import Engine
from microgpt.engines.choice import choose, refuse_unavailable
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.inference.generation import SamplingPolicy
from microgpt.model.spec import ModelSpec
from microgpt.runs.checkpoint import Checkpoint, load_checkpoint, resolve_checkpoint
from microgpt.runs.record import Invocation


def engine_options(config: Config, spec: ModelSpec, tokens: float) -> EngineOptions:
    """Where and how to compute; `tokens` is how many targets a step has. Raises UserError where it is not possible."""
    backend = asdict(config.backend)
    named = EngineOptions(backend=backend.pop("name"), processes=processes().count, **backend)
    options = choose(named, spec, tokens)
    refuse_unavailable(options)
    return options


def sampling_policy(sample: SampleConfig, style: dict[str, Any]) -> SamplingPolicy:
    """`style` is a style's node of the configuration as a dictionary, as a checkpoint records it."""
    return SamplingPolicy(
        temperature=sample.temperature,
        top_k=sample.top_k,
        max_new_tokens=sample.max_new_tokens,
        phrases=tuple(style["phrases"]),
        bias=style["bias"],
    )


@dataclass(frozen=True)
class Trained:
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


def load_trained(config: Config, invocation: Invocation) -> Trained:
    """The model of `checkpoint`. Raises UserError for one that cannot be read or computed with."""
    checkpoint = load_checkpoint(resolve_checkpoint(config.checkpoint or "", config.outputs_dir))
    meta = checkpoint.meta
    options = engine_options(config, meta.spec, tokens=1)
    return Trained(
        checkpoint,
        Tokenizer(meta.chars, meta.special),
        make_engine(options, meta.spec, OptimizerSpec("sgd"), None, checkpoint.state),
        sampling_policy(config.sample, style_of(config, invocation, checkpoint)),
    )


def style_of(config: Config, invocation: Invocation, checkpoint: Checkpoint) -> dict[str, Any]:
    """The checkpoint's own style; another one where `style=` was given; single keys where `style.<key>=` was."""
    chosen = asdict(config.style)
    keys = invocation.keys()
    own = checkpoint.meta.style or {"phrases": [], "bias": 0.0}  # the earlier format had no styles
    style = chosen if "style" in keys else dict(own)
    return style | {key: chosen[key] for key in chosen if f"style.{key}" in keys}
