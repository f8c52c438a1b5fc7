"""Options that change the heads of queries, keys and values: rope, qk_norm and grouped-query attention.

A row has 3 head_lanes lanes for q, k and v, each with one slot per query head (layout.py). In grouped-query attention,
k and v contain a copy of a head for each query head that shares it. `group` is the number of lanes of a slot of whole
vectors, or of one vector that contains several slots.
"""

from numba.extending import register_jitable

from microgpt.engines.native.kernels.declaration import Floats, Int64s, LayoutRecord, inlined, kernel
from microgpt.engines.native.kernels.matmul import transpose
from microgpt.engines.native.kernels.simd.lanes import exchange, slot_sum
from microgpt.engines.native.kernels.simd.vector import LANES, fma, get, load, put, splat, sqrt, store


@register_jitable(forceinline=True)
def exchange_halves(x, width):
    """Exchange the halves of each aligned slot of `width` lanes (2, 4, 8 or 16)."""
    if width == 2:
        return exchange(x, 1)
    if width == 4:
        return exchange(x, 2)
    return exchange(x, 4) if width == 8 else exchange(x, 8)


@inlined
def rotate(A: Floats, x: int, table: int, group: int, width: int, sign: float):
    """Apply RoPE in place to the slots of a group: x cos + partner(x) sin, with signed sin; sign=-1 rotates back.

    Su et al., RoFormer (2021), with Llama's pairs: a feature's partner has the same index in the other half.
    """
    if group == LANES:
        value = load(A, x)
        turned = exchange_halves(value, width) * load(A, table + LANES) * sign
        store(A, x, fma(value, load(A, table), turned))
    else:
        half = group // 2
        for i in range(x, x + half, LANES):
            first, second, t = load(A, i), load(A, i + half), table + i - x
            sin = load(A, t + group + half) * sign  # from the second half; the first half of the table has -sin
            store(A, i, fma(first, load(A, t), second * (0.0 - sin)))
            store(A, i + half, fma(second, load(A, t), first * sin))


@kernel
def encode_heads(A: Floats, qkv: int, scales: int, positions: Int64s, rows: int, z: LayoutRecord):
    """Rotate and normalize queries and keys in place, per head; qk_norm stores its factors at `scales`."""
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
    """Replace the gradients of queries and keys with the gradients of the inputs of `encode_heads`."""
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
    """T[i, :] = q, k, v of input i, from the matrix of q, k and v at P[w]; biases are copied from P[b] to T[t_bias].

    Blocks of 16 columns are copied: the lanes written after a narrower slot are overwritten by the next slot or by q.
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
    """Add the gradients of the copies of each head of k and v. Rows then contain q, followed by k and v of kv_lanes."""
    a, kv, slot, sharing = z.head_lanes, z.kv_lanes, z.slot_vectors * z.slot_width, z.heads // z.kv_heads
    for p in range(rows):
        row = dqkv + p * 3 * a
        for part in range(2):
            copies, target = row + (1 + part) * a, row + a + part * kv  # never overwrites unread copies
            for head in range(z.kv_heads):
                for i in range(slot):
                    total = 0.0
                    for n in range(head * sharing, (head + 1) * sharing):
                        total += get(A, copies + n * slot + i)
                    put(A, target + head * slot + i, total)
            for i in range(z.kv_heads * slot, kv):
                put(A, target + i, 0.0)
