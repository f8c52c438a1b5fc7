"""The models, written once for two number types: `Value`s for training, floats for evaluation and sampling.

The activations at one position are a list of numbers that support +, * and **. An `Arithmetic` contains the operations
that differ between the two number types.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import mul
from typing import Any

from microgpt.engines.scalar import value
from microgpt.engines.scalar.value import Value
from microgpt.model.spec import ModelSpec

Vector = list[Any]  # of Values or of floats
Weights = dict[str, list[Vector]]  # matrices by name, each a list of rows


@dataclass(frozen=True)
class Arithmetic:
    """The operations on one number type, besides +, * and **."""

    linear: Callable[[Vector, list[Vector]], Vector]  # (x, W) -> x W^T
    dot: Callable[[Vector, Vector], Any]
    exp: Callable[[Any, float], Any]  # (x, c) -> exp(x - c)
    add_up: Callable[[Vector], Any]
    relu: Callable[[Any], Any]
    tanh: Callable[[Any], Any]
    erf: Callable[[Any], Any]
    cross_entropy: Callable[[Vector, int], Any]  # (logits, target) -> -log softmax(logits)[target]
    number: Callable[[Any], float]  # converts to a plain float


class Cache:
    """The keys and values of the positions read so far, by layer."""

    def __init__(self, n_layer: int):
        self.position = 0
        self.keys: list[list[Vector]] = [[] for _ in range(n_layer)]
        self.values: list[list[Vector]] = [[] for _ in range(n_layer)]


# microgpt.py's model, with the options of model/spec.py


def gpt(spec: ModelSpec, weights: Weights, token: int, cache: Cache, ops: Arithmetic) -> Vector:
    """Return the logits (V,) of the token that follows `token`; `token` is at the cache's next position."""
    activation, position = ACTIVATIONS[spec.activation], cache.position
    x = weights["wte"][token]  # (E,)
    if spec.has_position_embedding:
        x = [t + p for t, p in zip(x, weights["wpe"][position], strict=True)]
    if spec.input_rmsnorm:
        x = rmsnorm(x, spec.norm_eps, ops)
    for layer in range(spec.n_layer):
        # Attention: this position reads from itself and from earlier positions.
        residual = x
        x = norm(x, f"layer{layer}.attn_norm", spec, weights, ops)
        q = linear(x, f"layer{layer}.attn_wq", weights, ops)  # (E,)
        k = linear(x, f"layer{layer}.attn_wk", weights, ops)  # (E,), or fewer features with n_kv_head
        v = linear(x, f"layer{layer}.attn_wv", weights, ops)
        cache.keys[layer].append(encode_heads(k, position, spec, ops))
        cache.values[layer].append(v)
        q = encode_heads(q, position, spec, ops)
        x = attention(q, cache.keys[layer], cache.values[layer], spec.n_head, ops)  # (E,)
        x = linear(x, f"layer{layer}.attn_wo", weights, ops)
        x = [a + b for a, b in zip(x, residual, strict=True)]
        # MLP: each position is processed independently.
        residual = x
        x = norm(x, f"layer{layer}.mlp_norm", spec, weights, ops)
        hidden = linear(x, f"layer{layer}.mlp_fc1", weights, ops)  # (4E,), or (mlp_width,)
        if spec.gated_mlp:
            hidden = gated(hidden, linear(x, f"layer{layer}.mlp_gate", weights, ops), activation, ops)
        else:
            hidden = [activation(h, ops) for h in hidden]
        x = linear(hidden, f"layer{layer}.mlp_fc2", weights, ops)  # (E,)
        x = [a + b for a, b in zip(x, residual, strict=True)]
    cache.position += 1
    if spec.final_norm:
        x = norm(x, "final_norm", spec, weights, ops)
    logits = ops.linear(x, weights[spec.output_tensor])  # (V,)
    return logits if spec.logit_softcap is None else softcapped(logits, spec.logit_softcap, ops)


