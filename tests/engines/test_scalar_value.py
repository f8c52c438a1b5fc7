"""Autograd: gradients against central differences in 50-digit decimals, whose rounding errors do not matter."""

import gc
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal, localcontext
from itertools import islice
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from microgpt.engines.scalar.value import Value, add_up, cross_entropy, dot, linear, topological_order

repeatable = settings(derandomize=True, deadline=None)

Number = Any  # Value or Decimal
Function = Callable[
    [Sequence[Number], Callable[[float], Any]], Number
]  # (variables, how to write a constant) -> result


def log(x: Number) -> Number:
    return x.log() if isinstance(x, Value) else x.ln()


def exp_above(x: Number, c: Any) -> Number:
    return x.exp(c) if isinstance(x, Value) else (x - c).exp()


def relu(x: Number) -> Number:
    return x.relu() if isinstance(x, Value) else max(x, Decimal(0))


# Operations on two numbers and a positive constant.
ANYWHERE: dict[str, Callable[[Number, Number, Any], Number]] = {
    "x + y": lambda x, y, c: x + y,
    "x + c": lambda x, y, c: x + c,
    "c + x": lambda x, y, c: c + x,
    "x - y": lambda x, y, c: x - y,
    "x - c": lambda x, y, c: x - c,
    "c - x": lambda x, y, c: c - x,
    "-x": lambda x, y, c: -x,
    "x * y": lambda x, y, c: x * y,
    "x * c": lambda x, y, c: x * c,
    "c * x": lambda x, y, c: c * x,
    "x / c": lambda x, y, c: x / c,
    "x ** 2": lambda x, y, c: x**2,
    "x ** 3": lambda x, y, c: x**3,
    "x ** -1": lambda x, y, c: x**-1,
    "exp(x)": lambda x, y, c: x.exp(),
    "exp(x - c)": lambda x, y, c: exp_above(x, c),
    "relu(x)": lambda x, y, c: relu(x),
    "x / y": lambda x, y, c: x / y,
    "c / x": lambda x, y, c: c / x,
}
FOR_POSITIVE: dict[str, Callable[[Number, Number, Any], Number]] = {
    "x ** c": lambda x, y, c: x**c,
    "x ** -c": lambda x, y, c: x**-c,
    "log(x)": lambda x, y, c: log(x),
}
NEAR_A_POLE = ("x ** -1", "x / y", "c / x", *FOR_POSITIVE)
OPERATIONS = ANYWHERE | FOR_POSITIVE

positive = st.floats(0.1, 3)
nonzero = positive | positive.map(lambda x: -x)


def central_differences(function: Function, at: Sequence[float]) -> list[float]:
    with localcontext() as context:
        context.prec = 50
        h = Decimal("1e-15")
        point = [Decimal(x) for x in at]
        slopes = []
        for i in range(len(point)):
            ahead = function([x + h * (i == j) for j, x in enumerate(point)], Decimal)
            behind = function([x - h * (i == j) for j, x in enumerate(point)], Decimal)
            slopes.append(float((ahead - behind) / (2 * h)))
        return slopes


def assert_gradients(function: Function, at: Sequence[float]) -> None:
    variables = [Value(x) for x in at]
    result = function(variables, float)
    result.backward()
    with localcontext() as context:
        context.prec = 50
        exact = float(function([Decimal(x) for x in at], Decimal))
    assert result.data == pytest.approx(exact, rel=1e-9, abs=1e-9)
    assert [v.grad for v in variables] == pytest.approx(central_differences(function, at), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("name", ANYWHERE)
@repeatable
@given(x=nonzero, y=nonzero, c=positive)
def test_gradient_of_each_operation_is_its_slope(name: str, x: float, y: float, c: float) -> None:
    assert_gradients(lambda v, constant: ANYWHERE[name](v[0], v[1], constant(c)), [x, y])


@pytest.mark.parametrize("name", FOR_POSITIVE)
@repeatable
@given(x=positive, c=positive)
def test_gradient_of_each_operation_on_positive_numbers_is_its_slope(name: str, x: float, c: float) -> None:
    assert_gradients(lambda v, constant: FOR_POSITIVE[name](v[0], v[0], constant(c)), [x])


Instruction = tuple[str, int, int, float]
VARIABLES = 3
# Straight-line programs: each instruction works on any two earlier numbers, so that expressions share parts.
programs = st.lists(
    st.tuples(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 20), st.integers(0, 20), positive),
    min_size=1,
    max_size=10,
)


def run_program(program: Sequence[Instruction], variables: Sequence[Number], constant: Callable[[float], Any]) -> Any:
    """Return all numbers of a program. Raises ArithmeticError near kinks and poles, where differences are inexact."""
    numbers = list(variables)
    for name, a, b, c in program:
        x, y = numbers[-1 - a % len(numbers)], numbers[-1 - b % len(numbers)]
        if name in NEAR_A_POLE:
            x, y = x * x + 1, y * y + 1
        if isinstance(x, Decimal) and name == "relu(x)" and abs(x) < Decimal("1e-9"):
            raise ArithmeticError("a kink")
        numbers.append(OPERATIONS[name](x, y, constant(c)))
        if isinstance(numbers[-1], Decimal) and abs(numbers[-1]) > 100:
            raise ArithmeticError("too large")
    return numbers


