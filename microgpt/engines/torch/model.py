"""The models in PyTorch's operations: R of one shape side by side, each product one batched product over R.

Activations are (R, positions, features). Positions behind a document's end hold any token and no target; the causal
mask keeps them from the others. Knows nothing of optimizers, files or training.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional

from microgpt.engines.torch.parameters import Layout
from microgpt.model.spec import RMSNORM_EPSILON, ModelSpec

NO_TARGET = -100  # stands where a document has no target
LARGEST_LOSS = 745.13  # from here on a float64 probability is zero, and the scalar engine's loss infinite
SHORT_BLOCK = 64  # up to here, attention on a CPU is quicker as batched products than as one fused operation
LARGEST_GRID = 65535  # what CUDA's fused attention can count in its batch dimension


class Models:
    """What R models compute, given their parameters: one tensor (R, rows, columns) for each block of the layout."""

    def __init__(self, spec: ModelSpec, layout: Layout, device: torch.device, dtype: torch.dtype, autocast: bool):
        self.spec = spec
        self.layout = layout
        self.device = device
        self.autocast = autocast
        self.fused_attention = device.type != "cpu" or spec.block_size > SHORT_BLOCK
        side = 0 if self.fused_attention else spec.block_size
        later = torch.full((side, side), -torch.inf, dtype=dtype, device=device).tril(-1)
        self.later_keys = later  # (keys, queries): -inf where the key comes after the query

    def precision(self) -> AbstractContextManager[object]:
        """Within it, products are in bfloat16 where that was asked for."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext()

    def losses(self, parameters: Sequence[Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        """inputs and targets (R, B, T) -> (R, B * T): the loss in nats at every position, 0 where there is no target.

        Inputs are rows of all replicas' embeddings together: replica r's token t is r * V + t.
        """
        logits = self.logits(parameters, inputs).to(parameters[0].dtype)  # (R, B * T, V)
        flat = functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET, reduction="none"
        )
        return flat.view(len(inputs), -1)

    def mean_loss(
        self, parameters: Sequence[Tensor], inputs: Tensor, targets: Tensor, counts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Each replica's sum of losses over its `counts` (R,), and its largest loss at a position: (R,), (R,)."""
        losses = self.losses(parameters, inputs, targets)
        return losses.sum(dim=1) / counts, losses.detach().amax(dim=1)

    def logits(self, parameters: Sequence[Tensor], inputs: Tensor) -> Tensor:
        """(R, B, T) -> (R, B * T, V): at every position the logits of the next token."""
        spec, length = self.spec, inputs.shape[2]
        weights = dict(zip(self.layout.blocks, parameters, strict=True))
        x = functional.embedding(inputs, weights["wte"].flatten(0, 1))  # (R, B, T, E)
        if spec.kind == "gpt":
            x = x + weights["wpe"][:, None, :length]
        x = x.flatten(1, 2)  # (R, B * T, E)
        if spec.input_rmsnorm:
            x = rmsnorm(x)
        for layer in range(spec.n_layer):
            qkv = torch.bmm(rmsnorm(x), weights[f"layer{layer}.attn_qkv"])  # (R, B * T, 3E)
            x = x + torch.bmm(self.attention(qkv, length), weights[f"layer{layer}.attn_wo"])
            hidden = torch.bmm(rmsnorm(x), weights[f"layer{layer}.mlp_fc1"]).relu()  # (R, B * T, 4E)
            if spec.activation == "relu_squared":
                hidden = hidden.square()
            x = x + torch.bmm(hidden, weights[f"layer{layer}.mlp_fc2"])
        return torch.bmm(x, weights["wte"].mT if spec.tie_lm_head else weights["lm_head"])

    def attention(self, qkv: Tensor, length: int) -> Tensor:
        """Causal attention within each document: (R, B * T, 3E) -> (R, B * T, E)."""
        spec, replicas = self.spec, len(qkv)
        heads = qkv.view(-1, length, 3, spec.n_head, spec.head_dim).permute(2, 0, 3, 1, 4)  # (3, R * B, H, T, D)
        if self.fused_attention:
            x = fused_attention(*heads.unbind())
        else:  # keys before queries: softmax down the columns is several times as quick as along short rows
            q, k, v = heads.flatten(1, 2).unbind()  # (R * B * H, T, D)
            scores = torch.baddbmm(self.later_keys[:length, :length], k, q.mT, alpha=spec.head_dim**-0.5)
            x = torch.bmm(scores.softmax(dim=1).mT, v).view(-1, spec.n_head, length, spec.head_dim)
        return x.transpose(1, 2).reshape(replicas, -1, spec.n_embd)


def fused_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(N, H, T, D) for N documents, no more at a time than CUDA's kernels can count."""
    parts = zip(q.split(LARGEST_GRID), k.split(LARGEST_GRID), v.split(LARGEST_GRID), strict=True)
    done = [functional.scaled_dot_product_attention(*part, is_causal=True) for part in parts]
    return done[0] if len(done) == 1 else torch.cat(done)


def rmsnorm(x: Tensor) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:], eps=RMSNORM_EPSILON)
