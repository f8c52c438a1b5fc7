"""Python's random generator in compiled code: the numbers and the shuffle of random.Random."""

import math

from microgpt.engines.native.kernels.declaration import Float64s, Int32s, Int64s, entry, kernel

STATE_WORDS, STATE_MIDDLE = 624, 397  # of MT19937; after its words, a state contains the number of used words


@kernel
def next_word(state: Int64s) -> int:
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
def next_uniform(state: Int64s) -> float:
    """The next number of random.Random.random"""
    high = next_word(state) >> 5
    return (high * 67108864.0 + (next_word(state) >> 6)) * (1.0 / 9007199254740992.0)


@entry
def shuffle(order: Int32s, count: int, state: Int64s):
    """Permute `count` numbers as random.Random.shuffle permutes a list."""
    for i in range(count - 1, 0, -1):
        shift = 32
        while i + 1 >= 1 << (32 - shift):
            shift -= 1
        j = next_word(state) >> shift
        while j > i:
            j = next_word(state) >> shift
        order[i], order[j] = order[j], order[i]


@entry
def fill_normals(values: Float64s, count: int, state: Int64s):
    """Write an even number of random.Random.gauss(0, 1), if the generator keeps no earlier number."""
    for i in range(0, count, 2):
        angle = next_uniform(state) * (2.0 * math.pi)
        radius = math.sqrt(-2.0 * math.log(1.0 - next_uniform(state)))
        values[i], values[i + 1] = math.cos(angle) * radius, math.sin(angle) * radius
