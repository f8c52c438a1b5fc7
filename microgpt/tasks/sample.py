"""task=sample: text from a checkpoint. What is sampled is the trained model; the checkpoint brings its own style."""

import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

from microgpt.assembly import engine_options, sampling_policy
from microgpt.checkpoint import Checkpoint, load_checkpoint, resolve_checkpoint
from microgpt.checkpoint_format import generator_at
from microgpt.config import Config
from microgpt.data.tokenizer import Tokenizer
from microgpt.engines import make_engine
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.generation import encode_prompt, generate, generate_many
from microgpt.record import Invocation


def sample(config: Config, invocation: Invocation) -> None:
    checkpoint = load_checkpoint(resolve_checkpoint(config.checkpoint or "", config.outputs_dir))
    spec = checkpoint.meta.spec
    tokenizer = Tokenizer(checkpoint.meta.chars)
    prompt = encode_prompt(config.sample.prompt, tokenizer, spec.block_size)
    policy = sampling_policy(config.sample, style_of(config, invocation, checkpoint))
    options = engine_options(config, spec, tokens=1)
    engine = make_engine(options, spec, OptimizerSpec("sgd"), None, checkpoint.state)
    rng = generator(config, invocation, checkpoint)
    count = config.sample.num_samples
    if config.sample.bulk:
        draws = generate_many(engine, tokenizer, spec.block_size, prompt, policy, count, rng)
    else:
        draws = (
            generate(lambda: engine.decoder(0), tokenizer, spec.block_size, prompt, policy, rng) for _ in range(count)
        )
    print(f"checkpoint: {shown(checkpoint.path)} (step {checkpoint.train.first_step + checkpoint.train.step})")
    info = engine.info
    print(f"backend={info.backend} device={info.device} using_gpu={str(info.using_gpu).lower()} dtype={info.dtype}")
    print("--- samples ---")
    for number, drawn in enumerate(draws, 1):
        why = "" if drawn.stop_reason == "end" else f"  [stopped: {drawn.stop_reason}]"
        print(f"sample {number:2d}: {config.sample.prompt}{drawn.text}{why}", flush=not config.sample.bulk)


def style_of(config: Config, invocation: Invocation, checkpoint: Checkpoint) -> dict[str, Any]:
    """The checkpoint's own style; another one where `style=` was given; single keys where `style.<key>=` was."""
    chosen = asdict(config.style)
    keys = invocation.keys()
    own = checkpoint.meta.style or {"phrases": [], "bias": 0.0}  # the earlier format had no styles
    style = chosen if "style" in keys else dict(own)
    return style | {key: chosen[key] for key in chosen if f"style.{key}" in keys}


def generator(config: Config, invocation: Invocation, checkpoint: Checkpoint) -> random.Random:
    """A seed that was given, or the draws of the run that trained: those give the samples that ended that run."""
    recorded = checkpoint.train.rng_state
    if config.sample.seed is not None:
        return random.Random(config.sample.seed)
    if recorded is None or invocation.touches("seed"):
        return random.Random(config.seed)
    return generator_at(recorded)


def shown(path: Path) -> Path:
    """Relative to the working directory where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
