"""The workloads that benchmark_native.py times, and one measurement of one of them. Knows nothing of other programs."""

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from microgpt.data.corpus import Corpus, build_corpus
from microgpt.data.sources import read_source
from microgpt.engines.base import EngineState, Workload
from microgpt.engines.native.engine import NativeEngine
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.model.spec import ModelSpec
from microgpt.training.assembly import initial_state

BLOCK = 16
RATE = 0.01
STEADY_RATE = 0.001  # for as many steps as a second has: at 0.01 and batch 1 some loss is infinite after 273,000
FIRST_STEPS = 64  # of the first try; the following ones are longer, until one lasts long enough to be the figure
TRAINED_STEPS = 2000  # of batch 16, before sampling
TEXTS = 10_000  # in one call of `draw`
TIME, SPEED = "us_per_name", "tokens_per_second"


@dataclass(frozen=True)
class Case:
    about: str
    n_embd: int = 16
    batch_size: int = 16
    models: int = 1
    threads: tuple[int, ...] = (1,)  # with several, ours is compared with ours
    slots: int | None = None  # sampling: texts at once

    @property
    def figure(self) -> str:
        return SPEED if self.slots else TIME


CASES = {
    "d16_b16": Case("n_embd 16, batch 16, one model"),
    "d16_b1": Case("n_embd 16, batch 1, one model", batch_size=1),
    "d64_b16": Case("n_embd 64, batch 16, one model", n_embd=64),
    "seeds16": Case("16 seeds in one engine, n_embd 16, batch 1; a name and model", batch_size=1, models=16),
    "seeds64": Case("64 seeds in one engine, n_embd 16, batch 1; a name and model", batch_size=1, models=64),
    "two_cores": Case("as seeds64, wall time, one thread and two", batch_size=1, models=64, threads=(1, 2)),
    "sample_many": Case("n_embd 16, temperature 0.5, 64 texts at once", slots=64),
    "sample_one": Case("n_embd 16, temperature 0.5, one text at a time", slots=1),
}
UNITS = {TIME: "microseconds a name", SPEED: "tokens a second"}


def read_names() -> tuple[Corpus, str]:
    source = read_source("makemore" if "MICROGPT_DATA_DIR" in os.environ else "names", None)
    corpus = build_corpus(
        source, text_format="lines", long_documents="truncate", val_fraction=0.0, split_seed=0, block_size=BLOCK
    )
    return corpus, source.origin


def make_native(case: Case, threads: int, corpus: Corpus) -> NativeEngine:
    """The engine of a case: each of its models has a seed, and so an order and initial values, of its own."""
    spec = ModelSpec("gpt", corpus.tokenizer.vocab_size, n_embd=case.n_embd, n_head=4, n_layer=1, block_size=BLOCK)
    starts = [initial_state(42 + n, corpus, spec, case.batch_size, style_share=0.0) for n in range(case.models)]
    weights = [start.engine_state.parameters for start in starts]
    parameters = {name: np.concatenate([each[name] for each in weights]) for name in weights[0]}
    return NativeEngine(
        EngineOptions("native", dtype="float32", threads=threads),
        spec,
        OptimizerSpec("adam", beta1=0.85, beta2=0.99, eps=1e-8),
        Workload(corpus.examples, [start.order for start in starts]),
        EngineState(parameters),
        lambda text: print(text, file=sys.stderr),
    )


def time_training(case: Case, threads: int, seconds: float, corpus: Corpus) -> dict:
    """Microseconds a name and model, from one call of `advance` that lasts at least `seconds`.

    The loss is that of the last such call: the engine learns all the while, at a constant rate.
    """
    engine = make_native(case, threads, corpus)
    clock: Callable[[], float] = time.perf_counter if len(case.threads) > 1 else time.process_time
    step, steps = 0, FIRST_STEPS
    while True:
        rates = np.full((steps, case.models), STEADY_RATE)
        cpu, began = time.process_time(), clock()
        losses = engine.advance(step, rates)
        spent = clock() - began
        cpu = time.process_time() - cpu
        step += steps
        if spent >= seconds:
            break
        steps = 1 + int(steps * min(8.0, 1.2 * seconds / spent))
    loss = losses[-max(1, len(losses) // 10) :].mean()
    if not math.isfinite(loss):
        sys.exit(f"error: the loss is {loss} after {step} steps")
    figures = {
        TIME: 1e6 * spent / (steps * case.batch_size * case.models),
        "note": f"loss {loss:.3f} after {step} steps",
    }
    return figures | ({"on_cpu": cpu / spent / threads} if len(case.threads) > 1 else {})


def time_sampling(case: Case, seconds: float, corpus: Corpus) -> dict:
    """Tokens per second of `draw`, ends included."""
    assert case.slots
    engine = make_native(case, 1, corpus)
    engine.advance(0, RATE * (1 - np.arange(TRAINED_STEPS)[:, None] / TRAINED_STEPS))
    prompt = [corpus.tokenizer.bos]

    def draw(count: int, first: int) -> int:
        return engine.draw(0, prompt, count, BLOCK, 0.5, None, seed=42, first=first, slots=case.slots or 1).tokens

    draw(TEXTS // 10, 0)
    texts = tokens = 0
    began = time.process_time()
    while (spent := time.process_time() - began) < seconds:
        tokens += draw(TEXTS, texts)
        texts += TEXTS
    return {SPEED: tokens / spent, "note": f"{tokens / texts:.2f} tokens a text in {texts} texts"}


def measure_ours(case: Case, threads: int, seconds: float) -> dict:
    """What a program of others prints, and a note."""
    corpus, _ = read_names()
    return time_sampling(case, seconds, corpus) if case.slots else time_training(case, threads, seconds, corpus)
