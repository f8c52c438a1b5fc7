"""The KV cache, which stores the keys and values of earlier tokens, so that only the next token is computed."""

from torch import Tensor

from microgpt.model.spec import ModelSpec


class KeyValueCache:
    """The keys and values of the tokens read so far by one model."""

    def __init__(self, spec: ModelSpec, like: Tensor):
        self.length = 0
        self.kept = like.new_zeros(spec.n_layer, 2, spec.block_size, spec.n_head, spec.head_dim)

    def attention(self, layer: int, heads: Tensor) -> Tensor:
        """Append one token's key and value, and return its attention to all tokens so far: (3, H, D) -> (1, E)."""
        self.kept[layer, :, self.length] = heads[1:]
        keys, values = self.kept[layer, :, : self.length + 1].transpose(1, 2)  # (H, T, D)
        scores = keys @ heads[0, :, :, None] * heads.shape[2] ** -0.5  # (H, T, 1)
        return (scores.softmax(dim=1).mT @ values).view(1, -1)
