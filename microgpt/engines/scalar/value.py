"""Reverse-mode automatic differentiation of single numbers.

A `Value` is a node of a graph: a number, its children (the numbers from which it was computed) and, for each child, the
local gradient (the derivative of the node with respect to the child). `backward` visits the nodes from the result to
the leaves and applies the chain rule: it adds the local gradient times the node's gradient to each child's gradient.

The implementation is fast because

1. a dot product, a sum and a cross-entropy are one node each, not a chain of multiplications and additions;
2. parameters are leaves: `linear` stores a row of them separately (`weights`), and `backward` does not visit them;
3. the outputs of one `linear` share one tuple of children, which is visited only once;
4. `backward` skips nodes whose gradient is zero, such as the inputs of a relu with a negative argument;
5. the graph has no cycles, so that the engine can disable Python's cycle collector.
"""

import math
from collections.abc import Sequence
from operator import mul


class Value:
    """A number and, after `backward`, its gradient d(result) / d(this number)."""

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
        self.weights = weights  # children that are parameters: they receive gradients but have no children to visit
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
        """exp(self - minus) as one node, for softmax."""
        result = math.exp(self.data - minus)
        return Value(result, (self,), (result,))

    def log(self) -> "Value":
        return Value(math.log(self.data), (self,), (1 / self.data,))

    def relu(self) -> "Value":
        return Value(max(0.0, self.data), (self,), (1.0 if self.data > 0 else 0.0,))  # relu'(0) = 0

    def tanh(self) -> "Value":
        result = math.tanh(self.data)
        return Value(result, (self,), (1 - result * result,))

    def erf(self) -> "Value":
        """The error function, whose derivative is 2 / sqrt(pi) * exp(-x^2)."""
        return Value(math.erf(self.data), (self,), (2 * math.pi**-0.5 * math.exp(-self.data * self.data),))

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
        """Add d(self)/d(leaf) to the `grad` of every leaf; set the `grad` of every other node to d(self)/d(node)."""
        order = topological_order(self)
        for node in order:
            node.grad = 0.0
        self.grad = 1.0
        for node in reversed(order):
            grad = node.grad
            if grad == 0.0:
                continue
            for child, local_grad in zip(node.children, node.local_grads):  # noqa: B905 (strict= is slow here)
                child.grad += local_grad * grad
            if node.weights:
                for weight, weight_grad in zip(node.weights, node.weight_grads):  # noqa: B905
                    weight.grad += weight_grad * grad


def topological_order(root: Value) -> list[Value]:
    """Return all nodes with children on which `root` depends, each after its own children; `root` is last.

    The search is depth first with an explicit stack, because recursion would exceed Python's recursion limit on long
    documents. The outputs of one `linear` share one tuple of children: once all members of the tuple are in `order`,
    another node with the same tuple is appended immediately. A tuple is identified by its id, which is unique while the
    graph keeps the tuple alive.
    """
    order: list[Value] = []
    seen = {root}
    done: set[int] = set()  # ids of tuples whose members are all in `order` or have no children
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
    """Return the sum of many values as one node."""
    return Value(sum([v.data for v in values]), tuple(values), (1.0,) * len(values))


def dot(xs: Sequence[Value], ys: Sequence[Value]) -> Value:
    """Return sum_i x_i y_i as one node: d/dx_i = y_i, d/dy_i = x_i."""
    x_data = [x.data for x in xs]
    y_data = [y.data for y in ys]
    return Value(sum(map(mul, x_data, y_data)), (*xs, *ys), (*y_data, *x_data))


def linear(x: Sequence[Value], matrix: Sequence[Sequence[Value]]) -> list[Value]:
    """Return y = x W^T, with one node for each row w of the matrix: the dot product w . x.

    The matrix must consist of leaves, because `backward` does not visit children of its elements; `dot` has no such
    restriction.
    """
    x = tuple(x)
    x_data = [v.data for v in x]
    y = []
    for row in matrix:
        row_data = [w.data for w in row]
        y.append(Value(sum(map(mul, row_data, x_data)), x, row_data, row, x_data))
    return y


def cross_entropy(logits: Sequence[Value], target: int) -> Value:
    """Return -log softmax(logits)[target] as one node: d/d(logit_i) = softmax_i - [i = target].

    The loss is infinite if the probability underflows to zero.
    """
    largest = max([v.data for v in logits])
    exps = [math.exp(v.data - largest) for v in logits]
    scale = sum(exps) ** -1
    probs = [e * scale for e in exps]
    loss = -math.log(probs[target]) if probs[target] > 0.0 else math.inf
    probs[target] -= 1.0
    return Value(loss, tuple(logits), probs)
