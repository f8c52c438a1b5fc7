"""What is measured on a run: figures of the training, samples of the model, the effect of its style."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from microgpt.assembly import Inputs, sampling_policy, workload
from microgpt.checkpoint import CheckpointStore
from microgpt.checkpoint_format import TrainState
from microgpt.engines.base import Decoder, Engine, Tokens
from microgpt.errors import NonFiniteError
from microgpt.generation import SamplingPolicy, generate, phrase_rate
from microgpt.training.guards import StopRequest
from microgpt.training.metrics import bits_per_character, mean, perplexity

Record = dict[str, Any]


def metrics(inputs: Inputs, state: TrainState) -> dict[str, Any]:
    """A run's figures. Losses in nats per target token; rates in steps and target tokens a second.

    Rates leave out evaluation and disk, and no warm-up steps, as plain Python needs none.
    """
    config = inputs.config
    seconds, val_loss = state.train_seconds, state.val_loss
    return {
        "parameter_count": inputs.spec.parameter_count(),
        "steps": state.step,
        "final_loss": state.recent_losses[-1] if state.recent_losses else None,
        "mean_loss_last_n": mean(state.recent_losses),
        "last_n": config.train.last_n,
        "val_loss": val_loss,
        "first_val_loss": state.first_val_loss,
        "best_val_loss": state.best_val_loss,
        "best_step": state.best_step,
        "bits_per_character": None if val_loss is None else bits_per_character(val_loss),
        "perplexity": None if val_loss is None else perplexity(val_loss),
        "steps_per_sec": state.step / seconds if seconds else 0.0,
        "tokens_per_sec": state.tokens / seconds if seconds else 0.0,
        "rate_warmup_steps": 0,
        "train_tokens": inputs.corpus.train.tokens,
        "tokens_seen": state.tokens,
        "vocab_size": inputs.spec.vocab_size,
    }


def measure(inputs: Inputs, record: Record, engine: Engine, stop: StopRequest, checkpoints: CheckpointStore) -> None:
    """What is measured on the trained model: samples, the style's effect, the untrained baseline of steps=0.

    Raises NonFiniteError for a model whose weights are finite still, but too large to compute with.
    """
    try:
        measure_model(inputs, record, engine, stop)
    except NonFiniteError as error:
        steps = record["metrics"]["steps"]
        raise NonFiniteError(f"after step {steps} {error}; {checkpoints.where_newest()}") from error


def measure_model(inputs: Inputs, record: Record, engine: Engine, stop: StopRequest) -> None:
    """Fill the record's samples, and into its metrics what the style did and, for steps=0, the untrained loss."""
    figures = record["metrics"]
    if figures["steps"] == 0:
        first_batch = [workload(inputs.corpus, []).examples[i] for i in inputs.beginning.order.batch(0)]
        figures["final_loss"] = figures["mean_loss_last_n"] = finite_loss(engine, first_batch)
    style = inputs.config.style
    policy = sampling_policy(inputs.config.sample, asdict(style))
    draw = sampler(inputs, engine, stop)
    record["samples"] = draw(policy)
    if style.documents or style.phrases:
        figures["style_effect"] = {
            "documents": len(style.documents),
            "train_documents": inputs.corpus.style_train.documents,
            "val_documents": inputs.corpus.style_val.documents,
            "share": inputs.beginning.order.style_share,
            "train_loss": finite_loss(engine, inputs.corpus.style_train.examples),
            "val_loss": finite_loss(engine, inputs.corpus.style_val.examples),
            "bias": style.bias,
            "phrase_rate": phrase_rate(record["samples"], style.phrases),
            "phrase_rate_without_bias": phrase_rate(draw(policy.without_bias()), style.phrases),
        }


def finite_loss(engine: Engine, examples: Sequence[Tokens]) -> float | None:
    """Mean loss per target token; None where there are no examples."""
    if not examples:
        return None
    loss = float(engine.evaluate(examples)[0])
    if not math.isfinite(loss):
        raise NonFiniteError(f"a loss is {loss}")
    return loss


def sampler(inputs: Inputs, engine: Engine, stop: StopRequest) -> Callable[[SamplingPolicy], list[str]]:
    """A function that draws the run's samples by a policy, each time from the same random state."""
    sample = inputs.config.sample
    beginning = inputs.beginning.rng if sample.seed is None else random.Random(sample.seed)
    start = beginning.getstate()

    def new_decoder() -> Decoder:
        return engine.decoder(0)

    def draw(policy: SamplingPolicy) -> list[str]:
        rng = random.Random()
        rng.setstate(start)
        samples = []
        for _ in range(sample.num_samples):
            if stop:
                break
            drawn = generate(new_decoder, inputs.corpus.tokenizer, inputs.spec.block_size, inputs.prompt, policy, rng)
            samples.append(sample.prompt + drawn.text)
        return samples

    return draw


def objective(figures: dict[str, Any]) -> float:
    """What an optimizing sweeper minimises: val_loss, or the mean of the last losses where there is no validation."""
    return figures["mean_loss_last_n"] if figures["val_loss"] is None else figures["val_loss"]
