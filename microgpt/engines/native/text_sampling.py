"""Sampling texts one after the other with Python's random generator (kernels/text_sampling.py)."""

import random
from collections.abc import Sequence
from itertools import accumulate, chain

import numpy as np

from microgpt.engines.base import TextRequest
from microgpt.engines.native.kv_cache import COMPENSATED_SUM, DecodingBuffers
from microgpt.engines.native.python_random import State
from microgpt.errors import NonFiniteError

MOST_WORK = 1e9  # maximum tokens x parameters per call, so that Python can handle signals between calls


class TextSampler:
    """Samples texts from the models of `buffers.weights`."""

    def __init__(self, buffers: DecodingBuffers):
        self.buffers = buffers
        block, vocab = buffers.weights.spec.block_size, buffers.weights.spec.vocab_size
        self.ids, self.text, self.scores = np.zeros(3, np.int64), np.zeros(2 * block, np.int64), np.zeros(2 * vocab)

    def sample(self, replica: int, request: TextRequest, rng: random.Random) -> list[list[int]]:
        """See base.TextSampler."""
        buffers, weights, count = self.buffers, self.buffers.weights, len(request.prompts)
        vocab, block = weights.spec.vocab_size, weights.spec.block_size
        state = State(rng)
        drawn, lengths = np.zeros(count * block, np.int32), np.zeros(count, np.int64)
        tokens = request.tokens
        prompts, prompt_ends = flat(request.prompts)
        phrases, phrase_ends = flat(request.phrases)
        at_once = max(1, int(MOST_WORK / (block * weights.layout.size)))
        for begin in range(0, count, at_once):
            end = min(begin + at_once, count)
            done = weights.kernels.sample_texts(
                weights.parameters, weights.transposed, buffers.activations, buffers.cache, replica, prompts,
                prompt_ends, begin, end, request.max_new_tokens or block, request.temperature, request.top_k or vocab,
                tokens.is_end, tokens.is_word, tokens.has_text, phrases, phrase_ends, len(phrase_ends), request.bias,
                state.words, self.ids, self.text, self.scores, drawn, lengths, -1.0, COMPENSATED_SUM, buffers.record,
            )  # fmt: skip
            if done < 0:
                raise NonFiniteError("the model's logits contain NaN or infinity: training probably diverged")
        state.store(rng)
        rows = drawn.reshape(count, block).tolist()
        return [row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)]


def flat(sequences: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the concatenated sequences, and the end of each sequence."""
    return np.array([*chain(*sequences)], np.int64), np.array([*accumulate(map(len, sequences))], np.int64)
