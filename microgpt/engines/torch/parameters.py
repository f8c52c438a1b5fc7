"""Where a model's tensors lie in one flat row of numbers: R models are a matrix (R, NP).

Gradients and updates are then a few large elementwise operations, however many tensors there are. A matrix that
multiplies lies transposed, as (inputs, outputs): its gradient comes out of a batched product just so. Those of queries,
keys and values lie side by side, for one product.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from microgpt.engines.optimizer import decays
from microgpt.model.spec import ModelSpec

EMBEDDINGS = ("wte", "wpe")  # looked up by row, so they lie as they are
QKV = ("attn_wq", "attn_wk", "attn_wv")


@dataclass(frozen=True)
class Layout:
    """The blocks of a row, in order: each a matrix that takes part in one product, made of one or more tensors."""

    spec: ModelSpec

    @cached_property
    def members(self) -> dict[str, list[str]]:
        """Names of the tensors that each block is made of."""
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

    @property
    def size(self) -> int:
        return self.spec.parameter_count()

    def views(self, flat: Tensor) -> list[Tensor]:
        """(R, NP) -> a view (R, rows, columns) for each block."""
        parts = flat.split([rows * columns for rows, columns in self.blocks.values()], dim=1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, self.blocks.values(), strict=True)]

    def decays(self) -> Tensor:
        """(NP,): 1 where weight decay applies, else 0."""
        ones = [torch.full((rows * columns,), float(decays(name))) for name, (rows, columns) in self.blocks.items()]
        return torch.cat(ones)

    def pack(self, arrays: Mapping[str, np.ndarray], dtype: torch.dtype) -> Tensor:
        """Arrays (R, rows, columns) by tensor name -> (R, NP)."""
        parts = []
        for block, names in self.members.items():
            tensors = [torch.from_numpy(np.asarray(arrays[name])).to(dtype) for name in names]
            part = tensors[0] if block in EMBEDDINGS else torch.cat([t.mT for t in tensors], dim=2)
            parts.append(part.flatten(1))
        return torch.cat(parts, dim=1)

    def unpack(self, flat: Tensor) -> dict[str, np.ndarray]:
        """(R, NP) -> arrays (R, rows, columns) by tensor name: copies, in the order of spec.shapes()."""
        arrays = {}
        for (block, names), part in zip(self.members.items(), self.views(flat.cpu()), strict=True):
            for name, columns in zip(names, part.chunk(len(names), dim=2), strict=True):
                arrays[name] = (part if block in EMBEDDINGS else columns.mT).numpy().copy()
        return {name: arrays[name] for name in self.spec.shapes()}
