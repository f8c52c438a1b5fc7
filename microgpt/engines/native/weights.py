"""The weights and moments of R models in the flat arrays of the kernels, and their conversion from and to tensors."""

import numpy as np

from microgpt.engines.base import Arrays
from microgpt.engines.native.layout import LANES, Layout, head_feature_lanes, layout_of, layout_record
from microgpt.engines.native.machine_code import Kernels
from microgpt.model.spec import ModelSpec

CACHE_LINE = 64  # bytes; a vector that crosses a cache line needs two accesses
PAGE = 4096  # bytes
SPACING = 13 * CACHE_LINE  # measured: 11 to 15 lines are equally fast; without spacing, a step takes 1 % longer


def aligned(count: int, dtype: str, place: int = 0) -> np.ndarray:
    """Return an array of `count` zeros that begins on a cache line.

    Arrays that are read together need different values of `place`, so that they begin at different offsets in a page
    and therefore in the cache.
    """
    size = np.dtype(dtype).itemsize
    room = np.zeros(count + (PAGE + CACHE_LINE) // size, dtype)
    skipped = (-room.ctypes.data % CACHE_LINE + place * SPACING % PAGE) // size
    return room[skipped : skipped + count]


def workspace(spec: ModelSpec, layout: Layout, dtype: str, place: int = 0) -> np.ndarray:
    """Return an array for activations (see `aligned`), with the constants of the layout filled in."""
    activations = aligned(layout.a_size, dtype, place)
    activations[layout.ones : layout.ones + spec.n_embd] = 1
    if layout.rotations >= 0:
        tables = rope_tables(spec, layout)
        activations[layout.rotations : layout.rotations + tables.size] = tables.ravel()
    return activations


def rope_tables(spec: ModelSpec, layout: Layout) -> np.ndarray:
    """Return cos and sin of the angle for every position and lane of a group of slots: (block, 2, lanes).

    The sign of sin is negative in the first half of a slot. The angle of features j and j + D/2 is
    position theta^(-2j / D), where D is the number of features in a head. Lanes without a feature are zero.
    """
    half, slot = spec.head_dim // 2, layout.slot_width * layout.slot_vectors
    frequencies = spec.rope_theta ** (-2 * np.arange(half) / spec.head_dim)
    angles = np.arange(spec.block_size)[:, np.newaxis] * frequencies  # (block, half)
    tables = np.zeros((spec.block_size, 2, slot))
    first, second = np.split(head_feature_lanes(spec, layout), 2)
    tables[:, 0, first] = tables[:, 0, second] = np.cos(angles)
    tables[:, 1, first], tables[:, 1, second] = -np.sin(angles), np.sin(angles)
    return np.tile(tables, max(1, LANES // slot))


def tensor_indices(spec: ModelSpec, layout: Layout) -> dict[str, np.ndarray]:
    """Return the indices (rows, columns) of every tensor's elements in a model's flat array."""
    e, f, a, kv = layout.embd_lanes, layout.hidden_lanes, layout.head_lanes, layout.kv_lanes
    embd, hidden, vocab = np.arange(spec.n_embd), np.arange(layout.hidden), np.arange(spec.vocab_size)
    slots = np.arange(spec.n_head)[:, np.newaxis] * (layout.slot_width * layout.slot_vectors)
    q_lanes = (slots + head_feature_lanes(spec, layout)).ravel()  # of all features of q; k and v use the first
    kv_lanes = q_lanes[: spec.kv_heads * spec.head_dim]

    def matrix(begin: int, rows: np.ndarray, columns: np.ndarray, row: int) -> np.ndarray:
        return begin + rows[:, np.newaxis] * row + columns[np.newaxis, :]

    found = {
        "wte": matrix(layout.wte, vocab, embd, e),
        "wpe": matrix(layout.wpe, np.arange(spec.block_size), embd, e),
        "lm_head": matrix(layout.lm_head, vocab, embd, e),
        **norm_indices("final_norm", layout, layout.final_vectors),
    }
    for layer in range(spec.n_layer):
        w, vectors = layout.layers + layer * layout.layer, layout.layer_vectors + layer * layout.vectors
        found |= norm_indices(f"layer{layer}.attn_norm", layout, vectors + layout.norm1_vectors)
        found |= norm_indices(f"layer{layer}.mlp_norm", layout, vectors + layout.norm2_vectors)
        for name, matrix_begin, bias_begin, outputs, inputs, row in (
            ("attn_wq", layout.qkv, layout.qkv_bias, q_lanes, embd, e),
            ("attn_wk", layout.qkv, layout.qkv_bias, a + kv_lanes, embd, e),
            ("attn_wv", layout.qkv, layout.qkv_bias, a + kv + kv_lanes, embd, e),
            ("attn_wo", layout.wo, layout.wo_bias, embd, q_lanes, a),
            ("mlp_gate", layout.fc1, layout.fc1_bias, hidden, embd, e),
            ("mlp_fc1", layout.fc1, layout.fc1_bias, layout.fc1_lanes - f + hidden, embd, e),
            ("mlp_fc2", layout.fc2, layout.fc2_bias, embd, hidden, f),
        ):
            found[f"layer{layer}.{name}"] = matrix(w + matrix_begin, outputs, inputs, row)
            found[f"layer{layer}.{name}_bias"] = vectors + bias_begin + outputs[np.newaxis, :]
    return {name: found[name] for name in spec.shapes()}


def norm_indices(name: str, layout: Layout, begin: int) -> dict[str, np.ndarray]:
    """Return the indices of a norm's gain and bias."""
    features = begin + np.arange(layout.embd)[np.newaxis, :]
    return {f"{name}_gain": features + layout.gain, f"{name}_bias": features + layout.shift}


class Weights:
    """The weights of R models, shared by training, evaluation and decoders.

    `parameters` and `transposed` contain the models one after the other, in the layout of layout.py.
    """

    def __init__(self, spec: ModelSpec, dtype: str, kernels: Kernels, rows: int):
        """`kernels` are those for `dtype`; `rows` is the number of positions in the workspace of a thread."""
        self.spec, self.dtype, self.kernels = spec, dtype, kernels
        self.layout = layout_of(spec, rows)
        self.record = layout_record(self.layout)
        self.indices = tensor_indices(spec, self.layout)
        # Added to the last vector of a row of logits, to exclude the padding from the softmax.
        self.mask = aligned(LANES, dtype)
        self.mask[LANES - (self.layout.vocab_lanes - spec.vocab_size) :] = -1e30

    def load(self, parameters: Arrays) -> None:
        self.replicas = len(next(iter(parameters.values())))
        self.parameters = self.pack(parameters, 0)
        self.transposed = aligned(self.replicas * self.layout.t_size, self.dtype, 1)
        self.kernels.prepare(self.parameters, self.transposed, 0, self.replicas, self.record)

    def pack(self, arrays: Arrays, place: int) -> np.ndarray:
        """Copy tensors (R, rows, columns) to a flat array (see `aligned`), which is zero without tensors."""
        flat = aligned(self.replicas * self.layout.size, self.dtype, place)
        models = flat.reshape(self.replicas, self.layout.size)
        for name, indices in self.indices.items() if arrays else ():
            models[:, indices] = arrays[name]
        return flat

    def unpack(self, flat: np.ndarray) -> Arrays:
        """Return copies of the tensors (R, rows, columns) of a flat array."""
        models = flat.reshape(self.replicas, self.layout.size)
        return {name: models[:, indices] for name, indices in self.indices.items()}
