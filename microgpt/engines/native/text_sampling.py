"""inference/generation.py in compiled code: texts are sampled one after the other with Python's random generator.

The logits equal those of a `Decoder`, the random numbers equal those of random.Random, and tokens are selected by the
same operations in the same order (sampling_kernels.py). The texts are therefore identical, character for character.
"""

import random
from collections.abc import Sequence
from itertools import accumulate, chain

import numpy as np

from microgpt.engines.base import TextRequest
from microgpt.engines.native.kernels import (
    Float64Array,
    FloatArray,
    Floats,
    Int32Array,
    Int64Array,
    kernel,
)
from microgpt.engines.native.kv_cache import DecodingBuffers, decode
from microgpt.engines.native.layout import LayoutRecord
from microgpt.engines.native.python_random import State, next_uniform
from microgpt.engines.native.sampling_kernels import COMPENSATED_SUM, choose_by, to_probabilities
from microgpt.engines.native.simd.vector import get, pointer
from microgpt.errors import NonFiniteError

MOST_WORK = 1e9  # maximum tokens x parameters per call, so that Python can handle signals between calls


@kernel
def favour_phrases(scores: Float64Array, vocab: int, text: Int64Array, length: int, is_word: Int64Array,
                   phrases: Int64Array, ends: Int64Array, bias: float):  # fmt: skip
    """Add `bias` once to each token that begins or continues a phrase; see phrase_characters in inference/sampling.py.

    `phrases` contains the concatenated token ids of all phrases, `ends` the end of each phrase; -1 is a character that
    the vocabulary lacks. text contains the characters so far. scores[vocab :] is scratch.
    """
    for i in range(vocab):
        scores[vocab + i] = 0.0
    begin = 0
    for number in range(len(ends)):
        size = ends[number] - begin
        for matched in range(min(size - 1, length), -1, -1):
            start = length - matched
            fits = start == 0 or is_word[text[start - 1]] == 0
            for i in range(matched):
                fits = fits and text[start + i] == phrases[begin + i]
            if fits:
                token = phrases[begin + matched]
                if token >= 0 and scores[vocab + token] == 0.0:
                    scores[vocab + token] = 1.0
                    scores[token] += bias
                break
        begin = ends[number]


@kernel
def sample_texts(P: FloatArray, T: FloatArray, A: FloatArray, cache: FloatArray, model: int, prompts: Int64Array,
                 prompt_ends: Int64Array, begin: int, end: int, most_tokens: int, temperature: float, top_k: int,
                 is_end: Int64Array, is_word: Int64Array, has_text: Int64Array, phrases: Int64Array,
                 phrase_ends: Int64Array, bias: float, state: Int64Array, ids: Int64Array, text: Int64Array,
                 scores: Float64Array, drawn: Int32Array, lengths: Int64Array, minus_one: float, compensated: int,
                 z: LayoutRecord) -> int:  # fmt: skip
    """Sample the texts begin .. end - 1; return 0, or -1 if logits are non-finite.

    Text n continues prompts[prompt_ends[n - 1] : prompt_ends[n]] until an end token (is_end), `most_tokens` tokens or
    the end of the block. drawn (texts, block) receives the tokens of each text, lengths their number. The arrays
    is_end, is_word and has_text have one element per token id. ids, text and scores are scratch of 3, 2 * block and
    2 * vocab elements.
    """
    a: Floats = pointer(A, 0)
    for number in range(begin, end):
        first = prompt_ends[number - 1] if number > 0 else 0
        length, made, position = 0, 0, 0
        for i in range(first, prompt_ends[number]):
            token = prompts[i]
            if has_text[token] == 1:
                text[length] = token
                length += 1
            ids[0], ids[1], ids[2] = token, position, 0
            decode(P, T, A, cache, model, ids, 1, 1, z)
            position += 1
        while True:
            for i in range(z.vocab):
                scores[i] = get(a, z.logits + i)
            if len(phrase_ends) > 0:
                favour_phrases(scores, z.vocab, text, length, is_word, phrases, phrase_ends, bias)
            if not to_probabilities(scores, 0, z.vocab, temperature, top_k, minus_one, compensated):
                return -1
            token = choose_by(scores, 0, z.vocab, next_uniform(state))
            if is_end[token] == 1:
                break
            drawn[number * z.block + made] = token
            made += 1
            if made == most_tokens or position == z.block:
                break
            text[length] = token
            length += 1
            ids[0], ids[1], ids[2] = token, position, 0
            decode(P, T, A, cache, model, ids, 1, 1, z)
            position += 1
        lengths[number] = made
    return 0


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
            done = sample_texts(
                weights.parameters, weights.transposed, buffers.activations, buffers.cache, replica, prompts,
                prompt_ends, begin, end, request.max_new_tokens or block, request.temperature, request.top_k or vocab,
                tokens.is_end, tokens.is_word, tokens.has_text, phrases, phrase_ends, request.bias, state.words,
                self.ids, self.text, self.scores, drawn, lengths, -1.0, COMPENSATED_SUM, buffers.record,
            )  # fmt: skip
            if done < 0:
                raise NonFiniteError("the model's logits contain NaN or infinity: training probably diverged")
        state.store(rng)
        rows = drawn.reshape(count, block).tolist()
        return [row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)]


def flat(sequences: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the concatenated sequences, and the end of each sequence."""
    return np.array([*chain(*sequences)], np.int64), np.array([*accumulate(map(len, sequences))], np.int64)
