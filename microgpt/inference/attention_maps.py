"""Attention maps: a forward pass over a whole text in numpy, float64, that keeps the attention weights of every head.

The formulas are those of engines/scalar/model.py, for all positions at once. T is the number of tokens of the text.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from microgpt.engines.base import implementation
from microgpt.model.spec import RMSNORM_EPSILON, ModelSpec

Weights = dict[str, np.ndarray]
ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu_squared": lambda x: np.maximum(x, 0) ** 2,
}


@dataclass(frozen=True)
class ForwardPass:
    """The outputs of a model for a text."""

    logits: np.ndarray  # (T, V): row t predicts the token after position t
    attention: np.ndarray  # (n_layer, n_head, T, T): [.., t, s] is the weight of position s for t; 0 for s > t
    losses: np.ndarray  # (T,): nats of each token given the ones before it; NaN for the first, which is not predicted


def forward(spec: ModelSpec, parameters: Mapping[str, np.ndarray], tokens: Sequence[int]) -> ForwardPass:
    """Read a text (token ids, BOS first) and return logits, attention weights and losses.

    `parameters` are one model's, as in a checkpoint: (1, rows, columns) by tensor name, of any floating-point type. The
    attention of a model without blocks is (0, n_head, T, T). An overflow gives NaN or infinity without a warning.
    Raises ValueError for an empty text, one longer than the block, and ids outside the vocabulary.
    """
    ids = np.asarray(tokens, dtype=np.int64)
    if not 1 <= len(ids) <= spec.block_size:
        raise ValueError(f"a text must have from 1 to {spec.block_size} tokens (block_size), not {len(ids)}")
    if ids.min() < 0 or ids.max() >= spec.vocab_size:
        raise ValueError(f"token ids are from 0 to {spec.vocab_size - 1}, got {ids.min()} to {ids.max()}")
    hidden_states = implementation(MODELS, "model.kind", spec.kind, "MODELS in inference/attention_maps.py")
    weights = {name: parameters[name][0].astype(np.float64) for name in spec.shapes()}
    with np.errstate(over="ignore", invalid="ignore"):
        hidden, attention = hidden_states(spec, weights, ids)
        logits = hidden @ weights[spec.output_tensor].T
        return ForwardPass(logits, attention, token_losses(logits, ids))


def gpt(spec: ModelSpec, weights: Weights, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the last hidden states (T, E) and the attention weights (n_layer, n_head, T, T)."""
    activate = implementation(
        ACTIVATIONS, "model.activation", spec.activation, "ACTIVATIONS in inference/attention_maps.py"
    )
    length = len(ids)
    x = weights["wte"][ids] + weights["wpe"][:length]  # (T, E)
    if spec.input_rmsnorm:
        x = rmsnorm(x)
    attention = np.zeros((spec.n_layer, spec.n_head, length, length))
    for layer in range(spec.n_layer):
        wq, wk, wv, wo, fc1, fc2 = (
            weights[f"layer{layer}.{name}"].T
            for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo", "mlp_fc1", "mlp_fc2")
        )
        normed = rmsnorm(x)
        q, k, v = (split_heads(normed @ w, spec.n_head) for w in (wq, wk, wv))  # (H, T, D)
        attention[layer] = attention_weights(q, k)
        mixed = attention[layer] @ v
        x = x + mixed.swapaxes(0, 1).reshape(length, spec.n_embd) @ wo
        x = x + activate(rmsnorm(x) @ fc1) @ fc2
    return x, attention


def bigram(spec: ModelSpec, weights: Weights, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a row of the table for each token (T, V), and no attention weights."""
    x = weights["wte"][ids]
    return (rmsnorm(x) if spec.input_rmsnorm else x), np.zeros((0, spec.n_head, len(ids), len(ids)))


MODELS = {"gpt": gpt, "bigram": bigram}


def rmsnorm(x: np.ndarray) -> np.ndarray:
    """x / sqrt(mean(x^2) + eps) along the last axis, without a gain (Zhang and Sennrich, 2019)."""
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + RMSNORM_EPSILON)


def split_heads(x: np.ndarray, n_head: int) -> np.ndarray:
    """(T, E) -> (H, T, D): head h has the columns from h D to (h + 1) D."""
    return x.reshape(len(x), n_head, -1).swapaxes(0, 1)


def attention_weights(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """softmax(q k^T / sqrt(D)) over the positions up to each query's (Vaswani et al., 2017): (H, T, D) -> (H, T, T)."""
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
