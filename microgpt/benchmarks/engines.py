"""The speed of each engine with microgpt.py's model: one token, one step, names trained and tokens sampled.

All engines sample from the same weights, which the native one trained, so that texts have their usual length.
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

from microgpt.benchmarks.micro import Repeats, Row, measure, row, seconds_of
from microgpt.benchmarks.reference import BLOCK_SIZE, SEED, names_corpus, reference_engine
from microgpt.data.corpus import Corpus
from microgpt.engines.base import BulkRequest, BulkSampler, Decoder, Engine, EngineState
from microgpt.engines.options import EngineOptions
from microgpt.inference.generation import Continuation, generate
from microgpt.inference.sampling import SamplingPolicy

BATCHES = (1, 16)
FIRST_WIDTH = 16  # microgpt.py's n_embd
RATE = 1e-3  # constant, as only time is measured
TRAINED_STEPS = 1000  # of 16 names
TEMPERATURE = 0.5
TEXTS_IN_BULK = 2000


@lru_cache(maxsize=1)
def names() -> Corpus:
    return names_corpus()


@dataclass(frozen=True)
class EngineBenchmark:
    """The conditions that hold for all engines."""

    repeats: Repeats
    say: Callable[[str], None]

    def engine(self, backend: str, width: int, batch_size: int, state: EngineState | None = None) -> Engine:
        """Return an engine with the default options of its backend.

        Raises UserError if a package it needs is not installed.
        """
        return reference_engine(EngineOptions(backend), names(), batch_size, state=state, say=self.say, n_embd=width)

    def trained(self, width: int) -> EngineState:
        """Return weights that spell names."""
        engine = self.engine("native", width, 16)
        engine.advance(0, np.full((TRAINED_STEPS, 1), 5 * RATE))
        return engine.state()

    def report(self, backend: str, widths: list[int]) -> dict[str, Any]:
        """Return one engine's section of the document, or the reason for its absence."""
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
        """Measure gpt_forward_10 and training_step_1 of microgpt.py's model."""
        engine, bos = self.engine(backend, FIRST_WIDTH, 1, self.trained(FIRST_WIDTH)), names().tokenizer.bos
        tokens = [bos, *range(9)]

        def read(decoder: Decoder) -> None:
            for token in tokens:
                decoder.feed(token)

        forward = seconds_of(read, lambda: engine.decoder(0), self.repeats)
        step = seconds_of(Steps(engine).advance, lambda: 1, self.repeats)
        return [
            row("gpt_forward_10", "tokens that the model reads one after the other, keys and values kept", 10, forward),
            row("training_step_1", "a training step of one name, by itself", 1, step),
        ]

    def training(self, backend: str, width: int, batch_size: int) -> dict[str, Any]:
        """Measure the microseconds a name of steps in one call of `advance`."""
        steps = Steps(self.engine(backend, width, batch_size))
        seconds = measure(lambda count: (timed(lambda: steps.advance(count)), count * batch_size), self.repeats)
        figures = spread("microseconds_per_name", [1e6 * s for s in seconds])
        return {"n_embd": width, "batch_size": batch_size, "threads": steps.engine.info.threads, **figures}

    def sampling(self, backend: str, width: int) -> list[dict[str, Any]]:
        """Measure generated tokens per second, counting end-of-text tokens.

        One text at a time, and many at once if the engine supports it.
        """
        engine, tokenizer = self.engine(backend, width, 1, self.trained(width)), names().tokenizer
        policy, rng, prompt = SamplingPolicy(TEMPERATURE, None, None, (), 0.0), random.Random(SEED), [tokenizer.bos]

        def one_at_a_time(count: int) -> tuple[float, int]:
            start = time.perf_counter()
            texts = [
                generate(Continuation(tokenizer, BLOCK_SIZE, prompt, policy, rng), lambda: engine.decoder(0))
                for _ in range(count)
            ]
            seconds = time.perf_counter() - start
            return seconds, sum(len(text.text) + (text.stop_reason == "end") for text in texts)

        def at_once(count: int) -> tuple[float, int]:
            assert isinstance(engine, BulkSampler)
            start = time.perf_counter()
            request = BulkRequest(prompt, count * TEXTS_IN_BULK, BLOCK_SIZE, TEMPERATURE, None, SEED)
            drawn = engine.draw(0, request)
            return time.perf_counter() - start, drawn.tokens

        ways = {"one text at a time": one_at_a_time}
        if isinstance(engine, BulkSampler):
            ways["many texts at once"] = at_once
        return [
            {"n_embd": width, "how": how, **spread("tokens_per_sec", [1 / s for s in measure(way, self.repeats)])}
            for how, way in ways.items()
        ]


def timed(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class Steps:
    """A training that each call of `advance` continues."""

    def __init__(self, engine: Engine):
        self.engine, self.next = engine, 0

    def advance(self, count: int) -> None:
        losses = self.engine.advance(self.next, np.full((count, 1), RATE))
        assert np.isfinite(losses).all()
        self.next += count


def spread(name: str, values: list[float]) -> dict[str, Any]:
    return {name: median(values), "min": min(values), "max": max(values), "repeats": len(values)}
