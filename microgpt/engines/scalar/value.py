"""Reverse-mode automatic differentiation, one number at a time.

A `Value` is a number that remembers how it was computed: its children (the numbers it came from) and, for each child,
the local gradient (how much it changes when that child changes). `backward` walks from a result to everything it came
from and applies the chain rule: a child's gradient grows by local gradient times the parent's gradient.

What makes this quick without changing what is computed:

1. A whole dot product is one node (`dot`, `linear`), not a chain of multiplications and additions; so are a sum and a
   cross-entropy.
2. Parameters have nothing beneath them: `linear` hangs a row of weights aside (`weights`), where the walk need not go.
3. The rows of one `linear` have the same children, which the walk visits once.
4. Behind a closed relu the gradient is zero, and `backward` goes no further there.
5. The graph has no cycles, so the engine switches Python's cycle collector off while a graph lives.
"""

import math
from collections.abc import Sequence
from operator import mul


class Value:
    """A number, and after `backward` its gradient: d(result) / d(this number)."""

    __slots__ = ("children", "data", "grad", "local_grads", "weight_grads", "weights")

    def __init__(
        self,
        data: float,
        children: "tuple[Value, ...]" = (),
        local_grads: Sequence[float] = (),
        weights: "Sequence[Value]" = (),
        weight_grads: Sequence[float] = (),
    ):
        self.data = data
        self.grad = 0.0
        self.children = children
        self.local_grads = local_grads
        self.weights = weights  # children that are parameters: they take gradients, and need no visit of their own
        self.weight_grads = weight_grads

    def __add__(self, other: "Value | float") -> "Value":
        if isinstance(other, Value):
            return Value(self.data + other.data, (self, other), (1.0, 1.0))
        return Value(self.data + other, (self,), (1.0,))

    def __mul__(self, other: "Value | float") -> "Value":
        if isinstance(other, Value):
            return Value(self.data * other.data, (self, other), (other.data, self.data))
        return Value(self.data * other, (self,), (other,))

    def __pow__(self, exponent: float) -> "Value":
        return Value(self.data**exponent, (self,), (exponent * self.data ** (exponent - 1),))

    def exp(self, minus: float = 0.0) -> "Value":
        """exp(self - minus), as softmax needs it, in one node."""
        result = math.exp(self.data - minus)
        return Value(result, (self,), (result,))

    def log(self) -> "Value":
        return Value(math.log(self.data), (self,), (1 / self.data,))

    def relu(self) -> "Value":
        return Value(max(0.0, self.data), (self,), (1.0 if self.data > 0 else 0.0,))  # relu'(0) = 0

    def __neg__(self) -> "Value":
        return self * -1.0

    def __sub__(self, other: "Value | float") -> "Value":
        return self + -other

    def __truediv__(self, other: "Value | float") -> "Value":
        return self * other**-1

    def __radd__(self, other: float) -> "Value":
        return self + other

    def __rsub__(self, other: float) -> "Value":
        return -self + other

    def __rmul__(self, other: float) -> "Value":
        return self * other

    def __rtruediv__(self, other: float) -> "Value":
        return self**-1 * other

    def __repr__(self) -> str:
        return f"Value(data={self.data}, grad={self.grad})"

    def backward(self) -> None:
        """Add d(self)/d(leaf) to the `grad` of every leaf that this value was computed from.

        The nodes between hold d(self)/d(node) afterwards; what an earlier call left in them is forgotten.
        """
        order = topological_order(self)
        for node in order:
            node.grad = 0.0
        self.grad = 1.0
        for node in reversed(order):
            grad = node.grad
            if grad == 0.0:  # behind a closed relu: nothing flows
                continue
            for child, local_grad in zip(node.children, node.local_grads):  # noqa: B905 (strict= is dear here)
                child.grad += local_grad * grad
            if node.weights:
                for weight, weight_grad in zip(node.weights, node.weight_grads):  # noqa: B905
                    weight.grad += weight_grad * grad


def topological_order(root: Value) -> list[Value]:
    """Every node below `root` that has children, each after all of its own children; `root` is last.

    Depth first with a stack of our own: a recursive walk would hit Python's recursion limit on long documents.

    The rows of one `linear` hold the same tuple of children: once its members are all in `order`, another node that
    holds it follows at once. (A tuple is known by its id, which is its own as long as the graph keeps it alive.)
    """
    order: list[Value] = []
    seen = {root}
    done: set[int] = set()  # ids of the tuples whose members are all in `order`, or have no children
    stack = [(root, iter(root.children))]
    while stack:
        node, unvisited_children = stack[-1]
        for child in unvisited_children:
            if child not in seen:
                seen.add(child)
                if id(child.children) in done:
                    order.append(child)
                elif child.children:
                    stack.append((child, iter(child.children)))
                    break
        else:
            order.append(node)
            done.add(id(node.children))
            stack.pop()
    return order


def add_up(values: Sequence[Value]) -> Value:
    """The sum of many values as one node."""
    return Value(sum([v.data for v in values]), tuple(values), (1.0,) * len(values))


def dot(xs: Sequence[Value], ys: Sequence[Value]) -> Value:
    """sum_i x_i y_i as one node: d/dx_i = y_i, d/dy_i = x_i."""
    x_data = [x.data for x in xs]
    y_data = [y.data for y in ys]
    return Value(sum(map(mul, x_data, y_data)), (*xs, *ys), (*y_data, *x_data))


def linear(x: Sequence[Value], matrix: Sequence[Sequence[Value]]) -> list[Value]:
    """y = x W^T: one node for each row w of the matrix, the dot product w . x.

    The matrix must hold parameters: gradients do not flow through it to anything beneath. Use `dot` for that.
    """
    x = tuple(x)
    x_data = [v.data for v in x]
    y = []
    for row in matrix:
        row_data = [w.data for w in row]
        y.append(Value(sum(map(mul, row_data, x_data)), x, row_data, row, x_data))
    return y


def cross_entropy(logits: Sequence[Value], target: int) -> Value:
    """-log softmax(logits)[target] as one node: d/d(logit_i) = softmax_i - [i = target].

    A probability that underflows to zero gives an infinite loss, which the training loop reports.
    """
    largest = max([v.data for v in logits])
    exps = [math.exp(v.data - largest) for v in logits]
    scale = sum(exps) ** -1
    probs = [e * scale for e in exps]
    loss = -math.log(probs[target]) if probs[target] > 0.0 else math.inf
    probs[target] -= 1.0
    return Value(loss, tuple(logits), probs)
