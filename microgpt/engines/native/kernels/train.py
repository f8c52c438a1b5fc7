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

from microgpt.engines.native.kernels.declaration import (
    Float64s,
    Floats,
    Int32s,
    Int64s,
    LayoutRecord,
    SettingsRecord,
    entry,
    kernel,
)
from microgpt.engines.native.kernels.forward_backward import backward, forward, transpose_weights
from microgpt.engines.native.kernels.optimizers import gradient_norm, share_of, update
from microgpt.engines.native.kernels.pointwise import cross_entropy
from microgpt.engines.native.kernels.simd.vector import LANES, get, load, offset, prefetch, put, store
from microgpt.engines.native.optimizer_settings import ADD, NORM, UPDATE


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


@entry
def train(P: Floats, T: Floats, M: Floats, V: Floats, G: Floats, H: Floats, A: Floats, tokens: Int32s, starts: Int64s,
          ends: Int64s, targets: Int64s, batches: Int64s, first_step: int, steps: int, batch_size: int, part: int,
          rates: Float64s, corrections1: Float64s, corrections2: Float64s, losses: Float64s, ids: Int64s, mask: Floats,
          begin_model: int, end_model: int, z: LayoutRecord, o: SettingsRecord):  # fmt: skip
    """Train the models begin_model .. end_model - 1, one after the other, for `steps` steps from `first_step` on.

    Shapes: batches (models, steps, batch_size), rates and losses (models, steps), corrections (steps,). A batch is
    divided into parts of `part` examples, whose gradients are added in order. A step with a non-finite loss changes
    nothing and is the last step of its model.
    """
    for model in range(begin_model, end_model):
        p, t = offset(P, model * z.size), offset(T, model * z.t_size)
        m, v = offset(M, model * z.size), offset(V, model * z.size)
        for step in range(steps):
            first = (model * steps + step) * batch_size
            count = count_targets(targets, batches, first, first + batch_size)
            following, end = first + batch_size, (model + 1) * steps * batch_size
            after = min(following + batch_size, end)
            look_ahead(tokens, starts, ends, targets, batches, following, after, min(after + batch_size, end))
            loss = 0.0
            for begin in range(first, first + batch_size, part):
                end = min(begin + part, first + batch_size)
                loss += part_loss(p, t, G if begin == first else H, A, tokens, starts, ends, batches, begin, end,
                                  1.0 / count, ids, mask, z)  # fmt: skip
                if begin > first:
                    add(G, H, 0, z.size)
            loss /= count
            losses[model * steps + step] = loss
            if not math.isfinite(loss):
                break
            lr = rates[model * steps + step]
            norm = gradient_norm(G, z.size) if o.largest_norm < math.inf else 0.0
            update(p, G, m, v, A, first_step + step, lr, corrections1[step], corrections2[step], norm, 0, 1, o, z)
            transpose_weights(p, t, 0, 1, z)


@entry
def prepare(P: Floats, T: Floats, begin_model: int, end_model: int, z: LayoutRecord):
    """Write the transposed copies of the models begin_model .. end_model - 1."""
    for model in range(begin_model, end_model):
        transpose_weights(offset(P, model * z.size), offset(T, model * z.t_size), 0, 1, z)


@entry
def losses(P: Floats, T: Floats, G: Floats, A: Floats, tokens: Int32s, starts: Int64s, ends: Int64s, batch: Int64s,
           count: int, part: int, parts: int, first: int, last: int, weight: float, stride: int, ids: Int64s,
           mask: Floats, model: int, sums: Float64s, z: LayoutRecord):  # fmt: skip
    """Write `part_loss` of the parts first .. last - 1 to sums.

    For each model from `model` on, the `count` examples of the batch are divided into `parts` parts of `part` examples.
    The gradient of part n is at G[n * stride].
    """
    for n in range(first, last):
        m, begin = model + n // parts, n % parts * part
        sums[n] = part_loss(
            offset(P, m * z.size), offset(T, m * z.t_size), offset(G, n * stride), A, tokens, starts, ends, batch,
            begin, min(begin + part, count), weight, ids, mask, z,
        )  # fmt: skip


@entry
def finish_step(P: Floats, T: Floats, M: Floats, V: Floats, G: Floats, H: Floats, A: Floats, parts: int, step: int,
                lr: float, correction1: float, correction2: float, model: int, phase: int, norm: float, share: int,
                shares: int, z: LayoutRecord, o: SettingsRecord) -> float:  # fmt: skip
    """Compute a share of one of the four phases that follow the gradients of a batch's parts.

    ADD the gradients of the other parts (one after the other in H) to G; return the NORM of the sum, in one share;
    UPDATE the parameters; TRANSPOSE the matrices. All shares of a phase must end before the next phase begins.
    """
    p, t = offset(P, model * z.size), offset(T, model * z.t_size)
    if phase == ADD:
        begin, end = share_of(0, z.size, share, shares)
        for part in range(parts - 1):
            add(G, offset(H, part * z.size), begin, end)
    elif phase == NORM:
        return gradient_norm(G, z.size)
    elif phase == UPDATE:
        m, v = offset(M, model * z.size), offset(V, model * z.size)
        update(p, G, m, v, A, step, lr, correction1, correction2, norm, share, shares, o, z)
    else:
        transpose_weights(p, t, share, shares, z)
    return 0.0
