"""Python's random generator in compiled code: the numbers of random.Random, and its shuffle."""

import random

import numpy as np

from microgpt.engines.native.compilation import Int32Array, Int64Array, kernel

STATE_WORDS, STATE_MIDDLE = 624, 397  # of MT19937; a state has one more number: how many of the words are used


@kernel
def next_word(state: Int64Array) -> int:
    """The next 32 random bits of MT19937 (Matsumoto and Nishimura, 1998)"""
    if state[STATE_WORDS] >= STATE_WORDS:
        for i in range(STATE_WORDS):
            y = (state[i] & 0x80000000) | (state[(i + 1) % STATE_WORDS] & 0x7FFFFFFF)
            state[i] = state[(i + STATE_MIDDLE) % STATE_WORDS] ^ (y >> 1) ^ ((y & 1) * 0x9908B0DF)
        state[STATE_WORDS] = 0
    y = state[state[STATE_WORDS]]
    state[STATE_WORDS] += 1
    y ^= y >> 11
    y ^= (y << 7) & 0x9D2C5680
    y ^= (y << 15) & 0xEFC60000
    return y ^ (y >> 18)


@kernel
def next_uniform(state: Int64Array) -> float:
    """What random.Random.random returns next"""
    high = next_word(state) >> 5
    return (high * 67108864.0 + (next_word(state) >> 6)) * (1.0 / 9007199254740992.0)


@kernel
def shuffle(order: Int32Array, state: Int64Array):
    """Permute an array as random.Random.shuffle permutes a list."""
    for i in range(len(order) - 1, 0, -1):
        shift = 32
        while i + 1 >= 1 << (32 - shift):
            shift -= 1
        j = next_word(state) >> shift
        while j > i:
            j = next_word(state) >> shift
        order[i], order[j] = order[j], order[i]


class State:
    """The state of a generator as kernels take it."""

    def __init__(self, rng: random.Random):
        self.version, words, self.gauss_next = rng.getstate()
        self.words = np.array(words, np.int64)

    def store(self, rng: random.Random) -> None:
        """Set the generator to where kernels have brought the state."""
        rng.setstate((self.version, tuple(self.words.tolist()), self.gauss_next))
