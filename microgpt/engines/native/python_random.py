"""Python's random generator in compiled code: the numbers and the shuffle of random.Random."""

import math
import random

import numpy as np

from microgpt.engines.native.kernels import Float64Array, Int32Array, Int64Array, entry, kernel

STATE_WORDS, STATE_MIDDLE = 624, 397  # of MT19937; after its words, a state contains the number of used words


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
    """The next number of random.Random.random"""
    high = next_word(state) >> 5
    return (high * 67108864.0 + (next_word(state) >> 6)) * (1.0 / 9007199254740992.0)


@entry
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


@entry
def fill_normals(values: Float64Array, state: Int64Array):
    """Fill an array of even length with numbers of random.Random.gauss(0, 1), which must keep no earlier number."""
    for i in range(0, len(values), 2):
        angle = next_uniform(state) * (2.0 * math.pi)
        radius = math.sqrt(-2.0 * math.log(1.0 - next_uniform(state)))
        values[i], values[i + 1] = math.cos(angle) * radius, math.sin(angle) * radius


class State:
    """The state of a generator in the form that kernels receive."""

    def __init__(self, rng: random.Random):
        self.version, words, self.gauss_next = rng.getstate()
        self.words = np.array(words, np.int64)

    def store(self, rng: random.Random) -> None:
        """Set the generator to this state, which kernels have advanced."""
        rng.setstate((self.version, tuple(self.words.tolist()), self.gauss_next))


def shuffled(count: int, rng: random.Random) -> np.ndarray:
    """Return the same result as the function of this name in data/batches.py."""
    state, order = State(rng), np.arange(count, dtype=np.int32)
    shuffle(order, state.words)
    state.store(rng)
    return order


def standard_normals(rng: random.Random, count: int) -> list[float]:
    """Return the same result as the function of this name in model/init.py."""
    state, kept = State(rng), rng.getstate()[2]
    first = [] if kept is None else [kept]
    values = np.zeros((count - len(first) + 1) // 2 * 2)
    fill_normals(values, state.words)
    found = [*first, *values.tolist()]
    state.gauss_next = found[count] if len(found) > count else None
    state.store(rng)
    return found[:count]
