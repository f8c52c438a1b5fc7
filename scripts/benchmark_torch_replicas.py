"""Time one torch engine with R models side by side against R engines with one model each, one after the other.

    python scripts/benchmark_torch_replicas.py
    python scripts/benchmark_torch_replicas.py --replicas 64 --steps 100 --repeats 5 --threads 1

Both train the same models (n_embd 16, n_head 4, one layer, block 16) on the same documents at batch size 1: replica r
is seed r. They take turns in one process, and every round begins from the initial weights. Of the engines with one
model, --singles are timed, spread over the seeds; their losses must be those of the same seeds side by side.
"""

import argparse
import sys
import time
from statistics import median

import numpy as np

from microgpt.data.corpus import Corpus, build_corpus
from microgpt.data.sources import read_source
from microgpt.engines import make_engine
from microgpt.engines.base import Engine, EngineState, Workload
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.model.spec import ModelSpec
from microgpt.training.assembly import initial_state

ADAM = OptimizerSpec("adam", beta1=0.85, beta2=0.99, eps=1e-8)
WARM_UP = 5  # steps


def make(corpus: Corpus, seeds: list[int], options: EngineOptions) -> tuple[Engine, EngineState]:
    """An engine with a model for each seed, and its initial state."""
    spec = ModelSpec("gpt", corpus.tokenizer.vocab_size, n_embd=16, n_head=4, n_layer=1, block_size=16)
    starts = [initial_state(seed, corpus, spec, batch_size=1, style_share=0.0) for seed in seeds]
    state = EngineState(
        {name: np.concatenate([start.engine_state.parameters[name] for start in starts]) for name in spec.shapes()}
    )
    return make_engine(options, spec, ADAM, Workload(corpus.examples, [start.order for start in starts]), state), state


def timed(engine: Engine, state: EngineState, steps: int) -> tuple[float, np.ndarray]:
    """Seconds of so many steps from the initial state, and the losses (steps, R)."""
    replicas = len(next(iter(state.parameters.values())))
    rates = np.repeat(0.01 * (1 - np.arange(steps) / steps)[:, np.newaxis], replicas, axis=1)
    engine.load(state)
    engine.advance(0, rates[:WARM_UP])
    engine.load(state)
    start = time.perf_counter()
    losses = engine.advance(0, rates)
    return time.perf_counter() - start, losses


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=64, help="models side by side")
    parser.add_argument("--steps", type=int, default=100, help="training steps of each measurement")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--singles", type=int, default=8, help="how many engines with one model are timed in a round")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--device", default="cpu", help="auto | cpu | cuda | mps")
    parser.add_argument("--compile", action="store_true", help="torch.compile in both")
    parser.add_argument("--data", help="a text file with one document a line (default: the names that come along)")
    a = parser.parse_args()

    source = read_source("text", a.data) if a.data else read_source("names", None)
    corpus = build_corpus(
        source, text_format="lines", long_documents="truncate", val_fraction=0.0, split_seed=0, block_size=16
    )
    options = EngineOptions("torch", device=a.device, threads=a.threads, compile=a.compile)
    seeds = list(range(a.replicas))
    chosen = seeds[:: max(1, a.replicas // a.singles)][: a.singles]
    together, all_states = make(corpus, seeds, options)
    alone = {seed: make(corpus, [seed], options) for seed in chosen}
    print(f"{source.origin}; {a.steps} steps, {a.repeats} rounds, {together.info}")

    one, many, ratios, difference = [], [], [], 0.0  # seconds of one model's step
    for _ in range(a.repeats):
        seconds, losses = timed(together, all_states, a.steps)
        many.append(seconds / a.steps / a.replicas)
        single = [timed(*alone[seed], a.steps) for seed in chosen]
        one.append(sum(seconds for seconds, _ in single) / a.steps / len(chosen))
        ratios.append(one[-1] / many[-1])
        apart = np.stack([found[:, 0] for _, found in single], axis=1)
        difference = max(difference, float(np.abs(apart - losses[:, chosen]).max()))
    for name, figures, unit in (
        (f"{a.replicas} models side by side", [1e6 * s for s in many], "us a model's step"),
        ("one model at a time", [1e6 * s for s in one], "us a model's step"),
        ("ratio of throughputs", ratios, "times"),
    ):
        print(f"{name:26}{median(figures):9.1f} {unit} (median; {min(figures):.1f} to {max(figures):.1f})")
    print(f"largest difference between their losses: {difference:.1e}")
    if difference > 1e-3:
        print("error: the losses differ: this is not the same work", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
