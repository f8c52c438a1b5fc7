"""Computes the next token's probabilities from logits: temperature, top-k and a style's bias, for all engines."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from microgpt.data.tokenizer import Tokenizer
from microgpt.errors import NonFiniteError

SMALLEST_TEMPERATURE = 1e-100  # below this, 1 / temperature could overflow, and the most likely token is certain anyway


@dataclass(frozen=True)
class SamplingPolicy:
    temperature: float = 0.5  # 0: always the most likely token
    top_k: int | None = None  # None: the whole vocabulary
    max_new_tokens: int | None = None  # None: until the block is full
    phrases: tuple[str, ...] = ()  # of the style
    bias: float = 0.0  # added to the logit of each character that starts or continues a phrase

    @property
    def is_biased(self) -> bool:
        return bool(self.phrases) and self.bias != 0

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always chosen."""
        return self.temperature < SMALLEST_TEMPERATURE

    def without_bias(self) -> "SamplingPolicy":
        return SamplingPolicy(self.temperature, self.top_k, self.max_new_tokens)


def probabilities(logits: Sequence[float], policy: SamplingPolicy) -> list[float]:
    """Return softmax(logits / temperature) over the top_k most likely tokens; at temperature 0, the most likely has 1.

    Ties go to the lower id. The order of operations is that of microgpt.py, so that the same random number selects the
    same token. Raises NonFiniteError for non-finite logits.
    """
    if not all(math.isfinite(logit) for logit in logits):
        raise NonFiniteError("the model's logits contain NaN or infinity: training probably diverged")
    if policy.is_greedy:
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


def add_style_bias(
    logits: Sequence[float], tokens: Sequence[int], tokenizer: Tokenizer, policy: SamplingPolicy
) -> Sequence[float]:
    """Return the logits (vocab_size,) with the style's bias added to characters that start or continue its phrases."""
    if not policy.is_biased:
        return logits
    biased = list(logits)
    for char in phrase_characters(tokenizer.decode(tokens), policy.phrases):
        if char in tokenizer.ids:
            biased[tokenizer.ids[char]] += policy.bias
    return biased


def phrase_characters(text: str, phrases: Sequence[str]) -> set[str]:
    """Return the characters that start or continue a phrase after `text`.

    A phrase can start only at the start of a word. It continues if the text ends with the first part of the phrase, and
    that part is at the start of a word.
    """
    chars = set()
    for phrase in phrases:
        for length in range(min(len(phrase) - 1, len(text)), -1, -1):
            start = len(text) - length
            starts_word = start == 0 or not text[start - 1].isalnum()
            if starts_word and text[start:] == phrase[:length]:
                chars.add(phrase[length])
                break
    return chars