@settings(repeatable, max_examples=300)
@given(program=programs, at=st.lists(nonzero, min_size=VARIABLES, max_size=VARIABLES))
def test_gradients_of_random_expressions_are_their_slopes(program: list[Instruction], at: list[float]) -> None:
    try:
        run_program(program, [Decimal(x) for x in at], Decimal)
    except ArithmeticError:
        assume(False)
    assert_gradients(lambda variables, constant: run_program(program, variables, constant)[-1], at)


def assert_topological(root: Value) -> None:
    """Check that every node with children occurs once, after all of its children, and the root last."""
    below, stack = set(), [root]
    while stack:
        node = stack.pop()
        if node not in below:
            below.add(node)
            stack += node.children
    order = topological_order(root)
    place = {node: i for i, node in enumerate(order)}
    assert order[-1] is root
    assert len(place) == len(order), "a node occurs twice"
    assert set(order) == {node for node in below if node.children}
    assert all(place[child] < place[node] for node in order for child in node.children if child.children)


@repeatable
@given(program=programs)
def test_topological_order_of_random_expressions(program: list[Instruction]) -> None:
    try:
        numbers = run_program(program, [Value(0.5), Value(-0.7), Value(1.1)], float)
    except ArithmeticError:
        numbers = []
    assume(numbers)
    assert_topological(numbers[-1])


def test_relu_is_flat_at_zero() -> None:
    x = Value(0.0)
    y = x.relu()
    y.backward()
    assert y.data == 0.0
    assert x.grad == 0.0


def test_a_number_used_twice_adds_its_gradients() -> None:
    x, y = Value(3.0), Value(5.0)
    shared = x * y
    (shared * shared + x).backward()
    assert (x.grad, y.grad) == (2 * 15.0 * 5.0 + 1, 2 * 15.0 * 3.0)


def test_a_number_that_is_both_operands_adds_its_gradients() -> None:
    x = Value(3.0)
    (x * x + (x + x)).backward()
    assert x.grad == 8.0


def test_backward_of_two_results_adds_up_in_their_common_leaf() -> None:
    x = Value(3.0)
    (x * x).backward()
    (x * 4.0).backward()
    assert x.grad == 2 * 3.0 + 4.0


def test_repeated_backward_of_one_result_adds_the_gradient_of_a_leaf_again() -> None:
    x = Value(3.0)
    square = x * x
    square.backward()
    square.backward()
    assert x.grad == 2 * 6.0


def test_repeated_backward_through_an_inner_node_adds_the_same_gradient_again() -> None:
    x = Value(3.0)
    result = (x * 2.0) + 1.0
    result.backward()
    result.backward()
    assert x.grad == 2 * 2.0


def test_backward_does_not_change_what_depends_on_the_result() -> None:
    x = Value(2.0)
    inner = x * 3.0
    outer = inner * inner
    inner.backward()
    assert (x.grad, outer.grad) == (3.0, 0.0)


def count_values() -> int:
    return sum(type(o) is Value for o in gc.get_objects())


def test_a_chain_of_100000_nodes_needs_no_recursion_and_no_cycle_collection() -> None:
    length = 100_000
    assert length > sys.getrecursionlimit()
    gc.collect()
    gc.disable()
    try:
        before = count_values()
        leaf = Value(0.5)
        result = leaf
        for _ in range(length):
            result = result + 1.0
        result.backward()
        assert leaf.grad == 1.0
        assert result.data == length + 0.5
        assert count_values() == before + length + 1
        del result
        assert count_values() == before + 1  # the leaf
    finally:
        gc.enable()


# Operations of one node against chains of elementary operations.

Fused = Callable[[list[Value]], Value]
moderate = st.floats(-5, 5)


def assert_equal_computations(first: Fused, second: Fused, at: Sequence[float]) -> None:
    results = []
    for function in (first, second):
        variables = [Value(x) for x in at]
        result = function(variables)
        (result * 1.7).backward()
        results.append((result.data, [v.grad for v in variables]))
    (data, grads), (expected_data, expected_grads) = results
    assert data == pytest.approx(expected_data, rel=1e-12, abs=1e-12)
    assert grads == pytest.approx(expected_grads, rel=1e-12, abs=1e-12)


def chain_sum(values: Sequence[Value]) -> Value:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def chain_dot(xs: Sequence[Value], ys: Sequence[Value]) -> Value:
    return chain_sum([x * y for x, y in zip(xs, ys, strict=True)])


def chain_cross_entropy(logits: Sequence[Value], target: int) -> Value:
    exps = [logit.exp() for logit in logits]
    return -(exps[target] / chain_sum(exps)).log()


@repeatable
@given(st.lists(moderate, min_size=1, max_size=12))
def test_add_up_is_the_chain_of_additions(at: list[float]) -> None:
    assert_equal_computations(add_up, chain_sum, at)
    assert_equal_computations(lambda v: add_up([*v, v[0]]), lambda v: chain_sum([*v, v[0]]), at)


