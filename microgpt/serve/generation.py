"""The generation of one request: its parameters, its results on the event loop, and its texts in progress."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import numpy as np

from microgpt.data.tokenizer import Tokenizer
from microgpt.inference.generation import Continuation
from microgpt.inference.sampling import SamplingPolicy
from microgpt.serve.errors import RequestTimeoutError
from microgpt.serve.stop_sequences import StopSequences


@dataclass(frozen=True)
class GenerationRequest:
    """The texts to generate for one HTTP request."""

    prompts: Sequence[Sequence[int]]  # token ids; one text is generated for each prompt
    policy: SamplingPolicy
    seed: int
    stop: tuple[str, ...] = ()  # a text ends before the first of these sequences
    streaming: bool = False  # deliver each token immediately instead of all texts at the end
    with_probs: bool = False  # include probabilities in a stream


@dataclass(frozen=True)
class GeneratedText:
    text: str
    stop_reason: str  # end | length | block (inference/generation.py), or stop
    tokens: int  # number of tokens, without the token that ended the text


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    number: int  # index of the text within the request
    token: int
    text: str  # text that can be shown now; empty while it may be the start of a stop sequence
    probs: np.ndarray | None  # (V,), the probabilities from which the token was sampled, if requested
    stop_reason: str | None  # set for the last token of a text, see GeneratedText


Arrived = list[GeneratedToken] | list[GeneratedText]


class Generation:
    """The results of one request, which arrive on the event loop until the request's deadline."""

    def __init__(self, request: GenerationRequest, seconds: float):
        self.request = request
        self.loop = asyncio.get_running_loop()
        self.deadline = self.loop.time() + seconds
        self.timer = self.loop.call_at(self.deadline, self.fail, RequestTimeoutError())
        self.arrived: list = []
        self.error: Exception | None = None
        self.changed = asyncio.Event()
        self.ended = False  # all results have arrived, or the rest is not needed

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
        """Return all texts of a request that is not a stream. Raises the error passed to `fail`."""
        await self.changed.wait()
        if self.error is not None:
            raise self.error
        return self.arrived

    async def tokens(self) -> AsyncIterator[list[GeneratedToken]]:
        """Yield the tokens of a stream in order, in lists of new tokens. Raises the error passed to `fail`."""
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
        """Sample the next token from `logits` (V,), the model's output after the last pending token."""
        token = self.text.sample(logits)
        self.deliver(token, np.array(self.text.probs) if self.request.with_probs else None)

    def append(self, token: int, probs: np.ndarray) -> None:
        """Continue with a token that was sampled from `probs` (V,)."""
        self.text.append(token)
        self.deliver(token, probs if self.request.with_probs else None)

    def deliver(self, token: int, probs: np.ndarray | None) -> None:
        """Add the token just sampled, or the text that it completes, to the undelivered results."""
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
