"""What is measured on a run: figures of the training, samples of the model, the effect of its style."""

import math
import random
from collections.abc import Callable
from dataclasses import asdict
from itertools import cycle

import numpy as np

from microgpt.data.corpus import Corpus
from microgpt.engines.base import Decoder, Engine
from microgpt.errors import NonFiniteError
from microgpt.inference.generation import Continuation, SamplingPolicy, generate, phrase_rate
from microgpt.inference.loading import sampling_policy
from microgpt.runs.checkpoint_format import Progress
from microgpt.runs.record import Metrics, RunRecord, StyleEffect
from microgpt.training.assembly import Inputs, workload
from microgpt.training.guards import StopRequest
from microgpt.training.metrics import bits_per_character, mean, perplexity


def metrics(inputs: Inputs, state: Progress) -> Metrics:
    """A run's figures. Losses in nats per target token; rates in steps and target tokens a second.

    Rates leave out evaluation and disk, and no warm-up steps, as plain Python needs none.
    """
    config = inputs.config
    seconds, val_loss = state.train_seconds, state.val_loss
    return Metrics(
        parameter_count=inputs.spec.parameter_count(),
        steps=state.step,
        final_loss=state.recent_losses[-1] if state.recent_losses else None,
        mean_loss_last_n=mean(state.recent_losses),
        last_n=config.train.last_n,
        val_loss=val_loss,
        first_val_loss=state.first_val_loss,
        best_val_loss=state.best_val_loss,
        best_step=state.best_step,
        bits_per_character=None if val_loss is None else bits_per_character(val_loss),
        perplexity=None if val_loss is None else perplexity(val_loss),
        steps_per_sec=state.step / seconds if seconds else 0.0,
        tokens_per_sec=state.tokens / seconds if seconds else 0.0,
        rate_warmup_steps=0,
        train_tokens=inputs.corpus.train.tokens,
        tokens_seen=state.tokens,
        vocab_size=inputs.spec.vocab_size,
    )


def style_losses(engine: Engine, corpus: Corpus) -> dict[str, np.ndarray | None]:
    """Each model's mean loss per target token on the style's documents, (R,); None where there are none."""
    parts = {"train_loss": corpus.style_train.examples, "val_loss": corpus.style_val.examples}
    return {name: engine.evaluate(examples) if examples else None for name, examples in parts.items()}


def measure(
    inputs: Inputs,
    record: RunRecord,
    engine: Engine,
    replica: int,
    losses: dict[str, np.ndarray | None],
    stop: StopRequest,
) -> None:
    """Fill the record's samples, and into its metrics what the style did and, for steps=0, the untrained loss.

    `losses` are the `style_losses` of the engine's models. Raises NonFiniteError for a model whose weights are finite
    still, but too large to compute with.
    """
    assert record.metrics is not None
    if record.metrics.steps == 0:
        first_batch = [workload(inputs.corpus, []).examples[i] for i in inputs.beginning.order.batch(0)]
        loss = finite(engine.evaluate(first_batch), replica)
        record.metrics.final_loss = record.metrics.mean_loss_last_n = loss
    style = inputs.config.style
    policy = sampling_policy(inputs.config.sample, asdict(style))
    draw = sampler(inputs, engine, replica, stop)
    record.samples = draw(policy)
    if style.documents or style.phrases:
        record.metrics.style_effect = StyleEffect(
            documents=len(style.documents),
            train_documents=inputs.corpus.style_train.documents,
            val_documents=inputs.corpus.style_val.documents,
            share=inputs.beginning.order.style_share,
            **{name: finite(values, replica) for name, values in losses.items()},
            bias=style.bias,
            phrase_rate=phrase_rate(record.samples, style.phrases),
            phrase_rate_without_bias=phrase_rate(draw(policy.without_bias()), style.phrases),
        )


def finite(losses: np.ndarray | None, replica: int) -> float | None:
    """One model's loss; None where there is none. Raises NonFiniteError for one that is no number."""
    if losses is None:
        return None
    loss = float(losses[replica])
    if not math.isfinite(loss):
        raise NonFiniteError(f"a loss is {loss}")
    return loss


def sampler(inputs: Inputs, engine: Engine, replica: int, stop: StopRequest) -> Callable[[SamplingPolicy], list[str]]:
    """A function that draws the run's samples by a policy, each time from the same random state."""
    sample = inputs.config.sample
    beginning = inputs.beginning.rng if sample.seed is None else random.Random(sample.seed)
    start = beginning.getstate()

    def new_decoder() -> Decoder:
        return engine.decoder(replica)

    def draw(policy: SamplingPolicy) -> list[str]:
        rng = random.Random()
        rng.setstate(start)
        samples = []
        for _, prompt in zip(range(sample.num_samples), cycle(inputs.prompts)):
            if stop:
                break
            text = Continuation(inputs.corpus.tokenizer, inputs.spec.block_size, prompt.tokens, policy, rng)
            samples.append(prompt.shown + generate(text, new_decoder).text)
        return samples

    return draw


def objective(figures: Metrics | None) -> float:
    """What an optimizing sweeper minimises: val_loss, or the mean of the last losses where there is no validation."""
    assert figures is not None
    loss = figures.mean_loss_last_n if figures.val_loss is None else figures.val_loss
    assert loss is not None
    return loss
