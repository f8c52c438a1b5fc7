"""What options do to the heads of queries and keys: rope, qk_norm, and heads of keys and values that several share.

Rows have 3 head_lanes: q, k, v, with a slot for each head of q (layout.py); k and v have a copy of their head for each
head of q that shares it. `group` is the lanes of a slot's vectors, or of one vector of several slots.
"""

from numba.extending import register_jitable

from microgpt.engines.native.kernels import Floats, Int64s, inlined, kernel
from microgpt.engines.native.layout import LayoutRecord
from microgpt.engines.native.matmul import transpose
from microgpt.engines.native.simd.lanes import exchange, slot_sum
from microgpt.engines.native.simd.vector import LANES, fma, get, load, put, splat, sqrt, store


@register_jitable(forceinline=True)
def exchange_halves(x, width):
    """The halves of each aligned slot of `width` lanes (2, 4, 8 or 16) change places."""
    if width == 2:
        return exchange(x, 1)
    if width == 4:
        return exchange(x, 2)
    return exchange(x, 4) if width == 8 else exchange(x, 8)


@inlined
def rotate(A: Floats, x: int, table: int, group: int, width: int, sign: float):
    """RoPE of the slots of a group, in place: x cos + partner(x) sin, where sin has its sign; back with sign -1.

    Su et al., RoFormer (2021), with the pairs of Llama: a feature's partner has the same place in the other half.
    """
    if group == LANES:
        value = load(A, x)
        turned = exchange_halves(value, width) * load(A, table + LANES) * sign
        store(A, x, fma(value, load(A, table), turned))
    else:
        half = group // 2
        for i in range(x, x + half, LANES):
            first, second, t = load(A, i), load(A, i + half), table + i - x
            sin = load(A, t + group + half) * sign  # in the first half it is the negative
            store(A, i, fma(first, load(A, t), second * (0.0 - sin)))
            store(A, i + half, fma(second, load(A, t), first * sin))


@kernel
def encode_heads(A: Floats, qkv: int, scales: int, positions: Int64s, rows: int, z: LayoutRecord):
    """Rotate queries and keys, and normalize them, by head and in place; qk_norm leaves its factors at `scales`."""
    a, group, eps, share = z.head_lanes, z.slot_vectors * LANES, z.norm_eps, z.heads / z.embd
    for p in range(rows):
        table = z.rotations + get(positions, p) * 2 * group
        for x in range(qkv + p * 3 * a, qkv + p * 3 * a + 2 * a, group):
            if z.rotations >= 0:
                rotate(A, x, table, group, z.slot_width, 1.0)
            if z.qk_norm:
                squares = splat(A, 0.0)
                for i in range(x, x + group, LANES):
                    squares = fma(load(A, i), load(A, i), squares)
                scale = splat(A, 1.0) / sqrt(slot_sum(squares, z.slot_width) * share + eps)
                store(A, scales, scale)
                scales += LANES
                for i in range(x, x + group, LANES):
                    store(A, i, load(A, i) * scale)


@kernel
def encode_heads_backward(A: Floats, dqkv: int, qkv: int, scales: int, positions: Int64s, rows: int, z: LayoutRecord):
    """The gradients of queries and keys become those before `encode_heads`."""
    a, group, share = z.head_lanes, z.slot_vectors * LANES, z.heads / z.embd
    for p in range(rows):
        table = z.rotations + get(positions, p) * 2 * group
        for f in range(p * 3 * a, p * 3 * a + 2 * a, group):
            y, dy = qkv + f, dqkv + f
            if z.qk_norm:
                products = splat(A, 0.0)
                for i in range(0, group, LANES):
                    products = fma(load(A, dy + i), load(A, y + i), products)
                mean, scale = slot_sum(products, z.slot_width) * share, load(A, scales)
                scales += LANES
                for i in range(0, group, LANES):
                    store(A, dy + i, (load(A, dy + i) - load(A, y + i) * mean) * scale)
            if z.rotations >= 0:
                rotate(A, dy, table, group, z.slot_width, -1.0)


@kernel
def transpose_shared(P: Floats, w: int, b: int, T: Floats, t: int, t_bias: int, z: LayoutRecord):
    """T[i, :] = q, k, v of input i, from the matrix of q, k and v at w of P; their biases at `t_bias` from b.

    Blocks of 16 columns are copied: behind a narrower slot is what the next one, or at last q, overwrites.
    """
    e, a, kv, slot = z.embd_lanes, z.head_lanes, z.kv_lanes, z.slot_vectors * z.slot_width
    sharing = z.heads // z.kv_heads
    for part in range(2):
        target = (1 + part) * a
        for head in range(z.heads):
            source = a + part * kv + head // sharing * slot
            transpose(P, w + source * e, e, T, t + target + head * slot, 3 * a, slot, e)
            if z.bias:
                for i in range(slot):
                    put(T, t_bias + target + head * slot + i, get(P, b + source + i))
        for i in range(t + target, t + target + e * 3 * a, 3 * a):
            for lane in range(z.heads * slot, a):
                put(T, i + lane, 0.0)
    transpose(P, w, e, T, t, 3 * a, a, e)
    if z.bias:
        for i in range(0, a, LANES):
            store(T, t_bias + i, load(P, b + i))


@kernel
def add_up_shared(A: Floats, dqkv: int, rows: int, z: LayoutRecord):
    """The gradients of the copies of each head of k and v add up: rows begin with q, then k and v of kv_lanes."""
    a, kv, slot, sharing = z.head_lanes, z.kv_lanes, z.slot_vectors * z.slot_width, z.heads // z.kv_heads
    for p in range(rows):
        row = dqkv + p * 3 * a
        for part in range(2):
            copies, target = row + (1 + part) * a, row + a + part * kv  # `target` is never ahead of what is read
            for head in range(z.kv_heads):
                for i in range(slot):
                    total = 0.0
                    for n in range(head * sharing, (head + 1) * sharing):
                        total += get(A, copies + n * slot + i)
                    put(A, target + head * slot + i, total)
            for i in range(z.kv_heads * slot, kv):
                put(A, target + i, 0.0)
