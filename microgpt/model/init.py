"""Initial weights, drawn in the order of microgpt.py."""

import math
import random
from collections.abc import Callable

from microgpt.model.spec import ModelSpec, constant_value

Matrix = list[list[float]]
Normals = Callable[[random.Random, int], list[float]]


def init_parameters(spec: ModelSpec, rng: random.Random, normals: Normals | None = None) -> dict[str, Matrix]:
    """Draw every matrix from a normal distribution, row by row; gains start at 1 and biases at 0.

    The tensors of microgpt.py are drawn first, in its order and shapes, whatever the options: with the same seed, all
    variants of a model start with the same weights in the matrices that they share, up to the standard deviation.
    Tensors that the model lacks, such as a tied lm_head, are drawn and discarded, and tensors that start at zero are
    also drawn (`gauss` keeps every second value for the next call). The matrices that microgpt.py lacks, or has in
    another shape, follow in the order of `spec.shapes()`.

    `normals` may be any function that returns the same values as `standard_normals`.
    """
    plain = ModelSpec(spec.kind, spec.vocab_size, spec.n_embd, spec.n_head, spec.n_layer, spec.block_size)
    plain_shapes = plain.shapes()
    others = [
        (name, shape)
        for name, shape in spec.shapes().items()
        if constant_value(name) is None and shape != plain_shapes.get(name)
    ]
    drawn = [*plain_shapes.items(), *others]
    values = (normals or standard_normals)(rng, sum(rows * columns for _, (rows, columns) in drawn))
    matrices, begin = {}, 0
    for name, (rows, columns) in drawn:
        std, end = spec.initial_std(name, columns), begin + rows * columns
        own = [0.0 + z * std for z in values[begin:end]]
        matrices[name] = [own[first : first + columns] for first in range(0, len(own), columns)]
        begin = end
    for name, (_, columns) in spec.shapes().items():
        constant = constant_value(name)
        if constant is not None:
            matrices[name] = [[constant] * columns]
    return {name: matrices[name] for name in spec.shapes()}


def standard_normals(rng: random.Random, count: int) -> list[float]:
    """Return the results of `count` calls of `rng.gauss(0, 1)`, and leave `rng` in the same state, in half the time."""
    uniform, cos, sin, log, sqrt, two_pi = rng.random, math.cos, math.sin, math.log, math.sqrt, 2.0 * math.pi
    kept = rng.getstate()[2]
    values = [] if kept is None else [kept]
    while len(values) < count:
        angle, radius = uniform() * two_pi, sqrt(-2.0 * log(1.0 - uniform()))
        values += (cos(angle) * radius, sin(angle) * radius)
    version, words, _ = rng.getstate()
    rng.setstate((version, words, values[count] if len(values) > count else None))
    return values[:count]
