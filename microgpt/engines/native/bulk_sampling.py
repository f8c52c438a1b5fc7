"""Bulk sampling: many texts are in progress at once (kernels/bulk_sampling.py)."""

import numpy as np

from microgpt.engines.base import BulkRequest, Draws
from microgpt.engines.native.kv_cache import DecodingBuffers, table_size
from microgpt.engines.native.weights import Weights
from microgpt.errors import NonFiniteError

SLOTS = 64  # number of texts in progress at once
LARGEST_TABLE = 1 << 18  # maximum number of elements, so that the table fits the caches next to the core
SMALLEST_TEMPERATURE = 1e-30  # below this, only the most likely token can be sampled


def draw(weights: Weights, replica: int, request: BulkRequest, slots: int) -> Draws:
    """See base.BulkSampler. `slots` is the number of texts in progress at once, which does not change the texts."""
    count, room = request.count, request.room
    assert len(request.prompt) - 1 + room <= weights.spec.block_size, "prompt and room must fit the block"
    slots, vocab = max(1, min(slots, count)), weights.spec.vocab_size
    layout = weights.layout
    pays = layout.n_layer > 0 and table_size(layout) <= LARGEST_TABLE and count * room > layout.vocab * layout.block
    buffers = DecodingBuffers(weights, replica, slots, slots, tabulates=pays)
    ids = np.zeros(5 * slots, np.int64)
    drawn, lengths = np.zeros(count * room, np.int32), np.zeros(count, np.int64)
    inverse_temperature, k = 1.0 / max(request.temperature, SMALLEST_TEMPERATURE), min(request.top_k or vocab, vocab)
    if request.temperature < SMALLEST_TEMPERATURE:
        inverse_temperature, k = 1.0, 1
    chosen = weights.kernels.draw_texts(
        weights.parameters, weights.transposed, buffers.activations, buffers.cache, weights.mask, replica,
        np.array(request.prompt, np.int64), len(request.prompt), request.first, count, room, inverse_temperature, k,
        request.seed, ids, slots, drawn, lengths, buffers.record,
    )  # fmt: skip
    if chosen < 0:
        raise NonFiniteError("the model's logits contain NaN or infinity: training probably diverged")
    return Draws(drawn.reshape(count, room), lengths, chosen)
