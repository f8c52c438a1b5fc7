"""The kernels that Python calls for training and evaluation: k steps, the loss of a part of a batch, an update.

Arguments are the same as in forward_backward.py and optimizers.py, and in addition

    P, T, M, V        the arrays of all models, one model after the other
    A, G, H           the workspace of a thread; H contains the gradients of another part of the batch
    tokens, starts, ends, targets
                      examples (data/examples.py): concatenated token ids, and for each example its begin, its end and
                      its number of targets; a token ~id is a masked target
    batch             example indices
    ids               scratch of 4 * rows + 1 integers, see `gather`
    mask              added to the last vector of a row of logits, see pointwise.py

No kernel holds the GIL.
"""

import math

from microgpt.engines.native.forward_backward import backward, forward, transpose_weights
from microgpt.engines.native.kernels import (
    Float64Array,
    FloatArray,
    Floats,
    Int32Array,
    Int32s,
    Int64Array,
    Int64s,
    kernel,
)
from microgpt.engines.native.layout import LayoutRecord
from microgpt.engines.native.optimizer_settings import SettingsRecord
from microgpt.engines.native.optimizers import gradient_norm, share_of, update
from microgpt.engines.native.pointwise import cross_entropy
from microgpt.engines.native.simd.vector import LANES, get, load, offset, pointer, prefetch, put, store

ADD, NORM, UPDATE, TRANSPOSE = range(4)  # the phases of `finish_step`


@kernel
def gather(tokens: Int32s, starts: Int64s, ends: Int64s, batch: Int64s, begin: int, end: int, rows: int,
           ids: Int64s) -> int:  # fmt: skip
    """Lay out the examples batch[begin], ... as rows, up to batch[end - 1] or as many as fit; return their number.

    ids becomes `rows` inputs, `rows` targets, `rows` positions, the first row of each example, and the end of the last.
    A masked token ~id becomes the input id and the negative target ~id.
    """
    documents, p = 0, 0
    for b in range(begin, end):
        example = get(batch, b)
        first, length = get(starts, example), get(ends, example) - get(starts, example) - 1
        if p + length > rows:
            break
        put(ids, 3 * rows + documents, p)
        for i in range(length):
            token = get(tokens, first + i)
            put(ids, p + i, token if token >= 0 else ~token)
            put(ids, rows + p + i, get(tokens, first + i + 1))
            put(ids, 2 * rows + p + i, i)
        p += length
        documents += 1
    put(ids, 3 * rows + documents, p)
    return documents


@kernel
def part_loss(P: Floats, T: Floats, G: Floats, A: Floats, tokens: Int32s, starts: Int64s, ends: Int64s, batch: Int64s,
              begin: int, end: int, weight: float, ids: Int64s, mask: Floats, z: LayoutRecord) -> float:  # fmt: skip
    """Sum of the losses of the examples batch[begin : end], chunk by chunk; G becomes `weight` times its gradient.

    With a weight of 0, there is no backward pass, and G does not change.
    """
    inputs, targets = ids, offset(ids, z.rows)
    positions, begins = offset(ids, 2 * z.rows), offset(ids, 3 * z.rows)
    total, b = 0.0, begin
    while b < end:
        documents = gather(tokens, starts, ends, batch, b, end, z.rows, ids)
        rows = get(begins, documents)
        forward(P, T, A, inputs, positions, begins, documents, rows, z)
        total += cross_entropy(A, z.logits, z.vocab_lanes, z.sums, targets, rows, mask, weight)
        if weight > 0:
            backward(P, G, A, inputs, positions, begins, documents, rows, b > begin, z)
        b += documents
    return total


@kernel
def add(G: Floats, H: Floats, begin: int, end: int):
    """G += H, for the elements begin .. end - 1"""
    for i in range(begin, end, LANES):
        store(G, i, load(G, i) + load(H, i))


@kernel
def look_ahead(tokens: Int32s, starts: Int64s, ends: Int64s, targets: Int64s, batch: Int64s, begin: int, after: int,
               end: int):  # fmt: skip
    """Prefetch the examples of the next two steps, which may be anywhere in memory.

    For batch[begin : after], the next step, the tokens are prefetched; for batch[after : end], the starts and ends of
    the tokens, which must be read before the tokens can be prefetched.
    """
    for b in range(begin, after):
        prefetch(tokens, get(starts, get(batch, b)))
    for b in range(after, end):
        example = get(batch, b)
        prefetch(starts, example)
        prefetch(ends, example)
        prefetch(targets, example)


@kernel
def count_targets(targets: Int64s, batch: Int64s, begin: int, end: int) -> int:
    """Number of targets of the examples batch[begin : end]"""
    total = 0
    for b in range(begin, end):
        total += get(targets, get(batch, b))
    return total


