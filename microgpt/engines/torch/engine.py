"""The PyTorch engine: the contract of engines/base.py for R models at once, on a CPU or a GPU.

A step of a GPU is queued without waiting for it: losses come back once an `advance`, and which models still train is
decided on the device. What one model computes does not depend on the others: they share nothing but the padding.

Several processes (company.py) hold the same models and compute a part of each batch; what the first one's engine is
asked to do, it tells the others'.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from microgpt.errors import UserError

try:
    import torch
except ImportError as error:
    raise UserError("backend=torch needs PyTorch: pip install 'microgpt[torch]'") from error
from torch import Tensor

from microgpt.data.examples import Examples
from microgpt.engines.base import EngineInfo, EngineState, Tokens, Workload
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.engines.torch.batches import Batch, Batches, Texts
from microgpt.engines.torch.decoder import TorchDecoder
from microgpt.engines.torch.device import DTYPES, choose_device, choose_dtype, use_threads
from microgpt.engines.torch.distributed import company
from microgpt.engines.torch.model import LARGEST_LOSS, Models
from microgpt.engines.torch.optimizer import Optimizer
from microgpt.engines.torch.parameters import Layout
from microgpt.model.spec import ModelSpec

EVALUATED_AT_ONCE = {"cpu": 1 << 22, "cuda": 1 << 25, "mps": 1 << 25}  # numbers in the widest activation


class TorchEngine:
    """R models of one shape, their parameters one matrix (R, NP) on the device."""

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
        self.company = company(options.processes)
        self.device = choose_device(options.device)
        there = replace(options, device=self.device.type)
        self.company.tell("make", there, spec, optimizer, workload and workload.packed_alone(), state)
        self.company.meet(self.device)
        dtype = choose_dtype(options.dtype, self.device)
        self.dtype = DTYPES[dtype]
        replicas = len(next(iter(state.parameters.values())))
        examples = sum(order.batch_size for order in workload.orders) if workload else replicas
        positions = workload.packed.positions.mean() if workload else 1.0
        operations = 6.0 * spec.parameter_count() * examples * float(positions)
        self.info = EngineInfo(
            backend="torch",
            device=self.device.type,
            using_gpu=self.device.type != "cpu",
            dtype=dtype,
            kernel="compiled" if options.compile else "eager",
            threads=use_threads(options, operations / options.processes),
            reason=options.reason,
            processes=options.processes,
        )
        self.layout = Layout(spec)
        self.models = Models(spec, self.layout, self.device, self.dtype, autocast=dtype == "bfloat16")
        self.batches = workload and Batches(
            workload, spec.vocab_size, self.device, self.dtype, options.compile, self.company.own
        )
        self.pass_loss = self.models.mean_loss
        self.is_compiled = False
        self.compile_seconds = 0.0
        self.take_up(state)

    def load(self, state: EngineState) -> None:
        self.company.tell("load", state)
        self.take_up(state)

    def take_up(self, state: EngineState) -> None:
        self.flat = self.layout.pack(state.parameters, self.dtype).to(self.device)  # (R, NP)
        self.parameters = [view.detach().requires_grad_() for view in self.layout.views(self.flat)]  # share its memory
        self.sums = self.flat.new_zeros(self.flat.numel() + len(self.flat))  # what processes add up: gradients, losses
        self.grad = self.sums[: self.flat.numel()].view_as(self.flat)
        m, v = (
            self.layout.pack(part, self.dtype).to(self.device) if part else torch.zeros_like(self.flat)
            for part in (state.m, state.v)
        )
        has_second = self.optimizer_spec.name != "sgd"
        decays = self.layout.decays().to(self.flat)
        self.optimizer = Optimizer(self.optimizer_spec, decays, m, v if has_second else None)

    def state(self) -> EngineState:
        m, v = self.optimizer.m, self.optimizer.v
        unpack = self.layout.unpack
        return EngineState(unpack(self.flat), unpack(m), {} if v is None else unpack(v))

    # Training

    def advance(self, step: int, learning_rates: np.ndarray) -> np.ndarray:
        assert self.batches is not None, "this engine was made without a workload"
        self.company.tell("advance", step, learning_rates)
        if self.options.compile and not self.is_compiled:
            self.compile(self.batches)
        count, replicas = learning_rates.shape
        rates = torch.tensor(learning_rates[:, :, np.newaxis]).to(self.dtype).to(self.device)  # (k, R, 1)
        losses = torch.full((count, replicas), torch.nan, dtype=self.dtype, device=self.device)
        alive = torch.ones(replicas, dtype=torch.bool, device=self.device)
        for s, batch in enumerate(self.batches.steps(step, step + count)):
            loss = self.loss_and_gradients(batch)
            losses[s] = loss.masked_fill(~alive, torch.nan)
            alive = alive & loss.isfinite()
            keep: Tensor | None = alive[:, None]
            if self.device.type == "cpu":  # where looking is no wait, the usual step goes without masks
                if alive.all():
                    keep = None
                elif not alive.any():
                    break
            self.optimizer.update(self.flat, self.grad, step + s, rates[s], keep)
        return losses.cpu().double().numpy()

    def loss_and_gradients(self, batch: Batch) -> Tensor:
        """The mean loss over each replica's target tokens, (R,); leaves the gradients in `self.grad`."""
        loss = worst = self.sums.new_zeros(len(self.flat))
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
        if self.options.processes > 1:
            self.sums[self.flat.numel() :] = loss
            self.company.add_up(self.sums)
            loss = self.sums[self.flat.numel() :]
        return loss

    def pass_gradients(
        self, inputs: Tensor, targets: Tensor, counts: Tensor
    ) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """One pass: each replica's part of the loss (R,), its largest loss at a position (R,), gradients by block."""
        with self.models.precision():
            loss, worst = self.pass_loss(self.parameters, inputs, targets, counts)
        gradients = torch.autograd.grad(loss, self.parameters, torch.ones_like(loss))
        return loss.detach(), worst, gradients

    def compile(self, batches: Batches) -> None:
        """Run a pass of every shape once on invented batches, which compiles it; changes no state."""
        from torch._dynamo.exc import TorchDynamoException  # importing it takes seconds

        self.say("compiling the model for PyTorch ...")
        start = time.perf_counter()
        self.pass_loss = torch.compile(self.models.mean_loss, dynamic=False)
        try:
            for batch in batches.invented(self.options.micro_batch):
                self.pass_gradients(batch.inputs, batch.targets, batch.counts)
        except TorchDynamoException as error:
            message = str(error).strip().splitlines()[0]
            raise UserError(f"backend.compile=true does not work on this machine: {message}") from error
        self.is_compiled = True
        self.compile_seconds += time.perf_counter() - start
        self.say(f"compiled in {self.compile_seconds:.1f} s")

    # Evaluating and decoding

    @torch.no_grad()
    def evaluate(self, examples: Sequence[Tokens]) -> np.ndarray:
        packed = Examples.of(examples)
        self.company.tell("evaluate", Examples.of(list(packed)))  # a slice would bring all tokens along
        texts = Texts(packed, self.spec.vocab_size, self.device)
        total = torch.zeros(len(self.flat), dtype=torch.float64)
        total = total if self.device.type == "mps" else total.to(self.device)
        for part in self.parts(packed.positions):
            inputs, targets = texts.padded(np.tile(part, (len(self.flat), 1)), int(packed.positions[part].max()))
            with self.models.precision():
                losses = self.models.losses(self.parameters, inputs, targets)  # (R, B * T)
            losses = losses.masked_fill(losses > LARGEST_LOSS, torch.inf).to(total.device)
            total += losses.sum(dim=1, dtype=torch.float64)
        self.company.add_up(total)
        return (total / int(packed.targets.sum())).cpu().numpy()

    def parts(self, positions: np.ndarray) -> Iterator[np.ndarray]:
        """Indices of examples of about one length, as many as fit in memory at once; of those, this process's part."""
        spec, order = self.spec, np.argsort(-positions, kind="stable")[self.company.own]
        while len(order):
            longest = int(positions[order[0]])
            widest = max(spec.vocab_size, 4 * spec.n_embd, spec.n_head * longest)
            fit = EVALUATED_AT_ONCE[self.device.type] // (len(self.flat) * longest * widest)
            yield order[: max(1, fit)]
            order = order[max(1, fit) :]

    def decoder(self, replica: int) -> TorchDecoder:
        return TorchDecoder(self.models, [block.detach() for block in self.parameters], replica)
