"""Time training steps of wide models, one measurement per process: native engine, PyTorch engine, nanoGPT's model.

Started by benchmark_native.py. All programs train with Adam in float32 on the CPU, on documents as long as the block,
with random tokens from a vocabulary of 65. nanoGPT's model.py is imported from a folder; its eager model and its AdamW
are used.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from microgpt.data.batches import BatchOrder
from microgpt.engines import make_engine
from microgpt.engines.base import EngineState, Workload
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.model.spec import ModelSpec

VOCAB, DOCUMENTS, RATE = 65, 64, 0.001


@dataclass(frozen=True)
class Shape:
    n_embd: int
    n_layer: int
    n_head: int
    block_size: int
    batch_size: int

    @property
    def tokens(self) -> int:
        return self.batch_size * self.block_size


def engine_step(shape: Shape, backend: str, threads: int) -> Callable[[], Any]:
    """Return a function that trains one step with an engine of this project."""
    rng = np.random.default_rng(0)
    spec = ModelSpec("gpt", VOCAB, shape.n_embd, shape.n_head, shape.n_layer, shape.block_size)
    examples = [rng.integers(0, VOCAB, shape.block_size + 1).tolist() for _ in range(DOCUMENTS)]
    work = Workload(examples, [BatchOrder(rng.permutation(DOCUMENTS), (), 0.0, shape.batch_size)])
    state = EngineState({name: rng.normal(0, 0.02, (1, *size)) for name, size in spec.shapes().items()})
    options = EngineOptions(backend, device="cpu", dtype="float32", threads=threads)
    engine = make_engine(options, spec, OptimizerSpec("adam", 0.9, 0.99, 1e-8), work, state, lambda text: None)
    return lambda: engine.advance(0, np.full((1, 1), RATE))


def nanogpt_step(shape: Shape, folder: Path, threads: int) -> Callable[[], Any]:
    """Return a function that trains one step of nanoGPT's model."""
    import torch

    sys.path.insert(0, str(folder))
    nanogpt = import_module("model")
    torch.set_num_threads(threads)
    sizes = {"n_layer": shape.n_layer, "n_head": shape.n_head, "n_embd": shape.n_embd}
    sizes |= {"block_size": shape.block_size, "vocab_size": VOCAB}
    model = nanogpt.GPT(nanogpt.GPTConfig(dropout=0.0, bias=False, **sizes))
    optimizer = model.configure_optimizers(0.1, RATE, (0.9, 0.99), "cpu")

    def step() -> None:
        x, y = torch.randint(VOCAB, (2, shape.batch_size, shape.block_size))
        model(x, y)[1].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def tokens_per_second(shape: Shape, program: str, threads: int, seconds: float, clock: Callable[[], float]) -> float:
    """Return the rate over at least `seconds`; `program` is native, torch, or a folder with nanoGPT."""
    if program in ("native", "torch"):
        step = engine_step(shape, program, threads)
    else:
        step = nanogpt_step(shape, Path(program), threads)
    step()
    steps, spent, start = 0, 0.0, clock()
    while spent < seconds:
        step()
        steps, spent = steps + 1, clock() - start
    return steps * shape.tokens / spent
