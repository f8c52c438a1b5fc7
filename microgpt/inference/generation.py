"""Generates text, in the same way for every engine: tokens to read, sampled tokens, and reasons to stop."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from microgpt.data.tokenizer import Tokenizer
from microgpt.engines.base import BulkRequest, BulkSampler, Decoder, Engine, TextRequest, TextSampler, TokenKinds
from microgpt.errors import UserError
from microgpt.inference.sampling import SamplingPolicy, add_style_bias, probabilities

BULK_SIZE = 50_000  # samples that `generate_many` keeps in memory
TEXTS_PER_CALL = 100  # samples per call of an engine with its own sampler


@dataclass(frozen=True)
class Sample:
    text: str  # without the prompt
    stop_reason: str | None  # end: the model ended the document; length: max_new_tokens; block: the block is full


class Continuation:
    """The continuation of a prompt during generation: the tokens to read next, and sampling from the model's logits.

    Without max_new_tokens, generation ends when the block is full. With max_new_tokens, a full block slides: the second
    half of the text is read again from position 0, and generation continues.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        block_size: int,
        prompt: Sequence[int],  # token ids, BOS first
        policy: SamplingPolicy,
        rng: random.Random,
    ):
        self.tokenizer, self.block_size, self.policy, self.rng = tokenizer, block_size, policy, rng
        self.tokens = list(prompt)
        self.generated = 0
        self.pending = list(prompt)  # the tokens to read next
        self.position = 0  # position of the first pending token; at 0, reading starts over
        self.probs: list[float] = []  # (V,), the distribution of the last token
        self.stop_reason: str | None = None  # see Sample; None during generation

    def sample(self, logits: Sequence[float]) -> int:
        """Sample the next token from the logits (V,) after the last pending token.

        A token that ends the text (stop_reason "end") is not added to it.
        """
        logits = add_style_bias(logits, self.tokens, self.tokenizer, self.policy)
        self.probs = probabilities(logits, self.policy)
        token = self.rng.choices(range(len(self.probs)), weights=self.probs)[0]
        self.append(token)
        return token

    def append(self, token: int) -> None:
        """Append a sampled token, and set the tokens to read next or the stop reason."""
        self.position += len(self.pending)
        self.pending = [token]
        if token in self.tokenizer.ends:
            self.stop_reason = "end"
            return
        self.tokens.append(token)
        self.generated += 1
        if self.generated == self.policy.max_new_tokens:
            self.stop_reason = "length"
        elif self.position == self.block_size:
            if self.policy.max_new_tokens is None:
                self.stop_reason = "block"
            self.pending, self.position = self.tokens[-max(self.block_size // 2, 1) :], 0


def stream(text: Continuation, new_decoder: Callable[[], Decoder]) -> Iterator[int]:
    """Yield the tokens of a text as they are sampled. `text.stop_reason` is set after the last token."""
    decoder = None
    while text.stop_reason is None:
        if decoder is None or text.position == 0:
            decoder = new_decoder()
        *earlier, last = text.pending
        for token in earlier:
            decoder.feed(token)
        token = text.sample(decoder.feed(last))
        if text.stop_reason != "end":
            yield token


def generate(text: Continuation, new_decoder: Callable[[], Decoder]) -> Sample:
    tokens = list(stream(text, new_decoder))
    return Sample(text.tokenizer.decode(tokens), text.stop_reason)


def generate_all(
    engine: Engine,
    replica: int,
    tokenizer: Tokenizer,
    block_size: int,
    prompts: Sequence[Sequence[int]],
    policy: SamplingPolicy,
    rng: random.Random,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Sample]:
    """Yield a continuation of each prompt, sampled one after the other, until `stop` returns true.

    An engine with its own sampler produces the same samples, several per call.
    """
    fits = policy.max_new_tokens is None or all(
        policy.max_new_tokens <= block_size - len(prompt) + 1 for prompt in prompts
    )
    if not isinstance(engine, TextSampler) or not fits:
        for prompt in prompts:
            if stop():
                return
            text = Continuation(tokenizer, block_size, prompt, policy, rng)
            yield generate(text, lambda: engine.decoder(replica))
        return
    favoured = policy.phrases if policy.is_biased else ()
    request = TextRequest(
        prompts=(),
        max_new_tokens=policy.max_new_tokens,
        temperature=0.0 if policy.is_greedy else policy.temperature,
        top_k=policy.top_k,
        tokens=token_kinds(tokenizer),
        phrases=[[tokenizer.ids.get(char, -1) for char in phrase] for phrase in favoured],
        bias=policy.bias,
    )
    for begin in range(0, len(prompts), TEXTS_PER_CALL):
        if stop():
            return
        part = prompts[begin : begin + TEXTS_PER_CALL]
        for prompt, tokens in zip(part, engine.sample(replica, replace(request, prompts=part), rng), strict=True):
            room = policy.max_new_tokens or block_size - len(prompt) + 1
            full = "block" if policy.max_new_tokens is None else "length"
            yield Sample(tokenizer.decode(tokens), full if len(tokens) == room else "end")


@lru_cache(8)
def token_kinds(tokenizer: Tokenizer) -> TokenKinds:
    texts = [tokenizer.texts[token] for token in range(tokenizer.vocab_size)]
    return TokenKinds(
        is_end=np.array([token in tokenizer.ends for token in range(tokenizer.vocab_size)], np.int64),
        has_text=np.array([bool(text) for text in texts], np.int64),
        is_word=np.array([text.isalnum() for text in texts], np.int64),
    )


def generate_many(
    engine: Engine,
    tokenizer: Tokenizer,
    block_size: int,
    prompt: Sequence[int],
    policy: SamplingPolicy,
    count: int,
    rng: random.Random,
) -> Iterator[Sample]:
    """Return `count` continuations of `prompt` from the engine's bulk sampler.

    They have the same distribution as other samples, but are drawn with another random number generator. Raises
    UserError immediately for options that the bulk sampler does not support.
    """
    if not isinstance(engine, BulkSampler):
        raise UserError(f"sample.bulk=true is not allowed: backend={engine.info.backend} has no bulk sampler")
    if tokenizer.special:
        raise UserError("sample.bulk=true is not allowed: bulk sampling cannot detect the end of a chat model's answer")
    if policy.is_biased:
        raise UserError(
            "sample.bulk=true is not allowed: bulk sampling does not support a style's phrases; add style.bias=0"
        )
    room = block_size - len(prompt) + 1
    if policy.max_new_tokens is not None and policy.max_new_tokens > room:
        raise UserError(
            f"sample.max_new_tokens={policy.max_new_tokens} is not allowed: with sample.bulk=true, a sample cannot "
            f"exceed the block, which has room for {room}"
        )
    stop_reason = "block" if policy.max_new_tokens is None else "length"
    room, seed = policy.max_new_tokens or room, rng.getrandbits(62)

    def samples() -> Iterator[Sample]:
        for first in range(0, count, BULK_SIZE):
            size = min(BULK_SIZE, count - first)
            request = BulkRequest(prompt, size, room, policy.temperature, policy.top_k, seed, first)
            for text in engine.draw(0, request).texts:
                yield Sample(tokenizer.decode(text), stop_reason if len(text) == room else "end")

    return samples()


def phrase_rate(texts: Sequence[str], phrases: Sequence[str]) -> float | None:
    """Return the fraction of texts that contain one of the phrases; None without texts or phrases."""
    if not texts or not phrases:
        return None
    return sum(any(phrase in text for phrase in phrases) for text in texts) / len(texts)
