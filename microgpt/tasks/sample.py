"""task=sample: text from a checkpoint. What is sampled is the trained model; the checkpoint brings its own style."""

import random
from pathlib import Path

from microgpt.config.schema import Config
from microgpt.inference.generation import generate, generate_many
from microgpt.inference.loading import load_trained
from microgpt.runs.checkpoint import Checkpoint
from microgpt.runs.checkpoint_format import generator_from
from microgpt.runs.record import Invocation
from microgpt.training.assembly import prompts_of


def sample(config: Config, invocation: Invocation) -> None:
    trained = load_trained(config, invocation)
    checkpoint, tokenizer, engine, policy = trained.checkpoint, trained.tokenizer, trained.engine, trained.policy
    (prompt,) = prompts_of(config.sample, tokenizer, trained.block_size, questions=())
    rng = generator(config, invocation, checkpoint)
    count = config.sample.num_samples
    if config.sample.bulk:
        draws = generate_many(engine, tokenizer, trained.block_size, prompt.tokens, policy, count, rng)
    else:
        draws = (
            generate(lambda: engine.decoder(0), tokenizer, trained.block_size, prompt.tokens, policy, rng)
            for _ in range(count)
        )
    print(f"checkpoint: {shown(checkpoint.path)} (step {checkpoint.step})")
    info = engine.info
    print(f"backend={info.backend} device={info.device} using_gpu={str(info.using_gpu).lower()} dtype={info.dtype}")
    print("--- samples ---")
    for number, drawn in enumerate(draws, 1):
        why = "" if drawn.stop_reason == "end" else f"  [stopped: {drawn.stop_reason}]"
        print(f"sample {number:2d}: {prompt.shown}{drawn.text}{why}", flush=not config.sample.bulk)


def generator(config: Config, invocation: Invocation, checkpoint: Checkpoint) -> random.Random:
    """A seed that was given, or the draws of the run that trained: those give the samples that ended that run."""
    recorded = checkpoint.progress.rng_state
    if config.sample.seed is not None:
        return random.Random(config.sample.seed)
    if recorded is None or invocation.touches("seed"):
        return random.Random(config.seed)
    return generator_from(recorded)


def shown(path: Path) -> Path:
    """Relative to the working directory where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
