"""The speed of each engine with microgpt.py's model: time per token and per step, training and sampling rates.

All engines sample from the same weights, trained with the native engine, so that the samples have the usual length.
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
RATE = 1e-3  # constant, because only time is measured
TRAINED_STEPS = 1000  # with batches of 16 names
TEMPERATURE = 0.5
TEXTS_IN_BULK = 2000


@lru_cache(maxsize=1)
def names() -> Corpus:
    return names_corpus()


@dataclass(frozen=True)
class EngineBenchmark:
    """The conditions that are the same for all engines."""

    repeats: Repeats
    say: Callable[[str], None]

    def engine(self, backend: str, width: int, batch_size: int, state: EngineState | None = None) -> Engine:
        """Return an engine with the default options of its backend.

        Raises UserError if a package that the engine needs is not installed.
        """
        return reference_engine(EngineOptions(backend), names(), batch_size, state=state, say=self.say, n_embd=width)

    def trained(self, width: int) -> EngineState:
        """Return weights trained on names."""
        engine = self.engine("native", width, 16)
        engine.advance(0, np.full((TRAINED_STEPS, 1), 5 * RATE))
        return engine.state()

    def report(self, backend: str, widths: list[int]) -> dict[str, Any]:
        """Return one engine's section of the result, or the reason why the engine is not available."""
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
            row("gpt_forward_10", "tokens read one after the other, with cached keys and values", 10, forward),
            row("training_step_1", "a single training step on one name", 1, step),
        ]

    def training(self, backend: str, width: int, batch_size: int) -> dict[str, Any]:
        """Measure the microseconds per name when one call of `advance` runs many steps."""
        steps = Steps(self.engine(backend, width, batch_size))
        seconds = measure(lambda count: (timed(lambda: steps.advance(count)), count * batch_size), self.repeats)
        figures = spread("microseconds_per_name", [1e6 * s for s in seconds])
        return {"n_embd": width, "batch_size": batch_size, "threads": steps.engine.info.threads, **figures}

    def sampling(self, backend: str, width: int) -> list[dict[str, Any]]:
        """Measure generated tokens per second, including end-of-text tokens.

        Texts are generated one at a time and, if the engine supports it, many at once.
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
    """A training run that each call of `advance` continues."""

    def __init__(self, engine: Engine):
        self.engine, self.next = engine, 0

    def advance(self, count: int) -> None:
        losses = self.engine.advance(self.next, np.full((count, 1), RATE))
        assert np.isfinite(losses).all()
        self.next += count


def spread(name: str, values: list[float]) -> dict[str, Any]:
    return {name: median(values), "min": min(values), "max": max(values), "repeats": len(values)}
