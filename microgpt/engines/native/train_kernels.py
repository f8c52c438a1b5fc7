"""What Python calls: k training steps, an evaluation, the gradient of a part of a batch. Nothing here holds the GIL."""

import math

from microgpt.engines.native.kernel_cache import (
    ARRAY,
    DOUBLE,
    F64_ARRAY,
    I32,
    I32_ARRAY,
    I64,
    I64_ARRAY,
    INT,
    F,
    kernel,
)
from microgpt.engines.native.layout import LAYOUT
from microgpt.engines.native.model import backward, forward, gather, transpose_all
from microgpt.engines.native.optimizers import OPTIMIZER, update
from microgpt.engines.native.pointwise import cross_entropy
from microgpt.engines.native.simd.types import LANES, data, get, load, prefetch, shift, store


@kernel(F, F, F, F, I32, I64, I64, I64, INT, INT, DOUBLE, I64, F, LAYOUT, returns=DOUBLE)
def part_loss(P, T, G, A, tokens, starts, ends, batch, begin, end, weight, ids, padding, z):
    """Sum of the losses of the examples batch[begin : end], chunk after chunk; G becomes `weight` times its gradient.

    A weight of 0 asks for the loss alone: G stays as it is.
    """
    inputs, targets = ids, shift(ids, z.rows)
    positions, begins = shift(ids, 2 * z.rows), shift(ids, 3 * z.rows)
    total, b = 0.0, begin
    while b < end:
        documents = gather(tokens, starts, ends, batch, b, end, z.rows, ids)
        rows = get(begins, documents)
        forward(P, T, A, inputs, positions, begins, documents, rows, z)
        total += cross_entropy(A, z.logits, z.vocab_lanes, z.sums, targets, rows, padding, weight)
        if weight > 0:
            backward(P, G, A, inputs, positions, begins, documents, rows, b > begin, z)
        b += documents
    return total


@kernel(F, F, INT)
def add(G, H, size):
    """G += H"""
    for i in range(0, size, LANES):
        store(G, i, load(G, i) + load(H, i))


@kernel(I32, I64, I64, I64, I64, INT, INT, INT)
def look_ahead(tokens, starts, ends, targets, batch, begin, after, end):
    """The examples batch[begin : after] come next, then batch[after : end]: what is read of them lies anywhere.

    Where an example's tokens begin has itself to be fetched first: a step before the tokens.
    """
    for b in range(begin, after):
        prefetch(tokens, get(starts, get(batch, b)))
    for b in range(after, end):
        example = get(batch, b)
        prefetch(starts, example)
        prefetch(ends, example)
        prefetch(targets, example)


@kernel(I64, I64, INT, INT, returns=INT)
def count_targets(targets, batch, begin, end):
    """How many targets the examples batch[begin : end] have."""
    total = 0
    for b in range(begin, end):
        total += get(targets, get(batch, b))
    return total


@kernel(ARRAY, ARRAY, ARRAY, ARRAY, ARRAY, ARRAY, ARRAY, I32_ARRAY, I64_ARRAY, I64_ARRAY, I64_ARRAY, I64_ARRAY,
        INT, INT, INT, INT, F64_ARRAY, F64_ARRAY, F64_ARRAY, F64_ARRAY, I64_ARRAY, ARRAY, INT, INT,
        LAYOUT, OPTIMIZER)  # fmt: skip
def train(P, T, M, U, G, H, A, tokens, starts, ends, targets, batches, first_step, steps, batch_size, part, rates,
          corrections1, corrections2, losses, ids, padding, begin_model, end_model, z, o):  # fmt: skip
    """`steps` steps, from `first_step` on, of the models from begin_model to before end_model, model after model.

    batches (models, steps, batch_size), rates and losses (models, steps). A batch is cut into parts of `part` examples
    whose gradients are added up in order; a step whose loss is not finite changes nothing and is its model's last.
    """
    g, h, a, pad, ids = data(G, 0), data(H, 0), data(A, 0), data(padding, 0), data(ids, 0)
    tokens, starts, ends = data(tokens, 0), data(starts, 0), data(ends, 0)
    targets, batches = data(targets, 0), data(batches, 0)
    for model in range(begin_model, end_model):
        p, t = data(P, model * z.size), data(T, model * z.t_size)
        m, u = data(M, model * z.size), data(U, model * z.size)
        for step in range(steps):
            first = (model * steps + step) * batch_size
            count = count_targets(targets, batches, first, first + batch_size)
            following, end = first + batch_size, (model + 1) * steps * batch_size
            after = min(following + batch_size, end)
            look_ahead(tokens, starts, ends, targets, batches, following, after, min(after + batch_size, end))
            loss = 0.0
            for begin in range(first, first + batch_size, part):
                end = min(begin + part, first + batch_size)
                loss += part_loss(p, t, g if begin == first else h, a, tokens, starts, ends, batches, begin, end,
                                  1.0 / count, ids, pad, z)  # fmt: skip
                if begin > first:
                    add(g, h, z.size)
            loss /= count
            losses[model * steps + step] = loss
            if not math.isfinite(loss):
                break
            lr = rates[model * steps + step]
            update(p, g, m, u, first_step + step, lr, corrections1[step], corrections2[step], o, z)
            transpose_all(p, t, z)


@kernel(ARRAY, ARRAY, INT, INT, LAYOUT)
def prepare(P, T, begin_model, end_model, z):
    """The transposed copies of the models from begin_model to before end_model."""
    for model in range(begin_model, end_model):
        transpose_all(data(P, model * z.size), data(T, model * z.t_size), z)


@kernel(ARRAY, ARRAY, ARRAY, ARRAY, I32_ARRAY, I64_ARRAY, I64_ARRAY, I64_ARRAY, INT, INT, DOUBLE, I64_ARRAY, ARRAY, INT,
        LAYOUT, returns=DOUBLE)  # fmt: skip
def loss(P, T, G, A, tokens, starts, ends, batch, begin, end, weight, ids, padding, model, z):
    """`part_loss` of one model, for Python."""
    return part_loss(data(P, model * z.size), data(T, model * z.t_size), data(G, 0), data(A, 0), data(tokens, 0),
                     data(starts, 0), data(ends, 0), data(batch, 0), begin, end, weight, data(ids, 0), data(padding, 0),
                     z)  # fmt: skip


@kernel(ARRAY, ARRAY, ARRAY, ARRAY, ARRAY, ARRAY, INT, INT, DOUBLE, DOUBLE, DOUBLE, INT, LAYOUT, OPTIMIZER)
def finish(P, T, M, U, G, H, parts, step, lr, correction1, correction2, model, z, o):
    """Add the gradients of the other parts (H, one behind the other) to the first's (G), and update one model."""
    for part in range(parts - 1):
        add(data(G, 0), data(H, part * z.size), z.size)
    p, t = data(P, model * z.size), data(T, model * z.t_size)
    m, u = data(M, model * z.size), data(U, model * z.size)
    update(p, data(G, 0), m, u, step, lr, correction1, correction2, o, z)
    transpose_all(p, t, z)
