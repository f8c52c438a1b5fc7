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

ACTIVATIONS = {
    "relu": torch.relu,
    "relu_squared": lambda x: torch.relu(x).square(),
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
}


def parameters_of(arrays: Mapping[str, np.ndarray], replica: int = 0) -> Parameters:
    """Return one replica's tensors as leaves with gradients."""
    return {
        name: torch.tensor(array[replica], dtype=torch.float64, requires_grad=True) for name, array in arrays.items()
    }


def rms(spec: ModelSpec, x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + spec.norm_eps)


def norm(spec: ModelSpec, p: Parameters, name: str, x: Tensor) -> Tensor:
    gain, bias = (p[f"{name}_{part}"][0] if f"{name}_{part}" in p else None for part in ("gain", "bias"))
    if spec.norm == "layernorm":
        return functional.layer_norm(x, x.shape[-1:], gain, bias, spec.norm_eps)
    assert bias is None
    return rms(spec, x) if gain is None else rms(spec, x) * gain


def linear(p: Parameters, name: str, x: Tensor) -> Tensor:
    return functional.linear(x, p[name], p[f"{name}_bias"][0] if f"{name}_bias" in p else None)


def rotated(spec: ModelSpec, x: Tensor) -> Tensor:
    """RoPE as a product of complex numbers: (H, T, D) -> (H, T, D)."""
    pairs = torch.complex(*x.chunk(2, dim=-1))
    frequencies = spec.rope_theta ** (-torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1])
    angles = torch.outer(torch.arange(x.shape[1], dtype=torch.float64), frequencies)
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=-1)


def attention(spec: ModelSpec, p: Parameters, layer: int, x: Tensor) -> Tensor:
    length, head_dim = len(x), spec.n_embd // spec.n_head

    def heads(name: str) -> Tensor:  # (T, features) -> (heads, T, D)
        return linear(p, f"layer{layer}.{name}", x).view(length, -1, head_dim).transpose(0, 1)

    q, k, v = heads("attn_wq"), heads("attn_wk"), heads("attn_wv")
    if spec.position == "rope":
        q, k = rotated(spec, q), rotated(spec, k)
    if spec.qk_norm:
        q, k = rms(spec, q), rms(spec, k)
    k, v = (part.repeat_interleave(len(q) // len(part), dim=0) for part in (k, v))
    scores = q @ k.transpose(1, 2) / head_dim**0.5
    future = torch.ones(length, length, dtype=torch.bool).triu(diagonal=1)
    weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
    return linear(p, f"layer{layer}.attn_wo", (weights @ v).transpose(0, 1).reshape(length, spec.n_embd))


def mlp(spec: ModelSpec, p: Parameters, layer: int, x: Tensor) -> Tensor:
    up, act = linear(p, f"layer{layer}.mlp_fc1", x), ACTIVATIONS[spec.activation]
    hidden = act(linear(p, f"layer{layer}.mlp_gate", x)) * up if spec.gated_mlp else act(up)
    return linear(p, f"layer{layer}.mlp_fc2", hidden)


def logits_of(spec: ModelSpec, p: Parameters, tokens: Sequence[int]) -> Tensor:
    """Return the logits of the next token at every position: (T, V)."""
    x = p["wte"][torch.tensor(tokens)]
    if "wpe" in p:
        x = x + p["wpe"][: len(tokens)]
    if spec.input_rmsnorm:
        x = rms(spec, x)
    for layer in range(spec.n_layer):
        x = x + attention(spec, p, layer, norm(spec, p, f"layer{layer}.attn_norm", x))
        x = x + mlp(spec, p, layer, norm(spec, p, f"layer{layer}.mlp_norm", x))
    if spec.final_norm:
        x = norm(spec, p, "final_norm", x)
    logits = x @ (p["wte"] if spec.tie_lm_head else p["lm_head"]).T
    return logits if spec.logit_softcap is None else spec.logit_softcap * torch.tanh(logits / spec.logit_softcap)


def mean_loss(spec: ModelSpec, p: Parameters, examples: Sequence[Sequence[int]]) -> Tensor:
    """Return the mean cross-entropy in nats over all targets of the batch."""
    logits = torch.cat([logits_of(spec, p, example[:-1]) for example in examples])
    targets = torch.cat([torch.tensor(example[1:]) for example in examples])
    return functional.cross_entropy(logits, targets)
