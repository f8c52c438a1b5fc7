"""The parameters of R models in one matrix (R, NP), so that an update consists of a few large elementwise operations.

A row consists of blocks; each block is the second factor of a matrix product, or a vector. Weight matrices are
transposed to (inputs, outputs), the layout in which a batched product computes their gradients. The matrices of
queries, keys and values share a block, as do the MLP's input and gate matrices; their biases share blocks in the same
way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from microgpt.engines.optimizer import decays
from microgpt.model.spec import EMBEDDINGS, ModelSpec, constant_value

SHARED = {  # tensor -> name of the block that it shares with other tensors
    **dict.fromkeys(("attn_wq", "attn_wk", "attn_wv"), "attn_qkv"),
    **dict.fromkeys(("attn_wq_bias", "attn_wk_bias", "attn_wv_bias"), "attn_qkv_bias"),
    **dict.fromkeys(("mlp_fc1", "mlp_gate"), "mlp_in"),
    **dict.fromkeys(("mlp_fc1_bias", "mlp_gate_bias"), "mlp_in_bias"),
}


def is_transposed(name: str) -> bool:
    """Return whether a tensor is stored transposed: all except embeddings (looked up by row) and vectors."""
    return name not in EMBEDDINGS and constant_value(name) is None


@dataclass(frozen=True)
class Layout:
    """The blocks of a row, in order."""

    spec: ModelSpec

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        return self.spec.shapes()

    @cached_property
    def members(self) -> dict[str, list[str]]:
        """The names of the tensors in each block."""
        found: dict[str, list[str]] = {}
        for name in self.shapes:
            layer, _, tensor = name.rpartition(".")
            found.setdefault(f"{layer}.{SHARED[tensor]}" if tensor in SHARED else name, []).append(name)
        return found

    @cached_property
    def blocks(self) -> dict[str, tuple[int, int]]:
        """The shapes of the blocks by name."""
        found = {}
        for block, names in self.members.items():
            rows, _ = self.stored_shape(names[0])
            found[block] = (rows, sum(self.stored_shape(name)[1] for name in names))
        return found

    def stored_shape(self, name: str) -> tuple[int, int]:
        rows, columns = self.shapes[name]
        return (columns, rows) if is_transposed(name) else (rows, columns)

    def views(self, flat: Tensor) -> list[Tensor]:
        """Return a view of each block: (R, NP) -> (R, rows, columns)."""
        parts = flat.split([rows * columns for rows, columns in self.blocks.values()], dim=1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, self.blocks.values(), strict=True)]

    def decays(self) -> Tensor:
        """Return 1 for every parameter with weight decay and 0 for the others: (NP,)."""
        numbers = [
            torch.full((rows * columns,), float(decays(self.members[block][0])))
            for block, (rows, columns) in self.blocks.items()
        ]
        return torch.cat(numbers)

    def pack(self, arrays: Mapping[str, np.ndarray], dtype: torch.dtype) -> Tensor:
        """Convert arrays (R, rows, columns), keyed by tensor name, to one tensor (R, NP)."""
        parts = []
        for names in self.members.values():
            tensors = [torch.from_numpy(np.asarray(arrays[name])).to(dtype) for name in names]
            part = torch.cat([t.mT if is_transposed(n) else t for n, t in zip(names, tensors, strict=True)], dim=2)
            parts.append(part.flatten(1))
        return torch.cat(parts, dim=1)

    def tensors(self, flat: Tensor) -> dict[str, Tensor]:
        """Return views of all tensors by name, transposed as in their blocks: (R, NP) -> (R, rows, columns)."""
        found = {}
        for names, part in zip(self.members.values(), self.views(flat), strict=True):
            widths = [self.stored_shape(name)[1] for name in names]
            found |= dict(zip(names, part.split(widths, dim=2), strict=True))
        return found

    def unpack(self, flat: Tensor) -> dict[str, np.ndarray]:
        """Convert (R, NP) to copied arrays (R, rows, columns), keyed by tensor name in the order of spec.shapes()."""
        found = self.tensors(flat.cpu())
        return {name: (found[name].mT if is_transposed(name) else found[name]).numpy().copy() for name in self.shapes}
