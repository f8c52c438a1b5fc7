"""From logits to text: temperature, top-k, a style's bias, and the reason to stop. The same for every engine."""

import math
import random
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from microgpt.data.tokenizer import Tokenizer
from microgpt.engines.base import BulkSampler, Decoder, Engine
from microgpt.errors import NonFiniteError, UserError

BULK_PIECE = 50_000  # texts that are drawn in one call, and held in memory
SMALLEST_TEMPERATURE = 1e-100  # below, dividing by it could overflow, and the likeliest token is certain anyway


@dataclass(frozen=True)
class SamplingPolicy:
    temperature: float = 0.5  # 0: always the likeliest token
    top_k: int | None = None
    max_new_tokens: int | None = None  # None: until the block is full
    phrases: tuple[str, ...] = ()  # favoured
    bias: float = 0.0  # added to the logit of a favoured phrase's next character

    def without_bias(self) -> "SamplingPolicy":
        return SamplingPolicy(self.temperature, self.top_k, self.max_new_tokens)


@dataclass(frozen=True)
class Sample:
    text: str  # without the prompt
    stop_reason: str  # end: the model ended the document; length: max_new_tokens; block: the block is full


def encode_prompt(prompt: str, tokenizer: Tokenizer, block_size: int, name: str = "sample.prompt") -> list[int]:
    """[BOS] + the prompt's characters. Raises UserError for unknown characters and for a prompt that does not fit."""
    tokens = [tokenizer.bos, *tokenizer.encode(prompt, name)]
    if len(tokens) > block_size:
        raise UserError(f"prompt token count {len(tokens)} exceeds max prompt tokens {block_size}")
    return tokens


def generate(
    new_decoder: Callable[[], Decoder],
    tokenizer: Tokenizer,
    block_size: int,
    prompt: Sequence[int],
    policy: SamplingPolicy,
    rng: random.Random,
) -> Sample:
    """One continuation of `prompt` (token ids, BOS first)."""
    drawn = continuation(new_decoder, tokenizer, block_size, prompt, policy, rng)
    tokens = []
    while True:
        try:
            tokens.append(next(drawn))
        except StopIteration as ended:
            return Sample(tokenizer.decode(tokens), ended.value)


def continuation(
    new_decoder: Callable[[], Decoder],
    tokenizer: Tokenizer,
    block_size: int,
    prompt: Sequence[int],
    policy: SamplingPolicy,
    rng: random.Random,
) -> Generator[int, None, str]:
    """Sample the tokens that follow `prompt` one by one, each when it is asked for; returns the reason to stop."""
    text = Continuation(tokenizer, block_size, prompt, policy, rng)
    decoder = None
    while text.stop_reason is None:
        if decoder is None or text.position == 0:
            decoder = new_decoder()
        *earlier, last = text.pending
        for token in earlier:
            decoder.feed(token)
        token = text.draw(decoder.feed(last))
        if text.stop_reason != "end":
            yield token
    return text.stop_reason


