"""inference/generation.py in compiled code: texts are sampled one after the other with Python's random generator.

The logits equal those of a `Decoder`, the random numbers equal those of random.Random, and tokens are selected by the
same operations in the same order (token_sampling.py). The texts are therefore identical, character for character.
"""

from microgpt.engines.native.kernels.declaration import Float64s, Floats, Int32s, Int64s, LayoutRecord, entry, kernel
from microgpt.engines.native.kernels.decoding import decode
from microgpt.engines.native.kernels.python_random import next_uniform
from microgpt.engines.native.kernels.simd.vector import get
from microgpt.engines.native.kernels.token_sampling import choose_by, to_probabilities


@kernel
def favour_phrases(scores: Float64s, vocab: int, text: Int64s, length: int, is_word: Int64s,
                   phrases: Int64s, ends: Int64s, count: int, bias: float):  # fmt: skip
    """Add `bias` once to each token that begins or continues a phrase; see phrase_characters in inference/sampling.py.

    `phrases` contains the concatenated token ids of `count` phrases, `ends` the end of each phrase; -1 is a character
    that the vocabulary lacks. text contains the characters so far. scores[vocab :] is scratch.
    """
    for i in range(vocab):
        scores[vocab + i] = 0.0
    begin = 0
    for number in range(count):
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


@entry
def sample_texts(P: Floats, T: Floats, A: Floats, cache: Floats, model: int, prompts: Int64s,
                 prompt_ends: Int64s, begin: int, end: int, most_tokens: int, temperature: float, top_k: int,
                 is_end: Int64s, is_word: Int64s, has_text: Int64s, phrases: Int64s,
                 phrase_ends: Int64s, phrase_count: int, bias: float, state: Int64s, ids: Int64s, text: Int64s,
                 scores: Float64s, drawn: Int32s, lengths: Int64s, minus_one: float, compensated: int,
                 z: LayoutRecord) -> int:  # fmt: skip
    """Sample the texts begin .. end - 1; return 0, or -1 if logits are non-finite.

    Text n continues prompts[prompt_ends[n - 1] : prompt_ends[n]] until an end token (is_end), `most_tokens` tokens or
    the end of the block. drawn (texts, block) receives the tokens of each text, lengths their number. The arrays
    is_end, is_word and has_text have one element per token id. ids, text and scores are scratch of 3, 2 * block and
    2 * vocab elements.
    """
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
                scores[i] = get(A, z.logits + i)
            if phrase_count > 0:
                favour_phrases(scores, z.vocab, text, length, is_word, phrases, phrase_ends, phrase_count, bias)
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
