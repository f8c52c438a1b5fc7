"""Which examples make up which step: a pure function of the order, the step and the batch size.

So a resumed run needs no data state, and every engine sees the same examples.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class BatchOrder:
    """The order in which one model meets its examples.

    Examples are counted from 0 over the whole training; the batch of step s is examples s * batch_size and following.
    A share of them comes from a style's own documents, spread as evenly as whole numbers allow.
    """

    corpus: Sequence[int]  # example indices of the corpus, in this model's (shuffled) order; met round and round
    style: Sequence[int]  # example indices of the style's documents, likewise
    style_share: float  # share of the training examples, 0 <= share <= 1; 0 where the style has no documents
    batch_size: int

    def example(self, count: int) -> int:
        """Index of the count-th example."""
        styled = int(count * self.style_share)  # how many of the earlier ones were the style's
        if int((count + 1) * self.style_share) > styled:
            return self.style[styled % len(self.style)]
        return self.corpus[(count - styled) % len(self.corpus)]

    def batch(self, step: int) -> list[int]:
        """Indices of the examples of one step."""
        return [self.example(count) for count in range(step * self.batch_size, (step + 1) * self.batch_size)]


def shuffled(count: int, rng: random.Random) -> list[int]:
    """0 .. count - 1 in random order: the same permutation that `rng.shuffle` makes of a list of that length."""
    order = list(range(count))
    rng.shuffle(order)
    return order
