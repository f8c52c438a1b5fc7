"""The parameters of R models in one matrix (R, NP), so that an update is a few large elementwise operations.

A row consists of blocks, each the second factor of one product. Weight matrices are transposed to (inputs, outputs),
the layout in which a batched product computes their gradient; those of queries, keys and values share a block.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from microgpt.engines.optimizer import decays
from microgpt.model.spec import ModelSpec

EMBEDDINGS = ("wte", "wpe")  # not transposed: looked up by row
QKV = ("attn_wq", "attn_wk", "attn_wv")


@dataclass(frozen=True)
class Layout:
    """The blocks of a row, in order."""

    spec: ModelSpec

    @cached_property
    def members(self) -> dict[str, list[str]]:
        """Names of the tensors in each block."""
        found: dict[str, list[str]] = {}
        for name in self.spec.shapes():
            layer, _, tensor = name.rpartition(".")
            found.setdefault(f"{layer}.attn_qkv" if tensor in QKV else name, []).append(name)
        return found

    @cached_property
    def blocks(self) -> dict[str, tuple[int, int]]:
        """Shapes of the blocks by name."""
        shapes, found = self.spec.shapes(), {}
        for block, names in self.members.items():
            rows, columns = shapes[names[0]]
            found[block] = (rows, columns) if block in EMBEDDINGS else (columns, rows * len(names))
        return found

    def views(self, flat: Tensor) -> list[Tensor]:
        """Return a view of each block: (R, NP) -> (R, rows, columns)."""
        parts = flat.split([rows * columns for rows, columns in self.blocks.values()], dim=1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, self.blocks.values(), strict=True)]

    def decays(self) -> Tensor:
        """Return 1 for every parameter with weight decay and 0 for the others: (NP,)."""
        ones = [torch.full((rows * columns,), float(decays(name))) for name, (rows, columns) in self.blocks.items()]
        return torch.cat(ones)

    def pack(self, arrays: Mapping[str, np.ndarray], dtype: torch.dtype) -> Tensor:
        """Return arrays (R, rows, columns) by tensor name as (R, NP)."""
        parts = []
        for block, names in self.members.items():
            tensors = [torch.from_numpy(np.asarray(arrays[name])).to(dtype) for name in names]
            part = tensors[0] if block in EMBEDDINGS else torch.cat([t.mT for t in tensors], dim=2)
            parts.append(part.flatten(1))
        return torch.cat(parts, dim=1)

    def unpack(self, flat: Tensor) -> dict[str, np.ndarray]:
        """Return (R, NP) as arrays (R, rows, columns) by tensor name: copies, in the order of spec.shapes()."""
        arrays = {}
        for (block, names), part in zip(self.members.items(), self.views(flat.cpu()), strict=True):
            for name, columns in zip(names, part.chunk(len(names), dim=2), strict=True):
                arrays[name] = (part if block in EMBEDDINGS else columns.mT).numpy().copy()
        return {name: arrays[name] for name in self.spec.shapes()}
