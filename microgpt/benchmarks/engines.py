"""How quick each engine is at microgpt.py's model: one token, one step, names trained and tokens sampled.

All engines hold the same weights, trained for a while by the native one, so that their texts are of usual length.
"""

import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.util import find_spec
from statistics import median
from typing import Any

import numpy as np

from microgpt.benchmarks.micro import SEED, Patience, Row, measure, row, seconds_of
from microgpt.data.corpus import Corpus, build_corpus
from microgpt.data.sources import read_source
from microgpt.engines import make_engine
from microgpt.engines.base import BulkSampler, Engine, EngineState, Workload
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.inference.generation import Continuation, SamplingPolicy, generate
from microgpt.model.spec import ModelSpec
from microgpt.training.assembly import initial_state

ENGINES = ("python", "native", "torch")
HEADS, LAYERS, BLOCK = 4, 1, 16
BATCHES = (1, 16)
FIRST_WIDTH = 16  # microgpt.py's n_embd
RATE = 1e-3  # constant: the benchmark is not a training to any end
TRAINED_STEPS = 1000  # of 16 names
TEMPERATURE = 0.5
TEXTS_IN_BULK = 2000
ADAM = OptimizerSpec("adam", beta1=0.85, beta2=0.99, eps=1e-8)


@lru_cache(maxsize=1)
def names() -> Corpus:
    return build_corpus(
        read_source("names", None),
        text_format="lines",
        long_documents="truncate",
        val_fraction=0.0,
        split_seed=0,
        block_size=BLOCK,
    )


@dataclass(frozen=True)
class Bench:
    """The engines' common conditions."""

    patience: Patience
    say: Callable[[str], None]

    def engine(self, backend: str, width: int, batch_size: int, state: EngineState | None = None) -> Engine:
        """An engine as a user gets it who names the backend alone. Raises UserError for one that cannot be had."""
        corpus = names()
        spec = ModelSpec("gpt", corpus.tokenizer.vocab_size, width, HEADS, LAYERS, BLOCK)
        start = initial_state(SEED, corpus, spec, batch_size, style_share=0.0)
        work = Workload(corpus.examples, [start.order])
        return make_engine(EngineOptions(backend), spec, ADAM, work, state or start.engine_state, self.say)

    def trained(self, width: int) -> EngineState:
        """Weights that spell names."""
        engine = self.engine("native", width, 16)
        engine.advance(0, np.full((TRAINED_STEPS, 1), 5 * RATE))
        return engine.state()

    def report(self, backend: str, widths: list[int]) -> dict[str, Any]:
        """One engine's part of the document; of one that is not installed, why it is empty."""
        if backend == "torch" and find_spec("torch") is None:
            return {"engine": backend, "available": False, "reason": "PyTorch is not installed"}
        self.say(f"{backend}: gpt_forward_10, training_step_1")
        rows, training, sampling = self.micro_rows(backend), [], []
        for width in widths:
            for batch_size in BATCHES:
                self.say(f"{backend}: training at n_embd {width}, batch {batch_size}")
                training.append(self.training(backend, width, batch_size))
            self.say(f"{backend}: sampling at n_embd {width}")
            sampling += self.sampling(backend, width)
        facts = asdict(self.engine(backend, FIRST_WIDTH, 1).info)
        known = {key: facts[key] for key in ("device", "using_gpu", "dtype", "kernel", "threads")}
        return {
            "engine": backend, "available": True, **known,
            "benchmarks": rows, "training": training, "sampling": sampling,
        }  # fmt: skip

    def micro_rows(self, backend: str) -> list[Row]:
        """gpt_forward_10 and training_step_1 of microgpt.py's model."""
        engine, bos = self.engine(backend, FIRST_WIDTH, 1, self.trained(FIRST_WIDTH)), names().tokenizer.bos
        tokens = [bos, *range(9)]

        def read(decoder: Any) -> None:
            for token in tokens:
                decoder.feed(token)

        forward = seconds_of(read, lambda: engine.decoder(0), self.patience)
        step = seconds_of(Steps(engine).advance, lambda: 1, self.patience)
        return [
            row("gpt_forward_10", "tokens that the model reads one after the other, keys and values kept", 10, forward),
            row("training_step_1", "a training step of one name, by itself", 1, step),
        ]

    def training(self, backend: str, width: int, batch_size: int) -> dict[str, Any]:
        """Microseconds a name, of steps that the engine makes in one call."""
        steps = Steps(self.engine(backend, width, batch_size))
        seconds = measure(lambda count: (timed(lambda: steps.advance(count)), count * batch_size), self.patience)
        figures = spread("microseconds_per_name", [1e6 * s for s in seconds])
        return {"n_embd": width, "batch_size": batch_size, "threads": steps.engine.info.threads, **figures}

    def sampling(self, backend: str, width: int) -> list[dict[str, Any]]:
        """Tokens a second, ends included: a text at a time, and many at once where the engine has that."""
        engine, tokenizer = self.engine(backend, width, 1, self.trained(width)), names().tokenizer
        policy, rng, prompt = SamplingPolicy(TEMPERATURE, None, None, (), 0.0), random.Random(SEED), [tokenizer.bos]

        def one_at_a_time(count: int) -> tuple[float, int]:
            began = time.perf_counter()
            texts = [
                generate(Continuation(tokenizer, BLOCK, prompt, policy, rng), lambda: engine.decoder(0))
                for _ in range(count)
            ]
            seconds = time.perf_counter() - began
            return seconds, sum(len(text.text) + (text.stop_reason == "end") for text in texts)

        def at_once(count: int) -> tuple[float, int]:
            assert isinstance(engine, BulkSampler)
            began = time.perf_counter()
            drawn = engine.draw(0, prompt, count * TEXTS_IN_BULK, BLOCK, TEMPERATURE, None, SEED)
            return time.perf_counter() - began, drawn.tokens

        ways = {"one text at a time": one_at_a_time}
        if isinstance(engine, BulkSampler):
            ways["many texts at once"] = at_once
        return [
            {"n_embd": width, "how": how, **spread("tokens_per_sec", [1 / s for s in measure(way, self.patience)])}
            for how, way in ways.items()
        ]


def timed(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


class Steps:
    """Training that goes on: each call makes the next steps."""

    def __init__(self, engine: Engine):
        self.engine, self.next = engine, 0

    def advance(self, count: int) -> None:
        losses = self.engine.advance(self.next, np.full((count, 1), RATE))
        assert np.isfinite(losses).all()
        self.next += count


def spread(name: str, values: list[float]) -> dict[str, Any]:
    return {name: median(values), "min": min(values), "max": max(values), "repeats": len(values)}