@kernel
def train(P: FloatArray, T: FloatArray, M: FloatArray, V: FloatArray, G: FloatArray, H: FloatArray, A: FloatArray,
          tokens: Int32Array, starts: Int64Array, ends: Int64Array, targets: Int64Array, batches: Int64Array,
          first_step: int, steps: int, batch_size: int, part: int, rates: Float64Array, corrections1: Float64Array,
          corrections2: Float64Array, losses: Float64Array, ids: Int64Array, mask: FloatArray, begin_model: int,
          end_model: int, z: LayoutRecord, o: SettingsRecord):  # fmt: skip
    """Train the models begin_model .. end_model - 1, one after the other, for `steps` steps from `first_step` on.

    Shapes: batches (models, steps, batch_size), rates and losses (models, steps), corrections (steps,). A batch is
    divided into parts of `part` examples, whose gradients are added in order. A step with a non-finite loss changes
    nothing and is the last step of its model.
    """
    g, h, a, mask, ids = pointer(G, 0), pointer(H, 0), pointer(A, 0), pointer(mask, 0), pointer(ids, 0)
    tokens, starts, ends = pointer(tokens, 0), pointer(starts, 0), pointer(ends, 0)
    targets, batches = pointer(targets, 0), pointer(batches, 0)
    for model in range(begin_model, end_model):
        p, t = pointer(P, model * z.size), pointer(T, model * z.t_size)
        m, v = pointer(M, model * z.size), pointer(V, model * z.size)
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
                                  1.0 / count, ids, mask, z)  # fmt: skip
                if begin > first:
                    add(g, h, 0, z.size)
            loss /= count
            losses[model * steps + step] = loss
            if not math.isfinite(loss):
                break
            lr = rates[model * steps + step]
            norm = gradient_norm(g, z.size) if o.largest_norm < math.inf else 0.0
            update(p, g, m, v, a, first_step + step, lr, corrections1[step], corrections2[step], norm, 0, 1, o, z)
            transpose_weights(p, t, 0, 1, z)


@kernel
def prepare(P: FloatArray, T: FloatArray, begin_model: int, end_model: int, z: LayoutRecord):
    """Write the transposed copies of the models begin_model .. end_model - 1."""
    for model in range(begin_model, end_model):
        transpose_weights(pointer(P, model * z.size), pointer(T, model * z.t_size), 0, 1, z)


@kernel
def losses(P: FloatArray, T: FloatArray, G: FloatArray, A: FloatArray, tokens: Int32Array, starts: Int64Array,
           ends: Int64Array, batch: Int64Array, count: int, part: int, parts: int, first: int, last: int, weight: float,
           stride: int, ids: Int64Array, mask: FloatArray, model: int, sums: Float64Array,
           z: LayoutRecord):  # fmt: skip
    """Write `part_loss` of the parts first .. last - 1 to sums.

    For each model from `model` on, the `count` examples of the batch are divided into `parts` parts of `part` examples.
    The gradient of part n is at G[n * stride].
    """
    for n in range(first, last):
        m, begin = model + n // parts, n % parts * part
        sums[n] = part_loss(
            pointer(P, m * z.size), pointer(T, m * z.t_size), pointer(G, n * stride), pointer(A, 0),
            pointer(tokens, 0), pointer(starts, 0), pointer(ends, 0), pointer(batch, 0), begin,
            min(begin + part, count), weight, pointer(ids, 0), pointer(mask, 0), z,
        )  # fmt: skip


@kernel
def finish_step(P: FloatArray, T: FloatArray, M: FloatArray, V: FloatArray, G: FloatArray, H: FloatArray,
                A: FloatArray, parts: int, step: int, lr: float, correction1: float, correction2: float, model: int,
                phase: int, norm: float, share: int, shares: int, z: LayoutRecord,
                o: SettingsRecord) -> float:  # fmt: skip
    """Compute a share of one of the four phases that follow the gradients of a batch's parts.

    ADD the gradients of the other parts (one after the other in H) to G; return the NORM of the sum, in one share;
    UPDATE the parameters; TRANSPOSE the matrices. All shares of a phase must end before the next phase begins.
    """
    g, p, t = pointer(G, 0), pointer(P, model * z.size), pointer(T, model * z.t_size)
    if phase == ADD:
        begin, end = share_of(0, z.size, share, shares)
        for part in range(parts - 1):
            add(g, pointer(H, part * z.size), begin, end)
    elif phase == NORM:
        return gradient_norm(g, z.size)
    elif phase == UPDATE:
        m, v = pointer(M, model * z.size), pointer(V, model * z.size)
        update(p, g, m, v, pointer(A, 0), step, lr, correction1, correction2, norm, share, shares, o, z)
    else:
        transpose_weights(p, t, share, shares, z)
    return 0.0
