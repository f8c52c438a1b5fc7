"""The models in PyTorch: R replicas of one shape computed together, each product one batched product over R.

Activations have the shape (R, B * T, features) for B examples of T positions. Positions after an example's end hold
any token and no target; the causal mask hides them from the positions before.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from microgpt.engines.base import implementation, refuse_options
from microgpt.engines.torch.parameters import Layout
from microgpt.model.spec import RMSNORM_EPSILON, ModelSpec

# Options of model/spec.py that this engine does not compute yet
LACKING = (
    "position", "norm", "norm_eps", "norm_gain", "final_norm", "qk_norm", "bias", "gated_mlp", "mlp_width",
    "n_kv_head", "logit_softcap",
)  # fmt: skip
NO_TARGET = -100  # the target of a position that has none
LARGEST_LOSS = 745.13  # above it a probability underflows in float64, so that the scalar engine's loss is infinite
SHORT_BLOCK = 64  # up to this length, attention on a CPU is faster as batched products than as one fused operation
LARGEST_GRID = 65535  # the largest batch that CUDA's fused attention accepts

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu_squared": lambda x: x.relu().square(),
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "silu": functional.silu,
}


class KeyValueCache:
    """The keys and values of the tokens that one model has read so far."""

    def __init__(self, spec: ModelSpec, like: Tensor):
        self.length = 0
        self.kept = like.new_zeros(spec.n_layer, 2, spec.block_size, spec.n_head, spec.head_dim)

    def attention(self, layer: int, qkv: Tensor) -> Tensor:
        """Append one token's key and value, and attend to all tokens so far: (1, 3E) -> (1, E)."""
        heads = qkv.view(3, *self.kept.shape[3:])  # (3, H, D)
        self.kept[layer, :, self.length] = heads[1:]
        keys, values = self.kept[layer, :, : self.length + 1].transpose(1, 2)  # (H, T, D)
        scores = keys @ heads[0, :, :, None] * heads.shape[2] ** -0.5  # (H, T, 1)
        return (scores.softmax(dim=1).mT @ values).view(1, -1)


