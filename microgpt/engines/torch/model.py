"""The models in PyTorch: R replicas of one shape are computed together, with batched matrix products over R.

Activations have the shape (R, B * T, features) for B examples of T positions. Positions after the end of an example
contain any token and no target; the causal mask hides them from earlier positions.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from microgpt.engines.base import implementation
from microgpt.engines.torch.kv_cache import KeyValueCache
from microgpt.engines.torch.parameters import Layout
from microgpt.model.spec import ModelSpec

Weights = dict[str, Tensor]  # keyed by block of the layout

NO_TARGET = -100  # marks a position without a target
LARGEST_LOSS = 745.13  # for larger losses, the probability underflows in float64 and the scalar engine's loss is inf
SHORT_BLOCK = 64  # up to this block size, attention on a CPU is faster with batched products than as a fused operation
LARGEST_GRID = 65535  # the largest batch that CUDA's fused attention accepts

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu_squared": lambda x: x.relu().square(),
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "silu": functional.silu,
}


class Models:
    """Computes R models from given parameters, which are tensors (R, rows, columns), one per block of the layout."""

    def __init__(self, spec: ModelSpec, layout: Layout, device: torch.device, dtype: torch.dtype, autocast: bool):
        self.spec = spec
        self.layout = layout
        self.device = device
        self.autocast = autocast
        self.forward = implementation(FORWARD, "model.kind", spec.kind, "FORWARD in engines/torch/model.py")
        self.activate = implementation(
            ACTIVATIONS, "model.activation", spec.activation, "ACTIVATIONS in engines/torch/model.py"
        )
        self.standardize = implementation(NORMS, "model.norm", spec.norm, "NORMS in engines/torch/model.py")
        table = implementation(POSITIONS, "model.position", spec.position, "POSITIONS in engines/torch/model.py")
        self.rotation = None if table is None else table(spec).to(device, dtype)
        is_fused = has_fused_attention(spec, device, dtype, autocast)
        self.attend = fused_attention if is_fused else self.short_attention
        side = 0 if is_fused else spec.block_size
        # (keys, queries): -inf if the key comes after the query
        self.later_keys = torch.full((side, side), -torch.inf, dtype=dtype, device=device).tril(-1)

    def precision(self) -> AbstractContextManager[object]:
        """Return a context in which matrix products use bfloat16 if backend.dtype=bfloat16."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext()

    def losses(self, parameters: Sequence[Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss in nats at every position (0 without a target): (R, B, T), (R, B, T) -> (R, B * T).

        Inputs are rows of the concatenated embeddings of all replicas: token t of replica r is r * V + t.
        """
        logits = self.logits(parameters, inputs).to(parameters[0].dtype)  # (R, B * T, V)
        flat = functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET, reduction="none"
        )
        return flat.view(len(inputs), -1)

    def mean_loss(
        self, parameters: Sequence[Tensor], inputs: Tensor, targets: Tensor, counts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return each replica's sum of losses divided by `counts` (R,), and its largest loss: (R,), (R,)."""
        losses = self.losses(parameters, inputs, targets)
        return losses.sum(dim=1) / counts, losses.detach().amax(dim=1)

    def logits(self, parameters: Sequence[Tensor], inputs: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Return the logits of the next token at every position: (R, B, T) -> (R, B * T, V).

        With a cache, the parameters are those of one model, without the axis R; inputs (1, 1) contains the next token,
        and the result has the shape (1, V).
        """
        weights = dict(zip(self.layout.blocks, parameters, strict=True))
        return self.forward(self, weights, inputs, cache)

    def gpt(self, weights: Weights, inputs: Tensor, cache: KeyValueCache | None) -> Tensor:
        length = inputs.shape[-1]
        positions = slice(length) if cache is None else slice(cache.length, cache.length + length)
        x = functional.embedding(inputs, weights["wte"].flatten(0, -2))  # (R, B, T, E)
        if self.spec.has_position_embedding:
            x = x + weights["wpe"][..., None, positions, :]
        x = x.flatten(-3, -2)  # (R, B * T, E)
        if self.spec.input_rmsnorm:
            x = rmsnorm(x, self.spec.norm_eps)
        for layer in range(self.spec.n_layer):
            qkv = linear(self.norm(x, f"layer{layer}.attn_norm", weights), f"layer{layer}.attn_qkv", weights)
            heads = self.heads(qkv, length, positions)
            attended = self.attention(heads, len(qkv)) if cache is None else cache.attention(layer, heads[:, 0, :, 0])
            x = x + linear(attended, f"layer{layer}.attn_wo", weights)
            hidden = self.hidden(self.norm(x, f"layer{layer}.mlp_norm", weights), layer, weights)
            x = x + linear(hidden, f"layer{layer}.mlp_fc2", weights)
        if self.spec.final_norm:
            x = self.norm(x, "final_norm", weights)
        return self.output(x, weights)

    def bigram(self, weights: Weights, inputs: Tensor, cache: KeyValueCache | None) -> Tensor:
        x = functional.embedding(inputs, weights["wte"].flatten(0, -2)).flatten(-3, -2)  # (R, B * T, V)
        if self.spec.input_rmsnorm:
            x = rmsnorm(x, self.spec.norm_eps)
        return self.output(x, weights)

    def output(self, x: Tensor, weights: Weights) -> Tensor:
        logits = product(x, weights["wte"].mT if self.spec.tie_lm_head else weights["lm_head"])
        cap = self.spec.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits.to(weights["wte"].dtype) / cap)

    def norm(self, x: Tensor, name: str, weights: Weights) -> Tensor:
        """Apply the norm selected by model.norm, then the gain and the bias if the model has them."""
        x = self.standardize(x, self.spec.norm_eps)
        gain, bias = weights.get(f"{name}_gain"), weights.get(f"{name}_bias")
        x = x if gain is None else x * gain
        return x if bias is None else x + bias

    def hidden(self, x: Tensor, layer: int, weights: Weights) -> Tensor:
        """Return the hidden features of the MLP after the activation: (R, B * T, E) -> (R, B * T, F)."""
        hidden = linear(x, f"layer{layer}.mlp_in", weights)
        if not self.spec.gated_mlp:
            return self.activate(hidden)
        hidden, gate = hidden.chunk(2, dim=-1)
        return self.activate(gate) * hidden

    def heads(self, qkv: Tensor, length: int, positions: slice) -> Tensor:
        """Return queries, keys and values by head: (R, B * T, (H + 2 K) D) -> (3, R * B, H, T, D).

        With grouped-query attention, keys and values are repeated for each of their query heads.
        """
        spec = self.spec
        if spec.kv_heads == spec.n_head:
            heads = qkv.view(-1, length, 3, spec.n_head, spec.head_dim)
        else:
            split = qkv.view(-1, length, spec.n_head + 2 * spec.kv_heads, spec.head_dim)
            q, kv = split[:, :, None, : spec.n_head], split[:, :, spec.n_head :]
            kv = kv.unflatten(2, (2, spec.kv_heads, 1)).expand(-1, -1, -1, -1, spec.n_head // spec.kv_heads, -1)
            heads = torch.cat([q, kv.flatten(3, 4)], dim=2)
        heads = heads.permute(2, 0, 3, 1, 4)
        if self.rotation is None and not spec.qk_norm:
            return heads
        qk = heads[:2] if self.rotation is None else rotate(heads[:2], self.rotation[:, positions])
        if spec.qk_norm:
            qk = rmsnorm(qk, spec.norm_eps)
        return torch.cat([qk, heads[2:]])

    def attention(self, heads: Tensor, replicas: int) -> Tensor:
        """Return causal attention within each example: (3, R * B, H, T, D) -> (R, B * T, E)."""
        return self.attend(heads).transpose(1, 2).reshape(replicas, -1, self.spec.n_embd)

    def short_attention(self, heads: Tensor) -> Tensor:
        """Return attention, computed with batched products: (3, N, H, T, D) -> (N, H, T, D).

        The scores have the shape (keys, queries), because softmax over columns is several times as fast as over short
        rows.
        """
        length = heads.shape[3]
        q, k, v = heads.flatten(1, 2).unbind()  # (N * H, T, D)
        scores = torch.baddbmm(self.later_keys[:length, :length], k, q.mT, alpha=heads.shape[4] ** -0.5)
        return torch.bmm(scores.softmax(dim=1).mT, v).view(heads.shape[1:])


FORWARD = {"gpt": Models.gpt, "bigram": Models.bigram}


class TorchDecoder:
    """Decodes one text with one model, using the model's weights at the time the decoder was created."""

    def __init__(self, models: Models, parameters: Sequence[Tensor]):
        self.models = models
        self.parameters = parameters  # parameters of one model, without the axis R
        self.cache = KeyValueCache(models.spec, like=parameters[0])
        self.ids = torch.arange(models.spec.vocab_size, device=models.device).view(-1, 1, 1)

    @torch.no_grad()
    def feed(self, token: int) -> list[float]:
        if self.cache.length == self.models.spec.block_size:
            raise IndexError("the text already fills the block")
        with self.models.precision():
            logits = self.models.logits(self.parameters, self.ids[token], self.cache)[0]
        self.cache.length += 1
        return logits.double().tolist() if logits.device.type != "mps" else logits.float().tolist()


def has_fused_attention(spec: ModelSpec, device: torch.device, dtype: torch.dtype, autocast: bool) -> bool:
    """Return whether attention is computed as one fused operation instead of batched products.

    CUDA's fused kernels need heads whose size is a multiple of 16 bytes and do not support float64. In other cases,
    PyTorch's attention function would use products with a mask that a CUDA graph cannot record.
    """
    if device.type == "cpu":
        return spec.block_size > SHORT_BLOCK
    return device.type != "cuda" or (dtype != torch.float64 and spec.head_dim % (8 if autocast else 4) == 0)


def fused_attention(heads: Tensor) -> Tensor:
    """Return attention, with one fused operation per LARGEST_GRID examples: (3, N, H, T, D) -> (N, H, T, D)."""
    parts = zip(*[part.split(LARGEST_GRID) for part in heads.unbind()], strict=True)
    done = [functional.scaled_dot_product_attention(*part, is_causal=True) for part in parts]
    return done[0] if len(done) == 1 else torch.cat(done)


def product(x: Tensor, matrix: Tensor) -> Tensor:
    """Return x W per replica: (R, N, inputs), (R, inputs, outputs) -> (R, N, outputs); or without R for one model."""
    return torch.bmm(x, matrix) if x.ndim == 3 else torch.mm(x, matrix)


def linear(x: Tensor, name: str, weights: Weights) -> Tensor:
    """Return x W, plus a bias if the model has one."""
    y = product(x, weights[name])
    bias = weights.get(f"{name}_bias")
    return y if bias is None else y + bias


def rmsnorm(x: Tensor, epsilon: float) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:], eps=epsilon)


def layernorm(x: Tensor, epsilon: float) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=epsilon)


NORMS: dict[str, Callable[[Tensor, float], Tensor]] = {"rmsnorm": rmsnorm, "layernorm": layernorm}


def rotations(spec: ModelSpec) -> Tensor:
    """Return the cosine and sine of RoPE's angle for every position and feature pair: (2, block_size, D / 2)."""
    exponents = torch.arange(0, spec.head_dim, 2, dtype=torch.float64) / spec.head_dim
    angles = torch.outer(torch.arange(spec.block_size, dtype=torch.float64), spec.rope_theta**-exponents)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(heads: Tensor, rotation: Tensor) -> Tensor:
    """Rotate the features (j, j + D/2) of each head (Su et al., 2021): (..., T, D), (2, T, D / 2) -> (..., T, D)."""
    cos, sin = rotation
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


POSITIONS: dict[str, Callable[[ModelSpec], Tensor] | None] = {"learned": None, "rope": rotations, "none": None}
