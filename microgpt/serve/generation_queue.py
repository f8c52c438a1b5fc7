"""The generation queue: one thread generates for all requests, one token of every text in each pass of the engine.

`submit` returns a `Generation`, whose tokens arrive on the event loop; the thread never waits for a client. The texts
of one request are generated one after the other with one random generator: they equal those that
`task=sample sample.seed=...` prints, whatever else is being generated.
"""

import asyncio
import random
import threading
import time
import traceback
from array import array
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from microgpt.data.tokenizer import Tokenizer
from microgpt.engines.base import BatchDecoder, Decoder, DecodesBatches, Engine
from microgpt.errors import NonFiniteError
from microgpt.inference.generation import Continuation
from microgpt.inference.sampling import SamplingPolicy
from microgpt.serve.stop_sequences import StopSequences

PAUSE_INTERVAL = 0.002  # seconds of generation between two turns of the event loop
MAX_PAUSE = 0.005  # seconds that one of these turns may take


class QueueFullError(Exception):
    """The queue has no place left."""


class ClosedError(Exception):
    """The server is shutting down."""


@dataclass(frozen=True)
class GenerationRequest:
    """The texts that one HTTP request needs."""

    prompts: Sequence[Sequence[int]]  # token ids; one text is generated after each
    policy: SamplingPolicy
    seed: int
    stop: tuple[str, ...] = ()  # a text ends before the first of these
    streaming: bool = False  # deliver each token at once, instead of all at the end
    with_probs: bool = False


@dataclass(frozen=True)
class GeneratedToken:
    number: int  # index of the text within the request
    token: int
    text: str  # what can be shown now: nothing while it may be the beginning of a stop sequence
    probs: Sequence[float] | None  # (V,), the probabilities that it was sampled from, if requested
    stop_reason: str | None  # of a text's last token: end | length | block (inference/generation.py), or stop


class Generation:
    """The tokens of one request as they arrive on the event loop, until the request's deadline."""

    def __init__(self, request: GenerationRequest, seconds: float):
        self.request = request
        self.loop = asyncio.get_running_loop()
        self.deadline = self.loop.time() + seconds
        self.arrived: asyncio.Queue[list[GeneratedToken] | Exception] = asyncio.Queue()
        self.cancelled = False

    async def tokens(self) -> AsyncIterator[GeneratedToken]:
        """Yield all tokens of all texts in order. Raises the engine's error, and TimeoutError at the deadline."""
        unfinished = len(self.request.prompts)
        while unfinished:
            # Not wait_for, which may lose a cancellation on Python 3.11: a stream would outlive its client.
            async with asyncio.timeout_at(self.deadline):
                arrived = await self.arrived.get()
                await asyncio.sleep(0)  # gives other tasks a turn if tokens arrive faster than they are sent
            if isinstance(arrived, Exception):
                raise arrived
            for token in arrived:
                yield token
                unfinished -= token.stop_reason is not None


class ActiveGeneration:
    """A generation in progress, in one slot of the decoder."""

    def __init__(self, generation: Generation, slot: int, tokenizer: Tokenizer, block_size: int):
        self.generation, self.slot, self.tokenizer, self.block_size = generation, slot, tokenizer, block_size
        self.request = generation.request
        self.rng = random.Random(self.request.seed)
        self.number = -1
        self.undelivered: list[GeneratedToken] = []
        self.start_next_text()

    def start_next_text(self) -> None:
        self.number += 1
        self.done = self.number == len(self.request.prompts)
        if not self.done:
            prompt = self.request.prompts[self.number]
            self.text = Continuation(self.tokenizer, self.block_size, prompt, self.request.policy, self.rng)
            self.stop_sequences = StopSequences(self.request.stop)
            self.read = 0  # number of pending tokens that the engine has read

    def sample(self, logits: list[float]) -> None:
        """Sample the next token; `logits` are the model's output after the last pending token."""
        text = self.text
        token = text.sample(logits)
        self.read = 0
        shown, stopped = self.stop_sequences.add("" if text.stop_reason == "end" else self.tokenizer.decode([token]))
        reason = "stop" if stopped else text.stop_reason
        if reason not in (None, "stop"):
            shown += self.stop_sequences.rest()
        probs = array("d", text.probs) if self.request.with_probs else None
        self.undelivered.append(GeneratedToken(self.number, token, shown, probs, reason))
        if reason is not None:
            self.start_next_text()


