"""A trained model as the tasks use it: checkpoint, tokenizer, engine, and how to sample."""

from dataclasses import asdict, dataclass
from typing import Any

from microgpt.assembly import engine_options, sampling_policy
from microgpt.checkpoint import Checkpoint, load_checkpoint, resolve_checkpoint
from microgpt.config import Config
from microgpt.data.tokenizer import Tokenizer
from microgpt.engines import make_engine
from microgpt.engines.base import Engine
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.generation import SamplingPolicy
from microgpt.record import Invocation


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
