"""The PyTorch engine: the interface of engines/base.py for R models at once, on a CPU or a GPU.

On a GPU, the steps of one `advance` are queued without waiting: losses are copied back at the end, and the device
itself stops the models with a non-finite loss. The models share only the padding of their batches.

With several processes (distributed.py), every rank holds the same models and computes a part of each batch; the methods
of rank 0's engine broadcast their calls to the other ranks.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from microgpt.errors import UserError
from microgpt.installation import install_command

try:
    import torch
except ImportError as error:
    raise UserError(f"backend=torch needs PyTorch: {install_command('torch')}") from error
from torch import Tensor

from microgpt.data.examples import Examples
from microgpt.engines.base import EngineInfo, EngineState, Tokens, Workload, implementation
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.engines.torch.batch_tensors import Batch, Batches, DeviceExamples
from microgpt.engines.torch.cuda_graphs import StepGraphs, check_kernel
from microgpt.engines.torch.device import DTYPES, choose_device, choose_dtype, set_threads
from microgpt.engines.torch.distributed import process_group
from microgpt.engines.torch.model import LARGEST_LOSS, Models, TorchDecoder
from microgpt.engines.torch.optimizer import Optimizer
from microgpt.engines.torch.parameters import Layout
from microgpt.model.spec import ModelSpec

COMPILATIONS = 256  # maximum number of compilations of one function in a process; PyTorch's default is 8
EVALUATED_AT_ONCE = {"cpu": 1 << 22, "cuda": 1 << 25, "mps": 1 << 25}  # maximum size of the largest activation


class TorchEngine:
    """R models of one shape, with their parameters in one matrix (R, NP) on the device."""

    def __init__(
        self,
        options: EngineOptions,
        spec: ModelSpec,
        optimizer: OptimizerSpec,
        workload: Workload | None,
        state: EngineState,
        say: Callable[[str], None] = print,
    ):
        self.options = options
        self.spec = spec
        self.optimizer_spec = optimizer
        self.say = say
        self.ranks = process_group(options.world_size)
        self.device = choose_device(options.device)
        resolved = replace(options, device=self.device.type)
        packed = workload and Workload(workload.packed, workload.orders)  # sends arrays instead of lists
        check_kernel(options, self.device)
        self.uses_graphs = options.kernel == "cuda_graph"
        self.ranks.broadcast("make", resolved, spec, optimizer, packed, state)
        self.ranks.connect(self.device)
        dtype = choose_dtype(options.dtype, self.device)
        self.dtype = implementation(DTYPES, "backend.dtype", dtype, "DTYPES in engines/torch/device.py")
        examples = sum(order.batch_size for order in workload.orders) if workload else state.replicas
        positions = workload.packed.positions.mean() if workload else 1.0
        operations = 6.0 * spec.parameter_count() * examples * float(positions)
        self.info = EngineInfo(
            backend="torch",
            device=self.device.type,
            using_gpu=self.device.type != "cpu",
            dtype=dtype,
            kernel="_".join(["compiled"] * options.compile + ["cuda_graph"] * self.uses_graphs) or "eager",
            threads=set_threads(options, operations / options.world_size),
            reason=options.reason,
            processes=options.world_size,
        )
        self.layout = Layout(spec)
        self.models = Models(spec, self.layout, self.device, self.dtype, autocast=dtype == "bfloat16")
        self.batches = workload and Batches(
            workload, spec.vocab_size, self.device, self.dtype, options.compile or self.uses_graphs, self.ranks.share
        )
        self.pass_loss = self.models.mean_loss
        self.is_compiled = False
        self.graphs: StepGraphs | None = None
        self.compile_seconds = 0.0
        self.set_state(state)

    def load(self, state: EngineState) -> None:
        self.ranks.broadcast("load", state)
        self.set_state(state)

    def set_state(self, state: EngineState) -> None:
        self.flat = self.layout.pack(state.parameters, self.dtype).to(self.device)  # (R, NP)
        self.parameters = [view.detach().requires_grad_() for view in self.layout.views(self.flat)]  # not copied
        self.reduced = self.flat.new_zeros(self.flat.numel() + len(self.flat))  # gradients and losses, for all_reduce
        self.grad = self.reduced[: self.flat.numel()].view_as(self.flat)
        moments = [
            self.layout.pack(part, self.dtype).to(self.device) if part else torch.zeros_like(self.flat)
            for part in (state.m, state.v)[: self.optimizer_spec.moments]
        ]
        self.optimizer = Optimizer(self.optimizer_spec, self.layout, self.layout.decays().to(self.flat), moments)
        self.graphs = None  # recorded graphs use the old tensors

    def state(self) -> EngineState:
        return EngineState(*map(self.layout.unpack, [self.flat, *self.optimizer.moments]))

    # Training

    def advance(self, step: int, learning_rates: np.ndarray) -> np.ndarray:
        assert self.batches is not None, "this engine was created without a workload"
        self.ranks.broadcast("advance", step, learning_rates)
        if self.options.compile and not self.is_compiled:
            self.compile(self.batches)
        if self.uses_graphs:
            self.graphs = self.graphs or self.record(self.batches)
            return self.graphs.advance(step, learning_rates)
        count, replicas = learning_rates.shape
        rates = torch.tensor(learning_rates[:, :, np.newaxis]).to(self.dtype).to(self.device)  # (k, R, 1)
        losses = torch.full((count, replicas), torch.nan, dtype=self.dtype, device=self.device)
        running = torch.ones(replicas, dtype=torch.bool, device=self.device)
        for s, batch in enumerate(self.batches.steps(step, step + count)):
            loss = self.loss_and_gradients(batch)
            losses[s] = loss.masked_fill(~running, torch.nan)
            running = running & loss.isfinite()
            keep: Tensor | None = running[:, None]
            if self.device.type == "cpu":  # reading `running` costs no wait: skip the masks if possible
                if running.all():
                    keep = None
                elif not running.any():
                    break
            self.optimizer.update(self.flat, self.grad, step + s, rates[s], keep)
        return losses.cpu().double().numpy()

    def loss_and_gradients(self, batch: Batch) -> Tensor:
        """Return each replica's mean loss per target token, (R,); write the gradients to `self.grad`."""
        loss = worst = self.reduced.new_zeros(len(self.flat))
        if batch.inputs.shape[1] == 0:
            self.grad.zero_()
        for number, (inputs, targets) in enumerate(batch.passes(self.options.micro_batch)):
            part, part_worst, gradients = self.pass_gradients(inputs, targets, batch.counts)
            flattened = [gradient.flatten(1) for gradient in gradients]
            if number == 0:
                loss, worst = part, part_worst
                torch.cat(flattened, dim=1, out=self.grad)
            else:
                loss, worst = loss + part, torch.maximum(worst, part_worst)
                self.grad += torch.cat(flattened, dim=1)
        loss = loss.masked_fill(worst > LARGEST_LOSS, torch.inf)
        if self.options.world_size > 1:
            self.reduced[self.flat.numel() :] = loss
            self.ranks.all_reduce(self.reduced)
            loss = self.reduced[self.flat.numel() :]
        return loss

    def pass_gradients(
        self, inputs: Tensor, targets: Tensor, counts: Tensor
    ) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """Return each replica's part of the loss (R,), its largest loss at any position (R,) and gradients by block."""
        with self.models.precision():
            loss, worst = self.pass_loss(self.parameters, inputs, targets, counts)
        gradients = torch.autograd.grad(loss, self.parameters, torch.ones_like(loss))
        return loss.detach(), worst, gradients

    def compile(self, batches: Batches) -> None:
        """Compile by running a pass of every shape on a dummy batch; the state does not change."""
        from torch._dynamo import config  # importing it takes seconds
        from torch._dynamo.exc import TorchDynamoException

        # After this number of compilations of a function, including those for other engines and lengths, PyTorch no
        # longer compiles the function and reports this only in its log.
        config.recompile_limit = max(config.recompile_limit, COMPILATIONS)
        self.say("compiling the model for PyTorch ...")
        start = time.perf_counter()
        self.pass_loss = torch.compile(self.models.mean_loss, dynamic=False)
        try:
            for batch in batches.dummies(self.options.micro_batch):
                self.pass_gradients(batch.inputs, batch.targets, batch.counts)
        except TorchDynamoException as error:
            message = str(error).strip().splitlines()[0]
            raise UserError(
                f"backend.compile=true does not work on this machine: {message}; set backend.compile=false"
            ) from error
        self.is_compiled = True
        self.compile_seconds += time.perf_counter() - start
        self.say(f"compiled in {self.compile_seconds:.1f} s")

    def record(self, batches: Batches) -> StepGraphs:
        """Record the steps for the current tensors; the state does not change."""
        start = time.perf_counter()
        update = torch.compile(self.optimizer.update, dynamic=False) if self.options.compile else self.optimizer.update

        def update_replicas(step: Tensor, lr: Tensor, keep: Tensor) -> None:
            update(self.flat, self.grad, step, lr, keep)

        graphs = StepGraphs(batches, self.loss_and_gradients, update_replicas)
        self.compile_seconds += time.perf_counter() - start
        return graphs

    # Evaluation and decoding

    @torch.no_grad()
    def evaluate(self, examples: Sequence[Tokens]) -> np.ndarray:
        packed = Examples.of(examples)
        self.ranks.broadcast("evaluate", Examples.of(list(packed)))  # a slice would send the tokens of all examples
        on_device = DeviceExamples(packed, self.spec.vocab_size, self.device)
        total = torch.zeros(len(self.flat), dtype=torch.float64)
        total = total if self.device.type == "mps" else total.to(self.device)
        for part in self.parts(packed.positions):
            inputs, targets = on_device.padded(np.tile(part, (len(self.flat), 1)), int(packed.positions[part].max()))
            with self.models.precision():
                losses = self.models.losses(self.parameters, inputs, targets)  # (R, B * T)
            losses = losses.masked_fill(losses > LARGEST_LOSS, torch.inf).to(total.device)
            total += losses.sum(dim=1, dtype=torch.float64)
        self.ranks.all_reduce(total)
        return (total / int(packed.targets.sum())).cpu().numpy()

    def parts(self, positions: np.ndarray) -> Iterator[np.ndarray]:
        """Yield groups of this rank's example indices, sorted by length, each as large as fits in memory."""
        spec, order = self.spec, np.argsort(-positions, kind="stable")[self.ranks.share]
        while len(order):
            longest = int(positions[order[0]])
            hidden = (2 if spec.gated_mlp else 1) * spec.mlp_features
            widest = max(spec.vocab_size, hidden, spec.n_head * longest)
            fit = EVALUATED_AT_ONCE[self.device.type] // (len(self.flat) * longest * widest)
            yield order[: max(1, fit)]
            order = order[max(1, fit) :]

    def decoder(self, replica: int) -> TorchDecoder:
        return TorchDecoder(self.models, [block[replica].detach().clone() for block in self.parameters])
