"""task=sample: text from a checkpoint. What is sampled is the trained model; the checkpoint brings its own style."""

import random
from pathlib import Path

from microgpt.assembly import sampling_policy
from microgpt.checkpoint import Checkpoint, load_checkpoint, resolve_checkpoint
from microgpt.config import Config
from microgpt.data.tokenizer import Tokenizer
from microgpt.engines import make_engine
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.generation import encode_prompt, generate
from microgpt.record import Invocation


def sample(config: Config, invocation: Invocation) -> None:
    checkpoint = load_checkpoint(resolve_checkpoint(config.checkpoint or "", config.outputs_dir))
    spec = checkpoint.meta.spec
    tokenizer = Tokenizer(checkpoint.meta.chars)
    prompt = encode_prompt(config.sample.prompt, tokenizer, spec.block_size)
    style = config.style if invocation.touches("style") else checkpoint.meta.style
    policy = sampling_policy(config.sample, style)
    engine = make_engine(config.backend.name, spec, OptimizerSpec("sgd"), None, checkpoint.state)
    rng = generator(config, checkpoint)
    print(f"checkpoint: {shown(checkpoint.path)} (step {checkpoint.train.first_step + checkpoint.train.step})")
    info = engine.info
    print(f"backend={info.backend} device={info.device} using_gpu={str(info.using_gpu).lower()} dtype={info.dtype}")
    print("--- samples ---")
    for number in range(1, config.sample.num_samples + 1):
        drawn = generate(lambda: engine.decoder(0), tokenizer, spec.block_size, prompt, policy, rng)
        why = "" if drawn.stop_reason == "end" else f"  [stopped: {drawn.stop_reason}]"
        print(f"sample {number:2d}: {config.sample.prompt}{drawn.text}{why}", flush=True)


def generator(config: Config, checkpoint: Checkpoint) -> random.Random:
    """A seed of its own, or the draws of the run that trained: those give the samples that ended that run."""
    rng = random.Random(config.sample.seed if config.sample.seed is not None else config.seed)
    recorded = checkpoint.train.rng_state
    if config.sample.seed is None and recorded is not None:
        version, internal, gauss_next = recorded
        rng.setstate((version, tuple(internal), gauss_next))
    return rng


def shown(path: Path) -> Path:
    """Relative to the working directory where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
