"""Initial weights, drawn in microgpt.py's order."""

import math
import random
from collections.abc import Iterator
from itertools import islice

from microgpt.model.spec import ModelSpec, constant_value

Matrix = list[list[float]]


def init_parameters(spec: ModelSpec, rng: random.Random) -> dict[str, Matrix]:
    """Draw every matrix from a normal distribution, row by row; gains start at 1 and biases at 0.

    First come the tensors of microgpt.py in its order and shapes, whatever the options: for one seed, all variants of a
    model share the values of their common matrices, up to the standard deviation. What the model lacks, such as a tied
    lm_head, is drawn and dropped, and what starts at zero is drawn too (`gauss` keeps its second value for the next
    call). Then come the matrices that microgpt.py lacks or has in another shape, in the order of `spec.shapes()`.
    """

    normal = standard_normals(rng)

    def drawn(name: str, rows: int, columns: int) -> Matrix:
        std = spec.initial_std(name, columns)
        return [[0.0 + z * std for z in islice(normal, columns)] for _ in range(rows)]

    plain = ModelSpec(spec.kind, spec.vocab_size, spec.n_embd, spec.n_head, spec.n_layer, spec.block_size)
    plain_shapes = plain.shapes()
    shared = {name: drawn(name, *shape) for name, shape in plain_shapes.items()}
    parameters = {}
    for name, shape in spec.shapes().items():
        constant = constant_value(name)
        if constant is not None:
            parameters[name] = [[constant] * shape[1]]
        elif shape == plain_shapes.get(name):
            parameters[name] = shared[name]
        else:
            parameters[name] = drawn(name, *shape)
    return parameters


def standard_normals(rng: random.Random) -> Iterator[float]:
    """Yield what `rng.gauss(0, 1)` returns, in a third of the time. The generator is where `gauss` leaves it."""
    uniform, cos, sin, log, sqrt, two_pi = rng.random, math.cos, math.sin, math.log, math.sqrt, 2.0 * math.pi
    while True:
        if rng.gauss_next is None:  # pyright: ignore[reportAttributeAccessIssue]
            angle, radius = uniform() * two_pi, sqrt(-2.0 * log(1.0 - uniform()))
            rng.gauss_next = sin(angle) * radius  # pyright: ignore[reportAttributeAccessIssue]
            yield cos(angle) * radius
        kept, rng.gauss_next = rng.gauss_next, None  # pyright: ignore[reportAttributeAccessIssue]
        yield kept
