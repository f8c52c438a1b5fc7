"""Models between the contract's arrays, (R, rows, columns) by tensor name, and the kernels' flat padded ones."""

import numpy as np

from microgpt.engines.base import Arrays
from microgpt.engines.native.layout import LANES, Layout
from microgpt.model.spec import ModelSpec

ALIGNMENT = 64  # bytes: a vector that crosses a cache line costs two
PAGE = 4096
SPACING = 13 * ALIGNMENT  # measured: from 11 to 15 lines are as good, none costs 1 %


def aligned(count: int, dtype: str, place: int = 0) -> np.ndarray:
    """`count` zeros that begin on a cache line.

    Arrays that are read side by side have different places: in a page, and so in the cache, each begins elsewhere.
    """
    size = np.dtype(dtype).itemsize
    room = np.zeros(count + (PAGE + ALIGNMENT) // size, dtype)
    skipped = (-room.ctypes.data % ALIGNMENT + place * SPACING % PAGE) // size
    return room[skipped : skipped + count]


def head_lanes(spec: ModelSpec, layout: Layout) -> np.ndarray:
    """For every feature of the attention the lane of its head's slot that it is in: (n_embd,)."""
    slot = layout.width if layout.span == 1 else layout.span * LANES
    feature = np.arange(spec.n_embd)
    return feature // spec.head_dim * slot + feature % spec.head_dim


def places(spec: ModelSpec, layout: Layout) -> dict[str, np.ndarray]:
    """For every tensor where its numbers are in a model's flat parameters: (rows, columns)."""
    heads = head_lanes(spec, layout) if spec.kind == "gpt" else np.arange(0)
    plain = np.arange(max(spec.vocab_size, spec.block_size, layout.hidden))

    def matrix(begin: int, rows: np.ndarray, columns: np.ndarray, row: int) -> np.ndarray:
        return begin + rows[:, np.newaxis] * row + columns[np.newaxis, :]

    embd, hidden = plain[: layout.embd], plain[: layout.hidden]
    e, f, a = layout.embd_lanes, layout.hidden_lanes, layout.head_lanes
    found = {"wte": matrix(layout.wte, plain[: spec.vocab_size], embd, e)}
    if spec.kind == "gpt":
        found["wpe"] = matrix(layout.wpe, plain[: spec.block_size], embd, e)
    if not spec.tie_lm_head:
        found["lm_head"] = matrix(layout.lm_head, plain[: spec.vocab_size], embd, e)
    for layer in range(spec.n_layer):
        w = layout.layers + layer * layout.layer
        for number, name in enumerate(("attn_wq", "attn_wk", "attn_wv")):
            found[f"layer{layer}.{name}"] = matrix(w + layout.qkv, number * a + heads, embd, e)
        found[f"layer{layer}.attn_wo"] = matrix(w + layout.wo, embd, heads, a)
        found[f"layer{layer}.mlp_fc1"] = matrix(w + layout.fc1, hidden, embd, e)
        found[f"layer{layer}.mlp_fc2"] = matrix(w + layout.fc2, embd, hidden, f)
    return found


def pack(arrays: Arrays, found: dict[str, np.ndarray], size: int, dtype: str, place: int) -> np.ndarray:
    """(R, rows, columns) by tensor name -> R models of `size` numbers, one after the other, `aligned` there."""
    replicas = len(next(iter(arrays.values())))
    flat = aligned(replicas * size, dtype, place)
    models = flat.reshape(replicas, size)
    for name, indices in found.items():
        models[:, indices] = arrays[name]
    return flat


def unpack(flat: np.ndarray, found: dict[str, np.ndarray], size: int) -> Arrays:
    models = flat.reshape(-1, size)
    return {name: models[:, indices] for name, indices in found.items()}
