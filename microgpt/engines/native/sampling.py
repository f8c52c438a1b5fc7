"""Texts drawn from a trained model, many at a time: each row of a pass is the next position of another text."""

import math

import numpy as np

from microgpt.engines.native.attention import LOG2_E, TILE, exponentiate, mix, normalize, score
from microgpt.engines.native.kernel_cache import ARRAY, DOUBLE, I32_ARRAY, I64, I64_ARRAY, INT, U64, F, kernel
from microgpt.engines.native.layout import LAYOUT
from microgpt.engines.native.model import conclude, enter, leave, project
from microgpt.engines.native.simd.exp import exp2
from microgpt.engines.native.simd.lanes import count_at_most, lane, largest_lane, running_sum
from microgpt.engines.native.simd.types import LANES, data, get, load, load_splat, maximum, put, shift, splat, store

BELOW_ONE = 1 - 2.0**-22  # so that no rounding to float32 takes a number below 1 to the end of the last token's share
UINT = np.uint64
GOLDEN, MIX1, MIX2 = UINT(0x9E3779B97F4A7C15), UINT(0xBF58476D1CE4E5B9), UINT(0x94D049BB133111EB)


@kernel(F, F, INT, I64, I64, INT, LAYOUT)
def remember(A, cache, layer, positions, slots, rows, z):
    """Keys and values of `rows` new positions go into the cache: (slots, layers, block, 2 head_lanes)."""
    a, qkv = z.head_lanes, layer * z.w_layer + z.qkv_rows
    for r in range(rows):
        own = ((get(slots, r) * z.n_layer + layer) * z.block + get(positions, r)) * 2 * a
        for i in range(0, 2 * a, LANES):
            store(cache, own + i, load(A, qkv + r * 3 * a + a + i))


@kernel(F, F, INT, I64, I64, INT, LAYOUT)
def attend(A, cache, layer, positions, slots, rows, z):
    """Each row's query over the positions of its own text, in the same phases as attention over whole texts."""
    a, step, scale = z.head_lanes, z.span * LANES, 1.0 / math.sqrt(z.embd / z.heads)
    s, probs, s_row = layer * z.w_layer, z.scratch + TILE * LANES, z.block * LANES
    size = z.n_layer * z.block * 2 * a  # of a slot
    first = layer * z.block * 2 * a
    for begin in range(0, rows, TILE):
        end = min(begin + TILE, rows)
        for f in range(0, a, step):
            for r in range(begin, end):
                score(A, s + z.qkv_rows + r * 3 * a + f, cache, get(slots, r) * size + first + f, 2 * a,
                      probs + (r - begin) * s_row, z.scratch + (r - begin) * LANES, get(positions, r) + 1, z.span,
                      z.width, scale)  # fmt: skip
            for r in range(begin, end):
                exponentiate(A, probs + (r - begin) * s_row, z.scratch + (r - begin) * LANES, get(positions, r) + 1)
            for r in range(begin, end):
                normalize(A, probs + (r - begin) * s_row, z.scratch + (r - begin) * LANES, get(positions, r) + 1)
            for r in range(begin, end):
                mix(A, s + z.attended + r * a + f, cache, get(slots, r) * size + first + a + f, 2 * a,
                    probs + (r - begin) * s_row, get(positions, r) + 1, z.span)  # fmt: skip


@kernel(F, F, F, F, I64, I64, I64, INT, LAYOUT)
def decode(P, T, A, cache, tokens, positions, slots, rows, z):
    """Logits of `rows` texts that go on by a token each; keys and values of earlier positions are in the cache."""
    enter(P, A, tokens, positions, rows, z)
    for layer in range(z.n_layer):
        project(T, A, layer, rows, z)
        remember(A, cache, layer, positions, slots, rows, z)
        attend(A, cache, layer, positions, slots, rows, z)
        conclude(T, A, layer, rows, z)
    leave(T, A, rows, z)


@kernel(ARRAY, ARRAY, ARRAY, ARRAY, INT, I64_ARRAY, INT, LAYOUT)
def feed(P, T, A, cache, model, ids, rows, z):
    """`decode` for Python: ids are `rows` tokens, positions and slots."""
    p, t, numbers = data(P, model * z.size), data(T, model * z.t_size), data(ids, 0)
    decode(p, t, data(A, 0), data(cache, 0), numbers, shift(numbers, rows), shift(numbers, 2 * rows), rows, z)


@kernel(U64, returns=U64)
def scramble(x):
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014)."""
    x = (x ^ (x >> UINT(30))) * MIX1
    x = (x ^ (x >> UINT(27))) * MIX2
    return x ^ (x >> UINT(31))


@kernel(I64, INT, returns=DOUBLE)
def uniform(states, row):
    """The next number in [0, 1) of a text's own stream: SplitMix64."""
    state = UINT(get(states, row)) + GOLDEN
    put(states, row, np.int64(state))
    return np.float64(scramble(state) >> UINT(11)) * 2.0**-53


