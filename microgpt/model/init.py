"""Initial values: a pure function of a model's shape and a random generator, in microgpt.py's order of draws."""

import random

from microgpt.model.spec import ModelSpec

Matrix = list[list[float]]


def init_parameters(spec: ModelSpec, rng: random.Random) -> dict[str, Matrix]:
    """Draw every tensor from a normal distribution, row by row, in the order of `spec.drawn_shapes()`.

    A tensor that starts at zero draws too (`gauss` keeps its second value for the next call), and so does a tied
    lm_head, whose values are dropped: for one seed, all variants of a model share the values of the tensors they share.
    """
    kept = spec.shapes()
    parameters = {}
    for name, (rows, columns) in spec.drawn_shapes().items():
        std = spec.initial_std(name)
        matrix = [[rng.gauss(0, std) for _ in range(columns)] for _ in range(rows)]
        if name in kept:
            parameters[name] = matrix
    return parameters
