"""The shape of a model: which tensors it has, their sizes and their order. Knows nothing of engines, data or files.

Tensor names and layout are those of microgpt.py and of the checkpoint format: every weight matrix is stored row major
as (outputs, inputs) and used as y = x W^T; there are no biases and no gains.
"""

from dataclasses import asdict, dataclass
from typing import Any

KINDS = ("gpt", "bigram")
ACTIVATIONS = ("relu", "relu_squared")

RMSNORM_EPSILON = 1e-5


@dataclass(frozen=True)
class ModelSpec:
    """One model's architecture, complete: two models with equal specs have tensors of equal shapes."""

    kind: str  # gpt | bigram
    vocab_size: int  # V, the begin-of-sequence token included
    n_embd: int  # E, width of the residual stream; for bigram always V
    n_head: int
    n_layer: int
    block_size: int  # B, the most tokens that a model sees at once
    tie_lm_head: bool = False  # the output matrix is wte; its gradients add
    input_rmsnorm: bool = True  # the norm on the summed embedding; the norms inside the blocks are always on
    activation: str = "relu"
    init_std: float = 0.08
    zero_init_residual: bool = False  # attn_wo and mlp_fc2 begin at zero, so that each block begins as the identity

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def output_tensor(self) -> str:
        """Name of the matrix that turns the last hidden state into logits."""
        return "wte" if self.tie_lm_head else "lm_head"

    def shapes(self) -> dict[str, tuple[int, int]]:
        """(rows, columns) of every tensor by name, in the order in which their initial values are drawn."""
        return {name: shape for name, shape in self.drawn_shapes().items() if name != "lm_head" or not self.tie_lm_head}

    def drawn_shapes(self) -> dict[str, tuple[int, int]]:
        """Like `shapes`, with lm_head also when it is tied: its values are drawn all the same, and dropped."""
        vocab, width = self.vocab_size, self.n_embd
        if self.kind == "bigram":
            return {"wte": (vocab, width), "lm_head": (vocab, width)}
        shapes = {"wte": (vocab, width), "wpe": (self.block_size, width), "lm_head": (vocab, width)}
        for layer in range(self.n_layer):
            for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo"):
                shapes[f"layer{layer}.{name}"] = (width, width)
            shapes[f"layer{layer}.mlp_fc1"] = (4 * width, width)
            shapes[f"layer{layer}.mlp_fc2"] = (width, 4 * width)
        return shapes

    def initial_std(self, name: str) -> float:
        """Standard deviation from which a tensor's initial values are drawn."""
        starts_at_zero = self.zero_init_residual and name.endswith((".attn_wo", ".mlp_fc2"))
        return 0.0 if starts_at_zero else self.init_std

    def parameter_count(self) -> int:
        return sum(rows * columns for rows, columns in self.shapes().values())

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
