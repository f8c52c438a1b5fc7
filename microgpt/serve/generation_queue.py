"""The generation queue: one thread generates for all requests, one token per text in each pass of the engine.

`submit` returns a `Generation`, which receives texts or tokens on the event loop; the thread never waits for a client.
The texts of one request are generated one after the other with one random number generator, so they equal the samples
of `task=sample sample.seed=...`, regardless of other requests.
"""

import asyncio
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from microgpt.data.tokenizer import Tokenizer
from microgpt.engines.base import BatchDecoder, ChoosesTokens, Decoder, DecodesBatches, Engine
from microgpt.errors import NonFiniteError
from microgpt.serve.errors import ClosedError, QueueFullError
from microgpt.serve.generation import ActiveGeneration, Generation, GenerationRequest

PAUSE_INTERVAL = 0.002  # seconds of generation between two pauses for the event loop
MAX_PAUSE = 0.005  # maximum seconds of a pause
Call = tuple[Callable[..., None], tuple[Any, ...]]  # a function and its arguments


class SequentialDecoder:
    """A batch decoder for an engine without one: it reads the texts one after the other."""

    def __init__(self, new_decoder: Callable[[], Decoder], slots: int):
        self.rows = slots
        self.new_decoder = new_decoder
        self.decoders: dict[int, Decoder] = {}

    def feed(self, slots: Sequence[int], positions: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
        logits = []
        for slot, position, token in zip(slots, positions, tokens, strict=True):
            if position == 0:
                self.decoders[slot] = self.new_decoder()
            logits.append(self.decoders[slot].feed(token))
        return np.array(logits)


def batch_decoder(engine: Engine, slots: int) -> BatchDecoder:
    """Return a decoder of the engine's first replica."""
    if isinstance(engine, DecodesBatches):
        return engine.batch_decoder(0, slots)
    return SequentialDecoder(lambda: engine.decoder(0), slots)


class GenerationQueue:
    """The queue and its thread. `run` and the methods after it run in the thread, the others on the event loop."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        block_size: int,
        *,
        max_active: int,
        max_queue: int,
        count: Callable[[int, int], None] = lambda read, generated: None,  # called after each pass with token counts
    ):
        self.engine, self.tokenizer, self.block_size = engine, tokenizer, block_size
        self.max_active, self.max_queue, self.count = max_active, max_queue, count
        self.decoder = batch_decoder(engine, max_active)
        self.chooser = self.decoder if isinstance(self.decoder, ChoosesTokens) else None
        self.waiting: deque[Generation] = deque()
        self.active: list[ActiveGeneration] = []
        self.free = list(range(max_active))
        self.changed = threading.Condition()
        self.closing = False
        self.next_pause = 0.0
        self.thread = threading.Thread(target=self.run, name="generation", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def close(self) -> None:
        """Stop after the current pass; unfinished generations raise ClosedError."""
        with self.changed:
            self.closing = True
            self.changed.notify()
        self.thread.join()

    def submit(self, request: GenerationRequest, seconds: float) -> Generation:
        """Queue a request with its time limit. Raises QueueFullError and ClosedError."""
        with self.changed:
            if self.closing:
                raise ClosedError
            if len(self.waiting) >= self.max_queue + len(self.free):  # free slots take requests from the queue
                raise QueueFullError
            generation = Generation(request, seconds)
            self.waiting.append(generation)
            self.changed.notify()
        return generation

    def cancel(self, generation: Generation) -> None:
        """Stop generating for a request. Has no effect on a finished request."""
        generation.end()
        with self.changed:
            if generation in self.waiting:
                self.waiting.remove(generation)

    def run(self) -> None:
        while self.admit():
            try:
                self.advance()
            except Exception as error:
                traceback.print_exc()
                self.fail(error)
        self.fail(ClosedError())

    def admit(self) -> bool:
        """Free the slots of finished and cancelled requests, fill them from the queue, and wait until one is active."""
        for one in [one for one in self.active if one.done or one.generation.ended]:
            self.active.remove(one)
            self.free.append(one.slot)
        with self.changed:
            while not (self.active or self.waiting or self.closing):
                self.changed.wait()
            count = min(len(self.waiting), len(self.free))
            admitted = [(self.waiting.popleft(), self.free.pop()) for _ in range(count)]
        # Outside the lock, because the event loop would have to wait for it.
        self.active += [ActiveGeneration(*each, self.tokenizer, self.block_size) for each in admitted]
        return not self.closing

    def advance(self) -> None:
        """Run one pass: one token of every text, then as many prompt tokens as fit the remaining rows."""
        slots, positions, tokens, last_rows = [], [], [], []
        for one in sorted(self.active, key=lambda one: len(one.text.pending) - one.read):
            text = one.text
            new = text.pending[one.read : one.read + self.decoder.rows - len(tokens)]
            if not new:
                continue
            first = text.position + one.read
            tokens += new
            positions += range(first, first + len(new))
            slots += [one.slot] * len(new)
            one.read += len(new)
            if one.read == len(text.pending):
                last_rows.append((one, len(tokens) - 1))
        logits = self.decoder.feed(slots, positions, tokens)
        self.yield_to_event_loop()
        failures = self.sample(logits, last_rows)
        self.count(len(tokens), len(last_rows))
        self.deliver(failures)

    def sample(self, logits: np.ndarray, rows: Sequence[tuple[ActiveGeneration, int]]) -> list[Call]:
        """Sample the next token of each text from its row of `logits` (rows, V). Returns calls that report failures."""
        failures: list[Call] = []
        for one, row in self.choose(rows):
            try:
                one.sample(logits[row].tolist())
            except NonFiniteError as error:  # fails only this request
                one.done = True
                failures.append((one.generation.fail, (error,)))
        return failures

    def choose(self, rows: Sequence[tuple[ActiveGeneration, int]]) -> list[tuple[ActiveGeneration, int]]:
        """Sample with the decoder if possible. Returns the other rows: with a style's bias or non-finite logits."""
        able = [each for each in rows if not each[0].policy.is_biased] if self.chooser else []
        left = [each for each in rows if each[0].policy.is_biased] if self.chooser else list(rows)
        if self.chooser and able:
            choices = self.chooser.choose(
                [row for _, row in able],
                [one.rng.random() for one, _ in able],
                [one.temperature for one, _ in able],
                [one.policy.top_k for one, _ in able],
            )
            for each, token, probs in zip(able, choices.tokens, choices.probs, strict=True):
                if token < 0:
                    left.append(each)
                else:
                    each[0].append(token, probs)
        return left

    def yield_to_event_loop(self) -> None:
        """Every PAUSE_INTERVAL, wait until the event loop has run all ready callbacks, for at most MAX_PAUSE.

        Python runs one thread at a time: without these pauses, the event loop would compete for the GIL and be slow.
        """
        if time.monotonic() < self.next_pause:
            return
        loop, ready = self.active[0].generation.loop, threading.Event()
        if not loop.is_closed():
            loop.call_soon_threadsafe(loop.call_soon, ready.set)
            ready.wait(MAX_PAUSE)
        self.next_pause = time.monotonic() + PAUSE_INTERVAL

    def deliver(self, calls: list[Call]) -> None:
        """Deliver tokens of streams and texts of finished requests, with one call to the event loop per pass."""
        for one in self.active:
            if one.undelivered and (one.done or one.request.streaming):
                calls.append((one.generation.add, (one.undelivered, one.done)))
                one.undelivered = []
        call_on_loop(calls, self.active[0].generation.loop)

    def fail(self, error: Exception) -> None:
        """Raise an error in every active generation and, if the queue closes, in every waiting one."""
        with self.changed:
            failed = [one.generation for one in self.active] + list(self.waiting if self.closing else ())
            self.free += [one.slot for one in self.active]
            self.active = []
        if failed:
            call_on_loop([(generation.fail, (error,)) for generation in failed], failed[0].loop)


def call_on_loop(calls: Sequence[Call], loop: asyncio.AbstractEventLoop) -> None:
    """Call functions on the event loop, waking it up only once."""

    def call_all() -> None:
        for function, arguments in calls:
            function(*arguments)

    if calls and not loop.is_closed():
        loop.call_soon_threadsafe(call_all)
