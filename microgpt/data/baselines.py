"""What counting alone reaches: the losses that a trained model is to be read against. Knows nothing of models."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from microgpt.data.examples import Examples


def count_baselines(
    train_examples: Iterable[Sequence[int]], val_examples: Iterable[Sequence[int]], vocab_size: int
) -> dict[str, float | None]:
    """Cross-entropies in nats per target token: `uniform`, `unigram` and `bigram`.

    Counted over the training examples with one added to each count (Laplace), measured on the targets of the
    validation examples. With V tokens, n targets, and counts c:

        uniform   ln V
        unigram   -ln (c(t) + 1) / (n + V)        t the target
        bigram    -ln (c(s, t) + 1) / (c(s) + V)  s the token before it

    unigram and bigram are None where there is nothing to validate with. Token ids are below `vocab_size`.
    """
    sources, targets = pairs(Examples.of(val_examples))
    if not len(targets):
        return {"uniform": math.log(vocab_size), "unigram": None, "bigram": None}
    train_sources, train_targets = pairs(Examples.of(train_examples))
    after = np.bincount(train_sources, minlength=vocab_size)
    single = np.bincount(train_targets, minlength=vocab_size)
    double = occurrences(sources * vocab_size + targets, train_sources * vocab_size + train_targets)
    return {
        "uniform": math.log(vocab_size),
        "unigram": float(np.mean(np.log(len(train_targets) + vocab_size) - np.log(single[targets] + 1))),
        "bigram": float(np.mean(np.log(after[sources] + vocab_size) - np.log(double + 1))),
    }


def pairs(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Every target with the token before it: two int64 arrays (number of targets,)."""
    counts = examples.positions
    total = int(counts.sum())
    first = np.cumsum(counts) - counts  # where an example's targets begin among all
    places = np.arange(total) + np.repeat(examples.starts - first, counts)
    sources, targets = examples.tokens[places].astype(np.int64), examples.tokens[places + 1].astype(np.int64)
    asked = targets >= 0
    return np.where(sources < 0, ~sources, sources)[asked], targets[asked]


def occurrences(wanted: np.ndarray, among: np.ndarray) -> np.ndarray:
    """How often each of `wanted` occurs in `among`; a table of all pairs would be too large for a large vocabulary."""
    found, counts = np.unique(among, return_counts=True)
    if not len(found):
        return np.zeros(len(wanted), np.int64)
    places = np.minimum(np.searchsorted(found, wanted), len(found) - 1)
    return np.where(found[places] == wanted, counts[places], 0)
