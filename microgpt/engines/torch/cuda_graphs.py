"""Training steps as CUDA graphs (backend.kernel=cuda_graph): recorded once, then replayed with one launch per step.

A step of a small model consists of about a hundred kernels of a few microseconds each, and launching the kernels
individually takes longer than running them. A graph replays the recorded kernels on the recorded addresses. Everything
that changes from step to step (the example indices, the learning rates, the step number) is therefore read from tensors
with fixed addresses. One graph is recorded for each batch length. A replay is the only launch of its step, and nothing
waits for the device before the last step.
"""

import gc
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from microgpt.data.batches import indices_of_orders
from microgpt.engines.options import EngineOptions
from microgpt.engines.torch.batch_tensors import Batch, Batches, to_device
from microgpt.errors import UserError

GRAPH_DEVICES = ("cuda",)
STEPS_AT_ONCE = 256  # maximum number of steps whose indices and learning rates are on the device at a time
INDICES_AT_ONCE = 1 << 22  # maximum number of example indices on the device
WARM_UPS = 3  # unrecorded steps, because libraries allocate workspaces and select kernels in their first calls

Update = Callable[[Tensor, Tensor, Tensor], None]  # step number (), learning rates (R, 1), keep (R, 1)


def check_kernel(options: EngineOptions, device: torch.device) -> None:
    """Raise UserError if CUDA graphs are requested but the device or the number of processes does not allow them."""
    if options.kernel != "cuda_graph":
        return
    if device.type not in GRAPH_DEVICES:
        raise UserError(
            f"backend.kernel=cuda_graph needs backend.device={' or '.join(GRAPH_DEVICES)}, but this run is on "
            f"{device.type}: use backend.kernel=eager"
        )
    if options.world_size > 1:
        raise UserError(
            f"backend.kernel=cuda_graph is not possible with {options.world_size} processes: use backend.kernel=eager"
        )


class StepGraphs:
    """The recorded steps of R replicas. The addresses of the tensors of `gradients` and `update` must not change."""

    def __init__(self, batches: Batches, gradients: Callable[[Batch], Tensor], update: Update):
        self.batches = batches
        self.gradients = gradients  # writes the gradients of a batch and returns the losses (R,)
        self.update = update
        examples, replicas, device = batches.examples, len(batches.orders), batches.examples.device
        steps = max(1, min(STEPS_AT_ONCE, INDICES_AT_ONCE // max(1, replicas * batches.width)))
        self.starts, self.ends = to_device(examples.starts, device), to_device(examples.positions, device)
        self.counts = to_device(examples.counts, device)
        self.chosen = torch.zeros(steps, replicas, batches.width, dtype=torch.int64, device=device)
        self.rates = torch.zeros(steps, replicas, 1, dtype=batches.dtype, device=device)
        self.losses = torch.zeros(steps, replicas, dtype=batches.dtype, device=device)
        self.running = torch.zeros(replicas, dtype=torch.bool, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)  # index of the next step in `chosen`
        self.step = torch.zeros((), dtype=torch.float64, device=device)  # number of the next step since step 0
        recorder = Recorder()
        # If no replica is running, a step changes neither parameters nor moments.
        self.replays = {length: self.record(length, recorder) for length in batches.lengths.tolist()}

    def record(self, length: int, recorder: "Recorder") -> Callable[[], None]:
        def warm_up() -> None:
            self.position.zero_()
            self.train_step(length)

        try:
            return recorder.record(warm_up, lambda: self.train_step(length))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            message = str(error).strip().splitlines()[0]
            raise UserError(
                f"backend.kernel=cuda_graph does not work for this model ({message}): use backend.kernel=eager"
            ) from error

    def train_step(self, length: int) -> None:
        """Train the step at `position`, reading and writing only tensors with fixed addresses."""
        chosen = self.chosen.index_select(0, self.position)[0]  # (R, B)
        inputs, targets = self.batches.examples.rows(self.starts[chosen], self.ends[chosen], length)
        loss = self.gradients(Batch(inputs, targets, self.counts[chosen].sum(dim=1).to(self.rates.dtype)))
        self.losses.index_copy_(0, self.position, loss.masked_fill(~self.running, torch.nan)[None])
        self.running.logical_and_(loss.isfinite())
        self.update(self.step, self.rates.index_select(0, self.position)[0], self.running[:, None])
        self.position.add_(1)
        self.step.add_(1)

    def advance(self, begin: int, learning_rates: np.ndarray) -> np.ndarray:
        """Train k steps from `begin` on: learning rates (k, R) -> losses (k, R)."""
        self.running.fill_(True)
        losses = []
        for first in range(0, len(learning_rates), len(self.chosen)):
            rates = learning_rates[first : first + len(self.chosen)]
            steps, start = len(rates), begin + first
            chosen = indices_of_orders(self.batches.orders, start, start + steps)  # (R, k, B)
            chosen = np.ascontiguousarray(chosen.swapaxes(0, 1))
            self.chosen[:steps].copy_(to_device(chosen, self.chosen.device))
            self.rates[:steps].copy_(to_device(rates[:, :, np.newaxis], self.rates.device))
            self.position.zero_()
            self.step.fill_(start)
            for length in self.batches.padded_lengths(chosen.reshape(steps, -1)):
                self.replays[length]()
            losses.append(self.losses[:steps].clone())
        return torch.cat(losses).cpu().double().numpy()


class Recorder:
    """Records steps as graphs that share one memory pool: no tensor in the pool is read after its graph's replay."""

    def __init__(self) -> None:
        gc.collect()  # freeing a graph while another graph is being recorded would end the recording
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream()  # not the default stream, whose work cannot be recorded

    def record(self, warm_up: Callable[[], None], step: Callable[[], None]) -> Callable[[], None]:
        """Record the kernels of a step without running them; return the function that launches them."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_UPS):
                warm_up()
        torch.cuda.current_stream().wait_stream(self.stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            step()
        return graph.replay
