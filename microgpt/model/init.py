"""Initial weights, drawn in microgpt.py's order."""

import math
import random
from collections.abc import Callable

from microgpt.model.spec import ModelSpec, constant_value

Matrix = list[list[float]]
Normals = Callable[[random.Random, int], list[float]]


def init_parameters(spec: ModelSpec, rng: random.Random, normals: Normals | None = None) -> dict[str, Matrix]:
    """Draw every matrix from a normal distribution, row by row; gains start at 1 and biases at 0.

    First come the tensors of microgpt.py in its order and shapes, whatever the options: for one seed, all variants of a
    model share the values of their common matrices, up to the standard deviation. What the model lacks, such as a tied
    lm_head, is drawn and dropped, and what starts at zero is drawn too (`gauss` keeps its second value for the next
    call). Then come the matrices that microgpt.py lacks or has in another shape, in the order of `spec.shapes()`.

    `normals` may be another function that returns what `standard_normals` does.
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
    """Return what `count` calls of `rng.gauss(0, 1)` return, in half the time. The generator is where they leave it."""
    uniform, cos, sin, log, sqrt, two_pi = rng.random, math.cos, math.sin, math.log, math.sqrt, 2.0 * math.pi
    kept = rng.getstate()[2]
    values = [] if kept is None else [kept]
    while len(values) < count:
        angle, radius = uniform() * two_pi, sqrt(-2.0 * log(1.0 - uniform()))
        values += (cos(angle) * radius, sin(angle) * radius)
    version, words, _ = rng.getstate()
    rng.setstate((version, words, values[count] if len(values) > count else None))
    return values[:count]
