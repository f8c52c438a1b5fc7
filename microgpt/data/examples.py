"""Many examples in flat arrays, for compiled engines and devices; also usable as a sequence of lists."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import overload

import numpy as np


class Examples(Sequence[list[int]]):
    """Token ids of n examples, concatenated in `tokens`; example i is tokens[starts[i] : ends[i]].

    A slice shares the token array. An example of k + 1 tokens has k targets minus the masked ones (stored as ~id, see
    tokenizer.py).
    """

    def __init__(
        self, tokens: np.ndarray, starts: np.ndarray, ends: np.ndarray, unmasked_before: np.ndarray | None = None
    ):
        self.tokens = tokens  # int32; negative: ~id
        self.starts = starts  # int64 (n,)
        self.ends = ends  # int64 (n,)
        self.unmasked_before = (
            unmasked_before  # int64 (tokens + 1,): unmasked tokens before each; None: all are unmasked
        )

    @classmethod
    def of(cls, examples: Iterable[Sequence[int]]) -> "Examples":
        """Convert examples to arrays; an `Examples` object is returned unchanged."""
        if isinstance(examples, Examples):
            return examples
        lists = list(examples)
        ends = np.cumsum([len(example) for example in lists], dtype=np.int64)
        tokens = np.fromiter(chain.from_iterable(lists), np.int32, count=int(ends[-1]) if lists else 0)
        unmasked_before = np.concatenate([[0], np.cumsum(tokens >= 0)]) if (tokens < 0).any() else None
        return cls(tokens, np.concatenate([np.zeros(min(1, len(lists)), np.int64), ends[:-1]]), ends, unmasked_before)

    @property
    def positions(self) -> np.ndarray:
        """Number of input tokens of each example (all tokens except the last): int64 (n,)."""
        return self.ends - self.starts - 1

    @property
    def targets(self) -> np.ndarray:
        """Number of unmasked targets of each example: int64 (n,)."""
        before = self.unmasked_before
        return self.positions if before is None else before[self.ends] - before[self.starts + 1]

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> "Examples": ...
    def __getitem__(self, index: int | slice) -> "list[int] | Examples":
        if isinstance(index, slice):
            return Examples(self.tokens, self.starts[index], self.ends[index], self.unmasked_before)
        return self.tokens[self.starts[index] : self.ends[index]].tolist()
