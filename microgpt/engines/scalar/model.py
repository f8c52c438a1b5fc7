"""The models, written once and run on two kinds of numbers: `Value`s to train, plain floats to evaluate and to sample.

Everything here works on lists of numbers that know +, * and **. The few operations that differ between the two kinds
(a matrix times a vector, exp, relu) come in an `Arithmetic`.
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
    """What a model needs to know of its numbers, beyond +, * and **."""

    linear: Callable[[Vector, list[Vector]], Vector]  # (x, W) -> x W^T
    dot: Callable[[Vector, Vector], Any]
    add_up: Callable[[Vector], Any]
    exp: Callable[[Any, float], Any]  # (x, c) -> exp(x - c)
    relu: Callable[[Any], Any]
    cross_entropy: Callable[[Vector, int], Any]  # (logits, target) -> -log softmax(logits)[target]
    number: Callable[[Any], float]  # the plain float behind a number


def plain_cross_entropy(logits: list[float], target: int) -> float:
    """As `value.cross_entropy`, without gradients."""
    largest = max(logits)
    exps = [math.exp(logit - largest) for logit in logits]
    prob = exps[target] * sum(exps) ** -1
    return -math.log(prob) if prob > 0.0 else math.inf


WITH_GRADIENTS = Arithmetic(
    linear=value.linear,
    dot=value.dot,
    add_up=value.add_up,
    exp=Value.exp,
    relu=Value.relu,
    cross_entropy=value.cross_entropy,
    number=lambda v: v.data,
)
PLAIN = Arithmetic(
    linear=lambda x, matrix: [sum(map(mul, row, x)) for row in matrix],
    dot=lambda xs, ys: sum(map(mul, xs, ys)),
    add_up=sum,
    exp=lambda x, minus: math.exp(x - minus),
    relu=lambda x: x if x > 0.0 else 0.0,
    cross_entropy=plain_cross_entropy,
    number=float,
)


def rmsnorm(x: Vector, ops: Arithmetic) -> Vector:
    """x / sqrt(mean(x^2) + eps): Zhang and Sennrich, Root Mean Square Layer Normalization (2019), without a gain."""
    mean_square = ops.dot(x, x) * len(x) ** -1
    scale = (mean_square + RMSNORM_EPSILON) ** -0.5
    return [xi * scale for xi in x]


def softmax(logits: Vector, ops: Arithmetic) -> Vector:
    """exp(l_i) / sum_j exp(l_j), with the largest logit taken off first so that exp cannot overflow."""
    largest = max([ops.number(logit) for logit in logits])
    exps = [ops.exp(logit, largest) for logit in logits]
    scale = ops.add_up(exps) ** -1
    return [e * scale for e in exps]


class Cache:
    """What one document has left behind so far: per layer the keys and the values of its earlier positions."""

    def __init__(self, n_layer: int):
        self.position = 0
        self.keys: list[list[Vector]] = [[] for _ in range(n_layer)]
        self.values: list[list[Vector]] = [[] for _ in range(n_layer)]


def attention(q: Vector, keys: list[Vector], values: list[Vector], n_head: int, ops: Arithmetic) -> Vector:
    """softmax(q k^T / sqrt(head_dim)) v, head by head (Vaswani et al., 2017); q is one position, keys all up to it."""
    head_dim = len(q) // n_head  # q (E,), keys and values (T, E) for the T positions so far
    scale = (head_dim**0.5) ** -1
    out = []
    for start in range(0, len(q), head_dim):
        head = slice(start, start + head_dim)
        scores = [ops.dot(q[head], k[head]) * scale for k in keys]  # (T,)
        probs = softmax(scores, ops)  # (T,)
        out += [ops.dot(probs, [v[j] for v in values]) for j in range(start, start + head_dim)]
    return out  # (E,)


def gpt(spec: ModelSpec, weights: Weights, token: int, cache: Cache, ops: Arithmetic) -> Vector:
    """Logits (V,) of the token that follows `token`, which stands at the cache's next position."""
    x = [t + p for t, p in zip(weights["wte"][token], weights["wpe"][cache.position], strict=True)]  # (E,)
    if spec.input_rmsnorm:
        x = rmsnorm(x, ops)
    for layer in range(spec.n_layer):
        # What does this position look for, and what do the earlier ones offer?
        residual = x
        x = rmsnorm(x, ops)
        q = ops.linear(x, weights[f"layer{layer}.attn_wq"])  # (E,)
        cache.keys[layer].append(ops.linear(x, weights[f"layer{layer}.attn_wk"]))
        cache.values[layer].append(ops.linear(x, weights[f"layer{layer}.attn_wv"]))
        x = attention(q, cache.keys[layer], cache.values[layer], spec.n_head, ops)  # (E,)
        x = ops.linear(x, weights[f"layer{layer}.attn_wo"])
        x = [a + b for a, b in zip(x, residual, strict=True)]
        # What follows from it, at this position alone?
        residual = x
        x = ops.linear(rmsnorm(x, ops), weights[f"layer{layer}.mlp_fc1"])  # (4E,)
        x = [ops.relu(xi) for xi in x]
        if spec.activation == "relu_squared":
            x = [xi**2 for xi in x]
        x = ops.linear(x, weights[f"layer{layer}.mlp_fc2"])  # (E,)
        x = [a + b for a, b in zip(x, residual, strict=True)]
    cache.position += 1
    return ops.linear(x, weights[spec.output_tensor])  # (V,)


def bigram(spec: ModelSpec, weights: Weights, token: int, cache: Cache, ops: Arithmetic) -> Vector:
    """Logits (V,) of the token that follows `token`, whatever came before: a table of V rows, and an output matrix."""
    h = weights["wte"][token]
    if spec.input_rmsnorm:
        h = rmsnorm(h, ops)
    cache.position += 1
    return ops.linear(h, weights[spec.output_tensor])


FORWARD = {"gpt": gpt, "bigram": bigram}


def document_losses(spec: ModelSpec, weights: Weights, tokens: Sequence[int], ops: Arithmetic) -> Vector:
    """The losses in nats of one document: each token but the last predicts its successor.

    A token ~t (negative) is read as t, and its prediction is not asked for.
    """
    forward = FORWARD[spec.kind]
    cache = Cache(spec.n_layer)
    losses = []
    for token, target in pairwise(tokens):
        logits = forward(spec, weights, token if token >= 0 else ~token, cache, ops)
        if target >= 0:
            losses.append(ops.cross_entropy(logits, target))
    return losses
