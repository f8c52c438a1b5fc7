"""One training step on one document, with every number that the lesson shows."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from microgpt.data.tokenizer import Tokenizer, token_id
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.scalar.model import PLAIN, Weights, document_losses
from microgpt.engines.scalar.optimizers import Optimizer
from microgpt.engines.scalar.tracing import TracedValue, Tracer
from microgpt.engines.scalar.value import topological_order
from microgpt.model.spec import ModelSpec

DELTA = 1e-5  # h of the central differences, whose error is O(h^2)

Matrices = dict[str, list[list[float]]]


@dataclass(frozen=True)
class Token:
    id: int
    text: str  # a character, or the name of BOS or a special token


@dataclass(frozen=True)
class Prediction:
    """The model's prediction at one position."""

    position: int
    read: Token
    target: Token
    loss: float  # -ln(probability of the target), in nats

    @property
    def probability(self) -> float:
        return math.exp(-self.loss)


@dataclass(frozen=True)
class ParameterStep:
    """A parameter with its gradient from backpropagation, its gradient from finite differences, and its update."""

    name: str  # for example wte[4][2]
    before: float
    gradient: float
    quotient: float  # (loss(p + DELTA) - loss(p - DELTA)) / (2 DELTA)
    after: float


@dataclass(frozen=True)
class Step:
    """A forward pass, a backward pass and an update."""

    document: str
    vocab_size: int
    tokens: list[Token]
    predictions: list[Prediction]
    loss: float  # mean over the predictions
    loss_after: float  # after the update
    nodes: Counter[str]  # number of graph nodes of each operation, without the parameters
    edges: int  # from nodes to the nodes and parameters that they were computed from
    parameters: int
    parameters_reached: int  # number of parameters with a nonzero gradient
    steps: list[ParameterStep]  # for each tensor, the parameter with the largest gradient
    optimizer: OptimizerSpec
    lr: float
    weights_after: Matrices


def training_step(
    spec: ModelSpec,
    matrices: Matrices,
    example: Sequence[int],
    tokenizer: Tokenizer,
    optimizer: OptimizerSpec,
    lr: float,
) -> Step:
    """Train on one example with newly initialized moments, like step 0 of the scalar engine with a batch of one."""
    tracer = Tracer(matrices)
    losses = document_losses(spec, tracer.weights, example, tracer.arithmetic)
    loss = tracer.arithmetic.add_up(losses) * (1 / len(losses))
    order = topological_order(loss)
    loss.backward()
    parameters = dict(places(tracer.weights))
    gradients = {place: p.grad for place, p in parameters.items()}
    Optimizer(optimizer, tracer.weights).update(0, lr)
    after = {name: [[p.data for p in row] for row in matrix] for name, matrix in tracer.weights.items()}
    chosen = [
        max((place for place in parameters if place[0] == name), key=lambda place: abs(gradients[place]))
        for name in matrices
    ]
    names = {id: name for name, id in {**tokenizer.ids, **tokenizer.special_ids, "BOS": tokenizer.bos}.items()}
    tokens = [Token(id, names[id]) for id in map(token_id, example)]
    unmasked = [position for position, target in enumerate(example[1:]) if target >= 0]
    return Step(
        document=tokenizer.decode(token.id for token in tokens),
        vocab_size=spec.vocab_size,
        tokens=tokens,
        predictions=[
            Prediction(position, *list(pairwise(tokens))[position], one.data)
            for position, one in zip(unmasked, losses, strict=True)
        ],
        loss=loss.data,
        loss_after=mean_loss(spec, after, example),
        nodes=Counter(node.operation for node in order if isinstance(node, TracedValue)),
        edges=sum(len(node.children) + len(node.weights) for node in order),
        parameters=len(parameters),
        parameters_reached=sum(gradient != 0.0 for gradient in gradients.values()),
        steps=[
            ParameterStep(
                "{}[{}][{}]".format(*place),
                value_at(matrices, place),
                gradients[place],
                difference_quotient(spec, matrices, example, place),
                value_at(after, place),
            )
            for place in chosen
        ],
        optimizer=optimizer,
        lr=lr,
        weights_after=after,
    )


Place = tuple[str, int, int]  # tensor, row, column


def places(weights: Weights) -> Iterator[tuple[Place, TracedValue]]:
    for name, matrix in weights.items():
        for row, vector in enumerate(matrix):
            for column, p in enumerate(vector):
                yield (name, row, column), p


def value_at(matrices: Matrices, place: Place) -> float:
    name, row, column = place
    return matrices[name][row][column]


def mean_loss(spec: ModelSpec, matrices: Matrices, example: Sequence[int]) -> float:
    losses = document_losses(spec, matrices, example, PLAIN)
    return sum(losses) / len(losses)


def difference_quotient(spec: ModelSpec, matrices: Matrices, example: Sequence[int], place: Place) -> float:
    """Return the central difference of the loss with respect to one parameter."""
    name, row, column = place

    def loss_at(delta: float) -> float:
        moved = {**matrices, name: [list(vector) for vector in matrices[name]]}
        moved[name][row][column] += delta
        return mean_loss(spec, moved, example)

    return (loss_at(DELTA) - loss_at(-DELTA)) / (2 * DELTA)
