"""The generation queue: one thread generates for all requests, one token of every text in each pass of the engine.

`submit` returns a `Generation`, which receives texts or tokens on the event loop; the thread never waits for a client.
The texts of one request are generated one after the other with one random generator: they equal those that
`task=sample sample.seed=...` prints, whatever else is being generated.
"""

import asyncio
import random
import threading
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from microgpt.data.tokenizer import Tokenizer
from microgpt.engines.base import BatchDecoder, ChoosesTokens, Decoder, DecodesBatches, Engine
from microgpt.errors import NonFiniteError
from microgpt.inference.generation import Continuation
from microgpt.inference.sampling import SamplingPolicy
from microgpt.serve.errors import ClosedError, QueueFullError, RequestTimeoutError
from microgpt.serve.stop_sequences import StopSequences

PAUSE_INTERVAL = 0.002  # seconds of generation between two turns of the event loop
MAX_PAUSE = 0.005  # seconds that one of these turns may take


@dataclass(frozen=True)
class GenerationRequest:
    """The texts that one HTTP request needs."""

    prompts: Sequence[Sequence[int]]  # token ids; one text is generated after each
    policy: SamplingPolicy
    seed: int
    stop: tuple[str, ...] = ()  # a text ends before the first of these
    streaming: bool = False  # deliver each token at once, instead of all texts at the end
    with_probs: bool = False  # of a stream


@dataclass(frozen=True)
class GeneratedText:
    text: str
    stop_reason: str  # end | length | block (inference/generation.py), or stop
    tokens: int  # without the one that ended it


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    number: int  # index of the text within the request
    token: int
    text: str  # what can be shown now: nothing while it may be the beginning of a stop sequence
    probs: np.ndarray | None  # (V,), the probabilities that it was sampled from, if requested
    stop_reason: str | None  # of a text's last token, see GeneratedText


Arrived = list[GeneratedToken] | list[GeneratedText]
Call = tuple[Callable[..., None], tuple[Any, ...]]  # a function and its arguments


class Generation:
    """What has been generated for one request, as it arrives on the event loop until the request's deadline."""

    def __init__(self, request: GenerationRequest, seconds: float):
        self.request = request
        self.loop = asyncio.get_running_loop()
        self.deadline = self.loop.time() + seconds
        self.timer = self.loop.call_at(self.deadline, self.fail, RequestTimeoutError())
        self.arrived: list = []
        self.error: Exception | None = None
        self.changed = asyncio.Event()
        self.ended = False  # all has arrived, or the rest is not wanted

    def add(self, arrived: Arrived, is_last: bool) -> None:
        self.arrived += arrived
        if is_last:
            self.end()
        self.changed.set()

    def fail(self, error: Exception) -> None:
        if not self.ended:
            self.error = error
            self.end()
            self.changed.set()

    def end(self) -> None:
        self.ended = True
        self.timer.cancel()

    async def texts(self) -> list[GeneratedText]:
        """Return all texts of a request that is not a stream. Raises what `fail` was called with."""
        await self.changed.wait()
        if self.error is not None:
            raise self.error
        return self.arrived

    async def tokens(self) -> AsyncIterator[list[GeneratedToken]]:
        """Yield the tokens of a stream in order, in each list those that came since the last one. Raises as `texts`."""
        is_last = False
        while not is_last:
            await self.changed.wait()
            self.changed.clear()
            arrived, self.arrived, is_last = self.arrived, [], self.ended
            if arrived:
                yield arrived
        if self.error is not None:
            raise self.error


