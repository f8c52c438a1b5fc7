"""Which examples make up which step: a pure function of the order, the step and the batch size.

So a resumed run needs no data state, and every engine sees the same examples.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BatchOrder:
    """The order in which one model meets its examples.

    Examples are counted from 0 over the whole training; the batch of step s is examples s * batch_size and following.
    A share of them comes from a style's own documents, spread as evenly as whole numbers allow.
    """

    corpus: Sequence[int] | np.ndarray  # example indices of the corpus, in this model's (shuffled) order; met in rounds
    style: Sequence[int] | np.ndarray  # example indices of the style's documents, likewise
    style_share: float  # share of the training examples, 0 <= share <= 1; 0 where the style has no documents
    batch_size: int

    def indices(self, begin: int, end: int) -> np.ndarray:
        """Indices of the examples of the steps from `begin` to before `end`: int64 (end - begin, batch_size)."""
        counts = np.arange(begin * self.batch_size, end * self.batch_size)
        styled = (counts * self.style_share).astype(np.int64)  # how many of the earlier ones were the style's
        corpus = np.asarray(self.corpus)
        found = corpus[(counts - styled) % len(corpus)].astype(np.int64)
        if self.style_share > 0:
            style = np.asarray(self.style)
            is_styled = ((counts + 1) * self.style_share).astype(np.int64) > styled
            found[is_styled] = style[styled[is_styled] % len(style)]
        return found.reshape(-1, self.batch_size)

    def batch(self, step: int) -> list[int]:
        """Indices of the examples of one step."""
        return self.indices(step, step + 1)[0].tolist()


def shuffled(count: int, rng: random.Random) -> np.ndarray:
    """0 .. count - 1 in random order, int32: the permutation that `rng.shuffle` makes of a list of that length."""
    order = list(range(count))
    rng.shuffle(order)
    return np.array(order, np.int32)
