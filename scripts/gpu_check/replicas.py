"""Many default models side by side: their time and memory, and a profile of their steps."""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from profile_training import profile_steps

from gpu_check.measuring import DISTINCT, KERNELS, Check, Row, Training, engine_of, seconds_a_step
from microgpt.benchmarks.reference import ADAM, BLOCK_SIZE, names_corpus
from microgpt.data.corpus import Corpus
from microgpt.engines.base import Engine
from microgpt.engines.options import EngineOptions
from microgpt.errors import MicrogptError
from microgpt.model.spec import ModelSpec

COMPARED_STEPS = 5
TOLERANCE = 1e-3  # for the difference of losses between kinds of kernels
PROFILED_STEPS = 5
LISTED = 6  # operators


def models(check: Check, corpus: Corpus, replicas: int, kernel: str) -> Engine:
    spec = ModelSpec("gpt", corpus.tokenizer.vocab_size, n_embd=16, n_head=4, n_layer=1, block_size=BLOCK_SIZE)
    options = EngineOptions("torch", device=check.device, **KERNELS[kernel])
    return engine_of(options, spec, ADAM, corpus, 1, replicas)


def measure(check: Check) -> None:
    """Measure each number of replicas with each kind of kernel; compiled kernels come last as they take longest."""
    corpus, first_losses = names_corpus(), {}

    def one(replicas: int, kernel: str) -> Row:
        engine = models(check, corpus, replicas, kernel)
        training = Training(engine, replicas, 1e-3)
        training(COMPARED_STEPS)
        compared = first_losses.setdefault("losses", training.last)  # from the first kernel and number of replicas
        shared = min(len(compared), replicas, DISTINCT)
        difference = float(np.abs(compared[:shared] - training.last[:shared]).max())
        if not difference < TOLERANCE:
            raise MicrogptError(f"its losses differ by {difference:.1e} from those of the first row")
        seconds = seconds_a_step(training, check.seconds)
        return {
            "ms a step": 1e3 * seconds,
            "us a model's step": 1e6 * seconds / replicas,
            "names a second": replicas / seconds,
            "prepared in s": engine.compile_seconds,
        }

    pairs = [(replicas, kernel) for kernel in ("eager", "cuda_graph") for replicas in check.replicas]
    pairs += [(replicas, "compiled cuda_graph") for replicas in sorted(check.replicas, reverse=True)]
    check.measure_all("replicas", [({"R": r, "kernel": kernel}, partial(one, r, kernel)) for r, kernel in pairs])


def profile(check: Check) -> None:
    """Profile steps of few and of many models. `busy` is the fraction of the time in which a GPU kernel ran."""
    corpus = names_corpus()

    def one(replicas: int, kernel: str) -> Row:
        engine = models(check, corpus, replicas, kernel)
        Training(engine, replicas, 1e-3)(PROFILED_STEPS)
        with tempfile.TemporaryDirectory() as folder:
            found = profile_steps(engine, PROFILED_STEPS, PROFILED_STEPS, Path(folder), replicas)
        key = next(key for key in found["operators"][0] if key.endswith("_us"))
        longest = [f"{o['name'][:60]} {o[key] / PROFILED_STEPS:,.0f}" for o in found["operators"][:LISTED]]
        return {
            "kernels a step": found["kernels"] / PROFILED_STEPS,
            "busy": found["kernel_us"] / 1e6 / found["seconds_profiled"] if found["kernels"] else None,
            "longest, us a step": "; ".join(longest),
        }

    few, many = min(check.replicas), max(check.replicas)
    pairs = [(few, "eager"), (few, "cuda_graph"), (many, "cuda_graph"), (many, "compiled cuda_graph")]
    check.measure_all("profile", [({"R": r, "kernel": kernel}, partial(one, r, kernel)) for r, kernel in pairs])
