"""Losses of models based on token counts, as references for the losses of trained models."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from microgpt.data.examples import Examples


def count_baselines(
    train_examples: Iterable[Sequence[int]], val_examples: Iterable[Sequence[int]], vocab_size: int
) -> dict[str, float | None]:
    """Return cross-entropies in nats per target token: `uniform`, `unigram` and `bigram`.

    Counts c are taken from the training examples, with one added to each count (Laplace smoothing); losses are averaged
    over the targets of the validation examples. With V tokens and n training targets:

        uniform   ln V
        unigram   -ln (c(t) + 1) / (n + V)        t: the target
        bigram    -ln (c(s, t) + 1) / (c(s) + V)  s: the token before the target

    unigram and bigram are None without validation examples.
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
    """Return the preceding token of every unmasked target, and the targets: two int64 arrays (number of targets,)."""
    counts = examples.positions
    total = int(counts.sum())
    first = np.cumsum(counts) - counts  # index of each example's first target among all targets
    places = np.arange(total) + np.repeat(examples.starts - first, counts)
    sources, targets = examples.tokens[places].astype(np.int64), examples.tokens[places + 1].astype(np.int64)
    unmasked = targets >= 0
    return np.where(sources < 0, ~sources, sources)[unmasked], targets[unmasked]


def occurrences(wanted: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Count how often each element of `wanted` occurs in `among`, without a V x V table of all pairs."""
    found, counts = np.unique(among, return_counts=True)
    if not len(found):
        return np.zeros(len(wanted), np.int64)
    places = np.minimum(np.searchsorted(found, wanted), len(found) - 1)
    return np.where(found[places] == wanted, counts[places], 0)
