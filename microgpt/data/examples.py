"""Many examples in two arrays, as compiled engines and devices take them; to everyone else a sequence of lists.

A token whose prediction is not asked for stands there as ~id (tokenizer.py).
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import overload

import numpy as np


class Examples(Sequence[list[int]]):
    """Token ids of n examples, one after the other in `tokens`; example i is tokens[starts[i] : ends[i]].

    A slice shares the tokens. An example of k + 1 tokens has k targets, or fewer where not all are asked for.
    """

    def __init__(self, tokens: np.ndarray, starts: np.ndarray, ends: np.ndarray, asked: np.ndarray | None = None):
        self.tokens = tokens  # int32; negative: ~id
        self.starts = starts  # int64 (n,)
        self.ends = ends  # int64 (n,)
        self.asked = asked  # int64 (tokens + 1,): how many tokens before each are asked for; None: all are

    @classmethod
    def of(cls, examples: Iterable[Sequence[int]]) -> "Examples":
        """The same examples in arrays; unchanged where they are already."""
        if isinstance(examples, Examples):
            return examples
        lists = list(examples)
        ends = np.cumsum([len(example) for example in lists], dtype=np.int64)
        tokens = np.fromiter(chain.from_iterable(lists), np.int32, count=int(ends[-1]) if lists else 0)
        asked = np.concatenate([[0], np.cumsum(tokens >= 0)]) if (tokens < 0).any() else None
        return cls(tokens, np.concatenate([np.zeros(min(1, len(lists)), np.int64), ends[:-1]]), ends, asked)

    @property
    def positions(self) -> np.ndarray:
        """At how many positions each example is read, all tokens but the last: int64 (n,)."""
        return self.ends - self.starts - 1

    @property
    def targets(self) -> np.ndarray:
        """How many predictions each example asks for: int64 (n,)."""
        return self.positions if self.asked is None else self.asked[self.ends] - self.asked[self.starts + 1]

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> "Examples": ...
    def __getitem__(self, index: int | slice) -> "list[int] | Examples":
        if isinstance(index, slice):
            return Examples(self.tokens, self.starts[index], self.ends[index], self.asked)
        return self.tokens[self.starts[index] : self.ends[index]].tolist()
