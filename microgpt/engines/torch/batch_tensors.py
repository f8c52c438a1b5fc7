"""Batches on the device: the examples are copied to the device once, then the indices of many steps at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from microgpt.data.batches import indices_of_orders
from microgpt.data.examples import Examples
from microgpt.engines.base import Workload
from microgpt.engines.torch.model import NO_TARGET

CHUNK_POSITIONS = 1 << 22  # maximum number of positions, including padding, on the device at a time
LEAST_SHORT_STEPS = 0.01  # share of short steps above which compiling for a second length is worth the time


@dataclass(frozen=True)
class Batch:
    """The examples of one step for all replicas, padded to the longest example."""

    inputs: Tensor  # int64 (R, B, T): token t of replica r is r * V + t, the row in the concatenated embeddings
    targets: Tensor  # int64 (R, B, T): token ids or NO_TARGET
    counts: Tensor  # (R,): number of targets in a replica's whole batch, in the dtype of the parameters

    def passes(self, micro_batch: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and targets of at most `micro_batch` examples per replica (None: of all examples)."""
        width = micro_batch or self.inputs.shape[1]
        if self.inputs.shape[1] == 0:  # the batch is smaller than the world size, and this rank has no examples
            return
        for inputs, targets in zip(self.inputs.split(width, dim=1), self.targets.split(width, dim=1), strict=True):
            yield with_own_strides(inputs), with_own_strides(targets)


class DeviceExamples:
    """Examples on a device."""

    def __init__(self, examples: Examples, vocab_size: int, device: torch.device):
        self.device = device
        self.vocab_size = vocab_size
        self.counts = examples.targets  # int64 (n,)
        self.positions = examples.positions  # int64 (n,)
        self.starts = examples.starts
        self.tokens = to_device(examples.tokens, device)

    def padded(self, chosen: np.ndarray, length: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets as in `Batch`: example indices (R, ...) -> (R, ..., length)."""
        starts, ends = to_device(self.starts[chosen], self.device), to_device(self.positions[chosen], self.device)
        return self.rows(starts, ends, length)

    def rows(self, starts: Tensor, ends: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets as in `Batch`: starts and numbers of positions (R, ...) -> (R, ..., length)."""
        positions = torch.arange(length, device=self.device)
        is_inside = positions < ends[..., None]
        # masked_fill instead of torch.where, because a CUDA graph cannot copy torch.where's scalar to the device.
        at = (starts[..., None] + positions).masked_fill(~is_inside, 0)
        first_rows = torch.arange(len(starts), device=self.device) * self.vocab_size
        inputs, targets = self.tokens[at].long(), self.tokens[at + 1].long()
        inputs = torch.where(inputs < 0, ~inputs, inputs) + first_rows.view(-1, *[1] * starts.ndim)
        return inputs, targets.masked_fill(~is_inside | (targets < 0), NO_TARGET)


class Batches:
    """The batches of a workload by step, or only the `share` of each batch that this rank computes."""

    def __init__(
        self,
        workload: Workload,
        vocab_size: int,
        device: torch.device,
        dtype: torch.dtype,
        few_lengths: bool,
        share: slice = slice(None),
    ):
        self.orders = workload.orders
        self.share = share
        self.width = len(range(workload.orders[0].batch_size)[share]) if workload.orders else 0
        self.examples = DeviceExamples(workload.packed, vocab_size, device)
        self.dtype = dtype
        # The lengths to which batches are padded: one or two if each length needs compiling, otherwise every length.
        self.lengths = self.few_lengths() if few_lengths else np.arange(self.examples.positions.max() + 1)

    def few_lengths(self) -> np.ndarray:
        """Return the length of the longest example, preceded by half of this length if enough steps fit in it."""
        positions = self.examples.positions
        longest = int(positions.max())
        half = -(-longest // 2)
        short_steps = float((positions <= half).mean()) ** (self.width * len(self.orders))  # expected share of steps
        return np.unique([half, longest]) if short_steps >= LEAST_SHORT_STEPS else np.array([longest])

    def steps(self, begin: int, end: int) -> Iterator[Batch]:
        """Yield the batches of steps begin .. end - 1."""
        positions = int(self.lengths[-1]) * self.width * len(self.orders)
        chunk = max(1, CHUNK_POSITIONS // max(1, positions))
        for first in range(begin, end, chunk):
            yield from self.chunk(first, min(end, first + chunk))

    def chunk(self, begin: int, end: int) -> Iterator[Batch]:
        chosen = indices_of_orders(self.orders, begin, end)  # (R, k, B)
        counts = self.examples.counts[chosen]  # including the examples of other ranks
        chosen = chosen[:, :, self.share]
        lengths = self.padded_lengths(chosen.swapaxes(0, 1).reshape(chosen.shape[1], -1))
        inputs, targets = self.examples.padded(chosen, max(lengths))
        totals = to_device(np.ascontiguousarray(counts.sum(axis=2).T), self.examples.device).to(self.dtype)  # (k, R)
        for s, length in enumerate(lengths):
            yield Batch(inputs[:, s, :, :length], targets[:, s, :, :length], totals[s])

    def padded_lengths(self, chosen: np.ndarray) -> list[int]:
        """Return the length to which each step is padded: example indices (k, R * B) -> k lengths."""
        longest = self.examples.positions[chosen].max(axis=1, initial=0)
        return self.lengths[np.searchsorted(self.lengths, longest)].tolist()

    def dummies(self, micro_batch: int | None) -> Iterator[Batch]:
        """Yield a batch of every shape that a pass can have."""
        replicas, batch_size = len(self.orders), self.width
        if batch_size == 0:
            return
        width = min(micro_batch or batch_size, batch_size)
        rows = torch.arange(replicas, device=self.examples.device) * self.examples.vocab_size
        for count in dict.fromkeys([width, batch_size % width or width]):
            for length in self.lengths.tolist():
                inputs = rows.view(-1, 1, 1).repeat(1, count, length)
                counts = torch.full((replicas,), count * length, dtype=self.dtype, device=inputs.device)
                yield Batch(inputs, torch.zeros_like(inputs), counts)


def with_own_strides(tensor: Tensor) -> Tensor:
    """Return a contiguous tensor with the default strides of its shape: torch.compile recompiles for other strides.

    `contiguous` alone does not change the stride of an axis of length 1, for example the axis of a single replica.
    """
    return tensor.contiguous().view(-1).view(tensor.shape)


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Return a copy on the device; on CUDA, the copy is queued without waiting."""
    tensor = torch.from_numpy(np.array(array))
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
