"""`Value`s that record which operation and which part of the model created them, for counting and drawing graphs."""

from collections.abc import Callable, Sequence
from typing import Any

from microgpt.engines.scalar import value
from microgpt.engines.scalar.model import WITH_GRADIENTS, Arithmetic, Vector, Weights
from microgpt.engines.scalar.value import Value

# Matrix of a `linear` -> the part of the model that it computes, and the part that follows; the default is OUTPUT.
PARTS = {
    "attn_wq": ("query", "query"),
    "attn_wk": ("key", "key"),
    "attn_wv": ("value", "attention"),
    "attn_wo": ("attention output", "residual sum"),
    "mlp_fc1": ("MLP", "activation"),
    "mlp_gate": ("MLP gate", "activation"),
    "mlp_fc2": ("MLP output", "residual sum"),
}
PARAMETER = "parameter"  # the operation of a leaf
EMBEDDING, NORM, OUTPUT, LOSS = "embedding", "RMSNorm", "logits", "loss"


class TracedValue(Value):
    """A `Value` with its operation, its part of the model and the names of the parameters that it uses."""

    __slots__ = ("operation", "parameters", "part", "tracer")

    def __init__(self, tracer: "Tracer", operation: str, made: Value, parameters: str = ""):
        super().__init__(made.data, made.children, made.local_grads, made.weights, made.weight_grads)
        self.tracer, self.operation, self.part = tracer, operation, tracer.part
        self.parameters = parameters  # for a parameter: `wte[3][0]`; for a `linear` node, the matrix row: `attn_wq[2]`

    def __add__(self, other: Value | float) -> Value:
        return TracedValue(self.tracer, "+", super().__add__(other))

    def __mul__(self, other: Value | float) -> Value:
        return TracedValue(self.tracer, "*", super().__mul__(other))

    def __pow__(self, exponent: float) -> Value:
        return TracedValue(self.tracer, "**", super().__pow__(exponent))


class Tracer:
    """The parameters and the arithmetic of one model as `TracedValue`s."""

    def __init__(self, matrices: dict[str, list[list[float]]]):
        self.part = EMBEDDING  # the part of the model to which the next node belongs
        self.weights: Weights = {
            name: [
                [TracedValue(self, PARAMETER, Value(p), f"{name}[{i}][{j}]") for j, p in enumerate(row)]
                for i, row in enumerate(matrix)
            ]
            for name, matrix in matrices.items()
        }
        self.names = {id(matrix): name for name, matrix in self.weights.items()}
        own: dict[str, Any] = {
            "linear": self.linear,
            "dot": self.dot,
            "cross_entropy": self.cross_entropy,
            "number": lambda x: x.data,
        }
        others: dict[str, Any] = {name: self.traced(name) for name in vars(WITH_GRADIENTS) if name not in own}
        self.arithmetic = Arithmetic(**own, **others)

    def traced(self, operation: str) -> Callable[..., TracedValue]:
        """Return an operation of WITH_GRADIENTS, changed to return a traced node."""
        compute = getattr(WITH_GRADIENTS, operation)
        return lambda *numbers: TracedValue(self, operation, compute(*numbers))

    def linear(self, x: Vector, matrix: list[Vector]) -> Vector:
        name = self.names[id(matrix)]
        self.part, following = PARTS.get(name.rpartition(".")[2], (OUTPUT, OUTPUT))
        made = [TracedValue(self, "linear", node, f"{name}[{row}]") for row, node in enumerate(value.linear(x, matrix))]
        self.part = following
        return made

    def dot(self, xs: Sequence[Any], ys: Sequence[Any]) -> TracedValue:
        if xs is ys:  # the sum of the squares of an RMSNorm
            self.part = NORM
        return TracedValue(self, "dot", value.dot(xs, ys))

    def cross_entropy(self, logits: Vector, target: int) -> TracedValue:
        self.part = LOSS
        made = TracedValue(self, "cross_entropy", value.cross_entropy(logits, target))
        self.part = EMBEDDING  # the next token begins with its embedding
        return made
