"""Time one PyTorch engine with R replicas against R engines with one replica each, one after the other.

    python scripts/benchmark_torch_replicas.py
    python scripts/benchmark_torch_replicas.py --replicas 64 --steps 100 --repeats 5 --threads 1

Both train the same models (n_embd 16, n_head 4, one layer, block 16) on the same documents with batch size 1; replica r
has seed r. They alternate in one process, and every round begins with the initial weights. Only --singles of the
engines with one replica are timed, with evenly spaced seeds; their losses must equal those of the same replicas.
"""

import sys
import time

import harness
import numpy as np

from microgpt.benchmarks.reference import names_corpus, reference_engine
from microgpt.engines.base import Engine, EngineState
from microgpt.engines.options import EngineOptions
from microgpt.errors import MicrogptError

WARM_UP = 5  # steps
TOLERANCE = 1e-3  # for the difference between two losses


def timed(engine: Engine, initial: EngineState, steps: int) -> tuple[float, np.ndarray]:
    """Return the seconds of training from the initial state, and the losses (steps, R)."""
    replicas = len(initial.parameters["wte"])
    rates = np.repeat(0.01 * (1 - np.arange(steps) / steps)[:, np.newaxis], replicas, axis=1)
    engine.load(initial)
    engine.advance(0, rates[:WARM_UP])
    engine.load(initial)
    start = time.perf_counter()
    losses = engine.advance(0, rates)
    return time.perf_counter() - start, losses


def main() -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--replicas", type=int, default=64, help="number of models in one engine (64)")
    parser.add_argument("--steps", type=int, default=100, help="training steps per measurement (100)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (5)")
    parser.add_argument("--singles", type=int, default=8, help="engines with one model that are timed per round (8)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--device", default="cpu", help="auto | cpu | cuda | mps")
    parser.add_argument("--compile", action="store_true", help="use torch.compile for both")
    parser.add_argument("--data", help="a text file with one document per line (default: the bundled names)")
    a = parser.parse_args()

    corpus = names_corpus("text", a.data) if a.data else names_corpus()
    options = EngineOptions("torch", device=a.device, threads=a.threads, compile=a.compile)
    chosen = list(range(0, a.replicas, max(1, a.replicas // a.singles)))[: a.singles]
    engines = [reference_engine(options, corpus, seeds=seeds) for seeds in (range(a.replicas), *([s] for s in chosen))]
    (together, all_states), *alone = [(engine, engine.state()) for engine in engines]
    print(f"{corpus.source.origin}; {a.steps} steps, {a.repeats} rounds, {together.info}")

    one, many, difference = [], [], 0.0  # microseconds of one model's step
    for _ in range(a.repeats):
        seconds, losses = timed(together, all_states, a.steps)
        many.append(1e6 * seconds / a.steps / a.replicas)
        single = [timed(*each, a.steps) for each in alone]
        one.append(1e6 * sum(seconds for seconds, _ in single) / a.steps / len(chosen))
        apart = np.stack([found[:, 0] for _, found in single], axis=1)
        difference = max(difference, float(np.abs(apart - losses[:, chosen]).max()))
    ratios = [a / b for a, b in zip(one, many, strict=True)]
    for name, figures, unit in (
        (f"{a.replicas} models side by side", many, "us a model's step"),
        ("one model at a time", one, "us a model's step"),
        ("ratio of throughputs", ratios, "times"),
    ):
        middle, low, high = harness.cells(figures, ".1f")
        print(f"{name:26}{middle:>9} {unit} (median; {low} to {high})")
    print(f"largest difference between their losses: {difference:.1e}")
    if difference > TOLERANCE:
        raise MicrogptError("the losses differ: the engines do not train the same models")
    return 0


if __name__ == "__main__":
    sys.exit(harness.finish(main))
