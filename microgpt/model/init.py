"""Initial weights, drawn in microgpt.py's order."""

import random

from microgpt.model.spec import ModelSpec


def init_parameters(spec: ModelSpec, rng: random.Random) -> dict[str, list[list[float]]]:
    """Draw every tensor from a normal distribution, row by row, in the order of `spec.drawn_shapes()`.

    A tensor that starts at zero is drawn too (`gauss` keeps its second value for the next call), and so is a tied
    lm_head, whose values are dropped: for one seed, all variants of a model share the values of their common tensors.
    """
    kept = spec.shapes()
    parameters = {}
    for name, (rows, columns) in spec.drawn_shapes().items():
        std = spec.initial_std(name)
        matrix = [[rng.gauss(0, std) for _ in range(columns)] for _ in range(rows)]
        if name in kept:
            parameters[name] = matrix
    return parameters
