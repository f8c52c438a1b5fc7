"""The processes that compute one model together, and what they say to each other. Knows nothing of models or files.

The first one gives orders, the others hear them. All of them add up: the sum over the processes of the gradients of
their parts of a batch is the gradient of the batch, where each part's losses are divided by the tokens of the *whole*
batch. torch.nn.parallel.DistributedDataParallel does the same in other words (Li et al., "PyTorch Distributed:
Experiences on Accelerating Data Parallel Training", VLDB 2020): it gathers the gradients into flat buckets, adds each
bucket up over the processes and divides by their number, so that it averages means. That is right where all parts have
the same number of tokens; names do not. Here the gradients lie in one flat row already, which is added up once a step,
after the backward pass; DistributedDataParallel begins with the last layers' while it still computes the first ones'.
Every process then makes the same update of the same numbers, and none ever sends parameters.
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

from microgpt.distributed import Processes, processes
from microgpt.errors import MicrogptError

BETWEEN_ORDERS = timedelta(days=30)  # the first process may sample and write for as long as it takes
WITHIN_A_STEP = timedelta(minutes=30)  # compiling may take some of them longer than others


@dataclass
class Company:
    """The processes of a run, seen from one of them. Alone, it says nothing and adds nothing."""

    place: Processes
    group: Any = None  # the connections over which tensors are added up: NCCL's or gloo's

    @property
    def own(self) -> slice:
        """Which of a batch's examples are this process's: every count-th one. There may be none."""
        return slice(self.place.rank, None, self.place.count)

    def meet(self, device: torch.device) -> None:
        """Connect the processes' devices. All of them call it."""
        if self.place.count > 1 and self.group is None:
            if device.type == "cuda":
                torch.cuda.set_device(device)
            with loss_of_one():
                backend = "nccl" if device.type == "cuda" else "gloo"
                self.group = distributed.new_group(backend=backend, timeout=WITHIN_A_STEP)

    def add_up(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over the processes, which is the same in each of them to the last bit."""
        if self.place.count > 1:
            with loss_of_one():
                distributed.all_reduce(tensor, group=self.group)

    def tell(self, order: str, *arguments: Any) -> None:
        """What all others are to do as well; only the first process gives orders."""
        if self.place.count > 1 and self.place.rank == 0:
            with loss_of_one():
                distributed.broadcast_object_list([order, arguments], src=0)

    def hear(self) -> tuple[str, tuple[Any, ...]]:
        """The next order; waits for it."""
        heard: list[Any] = [None, None]
        with loss_of_one():
            distributed.broadcast_object_list(heard, src=0)
        return heard[0], heard[1]

    def leave(self, in_order: bool) -> None:
        """Close the connections; out of order where others may be gone, or wait for what does not come."""
        is_nccl = self.group is not None and distributed.get_backend(self.group) == "nccl"
        if is_nccl and not in_order:  # it would wait for the others; the connections end with the process
            return
        with suppress(RuntimeError):
            distributed.destroy_process_group()


@contextmanager
def loss_of_one() -> Iterator[None]:
    """Raises ConnectionError where PyTorch says, in many words, that another process does not answer."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionResetError(errno.ECONNRESET, "another process of this run has ended") from error


def join() -> Company:
    """Meet the other processes of this run; waits for all of them. Orders travel by gloo, whatever the devices are.

    Raises MicrogptError where one cannot be reached.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own handler would wait with us
    # Where torchrun has started its processes anew (--max-restarts), the addresses of the earlier ones still stand in
    # its store; those of each attempt get names of their own.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store, rank, count = next(rendezvous("env://", timeout=BETWEEN_ORDERS))
        store = PrefixStore(f"attempt_{attempt}", store)
        distributed.init_process_group("gloo", timeout=BETWEEN_ORDERS, store=store, rank=rank, world_size=count)
    except RuntimeError as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise MicrogptError(
            f"the processes of this run do not find each other at {where}: {str(error).splitlines()[0]} "
            "(GLOO_SOCKET_IFNAME in the environment names the network to use)"
        ) from error
    signal.signal(signal.SIGINT, before)
    companies[:] = [Company(processes())]
    return companies[0]


def company(count: int) -> Company:
    """The company of so many processes that this one has joined."""
    if count == 1:
        return Company(Processes())
    assert companies, "several processes join before they compute"
    return companies[0]


companies: list[Company] = []  # one, once this process has joined
