"""What threads work on: training steps, the arrays of each thread, and shares of the models or of a batch."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass
class Workspace:
    """The arrays of one thread."""

    activations: np.ndarray
    ids: np.ndarray  # scratch of train_kernels.gather
    gradient: np.ndarray
    part_gradient: np.ndarray  # the gradient of the second and later parts of a batch


@dataclass(frozen=True)
class Steps:
    """Consecutive training steps of R models."""

    first: int
    count: int
    batch_size: int
    batches: np.ndarray  # (R, count, batch_size) example indices, flattened
    rates: np.ndarray  # (R, count)
    corrections: tuple[np.ndarray, np.ndarray]  # (count,) each, see optimizers.py
    losses: np.ndarray  # (R, count), the result


def contiguous_ranges(numbers: np.ndarray, pieces: int) -> Iterator[tuple[int, int]]:
    """Yield ranges (begin, end) that cover the ascending numbers, in up to `pieces` shares of nearly equal size.

    A gap in the numbers splits a range, so that there may be more ranges than shares.
    """
    for share in np.array_split(numbers, min(pieces, max(len(numbers), 1))):
        for stretch in np.split(share, np.flatnonzero(np.diff(share) != 1) + 1):
            if len(stretch):
                yield int(stretch[0]), int(stretch[-1]) + 1