class Continuation:
    """A text being drawn, without an engine: it says which tokens are to be read next, and draws from their logits.

    Without max_new_tokens it ends where the block ends. With it, a full block slides: the later half of the text is
    read again from position 0, and generation goes on.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        block_size: int,
        prompt: Sequence[int],
        policy: SamplingPolicy,
        rng: random.Random,
    ):
        self.tokenizer, self.block_size, self.policy, self.rng = tokenizer, block_size, policy, rng
        self.tokens = list(prompt)
        self.drawn = 0
        self.pending = list(prompt)  # to be read next
        self.position = 0  # of the first of them; 0 where a text begins anew
        self.probs: list[float] = []  # what the last token was drawn from
        self.stop_reason: str | None = None  # as in Sample, once it has ended

    def draw(self, logits: Sequence[float]) -> int:
        """Choose the token that follows those that were pending, by the logits after the last of them.

        The token that ends a text ("end") belongs to it no more.
        """
        self.probs = probabilities(biased(logits, self.tokens, self.tokenizer, self.policy), self.policy)
        token = self.rng.choices(range(len(self.probs)), weights=self.probs)[0]
        self.position += len(self.pending)
        self.pending = [token]
        if token in self.tokenizer.ends:
            self.stop_reason = "end"
            return token
        self.tokens.append(token)
        self.drawn += 1
        if self.drawn == self.policy.max_new_tokens:
            self.stop_reason = "length"
        elif self.position == self.block_size:
            if self.policy.max_new_tokens is None:
                self.stop_reason = "block"
            self.pending, self.position = self.tokens[-max(self.block_size // 2, 1) :], 0
        return token


def generate_many(
    engine: Engine,
    tokenizer: Tokenizer,
    block_size: int,
    prompt: Sequence[int],
    policy: SamplingPolicy,
    count: int,
    rng: random.Random,
) -> Iterator[Sample]:
    """`count` continuations of `prompt` by an engine's own sampler: the same distribution, other random numbers.

    Raises UserError at once for what such a sampler does not do.
    """
    if not isinstance(engine, BulkSampler):
        raise UserError(f"sample.bulk=true is not allowed: backend={engine.info.backend} has no sampler of its own")
    if tokenizer.special:
        raise UserError("sample.bulk=true is not allowed: it does not know where an answer of a chat model ends")
    if policy.phrases and policy.bias != 0:
        raise UserError("sample.bulk=true is not allowed: it favours no phrases; say style.bias=0")
    room = block_size - len(prompt) + 1
    if policy.max_new_tokens is not None and policy.max_new_tokens > room:
        raise UserError(
            f"sample.max_new_tokens={policy.max_new_tokens} is not allowed: with sample.bulk=true a text ends with the "
            f"block, which has room for {room}"
        )
    stop_reason = "block" if policy.max_new_tokens is None else "length"
    room, seed = policy.max_new_tokens or room, rng.getrandbits(62)

    def samples() -> Iterator[Sample]:
        for first in range(0, count, BULK_PIECE):
            size = min(BULK_PIECE, count - first)
            draws = engine.draw(0, prompt, size, room, policy.temperature, policy.top_k, seed, first)
            for text in draws.texts:
                yield Sample(tokenizer.decode(text), stop_reason if len(text) == room else "end")

    return samples()


def probabilities(logits: Sequence[float], policy: SamplingPolicy) -> list[float]:
    """softmax(logits / temperature) over the top_k likeliest tokens; temperature 0 puts everything on the likeliest.

    Ties go to the lower id. The order of operations is microgpt.py's, so that equal draws choose equal tokens.
    Raises NonFiniteError for logits that are not numbers.
    """
    if not all(math.isfinite(logit) for logit in logits):
        raise NonFiniteError("the model's logits are not finite")
    if policy.temperature < SMALLEST_TEMPERATURE:
        best = max(range(len(logits)), key=lambda i: logits[i])
        return [float(i == best) for i in range(len(logits))]
    scale = policy.temperature**-1
    scaled = [logit * scale for logit in logits]
    if policy.top_k is not None and policy.top_k < len(scaled):
        kept = set(sorted(range(len(scaled)), key=lambda i: -scaled[i])[: policy.top_k])
        scaled = [logit if i in kept else -math.inf for i, logit in enumerate(scaled)]
    largest = max(scaled)
    exps = [math.exp(logit - largest) for logit in scaled]
    norm = sum(exps) ** -1
    return [e * norm for e in exps]


def biased(
    logits: Sequence[float], tokens: Sequence[int], tokenizer: Tokenizer, policy: SamplingPolicy
) -> Sequence[float]:
    """Add the style's bias to every character that would begin or continue one of its phrases."""
    if not policy.phrases or policy.bias == 0:
        return logits
    raised = list(logits)
    for char in favoured(tokenizer.decode(tokens), policy.phrases):
        if char in tokenizer.ids:
            raised[tokenizer.ids[char]] += policy.bias
    return raised


def favoured(text: str, phrases: Sequence[str]) -> set[str]:
    """The characters that continue a phrase: at the start of a word each phrase's first, within one the next.

    A phrase is under way where the text ends with its beginning and that beginning stands at the start of a word.
    """
    chars = set()
    for phrase in phrases:
        for length in range(min(len(phrase) - 1, len(text)), -1, -1):
            start = len(text) - length
            at_word_start = start == 0 or not text[start - 1].isalnum()
            if at_word_start and text[start:] == phrase[:length]:
                chars.add(phrase[length])
                break
    return chars


def phrase_rate(texts: Sequence[str], phrases: Sequence[str]) -> float | None:
    """Share of the texts in which one of the phrases occurs; None without texts or phrases."""
    if not texts or not phrases:
        return None
    return sum(any(phrase in text for phrase in phrases) for text in texts) / len(texts)
