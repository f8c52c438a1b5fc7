"""An independent implementation of the models, in float64 with PyTorch's operations and autograd.

It shares only the names and shapes of the tensors with the package.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from microgpt.model.spec import ModelSpec

Parameters = dict[str, Tensor]

ACTIVATIONS = {"relu": torch.relu, "relu_squared": lambda x: torch.relu(x).square()}


def parameters_of(arrays: Mapping[str, np.ndarray], replica: int = 0) -> Parameters:
    """Return one replica's tensors as leaves with gradients."""
    return {
        name: torch.tensor(array[replica], dtype=torch.float64, requires_grad=True) for name, array in arrays.items()
    }


def normed(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-5)


def attention(spec: ModelSpec, p: Parameters, layer: int, x: Tensor) -> Tensor:
    length = len(x)

    def heads(name: str) -> Tensor:  # (T, E) -> (H, T, D)
        projected = x @ p[f"layer{layer}.{name}"].T
        return projected.view(length, spec.n_head, spec.n_embd // spec.n_head).transpose(0, 1)

    q, k, v = heads("attn_wq"), heads("attn_wk"), heads("attn_wv")
    scores = q @ k.transpose(1, 2) / (spec.n_embd / spec.n_head) ** 0.5
    future = torch.ones(length, length, dtype=torch.bool).triu(diagonal=1)
    weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
    return (weights @ v).transpose(0, 1).reshape(length, spec.n_embd) @ p[f"layer{layer}.attn_wo"].T


def mlp(spec: ModelSpec, p: Parameters, layer: int, x: Tensor) -> Tensor:
    hidden = ACTIVATIONS[spec.activation](x @ p[f"layer{layer}.mlp_fc1"].T)
    return hidden @ p[f"layer{layer}.mlp_fc2"].T


def logits_of(spec: ModelSpec, p: Parameters, tokens: Sequence[int]) -> Tensor:
    """Return the logits of the next token at every position: (T, V)."""
    x = p["wte"][torch.tensor(tokens)]
    if "wpe" in p:
        x = x + p["wpe"][: len(tokens)]
    if spec.input_rmsnorm:
        x = normed(x)
    for layer in range(spec.n_layer):
        x = x + attention(spec, p, layer, normed(x))
        x = x + mlp(spec, p, layer, normed(x))
    return x @ (p["wte"] if spec.tie_lm_head else p["lm_head"]).T


def mean_loss(spec: ModelSpec, p: Parameters, examples: Sequence[Sequence[int]]) -> Tensor:
    """Return the mean cross-entropy in nats over all targets of the batch."""
    logits = torch.cat([logits_of(spec, p, example[:-1]) for example in examples])
    targets = torch.cat([torch.tensor(example[1:]) for example in examples])
    return functional.cross_entropy(logits, targets)
