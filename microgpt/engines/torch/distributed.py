"""The processes of one torchrun, which train the same model, each on a part of every batch.

Rank 0 runs the program and broadcasts the method calls of its engine; the other ranks make the same calls (worker.py).
Each rank divides the losses of its part by the number of targets in the *whole* batch, so that the sum of the gradients
over the ranks is the gradient of the batch. Every rank then makes the same update to the same parameters; parameters
are never sent during training.

torch.nn.parallel.DistributedDataParallel (Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel
Training", VLDB 2020) averages the gradients instead, which is correct only if all parts have the same number of
targets. This is not the case for names. It also reduces the gradients of the last layers while it computes those of the
first layers; here, the gradients of all layers are in one tensor, which is reduced once after the backward pass.
"""

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from microgpt.distributed import Process, this_process
from microgpt.errors import MicrogptError

BETWEEN_CALLS = timedelta(days=30)  # rank 0 may spend any time on sampling and writing
WITHIN_A_CALL = timedelta(minutes=30)  # ranks may differ by their compilation times


@dataclass
class ProcessGroup:
    """The processes of a run, from the perspective of one process. With a world size of 1, nothing is communicated."""

    process: Process
    group: Any = None  # the NCCL or gloo connections between the devices

    @property
    def share(self) -> slice:
        """The examples of a batch that this rank computes: every world_size-th example. There may be none."""
        return slice(self.process.rank, None, self.process.world_size)

    def connect(self, device: torch.device) -> None:
        """Connect the devices of all ranks; every rank must call it."""
        if self.process.world_size > 1 and self.group is None:
            if device.type == "cuda":
                torch.cuda.set_device(device)
            with connection_errors():
                backend = "nccl" if device.type == "cuda" else "gloo"
                self.group = distributed.new_group(backend=backend, timeout=WITHIN_A_CALL)

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace a tensor with its sum over the ranks, which is bit-identical on all ranks."""
        if self.process.world_size > 1:
            with connection_errors():
                distributed.all_reduce(tensor, group=self.group)

    def broadcast(self, method: str, *arguments: Any) -> None:
        """Send an engine's method call from rank 0 to the other ranks; on the other ranks, do nothing."""
        if self.process.world_size > 1 and self.process.rank == 0:
            with connection_errors():
                distributed.broadcast_object_list([method, arguments], src=0)

    def receive(self) -> tuple[str, tuple[Any, ...]]:
        """Wait for the next call that rank 0 broadcasts."""
        received: list[Any] = [None, None]
        with connection_errors():
            distributed.broadcast_object_list(received, src=0)
        return received[0], received[1]

    def close(self, in_order: bool) -> None:
        """Close the connections. `in_order` is False if other ranks may have ended or may wait for a reduction."""
        is_nccl = self.group is not None and distributed.get_backend(self.group) == "nccl"
        if is_nccl and not in_order:  # closing would wait for the other ranks; the connections end with the process
            return
        with suppress(RuntimeError):
            distributed.destroy_process_group()


@contextmanager
def connection_errors() -> Iterator[None]:
    """Convert PyTorch's errors about a rank that does not respond to a ConnectionError."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionResetError(errno.ECONNRESET, "another process of this run has ended") from error


def init_process_group() -> ProcessGroup:
    """Connect to the other processes of this run; every process must call this function.

    Method calls are sent over gloo on every device. Raises MicrogptError if a process cannot be reached.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own handler does not interrupt the wait
    # After a restart by torchrun (--max-restarts), the store still contains the addresses of the earlier processes; a
    # prefix per attempt separates them.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store, rank, world_size = next(rendezvous("env://", timeout=BETWEEN_CALLS))
        store = PrefixStore(f"attempt_{attempt}", store)
        distributed.init_process_group("gloo", timeout=BETWEEN_CALLS, store=store, rank=rank, world_size=world_size)
    except RuntimeError as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise MicrogptError(
            f"the processes of this run cannot connect at {address}: {str(error).splitlines()[0]}; "
            "set GLOO_SOCKET_IFNAME to the network interface to use"
        ) from error
    signal.signal(signal.SIGINT, before)
    groups[:] = [ProcessGroup(this_process())]
    return groups[0]


def process_group(world_size: int) -> ProcessGroup:
    """Return the group of this process. If world_size > 1, `init_process_group` must have been called."""
    if world_size == 1:
        return ProcessGroup(Process())
    assert groups, "init_process_group() must be called first"
    return groups[0]


groups: list[ProcessGroup] = []  # at most one
