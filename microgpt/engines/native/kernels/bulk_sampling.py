"""Bulk sampling in compiled code: many texts are in progress at once, each as one row of the decoder's passes."""

import math

import numpy as np

from microgpt.engines.native.kernels.declaration import Floats, Int32s, Int64s, LayoutRecord, UInt64, entry, kernel
from microgpt.engines.native.kernels.decoding import decode
from microgpt.engines.native.kernels.pointwise import mask_and_max
from microgpt.engines.native.kernels.simd.exp import LOG2_E, exp2
from microgpt.engines.native.kernels.simd.lanes import count_at_most, lane, prefix_sum
from microgpt.engines.native.kernels.simd.vector import LANES, get, load, load_splat, offset, put, splat, store

BELOW_ONE = 1 - 2.0**-22  # keeps u times the total, rounded to float32, below the total
UINT = np.uint64
GOLDEN, MIX1, MIX2 = UINT(0x9E3779B97F4A7C15), UINT(0xBF58476D1CE4E5B9), UINT(0x94D049BB133111EB)


@kernel
def scramble(x: UInt64) -> UInt64:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014)"""
    x = (x ^ (x >> UINT(30))) * MIX1
    x = (x ^ (x >> UINT(27))) * MIX2
    return x ^ (x >> UINT(31))


@kernel
def uniform(states: Int64s, row: int) -> float:
    """The next number in [0, 1) of a row's SplitMix64 generator"""
    state = UINT(get(states, row)) + GOLDEN
    put(states, row, np.int64(state))
    return np.float64(scramble(state) >> UINT(11)) * 2.0**-53


@kernel
def keep_top_k(A: Floats, logits: int, vocab: int, k: int):
    """Set all logits except the k largest to -1e30; among equal logits, the lower token is kept."""
    value, token = math.inf, -1
    for _ in range(k):
        next_value, next_token = -math.inf, vocab
        for i in range(vocab):
            logit = get(A, logits + i)
            if (logit < value or (logit == value and i > token)) and logit > next_value:
                next_value, next_token = logit, i
        value, token = next_value, next_token
    for i in range(vocab):
        logit = get(A, logits + i)
        if logit < value or (logit == value and i > token):
            put(A, logits + i, -1e30)


@kernel
def cumulative_weights(A: Floats, logits: int, sums: int, mask: Floats, inverse_temperature: float, top_k: int,
                       rows: int, z: LayoutRecord):  # fmt: skip
    """Replace each row of logits with prefix sums of exp((logit - largest) / temperature) over the top_k largest."""
    lanes = z.vocab_lanes
    for r in range(rows):
        row = logits + r * lanes
        if top_k < z.vocab:
            keep_top_k(A, row, z.vocab, top_k)
        put(A, sums + r, mask_and_max(A, row, row + lanes, mask))
    for r in range(rows):
        row, largest, before = logits + r * lanes, load_splat(A, sums + r), splat(A, 0.0)
        for i in range(row, row + lanes, LANES):
            before = prefix_sum(exp2((load(A, i) - largest) * (inverse_temperature * LOG2_E))) + before
            store(A, i, before)
            before = splat(A, lane(before, 15))


@kernel
def choose(A: Floats, sums: int, lanes: int, vocab: int, u: float) -> int:
    """The token selected by u in [0, 1), given the prefix sums of the tokens' weights"""
    threshold = splat(A, u * get(A, sums + vocab - 1) * BELOW_ONE)
    token = 0
    for i in range(sums, sums + lanes, LANES):
        token += count_at_most(load(A, i), threshold)
    return min(token, vocab - 1)


@kernel
def begin_text(ids: Int64s, slots: int, row: int, number: int, prompt: Int64s, seed: int):
    """Start a text in a row, with a generator determined by the seed and the number of the text."""
    put(ids, row, get(prompt, 0))
    put(ids, slots + row, 0)
    put(ids, 3 * slots + row, number)
    put(ids, 4 * slots + row, np.int64(scramble(scramble(UINT(seed)) + UINT(number) * GOLDEN)))


@entry
def draw_texts(P: Floats, T: Floats, A: Floats, cache: Floats, mask: Floats, model: int, prompt: Int64s,
               prompt_length: int, first: int, count: int, room: int, inverse_temperature: float, top_k: int,
               seed: int, ids: Int64s, slots: int, drawn: Int32s, lengths: Int64s, z: LayoutRecord) -> int:  # fmt: skip
    """Draw the texts `first` to first + count - 1; return the number of tokens drawn, or -1 for non-finite logits.

    drawn (count, room) receives the tokens of each text without prompt and end token, lengths (count,) their number; a
    text without an end token fills its room. A text depends on its number and the seed, but not on `slots`, the number
    of texts in progress at once: when a text ends, the next text takes its row. ids is scratch of 5 * slots integers:
    for each row the token, the position, the slot, the number of the text and the state of the generator.
    """
    end, active = z.vocab - 1, min(slots, count)
    for row in range(active):
        begin_text(ids, slots, row, first + row, prompt, seed)
        ids[2 * slots + row] = row
    begun, chosen = active, 0
    while active > 0:
        decode(P, T, A, cache, model, ids, slots, active, z)
        cumulative_weights(A, z.logits, z.sums, mask, inverse_temperature, top_k, active, z)
        row = 0
        while row < active:
            position, text = ids[slots + row] + 1, ids[3 * slots + row] - first
            ids[slots + row] = position
            if position < prompt_length:
                ids[row] = prompt[position]
                row += 1
                continue
            weights = z.logits + row * z.vocab_lanes
            if not math.isfinite(get(A, weights + end)):  # the last prefix sum is the sum of all weights
                return -1
            token = choose(A, weights, z.vocab_lanes, z.vocab, uniform(offset(ids, 4 * slots), row))
            chosen += 1
            length = position - prompt_length
            if token != end:
                drawn[text * room + length] = token
                length += 1
            if token != end and length < room:
                ids[row] = token
                row += 1
                continue
            lengths[text] = length
            if begun < count:
                begin_text(ids, slots, row, first + begun, prompt, seed)
                begun += 1
                row += 1
                continue
            active -= 1  # the last row moves to this row, with its token weights
            for part in range(5):
                ids[part * slots + row] = ids[part * slots + active]
            for i in range(0, z.vocab_lanes, LANES):
                store(A, weights + i, load(A, z.logits + active * z.vocab_lanes + i))
    return chosen