class ActiveGeneration:
    """A generation in progress, in one slot of the decoder."""

    def __init__(self, generation: Generation, slot: int, tokenizer: Tokenizer, block_size: int):
        self.generation, self.slot, self.tokenizer, self.block_size = generation, slot, tokenizer, block_size
        self.request = generation.request
        self.policy = self.request.policy
        self.temperature = 0.0 if self.policy.is_greedy else self.policy.temperature
        self.rng = random.Random(self.request.seed)
        self.number = -1
        self.undelivered: list = []
        self.start_next_text()

    def start_next_text(self) -> None:
        self.number += 1
        self.done = self.number == len(self.request.prompts)
        if not self.done:
            prompt = self.request.prompts[self.number]
            self.text = Continuation(self.tokenizer, self.block_size, prompt, self.policy, self.rng)
            self.stop_sequences = StopSequences(self.request.stop)
            self.shown = ""
            self.read = 0  # number of pending tokens that the engine has read

    def sample(self, logits: list[float]) -> None:
        """Sample the next token; `logits` (V,) are the model's output after the last pending token."""
        token = self.text.sample(logits)
        self.deliver(token, np.array(self.text.probs) if self.request.with_probs else None)

    def append(self, token: int, probs: np.ndarray) -> None:
        """Continue with a token that was sampled from `probs` (V,)."""
        self.text.append(token)
        self.deliver(token, probs if self.request.with_probs else None)

    def deliver(self, token: int, probs: np.ndarray | None) -> None:
        """Note what is to be delivered of the token just sampled."""
        text, reason, self.read = self.text, self.text.stop_reason, 0
        if self.request.streaming or self.request.stop:
            shown, stopped = self.stop_sequences.add("" if reason == "end" else self.tokenizer.decode((token,)))
            if stopped:
                reason = "stop"
            elif reason is not None:
                shown += self.stop_sequences.rest()
            if self.request.streaming:
                self.undelivered.append(GeneratedToken(self.number, token, shown, probs, reason))
            else:
                self.shown += shown
        if reason is not None:
            if not self.request.streaming:
                generated = text.tokens[len(text.tokens) - text.generated :]
                shown = self.shown if self.request.stop else self.tokenizer.decode(generated)
                self.undelivered.append(GeneratedText(shown, reason, text.generated))
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
            if len(self.waiting) >= self.max_queue + len(self.free):  # those with a free slot leave the queue at once
                raise QueueFullError
            generation = Generation(request, seconds)
            self.waiting.append(generation)
            self.changed.notify()
        return generation

    def cancel(self, generation: Generation) -> None:
        """Generate no more for a request; without effect on a finished one."""
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
        # Outside the lock, for which the event loop would wait.
        self.active += [ActiveGeneration(*each, self.tokenizer, self.block_size) for each in admitted]
        return not self.closing

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
        failures = self.sample(logits, last_rows)
        self.count(len(tokens), len(last_rows))
        self.deliver(failures)

    def sample(self, logits: np.ndarray, rows: Sequence[tuple[ActiveGeneration, int]]) -> list[Call]:
        """Sample the next token of each text from its row of `logits` (rows, V); return how to report failures."""
        failures: list[Call] = []
        for one, row in self.choose(rows):
            try:
                one.sample(logits[row].tolist())
            except NonFiniteError as error:  # fails this request only
                one.done = True
                failures.append((one.generation.fail, (error,)))
        return failures

    def choose(self, rows: Sequence[tuple[ActiveGeneration, int]]) -> list[tuple[ActiveGeneration, int]]:
        """Sample with the decoder if it can; return the rows that are left: with a style's bias, or not finite."""
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

    def deliver(self, calls: list[Call]) -> None:
        """Deliver the tokens of streams and the texts of finished requests, in one call for a whole pass."""
        for one in self.active:
            if one.undelivered and (one.done or one.request.streaming):
                calls.append((one.generation.add, (one.undelivered, one.done)))
                one.undelivered = []
        call_on_loop(calls, self.active[0].generation.loop)

    def fail(self, error: Exception) -> None:
        """Raise an error in every active generation, and in the waiting ones if the queue closes."""
        with self.changed:
            failed = [one.generation for one in self.active] + list(self.waiting if self.closing else ())
            self.free += [one.slot for one in self.active]
            self.active = []
        if failed:
            call_on_loop([(generation.fail, (error,)) for generation in failed], failed[0].loop)


def call_on_loop(calls: Sequence[Call], loop: asyncio.AbstractEventLoop) -> None:
    """Call functions on the event loop, which is woken up once."""

    def call_all() -> None:
        for function, arguments in calls:
            function(*arguments)

    if calls and not loop.is_closed():
        loop.call_soon_threadsafe(call_all)
