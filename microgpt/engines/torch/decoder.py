"""One model reading one text, token by token, with the keys and values of the earlier ones kept."""

import torch
from torch import Tensor

from microgpt.engines.torch.model import Models, rmsnorm


class TorchDecoder:
    """One text read by one model, as its weights stand now."""

    def __init__(self, models: Models, parameters: list[Tensor], replica: int):
        self.models = models
        self.spec = spec = models.spec
        self.weights = {
            name: block[replica].clone() for name, block in zip(models.layout.blocks, parameters, strict=True)
        }
        wte = self.weights["wte"]
        self.kept = torch.zeros(spec.n_layer, 2, spec.block_size, spec.n_embd, dtype=wte.dtype, device=wte.device)
        self.position = 0

    @torch.no_grad()
    def feed(self, token: int) -> list[float]:
        with self.models.precision():
            logits = self.logits(token)
        self.position += 1
        return logits.double().tolist() if logits.device.type != "mps" else logits.float().tolist()

    def logits(self, token: int) -> Tensor:
        """(V,)"""
        spec, weights = self.spec, self.weights
        x = weights["wte"][token]  # (E,)
        if spec.kind == "gpt":
            x = x + weights["wpe"][self.position]
        if spec.input_rmsnorm:
            x = rmsnorm(x)
        for layer in range(spec.n_layer):
            qkv = rmsnorm(x) @ weights[f"layer{layer}.attn_qkv"]  # (3E,)
            x = x + self.attention(layer, qkv) @ weights[f"layer{layer}.attn_wo"]
            hidden = (rmsnorm(x) @ weights[f"layer{layer}.mlp_fc1"]).relu()
            if spec.activation == "relu_squared":
                hidden = hidden.square()
            x = x + hidden @ weights[f"layer{layer}.mlp_fc2"]
        return x @ (weights["wte"].mT if spec.tie_lm_head else weights["lm_head"])

    def attention(self, layer: int, qkv: Tensor) -> Tensor:
        """(3E,) -> (E,): this position's query over the keys and values of all so far, head by head."""
        spec, length = self.spec, self.position + 1
        q, k, v = qkv.chunk(3)
        self.kept[layer, 0, self.position] = k
        self.kept[layer, 1, self.position] = v
        keys, values = self.kept[layer, :, :length].unflatten(2, (spec.n_head, spec.head_dim)).transpose(1, 2)
        scores = keys @ q.view(spec.n_head, spec.head_dim, 1) * spec.head_dim**-0.5  # (H, T, 1)
        return (scores.softmax(dim=1).mT @ values).flatten()  # (H, 1, D) -> (E,)
