"""Examples as padded tensors on the device: the text lies there once; what travels are indices, for many steps."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from microgpt.data.examples import Examples
from microgpt.engines.base import Workload
from microgpt.engines.torch.model import NO_TARGET

PIECE_POSITIONS = 1 << 22  # as many as lie on the device padded at a time


@dataclass(frozen=True)
class Batch:
    """A step's examples of all replicas, padded to the longest."""

    inputs: Tensor  # int64 (R, B, T): replica r's token t as r * V + t, a row of all embeddings together
    targets: Tensor  # int64 (R, B, T): tokens, or NO_TARGET
    counts: Tensor  # (R,): how many targets a replica's whole batch has, in the parameters' dtype

    def passes(self, examples: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets of so many examples of each replica at a time; None: of all."""
        width = examples or self.inputs.shape[1]
        if self.inputs.shape[1] == 0:  # where several processes share out a batch, one may get nothing of it
            return
        for inputs, targets in zip(self.inputs.split(width, dim=1), self.targets.split(width, dim=1), strict=True):
            yield inputs.contiguous(), targets.contiguous()  # a stride of its own would be compiled for


class Texts:
    """Examples on a device."""

    def __init__(self, examples: Examples, vocab_size: int, device: torch.device):
        self.device = device
        self.vocab_size = vocab_size
        self.counts = examples.targets  # int64 (n,)
        self.positions = examples.positions  # int64 (n,)
        self.starts = examples.starts
        self.tokens = to_device(examples.tokens, device)

    def padded(self, chosen: np.ndarray, length: int) -> tuple[Tensor, Tensor]:
        """Examples by index, (R, ...) -> inputs and targets as in `Batch`, (R, ..., length)."""
        ends, starts = to_device(self.positions[chosen], self.device), to_device(self.starts[chosen], self.device)
        places = torch.arange(length, device=self.device)
        known = places < ends[..., None]
        at = torch.where(known, starts[..., None] + places, 0)
        first_rows = torch.arange(len(chosen), device=self.device) * self.vocab_size
        inputs, targets = self.tokens[at].long(), self.tokens[at + 1].long()
        inputs = torch.where(inputs < 0, ~inputs, inputs) + first_rows.view(-1, *[1] * chosen.ndim)
        return inputs, torch.where(known & (targets >= 0), targets, NO_TARGET)


class Batches:
    """A workload's batches, step by step: of each batch the `own` examples, those that this process computes."""

    def __init__(
        self,
        workload: Workload,
        vocab_size: int,
        device: torch.device,
        dtype: torch.dtype,
        few_lengths: bool,
        own: slice = slice(None),
    ):
        self.orders = workload.orders
        self.own = own
        self.width = len(range(workload.orders[0].batch_size)[own]) if workload.orders else 0
        self.texts = Texts(workload.packed, vocab_size, device)
        self.dtype = dtype
        longest = int(self.texts.positions.max())
        # What batches are padded to: to no more than they need, or to two lengths where each is compiled for.
        self.lengths = np.unique([-(-longest // 2), longest]) if few_lengths else np.arange(longest + 1)

    def steps(self, begin: int, end: int) -> Iterator[Batch]:
        """The batches from step `begin` to before `end`."""
        positions = int(self.lengths[-1]) * self.width * len(self.orders)
        at_once = max(1, PIECE_POSITIONS // max(1, positions))
        for first in range(begin, end, at_once):
            yield from self.piece(first, min(end, first + at_once))

    def piece(self, begin: int, end: int) -> Iterator[Batch]:
        chosen = np.stack([order.indices(begin, end) for order in self.orders])  # (R, k, B)
        counts = self.texts.counts[chosen]  # also of the examples that other processes compute
        chosen = chosen[:, :, self.own]
        longest = self.texts.positions[chosen].max(axis=(0, 2), initial=0)  # of each step
        lengths = self.lengths[np.searchsorted(self.lengths, longest)].tolist()
        inputs, targets = self.texts.padded(chosen, max(lengths))
        totals = to_device(np.ascontiguousarray(counts.sum(axis=2).T), self.texts.device).to(self.dtype)  # (k, R)
        for s, length in enumerate(lengths):
            yield Batch(inputs[:, s, :, :length], targets[:, s, :, :length], totals[s])

    def invented(self, examples: int | None) -> Iterator[Batch]:
        """A batch of each length, and of each number of examples that a pass has where it has at most so many."""
        replicas, batch_size = len(self.orders), self.width
        if batch_size == 0:
            return
        width = min(examples or batch_size, batch_size)
        rows = torch.arange(replicas, device=self.texts.device) * self.texts.vocab_size
        for count in dict.fromkeys([width, batch_size % width or width]):
            for length in self.lengths.tolist():
                inputs = rows.view(-1, 1, 1).repeat(1, count, length)
                counts = torch.full((replicas,), count * length, dtype=self.dtype, device=inputs.device)
                yield Batch(inputs, torch.zeros_like(inputs), counts)


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A copy on the device; to CUDA without waiting for it."""
    tensor = torch.from_numpy(np.array(array))
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
