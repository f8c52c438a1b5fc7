"""The models, written once for two kinds of numbers: `Value`s to train, plain floats to evaluate and to sample.

A position is a list of numbers that support +, * and **. The operations that differ between the two kinds of numbers
come in an `Arithmetic`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import mul
from typing import Any

from microgpt.engines.scalar import value
from microgpt.engines.scalar.value import Value
from microgpt.model.spec import RMSNORM_EPSILON, ModelSpec

Vector = list[Any]  # of Values or of floats
Weights = dict[str, list[Vector]]  # matrices by name, each a list of rows


@dataclass(frozen=True)
class Arithmetic:
    """The operations on one kind of numbers, besides +, * and **."""

    linear: Callable[[Vector, list[Vector]], Vector]  # (x, W) -> x W^T
    dot: Callable[[Vector, Vector], Any]
    exp: Callable[[Any, float], Any]  # (x, c) -> exp(x - c)
    add_up: Callable[[Vector], Any]
    relu: Callable[[Any], Any]
    cross_entropy: Callable[[Vector, int], Any]  # (logits, target) -> -log softmax(logits)[target]
    number: Callable[[Any], float]  # the plain float of a number


class Cache:
    """The keys and values of a text's positions so far, by layer."""

    def __init__(self, n_layer: int):
        self.position = 0
        self.keys: list[list[Vector]] = [[] for _ in range(n_layer)]
        self.values: list[list[Vector]] = [[] for _ in range(n_layer)]


# microgpt.py's model


def gpt(spec: ModelSpec, weights: Weights, token: int, cache: Cache, ops: Arithmetic) -> Vector:
    """Return the logits (V,) of the token that follows `token`, which is at the cache's next position."""
    activation = ACTIVATIONS[spec.activation]
    x = [t + p for t, p in zip(weights["wte"][token], weights["wpe"][cache.position], strict=True)]  # (E,)
    if spec.input_rmsnorm:
        x = rmsnorm(x, ops)
    for layer in range(spec.n_layer):
        # Attention: this position reads from the earlier ones.
        residual = x
        x = rmsnorm(x, ops)
        q = ops.linear(x, weights[f"layer{layer}.attn_wq"])  # (E,)
        cache.keys[layer].append(ops.linear(x, weights[f"layer{layer}.attn_wk"]))
        cache.values[layer].append(ops.linear(x, weights[f"layer{layer}.attn_wv"]))
        x = attention(q, cache.keys[layer], cache.values[layer], spec.n_head, ops)  # (E,)
        x = ops.linear(x, weights[f"layer{layer}.attn_wo"])
        x = [a + b for a, b in zip(x, residual, strict=True)]
        # MLP: this position alone.
        residual = x
        x = ops.linear(rmsnorm(x, ops), weights[f"layer{layer}.mlp_fc1"])  # (4E,)
        x = [activation(xi, ops) for xi in x]
        x = ops.linear(x, weights[f"layer{layer}.mlp_fc2"])  # (E,)
        x = [a + b for a, b in zip(x, residual, strict=True)]
    cache.position += 1
    return ops.linear(x, weights[spec.output_tensor])  # (V,)


def rmsnorm(x: Vector, ops: Arithmetic) -> Vector:
    """x / sqrt(mean(x^2) + eps): Zhang and Sennrich, Root Mean Square Layer Normalization (2019), without a gain."""
    mean_square = ops.dot(x, x) * len(x) ** -1
    scale = (mean_square + RMSNORM_EPSILON) ** -0.5
    return [xi * scale for xi in x]


def attention(q: Vector, keys: list[Vector], values: list[Vector], n_head: int, ops: Arithmetic) -> Vector:
    """softmax(q k^T / sqrt(head_dim)) v of each head (Vaswani et al., 2017): q (E,), keys and values (T, E) -> (E,)."""
    head_dim = len(q) // n_head
    scale = (head_dim**0.5) ** -1
    out = []
    for start in range(0, len(q), head_dim):
        head = slice(start, start + head_dim)
        scores = [ops.dot(q[head], k[head]) * scale for k in keys]  # (T,)
        probs = softmax(scores, ops)  # (T,)
        out += [ops.dot(probs, [v[j] for v in values]) for j in range(start, start + head_dim)]
    return out


def softmax(logits: Vector, ops: Arithmetic) -> Vector:
    largest = max([ops.number(logit) for logit in logits])  # subtracted, so that no exp overflows
    exps = [ops.exp(logit, largest) for logit in logits]
    scale = ops.add_up(exps) ** -1
    return [e * scale for e in exps]


def document_losses(spec: ModelSpec, weights: Weights, tokens: Sequence[int], ops: Arithmetic) -> Vector:
    """Return the losses in nats of one document, in which each token but the last predicts its successor.

    A token ~t (negative) is read as t and excluded from the loss.
    """
    forward = FORWARD[spec.kind]
    cache = Cache(spec.n_layer)
    losses = []
    for token, target in pairwise(tokens):
        logits = forward(spec, weights, token if token >= 0 else ~token, cache, ops)
        if target >= 0:
            losses.append(ops.cross_entropy(logits, target))
    return losses


# Options


def relu(x: Any, ops: Arithmetic) -> Any:
    return ops.relu(x)


def relu_squared(x: Any, ops: Arithmetic) -> Any:
    """relu(x)^2 (So et al., Primer, 2021)."""
    return ops.relu(x) ** 2


ACTIVATIONS = {"relu": relu, "relu_squared": relu_squared}


def bigram(spec: ModelSpec, weights: Weights, token: int, cache: Cache, ops: Arithmetic) -> Vector:
    """Return the logits (V,) of the token that follows `token`, whatever came before."""
    h = weights["wte"][token]
    if spec.input_rmsnorm:
        h = rmsnorm(h, ops)
    cache.position += 1
    return ops.linear(h, weights[spec.output_tensor])


FORWARD = {"gpt": gpt, "bigram": bigram}


# The two kinds of numbers


def plain_cross_entropy(logits: list[float], target: int) -> float:
    """`value.cross_entropy` without gradients."""
    largest = max(logits)
    exps = [math.exp(logit - largest) for logit in logits]
    prob = exps[target] * sum(exps) ** -1
    return -math.log(prob) if prob > 0.0 else math.inf


WITH_GRADIENTS = Arithmetic(
    linear=value.linear,
    dot=value.dot,
    exp=Value.exp,
    add_up=value.add_up,
    relu=Value.relu,
    cross_entropy=value.cross_entropy,
    number=lambda v: v.data,
)
PLAIN = Arithmetic(
    linear=lambda x, matrix: [sum(map(mul, row, x)) for row in matrix],
    dot=lambda xs, ys: sum(map(mul, xs, ys)),
    exp=lambda x, minus: math.exp(x - minus),
    add_up=sum,
    relu=lambda x: x if x > 0.0 else 0.0,
    cross_entropy=plain_cross_entropy,
    number=float,
)
