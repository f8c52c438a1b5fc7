"""Texts for many requests at once: one thread draws them all, in each pass of the engine a token of every text.

Whoever asks gets a `Ticket` and hears of its texts on the event loop; the thread never waits for a client. The texts of
one request are drawn one after the other with one generator: they are those that `task=sample sample.seed=...` prints,
and what else is under way changes none of them. Knows nothing of HTTP.
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
from microgpt.inference.generation import Continuation, SamplingPolicy
from microgpt.serve.stop_sequences import Stops

BETWEEN_PAUSES = 0.002  # seconds of drawing, after which the event loop comes first
LONGEST_PAUSE = 0.005  # seconds that it may take then


class QueueFullError(Exception):
    """As many requests wait as may."""


class ClosedError(Exception):
    """The server is shutting down."""


@dataclass(frozen=True)
class Asked:
    """What a request wants drawn."""

    prompts: Sequence[Sequence[int]]  # token ids; a text goes on from each
    policy: SamplingPolicy
    seed: int
    stop: tuple[str, ...] = ()  # a text ends before the first of these
    streaming: bool = False  # whether each token is told as soon as it is drawn
    with_probs: bool = False


@dataclass(frozen=True)
class Drawn:
    """A token of a text."""

    number: int  # of the text within the request
    token: int
    text: str  # what can be shown now: less than all while it may be the beginning of a stop
    probs: Sequence[float] | None  # what it was drawn from: (V,), where asked for
    stop_reason: str | None  # of the last token: end | length | block, as in generation.py, or stop


class Ticket:
    """A request's tokens, on the event loop that it was asked for on."""

    def __init__(self, asked: Asked):
        self.asked = asked
        self.loop = asyncio.get_running_loop()
        self.arrived: asyncio.Queue[list[Drawn] | Exception] = asyncio.Queue()
        self.cancelled = False

    async def tokens(self, seconds: float) -> AsyncIterator[Drawn]:
        """All tokens of all texts in their order. Raises what the engine raised, and TimeoutError after so long."""
        texts, end = len(self.asked.prompts), self.loop.time() + seconds
        while texts:
            # Not wait_for, which on Python 3.11 may lose a cancellation: a stream would go on for a client that left.
            async with asyncio.timeout_at(end):
                arrived = await self.arrived.get()
                await asyncio.sleep(0)  # where tokens come faster than they are told, others have their turn too
            if isinstance(arrived, Exception):
                raise arrived
            for drawn in arrived:
                yield drawn
                texts -= drawn.stop_reason is not None


class Work:
    """A request whose texts are being drawn, in one slot of the decoder."""

    def __init__(self, ticket: Ticket, slot: int, tokenizer: Tokenizer, block_size: int):
        self.ticket, self.slot, self.tokenizer, self.block_size = ticket, slot, tokenizer, block_size
        self.rng = random.Random(ticket.asked.seed)
        self.number = -1
        self.told: list[Drawn] = []
        self.begin_next()

    def begin_next(self) -> None:
        asked = self.ticket.asked
        self.number += 1
        self.done = self.number == len(asked.prompts)
        if not self.done:
            self.text = Continuation(
                self.tokenizer, self.block_size, asked.prompts[self.number], asked.policy, self.rng
            )
            self.stops = Stops(asked.stop)
            self.read = 0  # how many of the pending tokens the engine has read

    def draw(self, logits: list[float]) -> None:
        """The next token, from the logits after all that was pending."""
        text, asked = self.text, self.ticket.asked
        token = text.draw(logits)
        self.read = 0
        shown, stopped = self.stops.show("" if text.stop_reason == "end" else self.tokenizer.decode([token]))
        reason = "stop" if stopped else text.stop_reason
        if reason not in (None, "stop"):
            shown += self.stops.rest()
        self.told.append(Drawn(self.number, token, shown, array("d", text.probs) if asked.with_probs else None, reason))
        if reason is not None:
            self.begin_next()


class OneByOne:
    """A decoder of many texts for an engine that has none: their tokens are read one after the other."""

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
    """Of the engine's first model."""
    if isinstance(engine, DecodesBatches):
        return engine.batch_decoder(0, slots)
    return OneByOne(lambda: engine.decoder(0), slots)


