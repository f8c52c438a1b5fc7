"""Random numbers of random.Random, computed by kernels (kernels/python_random.py)."""

import random

import numpy as np

from microgpt.engines.native.machine_code import Kernels


class State:
    """The state of a generator in the form that kernels receive."""

    def __init__(self, rng: random.Random):
        self.version, words, self.gauss_next = rng.getstate()
        self.words = np.array(words, np.int64)

    def store(self, rng: random.Random) -> None:
        """Set the generator to this state, which kernels have advanced."""
        rng.setstate((self.version, tuple(self.words.tolist()), self.gauss_next))


def shuffled(kernels: Kernels, count: int, rng: random.Random) -> np.ndarray:
    """Return the same result as the function of this name in data/batches.py."""
    state, order = State(rng), np.arange(count, dtype=np.int32)
    kernels.shuffle(order, count, state.words)
    state.store(rng)
    return order


def standard_normals(kernels: Kernels, rng: random.Random, count: int) -> list[float]:
    """Return the same result as the function of this name in model/init.py."""
    state, kept = State(rng), rng.getstate()[2]
    first = [] if kept is None else [kept]
    values = np.zeros((count - len(first) + 1) // 2 * 2)
    kernels.fill_normals(values, len(values), state.words)
    found = [*first, *values.tolist()]
    state.gauss_next = found[count] if len(found) > count else None
    state.store(rng)
    return found[:count]
