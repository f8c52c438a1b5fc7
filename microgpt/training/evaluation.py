"""The results of a run: training metrics and, after the last step, samples and the effect of the style."""

import math
import random
from collections.abc import Callable
from itertools import cycle, islice

import numpy as np

from microgpt.data.corpus import Corpus
from microgpt.engines.base import Engine
from microgpt.errors import NonFiniteError
from microgpt.inference.generation import generate_all, phrase_rate
from microgpt.inference.loading import sampling_policy
from microgpt.inference.sampling import SamplingPolicy
from microgpt.runs.checkpoint_format import Progress
from microgpt.runs.record import Metrics, RunRecord, StyleEffect
from microgpt.training.guards import StopRequest
from microgpt.training.run_inputs import RunInputs


def training_metrics(inputs: RunInputs, progress: Progress) -> Metrics:
    """Return the metrics of training. Rates exclude evaluation and disk; no step is left out as warm-up."""
    seconds, losses, val_loss = progress.train_seconds, progress.recent_losses, progress.val_loss
    return Metrics(
        parameter_count=inputs.spec.parameter_count(),
        steps=progress.step,
        final_loss=losses[-1] if losses else None,
        mean_loss_last_n=sum(losses) / len(losses) if losses else None,
        last_n=inputs.config.train.last_n,
        val_loss=val_loss,
        first_val_loss=progress.first_val_loss,
        best_val_loss=progress.best_val_loss,
        best_step=progress.best_step,
        bits_per_character=None if val_loss is None else bits_per_character(val_loss),
        perplexity=None if val_loss is None else perplexity(val_loss),
        steps_per_sec=progress.step / seconds if seconds else 0.0,
        tokens_per_sec=progress.tokens / seconds if seconds else 0.0,
        rate_warmup_steps=0,
        train_tokens=inputs.corpus.train.tokens,
        tokens_seen=progress.tokens,
        vocab_size=inputs.spec.vocab_size,
    )


def bits_per_character(loss: float) -> float:
    """Convert nats per target token to bits per character; the end of a document counts as one character."""
    return loss / math.log(2)


def perplexity(loss: float) -> float | None:
    """Return exp(loss), or None if that exceeds the range of a float."""
    return math.exp(loss) if loss < 700 else None


def style_losses(engine: Engine, corpus: Corpus) -> dict[str, np.ndarray | None]:
    """Return each replica's mean loss per target token on the style's documents, (R,), or None without documents."""
    parts = {"train_loss": corpus.style_train.examples, "val_loss": corpus.style_val.examples}
    return {name: engine.evaluate(examples) if examples else None for name, examples in parts.items()}


def final_evaluation(
    inputs: RunInputs,
    record: RunRecord,
    engine: Engine,
    replica: int,
    losses: dict[str, np.ndarray | None],
    stop: StopRequest,
) -> None:
    """Add the samples, the style's effect and, for steps=0, the untrained loss to the record.

    `losses` are the `style_losses` of the engine. Raises NonFiniteError if a loss overflows although the weights are
    finite.
    """
    assert record.metrics is not None
    if record.metrics.steps == 0:
        first_batch = [inputs.corpus.examples[i] for i in inputs.initial.order.batch(0)]
        loss = finite_loss(engine.evaluate(first_batch), replica)
        record.metrics.final_loss = record.metrics.mean_loss_last_n = loss
    style = inputs.config.style
    policy = sampling_policy(inputs.config.sample, vars(style))
    draw = sampler(inputs, engine, replica, stop)
    record.samples = draw(policy)
    if style.documents or style.phrases:
        record.metrics.style_effect = StyleEffect(
            documents=len(style.documents),
            train_documents=inputs.corpus.style_train.documents,
            val_documents=inputs.corpus.style_val.documents,
            share=inputs.initial.order.style_share,
            **{name: finite_loss(values, replica) for name, values in losses.items()},
            bias=style.bias,
            phrase_rate=phrase_rate(record.samples, style.phrases),
            phrase_rate_without_bias=phrase_rate(draw(policy.without_bias()), style.phrases),
        )


def finite_loss(losses: np.ndarray | None, replica: int) -> float | None:
    """Return one replica's loss. Raises NonFiniteError if it is not finite."""
    if losses is None:
        return None
    loss = float(losses[replica])
    if not math.isfinite(loss):
        raise NonFiniteError(f"a loss is {loss}")
    return loss


def sampler(
    inputs: RunInputs, engine: Engine, replica: int, stop: StopRequest
) -> Callable[[SamplingPolicy], list[str]]:
    """Return a function that draws the run's samples with a given policy, each time from the same random state."""
    sample = inputs.config.sample
    start = (inputs.initial.rng if sample.seed is None else random.Random(sample.seed)).getstate()
    prompts = list(islice(cycle(inputs.prompts), sample.num_samples))

    def draw(policy: SamplingPolicy) -> list[str]:
        rng = random.Random()
        rng.setstate(start)
        samples = generate_all(
            engine, replica, inputs.corpus.tokenizer, inputs.spec.block_size, [prompt.tokens for prompt in prompts],
            policy, rng, lambda: bool(stop),
        )  # fmt: skip
        return [prompt.text + made.text for prompt, made in zip(prompts, samples, strict=False)]

    return draw


def objective(metrics: Metrics | None) -> float:
    """Return the objective of an optimizing sweeper: val_loss or, without validation, the mean of the last losses."""
    assert metrics is not None
    loss = metrics.mean_loss_last_n if metrics.val_loss is None else metrics.val_loss
    assert loss is not None
    return loss
