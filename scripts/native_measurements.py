"""One measurement of benchmark_native.py, in a process of its own: training or sampling of names, or a wide model.

    python scripts/native_measurements.py CASE PROGRAM THREADS SECONDS

The programs of a wide model, native engine, PyTorch engine and nanoGPT's model, train with Adam in float32 on the CPU,
on documents as long as the block, with random tokens from a vocabulary of 65. nanoGPT's model.py is imported from a
folder; its eager model and its AdamW are used.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import harness
import numpy as np
from native_cases import CASES, SPEED, TIME, Case, Shape

from microgpt.api.program import compose
from microgpt.benchmarks.reference import BLOCK_SIZE, SEED, names_corpus, reference_engine
from microgpt.data.batches import BatchOrder
from microgpt.data.corpus import Corpus
from microgpt.engines import make_engine
from microgpt.engines.base import BulkRequest, Engine, EngineState, Workload
from microgpt.engines.native.engine import NativeEngine
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.errors import MicrogptError
from microgpt.model.spec import ModelSpec
from microgpt.training.from_config import model_spec

RATE = 0.01
STEADY_RATE = 0.001  # learning rate: at 0.01 and batch 1, a loss becomes infinite after 273,000 steps
FIRST_STEPS = 64  # steps of the first attempt; later attempts are longer, until one lasts long enough
TRAINED_STEPS = 2000  # with batch size 16, before sampling
TEXTS = 10_000  # in one call of `draw`
VOCAB, DOCUMENTS = 65, 64  # of a wide model


def measure(case: Case, program: str, threads: int, seconds: float) -> dict[str, Any]:
    """Return the figure in the form that a peer prints, and a note.

    `program` is torch or a folder with nanoGPT for a wide model, or overrides that select a model; empty: the default.
    """
    if case.wide:
        return time_wide(case, program or "native", threads, seconds)
    corpus = names_corpus(harness.names_source())
    seeds = range(SEED, SEED + case.replicas)
    options = EngineOptions("native", dtype="float32", threads=threads)
    chosen: dict[str, Any] = options_of(program, corpus.tokenizer.vocab_size) if program else {"n_embd": case.n_embd}
    engine = reference_engine(options, corpus, case.batch_size, seeds, say=harness.say, **chosen)
    return time_sampling(case, engine, seconds, corpus) if case.slots else time_training(case, engine, threads, seconds)


def options_of(model: str, vocab_size: int) -> dict[str, Any]:
    """Return the options of the model that the overrides select."""
    config, _ = compose(model.split())
    options = model_spec(config, vocab_size).to_dict()
    return {key: value for key, value in options.items() if key not in ("kind", "vocab_size")}


def time_training(case: Case, engine: Engine, threads: int, seconds: float) -> dict[str, Any]:
    """Return the microseconds per name and model of one call of `advance` that lasts at least `seconds`.

    All calls train the same model at a constant learning rate; the loss is that of the last call.
    """
    clock = time.perf_counter if len(case.threads) > 1 else time.process_time
    step, steps, spent, cpu, losses = 0, FIRST_STEPS, 0.0, 0.0, np.empty(0)
    while spent < seconds:
        if step:
            steps = 1 + int(steps * min(8.0, 1.2 * seconds / spent))
        cpu_start, start = time.process_time(), clock()
        losses = engine.advance(step, np.full((steps, case.replicas), STEADY_RATE))
        spent, cpu = clock() - start, time.process_time() - cpu_start
        step += steps
    parameters = sum(array[0].size for array in engine.state().parameters.values())
    loss = losses[-max(1, len(losses) // 10) :].mean()
    if not math.isfinite(loss):
        raise MicrogptError(f"the loss is {loss} after {step} steps")
    figures = {
        TIME: 1e6 * spent / (steps * case.batch_size * case.replicas),
        "note": f"loss {loss:.3f} after {step} steps, {parameters} parameters",
    }
    return figures | ({"on_cpu": cpu / spent / threads} if len(case.threads) > 1 else {})


def time_wide(case: Case, program: str, threads: int, seconds: float) -> dict[str, Any]:
    """Return the tokens per second of training steps; `program` is native, torch, or a folder with nanoGPT."""
    assert case.wide
    is_ours = program in ("native", "torch")
    step = engine_step(case.wide, program, threads) if is_ours else nanogpt_step(case.wide, Path(program), threads)
    step()
    clock = time.perf_counter if len(case.threads) > 1 else time.process_time
    steps, spent, cpu_start, start = 0, 0.0, time.process_time(), clock()
    while spent < seconds:
        step()
        steps, spent = steps + 1, clock() - start
    return {SPEED: steps * case.wide.tokens / spent, "on_cpu": (time.process_time() - cpu_start) / spent / threads}


def time_sampling(case: Case, engine: Engine, seconds: float, corpus: Corpus) -> dict[str, Any]:
    """Return the tokens per second of `draw`, counting end-of-text tokens."""
    assert case.slots
    assert isinstance(engine, NativeEngine)
    engine.advance(0, RATE * (1 - np.arange(TRAINED_STEPS)[:, None] / TRAINED_STEPS))
    prompt, slots = [corpus.tokenizer.bos], case.slots

    def draw(count: int, first: int) -> int:
        return engine.draw(0, BulkRequest(prompt, count, BLOCK_SIZE, 0.5, None, SEED, first), slots).tokens

    draw(TEXTS // 10, 0)
    texts = tokens = 0
    start = time.process_time()
    while (spent := time.process_time() - start) < seconds:
        tokens += draw(TEXTS, texts)
        texts += TEXTS
    return {SPEED: tokens / spent, "note": f"{tokens / texts:.2f} tokens a text in {texts} texts"}


# Wide models


def engine_step(shape: Shape, backend: str, threads: int) -> Callable[[], Any]:
    """Return a function that trains one step with an engine of this project."""
    rng = np.random.default_rng(0)
    spec = ModelSpec("gpt", VOCAB, shape.n_embd, shape.n_head, shape.n_layer, shape.block_size)
    examples = [rng.integers(0, VOCAB, shape.block_size + 1).tolist() for _ in range(DOCUMENTS)]
    work = Workload(examples, [BatchOrder(rng.permutation(DOCUMENTS), (), 0.0, shape.batch_size)])
    state = EngineState({name: rng.normal(0, 0.02, (1, *size)) for name, size in spec.shapes().items()})
    options = EngineOptions(backend, device="cpu", dtype="float32", threads=threads)
    engine = make_engine(options, spec, OptimizerSpec("adam", 0.9, 0.99, 1e-8), work, state, lambda text: None)
    return lambda: engine.advance(0, np.full((1, 1), STEADY_RATE))


def nanogpt_step(shape: Shape, folder: Path, threads: int) -> Callable[[], Any]:
    """Return a function that trains one step of nanoGPT's model."""
    import torch

    sys.path.insert(0, str(folder))
    nanogpt = import_module("model")
    torch.set_num_threads(threads)
    sizes = {"n_layer": shape.n_layer, "n_head": shape.n_head, "n_embd": shape.n_embd}
    sizes |= {"block_size": shape.block_size, "vocab_size": VOCAB}
    model = nanogpt.GPT(nanogpt.GPTConfig(dropout=0.0, bias=False, **sizes))
    optimizer = model.configure_optimizers(0.1, STEADY_RATE, (0.9, 0.99), "cpu")

    def step() -> None:
        x, y = torch.randint(VOCAB, (2, shape.batch_size, shape.block_size))
        model(x, y)[1].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main() -> None:
    name, program, threads, seconds = sys.argv[1:]
    print(json.dumps(measure(CASES[name], program, int(threads), float(seconds))))


if __name__ == "__main__":
    sys.exit(harness.finish(main))
