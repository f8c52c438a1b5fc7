"""The workload of the benchmarks: microgpt.py's model on names, trained with microgpt.py's Adam."""

from collections.abc import Callable, Sequence
from typing import Any

from microgpt.config.schema import DataConfig
from microgpt.data.corpus import Corpus
from microgpt.engines import make_engine
from microgpt.engines.base import Engine, EngineState, Workload
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.model.spec import ModelSpec
from microgpt.training.from_config import initial_state, read_corpus

ADAM = OptimizerSpec("adam", beta1=0.85, beta2=0.99, eps=1e-8)
BLOCK_SIZE = 16
SEED = 42


def names_corpus(
    name: str = "names", path: str | None = None, text_format: str = "lines", block_size: int = BLOCK_SIZE
) -> Corpus:
    """Return a data set without a validation split; the arguments are the options of `data`."""
    return read_corpus(DataConfig(name, path, text_format, val_fraction=0.0), block_size, (), "truncate")


def reference_engine(
    options: EngineOptions,
    corpus: Corpus,
    batch_size: int = 1,
    seeds: Sequence[int] = (SEED,),
    state: EngineState | None = None,
    say: Callable[[str], None] = print,
    **changes: Any,
) -> Engine:
    """Return an engine with one replica per seed.

    `changes` override options of microgpt.py's model; `state` replaces the initial weights.
    """
    chosen: dict[str, Any] = {"n_embd": 16, "n_head": 4, "n_layer": 1, "block_size": BLOCK_SIZE, **changes}
    spec = ModelSpec("gpt", corpus.tokenizer.vocab_size, **chosen)
    starts = [initial_state(seed, corpus, spec, batch_size, style_share=0.0) for seed in seeds]
    state = state or EngineState.stack([start.engine_state for start in starts])
    return make_engine(options, spec, ADAM, Workload(corpus.examples, [start.order for start in starts]), state, say)