def rmsnorm(x: Vector, epsilon: float, ops: Arithmetic) -> Vector:
    """Return x / sqrt(mean(x^2) + eps) (Zhang and Sennrich, Root Mean Square Layer Normalization, 2019; no gain)."""
    mean_square = ops.dot(x, x) * len(x) ** -1
    scale = (mean_square + epsilon) ** -0.5
    return [xi * scale for xi in x]


def attention(q: Vector, keys: list[Vector], values: list[Vector], n_head: int, ops: Arithmetic) -> Vector:
    """Return softmax(q k^T / sqrt(head_dim)) v for each head: q (E,), keys and values (T, E) -> (E,).

    Vaswani et al. (2017). Each key/value head serves n_head / n_kv_head consecutive query heads: grouped-query
    attention (Ainslie et al., 2023).
    """
    head_dim = len(q) // n_head
    sharing = len(q) // len(keys[0])  # query heads per key head: 1 in microgpt.py
    scale = (head_dim**0.5) ** -1
    out = []
    for head in range(n_head):
        query = q[head * head_dim : (head + 1) * head_dim]
        start = head // sharing * head_dim
        scores = [ops.dot(query, k[start : start + head_dim]) * scale for k in keys]  # (T,)
        probs = softmax(scores, ops)  # (T,)
        out += [ops.dot(probs, [v[j] for v in values]) for j in range(start, start + head_dim)]
    return out


def softmax(logits: Vector, ops: Arithmetic) -> Vector:
    largest = max([ops.number(logit) for logit in logits])  # subtracted so that exp does not overflow
    exps = [ops.exp(logit, largest) for logit in logits]
    scale = ops.add_up(exps) ** -1
    return [e * scale for e in exps]