class SequentialDecoder:
    """The interface of a batch decoder for an engine that has none: texts are read one after the other."""

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
    """The queue and its thread. `run` and the methods below it run in the thread, all others on the event loop."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        block_size: int,
        *,
        max_active: int,
        max_queue: int,
        count: Callable[[int, int], None] = lambda read, generated: None,  # called after each pass: numbers of tokens
    ):
        self.engine, self.tokenizer, self.block_size = engine, tokenizer, block_size
        self.max_active, self.max_queue, self.count = max_active, max_queue, count
        self.decoder = batch_decoder(engine, max_active)
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
        generation = Generation(request, seconds)
        with self.changed:
            if self.closing:
                raise ClosedError
            if len(self.waiting) >= self.max_queue + len(self.free):  # those with a free slot leave the queue at once
                raise QueueFullError
            self.waiting.append(generation)
            self.changed.notify()
        return generation

    def cancel(self, generation: Generation) -> None:
        """Generate no more tokens for a request; without effect on a finished one."""
        with self.changed:
            generation.cancelled = True
            if generation in self.waiting:
                self.waiting.remove(generation)
            self.changed.notify()

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
        with self.changed:
            while not self.closing:
                for ended in [one for one in self.active if one.generation.cancelled or one.done]:
                    self.active.remove(ended)
                    self.free.append(ended.slot)
                while self.waiting and self.free:
                    generation, slot = self.waiting.popleft(), self.free.pop()
                    self.active.append(ActiveGeneration(generation, slot, self.tokenizer, self.block_size))
                if self.active:
                    return True
                self.changed.wait()
        return False

    def advance(self) -> None:
        """Run one pass: one token of every text, then as many prompt tokens as there are rows left."""
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
        for one, row in last_rows:
            try:
                one.sample(logits[row].tolist())
            except NonFiniteError as error:  # fails this request only
                one.generation.cancelled = True
                deliver([(one.generation, error)])
        self.count(len(tokens), len(last_rows))
        self.deliver_tokens()

    def yield_to_event_loop(self) -> None:
        """Every PAUSE_INTERVAL, wait until the event loop has done what was ready, MAX_PAUSE at most.

        Python runs one thread at a time: without this the loop would compete for every turn and respond slowly.
        """
        if time.monotonic() < self.next_pause:
            return
        loop, ready = self.active[0].generation.loop, threading.Event()
        if not loop.is_closed():
            loop.call_soon_threadsafe(loop.call_soon, ready.set)
            ready.wait(MAX_PAUSE)
        self.next_pause = time.monotonic() + PAUSE_INTERVAL

    def deliver_tokens(self) -> None:
        """Deliver the tokens of streams and of finished requests, in one call for a whole pass."""
        deliveries: list[tuple[Generation, list[GeneratedToken] | Exception]] = []
        for one in self.active:
            if one.undelivered and (one.done or one.request.streaming):
                deliveries.append((one.generation, one.undelivered))
                one.undelivered = []
        deliver(deliveries)

    def fail(self, error: Exception) -> None:
        """Raise an error in every active generation, and in the waiting ones if the queue closes."""
        with self.changed:
            failed = [one.generation for one in self.active] + list(self.waiting if self.closing else ())
            self.free += [one.slot for one in self.active]
            self.active = []
        deliver([(generation, error) for generation in failed])


def deliver(deliveries: list[tuple[Generation, list[GeneratedToken] | Exception]]) -> None:
    """Hand tokens or errors over to the event loop."""

    def put() -> None:
        for generation, arrived in deliveries:
            generation.arrived.put_nowait(arrived)

    if deliveries and not deliveries[0][0].loop.is_closed():
        deliveries[0][0].loop.call_soon_threadsafe(put)
