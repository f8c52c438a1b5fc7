"""task=sample: prints samples from a checkpoint's model."""

from pathlib import Path

from microgpt.config.schema import Config
from microgpt.data.display import escaped
from microgpt.inference.generation import generate_all, generate_many
from microgpt.inference.loading import load_model, sample_generator
from microgpt.inference.prompts import sample_prompts
from microgpt.runs.invocation import Invocation


def sample(config: Config, invocation: Invocation) -> None:
    model, count = load_model(config, invocation), config.sample.num_samples
    (prompt,) = sample_prompts(config.sample, model.tokenizer, model.block_size, questions=())
    seed = config.seed if config.sample.seed is None and invocation.touches("seed") else config.sample.seed
    rng = sample_generator(model.checkpoint, seed, config.seed)
    if config.sample.bulk:
        samples = generate_many(
            model.engine, model.tokenizer, model.block_size, prompt.tokens, model.policy, count, rng
        )
    else:
        prompts = [prompt.tokens] * count
        samples = generate_all(model.engine, 0, model.tokenizer, model.block_size, prompts, model.policy, rng)
    print(f"checkpoint: {relative(model.checkpoint.path)} (step {model.checkpoint.step})")
    info = model.engine.info
    print(f"backend={info.backend} device={info.device} using_gpu={str(info.using_gpu).lower()} dtype={info.dtype}")
    print("--- samples ---")
    for number, made in enumerate(samples, 1):
        why = "" if made.stop_reason == "end" else f"  [stopped: {made.stop_reason}]"
        print(f"sample {number:2d}: {escaped(prompt.text + made.text)}{why}", flush=not config.sample.bulk)


def relative(path: Path) -> Path:
    """Return the path relative to the working directory if it is inside it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