class Models:
    """The computation of R models, given their parameters: a tensor (R, rows, columns) for each block of the layout."""

    def __init__(self, spec: ModelSpec, layout: Layout, device: torch.device, dtype: torch.dtype, autocast: bool):
        refuse_options(spec, LACKING, "engines/torch/model.py")
        self.spec = spec
        self.layout = layout
        self.device = device
        self.autocast = autocast
        self.forward = implementation(FORWARD, "model.kind", spec.kind, "FORWARD in engines/torch/model.py")
        self.activate = implementation(
            ACTIVATIONS, "model.activation", spec.activation, "ACTIVATIONS in engines/torch/model.py"
        )
        is_fused = device.type != "cpu" or spec.block_size > SHORT_BLOCK
        self.attend = fused_attention if is_fused else self.short_attention
        side = 0 if is_fused else spec.block_size
        # (keys, queries): -inf if the key comes after the query
        self.later_keys = torch.full((side, side), -torch.inf, dtype=dtype, device=device).tril(-1)

    def precision(self) -> AbstractContextManager[object]:
        """Return a context in which products are in bfloat16 for backend.dtype=bfloat16."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext()

    def losses(self, parameters: Sequence[Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss in nats at every position, 0 without a target: (R, B, T), (R, B, T) -> (R, B * T).

        Inputs are rows of all replicas' embeddings together: token t of replica r is r * V + t.
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

        With a cache, the parameters are one model's, without the axis R, and inputs (1, 1) its next token: -> (1, V).
        """
        weights = dict(zip(self.layout.blocks, parameters, strict=True))
        return self.forward(self, weights, inputs, cache)

    def gpt(self, weights: dict[str, Tensor], inputs: Tensor, cache: KeyValueCache | None) -> Tensor:
        product = torch.bmm if cache is None else torch.mm
        length = inputs.shape[-1]
        positions = slice(length) if cache is None else slice(cache.length, cache.length + length)
        x = functional.embedding(inputs, weights["wte"].flatten(0, -2))  # (R, B, T, E)
        x = x + weights["wpe"][..., None, positions, :]
        x = x.flatten(-3, -2)  # (R, B * T, E)
        if self.spec.input_rmsnorm:
            x = rmsnorm(x)
        for layer in range(self.spec.n_layer):
            qkv = product(rmsnorm(x), weights[f"layer{layer}.attn_qkv"])  # (R, B * T, 3E)
            x = x + product(self.attention(qkv, layer, length, cache), weights[f"layer{layer}.attn_wo"])
            hidden = self.activate(product(rmsnorm(x), weights[f"layer{layer}.mlp_fc1"]))  # (R, B * T, 4E)
            x = x + product(hidden, weights[f"layer{layer}.mlp_fc2"])
        return product(x, weights["wte"].mT if self.spec.tie_lm_head else weights["lm_head"])

    def bigram(self, weights: dict[str, Tensor], inputs: Tensor, cache: KeyValueCache | None) -> Tensor:
        product = torch.bmm if cache is None else torch.mm
        x = functional.embedding(inputs, weights["wte"].flatten(0, -2)).flatten(-3, -2)  # (R, B * T, V)
        if self.spec.input_rmsnorm:
            x = rmsnorm(x)
        return product(x, weights["wte"].mT if self.spec.tie_lm_head else weights["lm_head"])

    def attention(self, qkv: Tensor, layer: int, length: int, cache: KeyValueCache | None) -> Tensor:
        """Causal attention within each example: (R, B * T, 3E) -> (R, B * T, E)."""
        if cache is not None:
            return cache.attention(layer, qkv)
        spec = self.spec
        heads = qkv.view(-1, length, 3, spec.n_head, spec.head_dim).permute(2, 0, 3, 1, 4)  # (3, R * B, H, T, D)
        return self.attend(heads).transpose(1, 2).reshape(len(qkv), -1, spec.n_embd)

    def short_attention(self, heads: Tensor) -> Tensor:
        """Attention as batched products: (3, N, H, T, D) -> (N, H, T, D).

        Scores are keys by queries: softmax down the columns is several times as fast as along short rows.
        """
        length = heads.shape[3]
        q, k, v = heads.flatten(1, 2).unbind()  # (N * H, T, D)
        scores = torch.baddbmm(self.later_keys[:length, :length], k, q.mT, alpha=heads.shape[4] ** -0.5)
        return torch.bmm(scores.softmax(dim=1).mT, v).view(heads.shape[1:])


FORWARD = {"gpt": Models.gpt, "bigram": Models.bigram}


class TorchDecoder:
    """One model reading one text, with the weights that the model had when the decoder was made."""

    def __init__(self, models: Models, parameters: Sequence[Tensor]):
        self.models = models
        self.parameters = parameters  # of one model, without the axis R
        self.cache = KeyValueCache(models.spec, like=parameters[0])
        self.ids = torch.arange(models.spec.vocab_size, device=models.device).view(-1, 1, 1)

    @torch.no_grad()
    def feed(self, token: int) -> list[float]:
        if self.cache.length == self.models.spec.block_size:
            raise IndexError("the text fills the block")
        with self.models.precision():
            logits = self.models.logits(self.parameters, self.ids[token], self.cache)[0]
        self.cache.length += 1
        return logits.double().tolist() if logits.device.type != "mps" else logits.float().tolist()


def fused_attention(heads: Tensor) -> Tensor:
    """Attention as one operation for each LARGEST_GRID examples: (3, N, H, T, D) -> (N, H, T, D)."""
    parts = zip(*[part.split(LARGEST_GRID) for part in heads.unbind()], strict=True)
    done = [functional.scaled_dot_product_attention(*part, is_causal=True) for part in parts]
    return done[0] if len(done) == 1 else torch.cat(done)


def rmsnorm(x: Tensor) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:], eps=RMSNORM_EPSILON)
