"""Many examples in two arrays, as compiled engines and devices take them; to everyone else a sequence of lists."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import overload

import numpy as np


class Examples(Sequence[list[int]]):
    """Token ids of n examples, one after the other in `tokens`; example i is tokens[starts[i] : ends[i]].

    A slice shares the tokens. An example of k + 1 tokens has k targets.
    """

    def __init__(self, tokens: np.ndarray, starts: np.ndarray, ends: np.ndarray):
        self.tokens = tokens  # int32
        self.starts = starts  # int64 (n,)
        self.ends = ends  # int64 (n,)

    @classmethod
    def of(cls, examples: Iterable[Sequence[int]]) -> "Examples":
        """The same examples in arrays; unchanged where they are already."""
        if isinstance(examples, Examples):
            return examples
        lists = list(examples)
        ends = np.cumsum([len(example) for example in lists], dtype=np.int64)
        tokens = np.fromiter(chain.from_iterable(lists), np.int32, count=int(ends[-1]) if lists else 0)
        return cls(tokens, np.concatenate([np.zeros(min(1, len(lists)), np.int64), ends[:-1]]), ends)

    @property
    def targets(self) -> np.ndarray:
        """How many targets each example has: int64 (n,)."""
        return self.ends - self.starts - 1

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> "Examples": ...
    def __getitem__(self, index: int | slice) -> "list[int] | Examples":
        if isinstance(index, slice):
            return Examples(self.tokens, self.starts[index], self.ends[index])
        return self.tokens[self.starts[index] : self.ends[index]].tolist()
