"""Computes attention maps with a float64 numpy forward pass over a whole text that keeps every head's weights.

The formulas are those in engines/scalar/model.py, for all positions at once. T is the number of tokens of the text.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from microgpt.engines.base import implementation
from microgpt.model.spec import ModelSpec

Weights = dict[str, np.ndarray]
erf = np.vectorize(math.erf, otypes=[np.float64])
ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu_squared": lambda x: np.maximum(x, 0) ** 2,
    "gelu": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,
    "silu": lambda x: x * (1 + np.tanh(x / 2)) / 2,
}


@dataclass(frozen=True)
class ForwardPass:
    """The outputs of a model for a text."""

    logits: np.ndarray  # (T, V): row t predicts the token after position t
    attention: np.ndarray  # (n_layer, n_head, T, T): [.., t, s] is the weight of position s for t; 0 for s > t
    losses: np.ndarray  # (T,): nats of each token given the previous ones; NaN for the first, which is not predicted


def forward(spec: ModelSpec, parameters: Mapping[str, np.ndarray], tokens: Sequence[int]) -> ForwardPass:
    """Read a text (token ids, BOS first) and return logits, attention weights and losses.

    `parameters` maps the tensor names of one model to arrays (1, rows, columns) of any floating-point type, as in a
    checkpoint. Without blocks, the attention weights have the shape (0, n_head, T, T). An overflow gives NaN or
    infinity without a warning. Raises ValueError if the text is empty or longer than the block, or if an id is not in
    the vocabulary.
    """
    ids = np.asarray(tokens, dtype=np.int64)
    if not 1 <= len(ids) <= spec.block_size:
        raise ValueError(f"a text must have 1 to {spec.block_size} tokens (block_size), not {len(ids)}")
    if ids.min() < 0 or ids.max() >= spec.vocab_size:
        raise ValueError(f"token ids must be between 0 and {spec.vocab_size - 1}, but are {ids.min()} to {ids.max()}")
    hidden_states = implementation(MODELS, "model.kind", spec.kind, "MODELS in inference/attention_maps.py")
    weights = {name: parameters[name][0].astype(np.float64) for name in spec.shapes()}
    with np.errstate(over="ignore", invalid="ignore"):
        hidden, attention = hidden_states(spec, weights, ids)
        logits = hidden @ weights[spec.output_tensor].T
        if spec.logit_softcap is not None:
            logits = spec.logit_softcap * np.tanh(logits / spec.logit_softcap)
        return ForwardPass(logits, attention, token_losses(logits, ids))


def gpt(spec: ModelSpec, weights: Weights, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the last hidden states (T, E) and the attention weights (n_layer, n_head, T, T)."""
    activate = implementation(
        ACTIVATIONS, "model.activation", spec.activation, "ACTIVATIONS in inference/attention_maps.py"
    )
    rotate = implementation(POSITIONS, "model.position", spec.position, "POSITIONS in inference/attention_maps.py")
    standardize = implementation(NORMS, "model.norm", spec.norm, "NORMS in inference/attention_maps.py")

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[name].T + weights.get(f"{name}_bias", 0.0)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return standardize(x, spec.norm_eps) * weights.get(f"{name}_gain", 1.0) + weights.get(f"{name}_bias", 0.0)

    def queries_or_keys(x: np.ndarray, name: str) -> np.ndarray:
        heads = rotate(split_heads(linear(x, name), spec.head_dim), spec.rope_theta)
        return rmsnorm(heads, spec.norm_eps) if spec.qk_norm else heads

    length, sharing = len(ids), spec.n_head // spec.kv_heads
    x = weights["wte"][ids]  # (T, E)
    if spec.has_position_embedding:
        x = x + weights["wpe"][:length]
    if spec.input_rmsnorm:
        x = rmsnorm(x, spec.norm_eps)
    attention = np.zeros((spec.n_layer, spec.n_head, length, length))
    for layer in range(spec.n_layer):
        name = f"layer{layer}"
        normed = norm(x, f"{name}.attn_norm")
        q = queries_or_keys(normed, f"{name}.attn_wq")  # (H, T, D)
        k = queries_or_keys(normed, f"{name}.attn_wk")  # (K, T, D)
        v = split_heads(linear(normed, f"{name}.attn_wv"), spec.head_dim)
        attention[layer] = attention_weights(q, k.repeat(sharing, axis=0))
        mixed = attention[layer] @ v.repeat(sharing, axis=0)
        x = x + linear(mixed.swapaxes(0, 1).reshape(length, spec.n_embd), f"{name}.attn_wo")
        normed = norm(x, f"{name}.mlp_norm")
        hidden = linear(normed, f"{name}.mlp_fc1")
        hidden = activate(linear(normed, f"{name}.mlp_gate")) * hidden if spec.gated_mlp else activate(hidden)
        x = x + linear(hidden, f"{name}.mlp_fc2")
    return (norm(x, "final_norm") if spec.final_norm else x), attention


def bigram(spec: ModelSpec, weights: Weights, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the table's row of each token (T, V), and empty attention weights."""
    x = weights["wte"][ids]
    return (rmsnorm(x, spec.norm_eps) if spec.input_rmsnorm else x), np.zeros((0, spec.n_head, len(ids), len(ids)))


MODELS = {"gpt": gpt, "bigram": bigram}


def rmsnorm(x: np.ndarray, epsilon: float) -> np.ndarray:
    """x / sqrt(mean(x^2) + eps) along the last axis, without a gain (Zhang and Sennrich, 2019)."""
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + epsilon)


def layernorm(x: np.ndarray, epsilon: float) -> np.ndarray:
    """(x - mean) / sqrt(variance + eps) along the last axis, without gain and bias (Ba et al., 2016)."""
    return rmsnorm(x - x.mean(axis=-1, keepdims=True), epsilon)


NORMS = {"rmsnorm": rmsnorm, "layernorm": layernorm}


def rope(heads: np.ndarray, theta: float) -> np.ndarray:
    """Rotate features (j, j + D/2) of position t by t * theta^(-2j / D) (Su et al., 2021): (H, T, D) -> (H, T, D)."""
    _, length, head_dim = heads.shape
    angles = np.arange(length)[:, np.newaxis] * theta ** (-np.arange(0, head_dim, 2) / head_dim)  # (T, D / 2)
    first, second = np.split(heads, 2, axis=-1)
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def unrotated(heads: np.ndarray, theta: float) -> np.ndarray:
    return heads


POSITIONS = {"learned": unrotated, "rope": rope, "none": unrotated}


def split_heads(x: np.ndarray, head_dim: int) -> np.ndarray:
    """(T, H D) -> (H, T, D): head h has the columns h D to (h + 1) D - 1."""
    return x.reshape(len(x), -1, head_dim).swapaxes(0, 1)


def attention_weights(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """softmax(q k^T / sqrt(D)) over positions up to each query (Vaswani et al., 2017): (H, T, D) -> (H, T, T)."""
    scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
    later = np.triu(np.ones(scores.shape[1:], dtype=bool), k=1)
    scores = np.where(later, -np.inf, scores)
    exps = np.exp(scores - scores.max(axis=-1, keepdims=True))  # exp cannot overflow
    return exps / exps.sum(axis=-1, keepdims=True)


def token_losses(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """-log softmax(logits) of each token, at its own position: (T, V) -> (T,)."""
    before = logits[:-1]  # (T - 1, V)
    largest = before.max(axis=-1, keepdims=True)
    log_sum = np.log(np.exp(before - largest).sum(axis=-1)) + largest[:, 0]
    return np.concatenate([[np.nan], log_sum - before[np.arange(len(before)), ids[1:]]])
