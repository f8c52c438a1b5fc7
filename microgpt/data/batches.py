"""The examples of each training step, computed from the order, the step and the batch size alone.

A resumed run therefore needs no saved data position, and every engine trains on the same examples.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Shuffle = Callable[[int, random.Random], np.ndarray]


@dataclass(frozen=True)
class BatchOrder:
    """The order in which one replica reads its examples.

    Examples are counted from 0 over the whole training run; step s uses the batch_size examples that start at
    s * batch_size. A share of the examples comes from a style's documents, spread as evenly as integers allow.
    """

    corpus: Sequence[int] | np.ndarray  # example indices of the corpus, shuffled; repeated cyclically
    style: Sequence[int] | np.ndarray  # example indices of the style's documents; repeated cyclically
    style_share: float  # share of the training examples, 0 to 1; 0 if the style has no documents
    batch_size: int

    def indices(self, begin: int, end: int) -> np.ndarray:
        """Return the example indices of steps begin .. end - 1: int64 (end - begin, batch_size)."""
        counts = np.arange(begin * self.batch_size, end * self.batch_size)
        styled = (counts * self.style_share).astype(np.int64)  # number of earlier examples from the style
        corpus = np.asarray(self.corpus)
        found = corpus[(counts - styled) % len(corpus)].astype(np.int64)
        if self.style_share > 0:
            style = np.asarray(self.style)
            is_styled = ((counts + 1) * self.style_share).astype(np.int64) > styled
            found[is_styled] = style[styled[is_styled] % len(style)]
        return found.reshape(-1, self.batch_size)

    def batch(self, step: int) -> list[int]:
        """Return the example indices of one step."""
        return self.indices(step, step + 1)[0].tolist()


def indices_of_orders(orders: Sequence[BatchOrder], begin: int, end: int) -> np.ndarray:
    """Return the example indices of steps begin .. end - 1 in several orders: int64 (orders, end - begin, batch_size).

    Orders without a style read the same positions of their arrays; the positions are therefore computed only once.
    """
    length, batch_size = len(orders[0].corpus), orders[0].batch_size
    if any(o.style_share > 0 or len(o.corpus) != length or o.batch_size != batch_size for o in orders):
        return np.stack([order.indices(begin, end) for order in orders])
    places = np.arange(begin * batch_size, end * batch_size) % length
    found = np.empty((len(orders), len(places)), np.int64)
    for row, order in zip(found, orders, strict=True):
        row[:] = np.asarray(order.corpus)[places]
    return found.reshape(len(orders), -1, batch_size)


def shuffled(count: int, rng: random.Random) -> np.ndarray:
    """Return 0 .. count - 1, int32, permuted as `rng.shuffle` permutes a list of that length."""
    order = list(range(count))
    rng.shuffle(order)
    return np.array(order, np.int32)
