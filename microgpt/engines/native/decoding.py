"""Texts from the native engine's models: token by token for generation.py, or many at a time in compiled code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from microgpt.engines.base import Draws, Tokens
from microgpt.engines.native import layout as layouts
from microgpt.engines.native import sampling
from microgpt.engines.native.packing import aligned
from microgpt.errors import NonFiniteError

if TYPE_CHECKING:
    from microgpt.engines.native.engine import NativeEngine

SLOTS = 64  # texts that are drawn at once
SMALLEST_TEMPERATURE = 1e-30  # below, only the likeliest token has a chance


class NativeDecoder:
    """One text read by one model, as its weights stand when it is fed."""

    def __init__(self, engine: NativeEngine, replica: int):
        layout = layouts.layout_of(engine.spec, rows=1)
        self.engine, self.replica, self.position = engine, replica, 0
        self.z = layouts.record(layout, layouts.DTYPE)
        self.activations = aligned(layout.w_size, engine.dtype)
        self.logits = self.activations[layout.logits : layout.logits + layout.vocab]
        self.cache = aligned(layout.n_layer * layout.block * 2 * layout.head_lanes, engine.dtype)

    def feed(self, token: int) -> list[float]:
        engine = self.engine
        if self.position == engine.spec.block_size:
            raise IndexError(f"a text has at most block_size={self.position} tokens")
        ids = np.array([token, self.position, 0])
        sampling.feed(engine.parameters, engine.transposed, self.activations, self.cache, self.replica, ids, 1, self.z)
        self.position += 1
        return self.logits.tolist()


class NativeBatchDecoder:
    """Many texts read by one model, up to `rows` tokens in a pass. See base.BatchDecoder."""

    def __init__(self, engine: NativeEngine, replica: int, slots: int):
        self.rows = max(SLOTS, slots)
        layout = layouts.layout_of(engine.spec, self.rows)
        self.engine, self.replica = engine, replica
        self.z = layouts.record(layout, layouts.DTYPE)
        self.activations = aligned(layout.w_size, engine.dtype)
        rows_of_logits = self.activations[layout.logits : layout.logits + self.rows * layout.vocab_lanes]
        self.logits = rows_of_logits.reshape(self.rows, layout.vocab_lanes)[:, : layout.vocab]
        self.cache = aligned(slots * layout.n_layer * layout.block * 2 * layout.head_lanes, engine.dtype)

    def feed(self, slots: Sequence[int], positions: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
        engine, count = self.engine, len(tokens)
        if count > self.rows or max(positions) >= engine.spec.block_size:
            raise IndexError(f"{count} rows up to position {max(positions)}: at most {self.rows} within the block fit")
        ids = np.array([*tokens, *positions, *slots])
        sampling.feed(
            engine.parameters, engine.transposed, self.activations, self.cache, self.replica, ids, count, self.z
        )
        return self.logits[:count]


def draw(
    engine: NativeEngine,
    replica: int,
    prompt: Tokens,
    count: int,
    room: int,
    temperature: float,
    top_k: int | None,
    seed: int,
    first: int,
    slots: int,
) -> Draws:
    """See base.BulkSampler."""
    assert len(prompt) - 1 + room <= engine.spec.block_size, "a text must fit the block"
    layout, dtype = layouts.layout_of(engine.spec, slots), engine.dtype
    cache = aligned(slots * layout.n_layer * layout.block * 2 * layout.head_lanes, dtype)
    ids = np.zeros(5 * slots, np.int64)
    drawn, lengths = np.zeros(count * room, np.int32), np.zeros(count, np.int64)
    sharpness, kept = 1.0 / max(temperature, SMALLEST_TEMPERATURE), min(top_k or layout.vocab, layout.vocab)
    if temperature < SMALLEST_TEMPERATURE:
        sharpness, kept = 1.0, 1
    chosen = sampling.sample(
        engine.parameters, engine.transposed, aligned(layout.w_size, dtype), cache, engine.padding, replica,
        np.array(prompt, np.int64), first, count, room, sharpness, kept, seed, ids, slots, drawn, lengths,
        layouts.record(layout, layouts.DTYPE),
    )  # fmt: skip
    if chosen < 0:
        raise NonFiniteError("the model's logits are not finite")
    return Draws(drawn.reshape(count, room), lengths, chosen)