@repeatable
@given(st.lists(moderate, min_size=1, max_size=12))
def test_dot_is_the_chain_of_products_and_sums(at: list[float]) -> None:
    half = (len(at) + 1) // 2
    for split in (lambda v: (v[:half], v[-half:]), lambda v: (v, v)):  # separate or sharing one number; identical
        assert_equal_computations(
            lambda v, split=split: dot(*split(v)), lambda v, split=split: chain_dot(*split(v)), at
        )


@repeatable
@given(rows=st.integers(1, 4), columns=st.integers(1, 4), data=st.data())
def test_linear_is_a_dot_product_for_each_row(rows: int, columns: int, data: st.DataObject) -> None:
    at = data.draw(st.lists(moderate, min_size=(rows + 1) * columns, max_size=(rows + 1) * columns))
    factors = [1.0, -2.0, 3.0, 0.5][:rows]

    def fused(v: list[Value], own_row: bool) -> Value:
        matrix = [v[i : i + columns] for i in range(columns, len(v), columns)]
        x = matrix[0] if own_row else v[:columns]  # a tied bigram multiplies a row of its table with the table
        return add_up([y * f for y, f in zip(linear(x, matrix), factors, strict=True)])

    def chain(v: list[Value], own_row: bool) -> Value:
        matrix = [v[i : i + columns] for i in range(columns, len(v), columns)]
        x = matrix[0] if own_row else v[:columns]
        return chain_sum([chain_dot(x, row) * f for row, f in zip(matrix, factors, strict=True)])

    for own_row in (False, True):
        assert_equal_computations(lambda v, own=own_row: fused(v, own), lambda v, own=own_row: chain(v, own), at)


# Layers of a random network: (kind, width of a linear layer).
layers = st.lists(
    st.tuples(st.sampled_from(["linear", "relu", "residual", "dot", "twice"]), st.integers(1, 4)), max_size=8
)


def network(
    layers: Sequence[tuple[str, int]],
    inputs: list[Value],
    weights: Iterator[Value],
    linear: Callable[[Sequence[Value], list[list[Value]]], list[Value]],
    dot: Callable[[Sequence[Value], Sequence[Value]], Value],
    add_up: Callable[[Sequence[Value]], Value],
) -> Value:
    x, residual = inputs, inputs
    for kind, width in layers:
        if kind == "linear":
            residual = x
            x = linear(x, [list(islice(weights, len(x))) for _ in range(width)])
        elif kind == "relu":
            x = [v.relu() for v in x]
        elif kind == "residual":
            x = [a + b for a, b in zip(x, residual, strict=False)]
        elif kind == "dot":
            x = [*x, dot(x, x)]
        else:  # two matrices with the same input, like those of queries and keys
            rows = [[list(islice(weights, len(x))) for _ in range(width)] for _ in range(2)]
            x = [a * b for a, b in zip(linear(x, rows[0]), linear(x, rows[1]), strict=True)]
    return add_up([v * 0.3 for v in x])


@repeatable
@given(layers=layers)
def test_networks_of_fused_operations_are_networks_of_elementary_ones(layers: list[tuple[str, int]]) -> None:
    def chain_linear(x: Sequence[Value], matrix: list[list[Value]]) -> list[Value]:
        return [chain_dot(x, row) for row in matrix]

    results = []
    for operations in ((linear, dot, add_up), (chain_linear, chain_dot, chain_sum)):
        inputs = [Value(0.5), Value(-0.7), Value(1.1)]
        weights = [Value(math.sin(i)) for i in range(1, 500)]
        result = network(layers, inputs, iter(weights), *operations)
        assert_topological(result)
        result.backward()
        results.append([result.data, *[v.grad for v in [*inputs, *weights]]])
    scale = max(map(abs, results[1]))
    assert results[0] == pytest.approx(results[1], rel=1e-9, abs=1e-13 * scale)


def test_linear_propagates_gradients_to_the_inputs_of_its_input() -> None:
    x, w = Value(2.0), Value(5.0)
    (y,) = linear([x * 3.0], [[w]])
    y.backward()
    assert (y.data, x.grad, w.grad) == (30.0, 15.0, 6.0)


@repeatable
@given(logits=st.lists(moderate, min_size=1, max_size=8), target=st.integers(0, 7))
def test_cross_entropy_is_the_chain_of_softmax_and_logarithm(logits: list[float], target: int) -> None:
    target %= len(logits)
    assert_equal_computations(lambda v: cross_entropy(v, target), lambda v: chain_cross_entropy(v, target), logits)


def test_cross_entropy_of_huge_logits_does_not_overflow() -> None:
    logits = [Value(1e4), Value(1e4), Value(-1e4)]
    loss = cross_entropy(logits, 0)
    loss.backward()
    assert loss.data == pytest.approx(math.log(2))
    assert [v.grad for v in logits] == [-0.5, 0.5, 0.0]


def test_cross_entropy_is_infinite_if_the_probability_underflows() -> None:
    assert cross_entropy([Value(0.0), Value(-800.0)], 1).data == math.inf