@kernel(F, INT, INT, INT)
def keep_largest(A, logits, vocab, count):
    """All but the `count` largest logits become as good as minus infinity; ties go to the lower token."""
    value, token = math.inf, -1
    for _ in range(count):
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


@kernel(F, INT, INT, F, DOUBLE, INT, INT, LAYOUT)
def weigh(A, logits, sums, padding, inverse_temperature, top_k, rows, z):
    """Logits become running sums of exp(logit / temperature), scaled by a row's largest, over the top_k largest."""
    lanes = z.vocab_lanes
    for r in range(rows):
        row, end = logits + r * lanes, logits + (r + 1) * lanes - LANES
        if top_k < z.vocab:
            keep_largest(A, row, z.vocab, top_k)
        store(A, end, load(A, end) + load(padding, 0))
        largest = load(A, end)
        for i in range(row, end, LANES):
            largest = maximum(load(A, i), largest)
        put(A, sums + r, lane(largest_lane(largest), 0))
    for r in range(rows):
        row, largest, before = logits + r * lanes, load_splat(A, sums + r), splat(A, 0.0)
        for i in range(row, row + lanes, LANES):
            before = running_sum(exp2((load(A, i) - largest) * (inverse_temperature * LOG2_E))) + before
            store(A, i, before)
            before = splat(A, lane(before, 15))


@kernel(F, INT, INT, INT, DOUBLE, returns=INT)
def choose(A, sums, lanes, vocab, u):
    """The token into which u in [0, 1) falls, given the running sums of the tokens' weights."""
    threshold = splat(A, u * get(A, sums + vocab - 1) * BELOW_ONE)
    token = 0
    for i in range(sums, sums + lanes, LANES):
        token += count_at_most(load(A, i), threshold)
    return min(token, vocab - 1)


@kernel(I64, INT, INT, INT, I64, INT)
def begin_text(ids, slots, row, text, prompt, seed):
    """Text number `text` starts in a row, with a stream of numbers that its number and the seed determine."""
    put(ids, row, get(prompt, 0))
    put(ids, slots + row, 0)
    put(ids, 3 * slots + row, text)
    put(ids, 4 * slots + row, np.int64(scramble(scramble(UINT(seed)) + UINT(text) * GOLDEN)))


@kernel(ARRAY, ARRAY, ARRAY, ARRAY, ARRAY, INT, I64_ARRAY, INT, INT, INT, DOUBLE, INT, INT, I64_ARRAY, INT, I32_ARRAY,
        I64_ARRAY, LAYOUT, returns=INT)  # fmt: skip
def sample(P, T, A, cache, padding, model, prompt, first_text, count, room, inverse_temperature, top_k, seed, ids,
           slots, drawn, lengths, z):  # fmt: skip
    """Draw the texts from number first_text on; returns how many tokens were chosen, ends included; -1 for bad logits.

    drawn (count, room) gets a text's tokens without prompt and end, lengths (count,) how many; one that does not end
    fills its room. What a text becomes depends on its number and the seed, not on `slots`, how many are under way: as
    soon as one has ended the next takes its row. ids is scratch: the rows' tokens, positions, slots, texts and states.
    """
    p, t, a = data(P, model * z.size), data(T, model * z.t_size), data(A, 0)
    kept, pad, row_ids, asked = data(cache, 0), data(padding, 0), data(ids, 0), data(prompt, 0)
    end, prompt_length = z.vocab - 1, len(prompt)
    active = min(slots, count)
    for row in range(active):
        begin_text(row_ids, slots, row, first_text + row, asked, seed)
        ids[2 * slots + row] = row
    begun, chosen = active, 0
    while active > 0:
        decode(p, t, a, kept, row_ids, shift(row_ids, slots), shift(row_ids, 2 * slots), active, z)
        weigh(a, z.logits, z.sums, pad, inverse_temperature, top_k, active, z)
        row = 0
        while row < active:
            position, text = ids[slots + row] + 1, ids[3 * slots + row] - first_text
            ids[slots + row] = position
            if position < prompt_length:
                ids[row] = prompt[position]
                row += 1
                continue
            if not math.isfinite(get(a, z.logits + row * z.vocab_lanes + end)):  # the sum of all weights
                return -1
            u = uniform(shift(row_ids, 4 * slots), row)
            token = choose(a, z.logits + row * z.vocab_lanes, z.vocab_lanes, z.vocab, u)
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
                begin_text(row_ids, slots, row, first_text + begun, asked, seed)
                begun += 1
                row += 1
                continue
            active -= 1  # the last row moves here, and what it is to choose from
            for part in range(5):
                ids[part * slots + row] = ids[part * slots + active]
            for i in range(0, z.vocab_lanes, LANES):
                store(a, z.logits + row * z.vocab_lanes + i, load(a, z.logits + active * z.vocab_lanes + i))
    return chosen
