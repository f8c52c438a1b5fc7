"""The weights and moments of R models in the flat arrays of the kernels, and their conversion from and to tensors."""

import numpy as np

from microgpt.engines.base import Arrays
from microgpt.engines.native import train_kernels
from microgpt.engines.native.layout import Layout, layout_of, layout_record
from microgpt.engines.native.simd.vector import LANES
from microgpt.model.spec import ModelSpec

CACHE_LINE = 64  # bytes: a vector that crosses a cache line costs two accesses
PAGE = 4096
SPACING = 13 * CACHE_LINE  # measured: 11 to 15 lines are equally good; without spacing a step takes 1 % longer


def aligned(count: int, dtype: str, place: int = 0) -> np.ndarray:
    """Return `count` zeros that begin on a cache line.

    Arrays that are read together get different places: in a page, and so in the cache, each begins elsewhere.
    """
    size = np.dtype(dtype).itemsize
    room = np.zeros(count + (PAGE + CACHE_LINE) // size, dtype)
    skipped = (-room.ctypes.data % CACHE_LINE + place * SPACING % PAGE) // size
    return room[skipped : skipped + count]


def tensor_indices(spec: ModelSpec, layout: Layout) -> dict[str, np.ndarray]:
    """Return for every tensor the indices (rows, columns) of its elements in a model's flat array."""
    e, f, a = layout.embd_lanes, layout.hidden_lanes, layout.head_lanes
    feature = np.arange(spec.n_embd)
    slot = layout.slot_width * layout.slot_vectors
    heads = feature // spec.head_dim * slot + feature % spec.head_dim  # lane of every feature of q
    embd, hidden, vocab = feature, np.arange(layout.hidden), np.arange(spec.vocab_size)

    def matrix(begin: int, rows: np.ndarray, columns: np.ndarray, row: int) -> np.ndarray:
        return begin + rows[:, np.newaxis] * row + columns[np.newaxis, :]

    found = {"wte": matrix(layout.wte, vocab, embd, e)}
    if layout.wpe >= 0:
        found["wpe"] = matrix(layout.wpe, np.arange(spec.block_size), embd, e)
    if not spec.tie_lm_head:
        found["lm_head"] = matrix(layout.lm_head, vocab, embd, e)
    for layer in range(spec.n_layer):
        w = layout.layers + layer * layout.layer
        for number, name in enumerate(("attn_wq", "attn_wk", "attn_wv")):
            found[f"layer{layer}.{name}"] = matrix(w + layout.qkv, number * a + heads, embd, e)
        found[f"layer{layer}.attn_wo"] = matrix(w + layout.wo, embd, heads, a)
        found[f"layer{layer}.mlp_fc1"] = matrix(w + layout.fc1, hidden, embd, e)
        found[f"layer{layer}.mlp_fc2"] = matrix(w + layout.fc2, embd, hidden, f)
    return found


class Weights:
    """The weights of R models, which training, evaluation and decoders share.

    `parameters` and `transposed` hold the models one after the other, in the layout of layout.py.
    """

    def __init__(self, spec: ModelSpec, dtype: str, rows: int):
        """`rows` positions fit the workspace of a thread."""
        self.spec, self.dtype = spec, dtype
        self.layout = layout_of(spec, rows)
        self.record = layout_record(self.layout)
        self.indices = tensor_indices(spec, self.layout)
        # Added to the last vector of a row of logits: takes the padding out of a softmax.
        self.mask = aligned(LANES, dtype)
        self.mask[LANES - (self.layout.vocab_lanes - spec.vocab_size) :] = -1e30

    def load(self, parameters: Arrays) -> None:
        self.replicas = len(next(iter(parameters.values())))
        self.parameters = self.pack(parameters, 0)
        self.transposed = aligned(self.replicas * self.layout.t_size, self.dtype, 1)
        train_kernels.prepare(self.parameters, self.transposed, 0, self.replicas, self.record)

    def pack(self, arrays: Arrays, place: int) -> np.ndarray:
        """Copy tensors (R, rows, columns) into a flat array (see `aligned`); without tensors it is zero."""
        flat = aligned(self.replicas * self.layout.size, self.dtype, place)
        models = flat.reshape(self.replicas, self.layout.size)
        for name, indices in self.indices.items() if arrays else ():
            models[:, indices] = arrays[name]
        return flat

    def unpack(self, flat: np.ndarray) -> Arrays:
        """Return copies of the tensors (R, rows, columns) of a flat array."""
        models = flat.reshape(self.replicas, self.layout.size)
        return {name: models[:, indices] for name, indices in self.indices.items()}