def document_losses(spec: ModelSpec, weights: Weights, tokens: Sequence[int], ops: Arithmetic) -> Vector:
    """Return the losses in nats of one document, in which every token except the last predicts its successor.

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


def linear(x: Vector, name: str, weights: Weights, ops: Arithmetic) -> Vector:
    """Return x W^T, plus a bias if the model has one."""
    y = ops.linear(x, weights[name])
    bias = weights.get(f"{name}_bias")
    return y if bias is None else [a + b for a, b in zip(y, bias[0], strict=True)]


def norm(x: Vector, name: str, spec: ModelSpec, weights: Weights, ops: Arithmetic) -> Vector:
    """Apply the norm selected by model.norm, then the gain and the bias if the model has them."""
    x = NORMS[spec.norm](x, spec.norm_eps, ops)
    gain, bias = weights.get(f"{name}_gain"), weights.get(f"{name}_bias")
    if gain is not None:
        x = [a * g for a, g in zip(x, gain[0], strict=True)]
    if bias is not None:
        x = [a + b for a, b in zip(x, bias[0], strict=True)]
    return x


def layernorm(x: Vector, epsilon: float, ops: Arithmetic) -> Vector:
    """Return (x - mean) / sqrt(variance + eps) (Ba et al., Layer Normalization, 2016; without gain and bias)."""
    minus_mean = ops.add_up(x) * -(len(x) ** -1)
    return rmsnorm([xi + minus_mean for xi in x], epsilon, ops)


NORMS = {"rmsnorm": rmsnorm, "layernorm": layernorm}


def encode_heads(x: Vector, position: int, spec: ModelSpec, ops: Arithmetic) -> Vector:
    """Apply the position encoding and qk_norm to the queries or keys of all heads."""
    rotation = POSITIONS[spec.position]
    if rotation is None and not spec.qk_norm:
        return x
    heads = [x[start : start + spec.head_dim] for start in range(0, len(x), spec.head_dim)]
    if rotation is not None:
        heads = [rotation(head, position, spec.rope_theta) for head in heads]
    if spec.qk_norm:  # Henry et al., Query-Key Normalization for Transformers (2020); after RoPE, as in nanochat
        heads = [rmsnorm(head, spec.norm_eps, ops) for head in heads]
    return [feature for head in heads for feature in head]


def rope(head: Vector, position: int, theta: float) -> Vector:
    """Rotate the features (j, j + D/2) by position * theta^(-2j / D), where D is head_dim.

    Su et al., RoFormer (2021); Llama's layout.
    """
    half = len(head) // 2
    first, second = [], []
    for j in range(half):
        angle = position * theta ** (-2 * j / len(head))
        cos, sin = math.cos(angle), math.sin(angle)
        a, b = head[j], head[j + half]
        first.append(a * cos + b * -sin)
        second.append(b * cos + a * sin)
    return first + second


POSITIONS: dict[str, Callable[[Vector, int, float], Vector] | None] = {"learned": None, "rope": rope, "none": None}


def gated(hidden: Vector, gate: Vector, activation: "Activation", ops: Arithmetic) -> Vector:
    """Return activation(gate) * hidden; with silu, this is SwiGLU (Shazeer, GLU Variants Improve Transformer, 2020)."""
    return [activation(g, ops) * h for g, h in zip(gate, hidden, strict=True)]


def softcapped(logits: Vector, cap: float, ops: Arithmetic) -> Vector:
    """Return cap * tanh(logits / cap), which limits logits to the range from -cap to cap (Gemma 2, 2024)."""
    return [ops.tanh(logit * cap**-1) * cap for logit in logits]


def relu(x: Any, ops: Arithmetic) -> Any:
    return ops.relu(x)


def relu_squared(x: Any, ops: Arithmetic) -> Any:
    """Return relu(x)^2 (So et al., Primer, 2021)."""
    return ops.relu(x) ** 2


def gelu(x: Any, ops: Arithmetic) -> Any:
    """Return x times the probability that a standard normal number is less than x (Hendrycks and Gimpel, 2016)."""
    return x * (ops.erf(x * 2**-0.5) + 1.0) * 0.5


def gelu_tanh(x: Any, ops: Arithmetic) -> Any:
    """Return the approximation of gelu that GPT-2 uses."""
    return x * (ops.tanh((x + x**3 * 0.044715) * (2 / math.pi) ** 0.5) + 1.0) * 0.5


def silu(x: Any, ops: Arithmetic) -> Any:
    """Return x sigmoid(x), where sigmoid(x) = (1 + tanh(x / 2)) / 2 (Elfwing et al., 2017)."""
    return x * (ops.tanh(x * 0.5) + 1.0) * 0.5


Activation = Callable[[Any, Arithmetic], Any]
ACTIVATIONS: dict[str, Activation] = {
    "relu": relu,
    "relu_squared": relu_squared,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
}


def bigram(spec: ModelSpec, weights: Weights, token: int, cache: Cache, ops: Arithmetic) -> Vector:
    """Return the logits (V,) of the token that follows `token`, independent of earlier tokens."""
    h = weights["wte"][token]
    if spec.input_rmsnorm:
        h = rmsnorm(h, spec.norm_eps, ops)
    cache.position += 1
    return ops.linear(h, weights[spec.output_tensor])


FORWARD = {"gpt": gpt, "bigram": bigram}


# The two number types


def plain_cross_entropy(logits: list[float], target: int) -> float:
    """Return the result of `value.cross_entropy` without gradients."""
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
    tanh=Value.tanh,
    erf=Value.erf,
    cross_entropy=value.cross_entropy,
    number=lambda v: v.data,
)
PLAIN = Arithmetic(
    linear=lambda x, matrix: [sum(map(mul, row, x)) for row in matrix],
    dot=lambda xs, ys: sum(map(mul, xs, ys)),
    exp=lambda x, minus: math.exp(x - minus),
    add_up=sum,
    relu=lambda x: x if x > 0.0 else 0.0,
    tanh=math.tanh,
    erf=math.erf,
    cross_entropy=plain_cross_entropy,
    number=float,
)
