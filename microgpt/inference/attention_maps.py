"""Looking into a model: one forward pass over a whole text in numpy, float64, that keeps what every head looked at.

The formulae are those of engines/scalar/model.py, all positions at once instead of one after the other. For texts to
look at, not for training or sampling. Knows nothing of engines, files, tokenizers or the server.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from microgpt.model.spec import RMSNORM_EPSILON, ModelSpec


@dataclass(frozen=True)
class Insight:
    """What a model made of a text of T tokens."""

    logits: np.ndarray  # (T, V): row t is of the token that follows position t
    attention: np.ndarray  # (n_layer, n_head, T, T): [.., t, s]: what share of t's look goes to s; 0 for s > t
    losses: np.ndarray  # (T,): nats of each token given those before it; the first is NaN, as nothing comes before it


def look(spec: ModelSpec, parameters: Mapping[str, np.ndarray], tokens: Sequence[int]) -> Insight:
    """Read a text (token ids, BOS first) and return logits, attention and losses.

    `parameters` is one model's state as checkpoints have it: (1, rows, columns) by tensor name, of any float type.
    A bigram looks at nothing: its attention is (0, n_head, T, T). Where numbers overflow, NaN or inf is what comes.
    Raises ValueError for a text that is empty or longer than the block, and for ids outside of the vocabulary.
    """
    ids = np.asarray(tokens, dtype=np.int64)
    if not 1 <= len(ids) <= spec.block_size:
        raise ValueError(f"a text of {len(ids)} tokens: from 1 to block_size {spec.block_size} can be read")
    if ids.min() < 0 or ids.max() >= spec.vocab_size:
        raise ValueError(f"token ids are from 0 to {spec.vocab_size - 1}, got {ids.min()} to {ids.max()}")
    weights = {name: parameters[name][0].astype(np.float64) for name in spec.shapes()}
    with np.errstate(over="ignore", invalid="ignore"):
        hidden, attention = (gpt if spec.kind == "gpt" else bigram)(spec, weights, ids)
        logits = hidden @ weights[spec.output_tensor].T
        return Insight(logits, attention, losses_of(logits, ids))


def gpt(spec: ModelSpec, weights: dict[str, np.ndarray], ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The last hidden states (T, E), and the attention of every head (n_layer, n_head, T, T)."""
    length = len(ids)
    x = weights["wte"][ids] + weights["wpe"][:length]  # (T, E)
    if spec.input_rmsnorm:
        x = rmsnorm(x)
    attention = np.zeros((spec.n_layer, spec.n_head, length, length))
    for layer in range(spec.n_layer):
        here = {name: weights[f"layer{layer}.{name}"] for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo")}
        normed = rmsnorm(x)
        q, k, v = (split_heads(normed @ here[name].T, spec.n_head) for name in ("attn_wq", "attn_wk", "attn_wv"))
        attention[layer] = attend(q, k)  # (H, T, T)
        mixed = attention[layer] @ v  # (H, T, D)
        x = x + mixed.swapaxes(0, 1).reshape(length, spec.n_embd) @ here["attn_wo"].T
        inner = np.maximum(rmsnorm(x) @ weights[f"layer{layer}.mlp_fc1"].T, 0)  # (T, 4E)
        if spec.activation == "relu_squared":
            inner = inner**2
        x = x + inner @ weights[f"layer{layer}.mlp_fc2"].T
    return x, attention


def bigram(spec: ModelSpec, weights: dict[str, np.ndarray], ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A row of the table for each token (T, V), whatever came before it, and no attention."""
    x = weights["wte"][ids]
    return (rmsnorm(x) if spec.input_rmsnorm else x), np.zeros((0, spec.n_head, len(ids), len(ids)))


def rmsnorm(x: np.ndarray) -> np.ndarray:
    """x / sqrt(mean(x^2) + eps) along the last axis: Zhang and Sennrich (2019), without a gain."""
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + RMSNORM_EPSILON)


def split_heads(x: np.ndarray, n_head: int) -> np.ndarray:
    """(T, E) -> (H, T, D): head h has the columns h D to (h + 1) D."""
    return x.reshape(len(x), n_head, -1).swapaxes(0, 1)


def attend(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """softmax(q k^T / sqrt(D)) over the positions so far (Vaswani et al., 2017); (H, T, D) -> (H, T, T)."""
    scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
    later = np.triu(np.ones(scores.shape[1:], dtype=bool), k=1)
    return softmax(np.where(later, -np.inf, scores))


def softmax(scores: np.ndarray) -> np.ndarray:
    """Along the last axis, with the largest score taken off first so that exp cannot overflow."""
    exps = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exps / exps.sum(axis=-1, keepdims=True)


def losses_of(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """-log softmax(logits)[next token], standing at that token: (T,)."""
    before = logits[:-1]  # (T - 1, V)
    largest = before.max(axis=-1, keepdims=True)
    log_sum = np.log(np.exp(before - largest).sum(axis=-1)) + largest[:, 0]
    return np.concatenate([[np.nan], log_sum - before[np.arange(len(before)), ids[1:]]])