class Batcher:
    """The queue, and the thread that serves it. All methods but `work` and what it calls are the event loop's."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        block_size: int,
        *,
        max_active: int,
        max_queue: int,
        count: Callable[[int, int], None] = lambda read, drawn: None,  # called after each pass with numbers of tokens
    ):
        self.engine, self.tokenizer, self.block_size = engine, tokenizer, block_size
        self.max_active, self.max_queue, self.count = max_active, max_queue, count
        self.decoder = batch_decoder(engine, max_active)
        self.waiting: deque[Ticket] = deque()
        self.active: list[Work] = []
        self.free = list(range(max_active))
        self.changed = threading.Condition()
        self.closing = False
        self.next_pause = 0.0
        self.thread = threading.Thread(target=self.work, name="generation", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def close(self) -> None:
        """Stop after the pass that is under way; what is not done fails with ClosedError."""
        with self.changed:
            self.closing = True
            self.changed.notify()
        self.thread.join()

    def submit(self, asked: Asked) -> Ticket:
        """Raises QueueFullError where too many requests wait, and ClosedError."""
        ticket = Ticket(asked)
        with self.changed:
            if self.closing:
                raise ClosedError
            if len(self.waiting) >= self.max_queue + len(self.free):  # those that a free slot is for wait not long
                raise QueueFullError
            self.waiting.append(ticket)
            self.changed.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Whatever is not drawn by now will not be; a request that is done stays so."""
        with self.changed:
            ticket.cancelled = True
            if ticket in self.waiting:
                self.waiting.remove(ticket)
            self.changed.notify()

    # The thread's

    def work(self) -> None:
        while self.admit():
            try:
                self.advance()
            except Exception as error:
                traceback.print_exc()
                self.fail(error)
        self.fail(ClosedError())

    def admit(self) -> bool:
        """Drop what was cancelled and give free slots to who waits; waits while there is nothing to do."""
        with self.changed:
            while not self.closing:
                for gone in [work for work in self.active if work.ticket.cancelled or work.done]:
                    self.active.remove(gone)
                    self.free.append(gone.slot)
                while self.waiting and self.free:
                    self.active.append(Work(self.waiting.popleft(), self.free.pop(), self.tokenizer, self.block_size))
                if self.active:
                    return True
                self.changed.wait()
        return False

    def advance(self) -> None:
        """One pass: every text goes on by a token, then prompts are read as far as rows are left."""
        slots, positions, tokens, last_rows = [], [], [], []
        for work in sorted(self.active, key=lambda work: len(work.text.pending) - work.read):
            text = work.text
            new = text.pending[work.read : work.read + self.decoder.rows - len(tokens)]
            if not new:
                continue
            first = text.position + work.read
            tokens += new
            positions += range(first, first + len(new))
            slots += [work.slot] * len(new)
            work.read += len(new)
            if work.read == len(text.pending):
                last_rows.append((work, len(tokens) - 1))
        logits = self.decoder.feed(slots, positions, tokens)
        self.make_way()
        for work, row in last_rows:
            try:
                work.draw(logits[row].tolist())
            except NonFiniteError as error:  # of this text alone
                work.ticket.cancelled = True
                hand_over([(work.ticket, error)])
        self.count(len(tokens), len(last_rows))
        self.tell()

    def make_way(self) -> None:
        """Every few milliseconds the event loop comes first, until it has done what was ready, though not for long.

        Python runs one thread at a time: a loop that had to fight for each of its turns would answer slowly.
        """
        if time.monotonic() < self.next_pause:
            return
        loop, ready = self.active[0].ticket.loop, threading.Event()
        if not loop.is_closed():
            loop.call_soon_threadsafe(loop.call_soon, ready.set)
            ready.wait(LONGEST_PAUSE)
        self.next_pause = time.monotonic() + BETWEEN_PAUSES

    def tell(self) -> None:
        """Hand over what was drawn: of those that stream at once, of the others when they are done. One call a pass."""
        news: list[tuple[Ticket, list[Drawn] | Exception]] = []
        for work in self.active:
            if work.told and (work.done or work.ticket.asked.streaming):
                news.append((work.ticket, work.told))
                work.told = []
        hand_over(news)

    def fail(self, error: Exception) -> None:
        with self.changed:
            everyone = [work.ticket for work in self.active] + list(self.waiting if self.closing else ())
            self.free += [work.slot for work in self.active]
            self.active = []
        hand_over([(ticket, error) for ticket in everyone])


def hand_over(news: list[tuple[Ticket, list[Drawn] | Exception]]) -> None:
    def put() -> None:
        for ticket, arrived in news:
            ticket.arrived.put_nowait(arrived)

    if news and not news[0][0].loop.is_closed():
        news[0][0].loop.call_soon_threadsafe(put)
