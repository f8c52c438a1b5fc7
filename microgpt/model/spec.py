"""The architecture of a model: its tensors, their shapes and their order.

Tensor names and layout are those of microgpt.py and of the checkpoint format: every weight matrix is stored row major
as (outputs, inputs) and used as y = x W^T. There are no biases and no gains.
"""

from dataclasses import asdict, dataclass
from typing import Any

RMSNORM_EPSILON = 1e-5


@dataclass(frozen=True)
class ModelKind:
    """The parts of an architecture."""

    sizes: tuple[str, ...]  # sizes to choose; without n_embd, n_head, n_layer they are vocab_size, 1, 0
    has_position_embedding: bool  # wpe, added to wte
    has_blocks: bool  # n_layer blocks of attention and MLP


# Every value of model.kind and model.activation. Each engine maps these names to its implementations.
MODEL_KINDS = {
    "gpt": ModelKind(sizes=("n_embd", "n_head", "n_layer"), has_position_embedding=True, has_blocks=True),
    "bigram": ModelKind(sizes=(), has_position_embedding=False, has_blocks=False),
}
ACTIVATIONS = ("relu", "relu_squared")


@dataclass(frozen=True)
class ModelSpec:
    """One model's complete architecture: models with equal specs have tensors of equal shapes."""

    kind: str  # a key of MODEL_KINDS
    vocab_size: int  # V, including the begin-of-sequence token
    n_embd: int  # E, width of the residual stream; V for a bigram
    n_head: int
    n_layer: int
    block_size: int  # B, the maximum number of tokens in a model's context
    tie_lm_head: bool = False  # the output matrix is wte; the gradients of both uses add
    input_rmsnorm: bool = True  # the norm on the summed embedding; the norms inside the blocks are always on
    activation: str = "relu"  # one of ACTIVATIONS
    init_std: float = 0.08
    zero_init_residual: bool = False  # attn_wo and mlp_fc2 start at zero, so that each block starts as the identity

    @property
    def parts(self) -> ModelKind:
        return MODEL_KINDS[self.kind]

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def output_tensor(self) -> str:
        """Name of the matrix that turns the last hidden state into logits."""
        return "wte" if self.tie_lm_head else "lm_head"

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return (rows, columns) of every tensor by name, in the order in which initial values are drawn."""
        return {name: shape for name, shape in self.drawn_shapes().items() if name != "lm_head" or not self.tie_lm_head}

    def drawn_shapes(self) -> dict[str, tuple[int, int]]:
        """Return `shapes` and lm_head even if it is tied: its values are drawn all the same, then dropped."""
        vocab, width = self.vocab_size, self.n_embd
        shapes = {"wte": (vocab, width)}
        if self.parts.has_position_embedding:
            shapes["wpe"] = (self.block_size, width)
        shapes["lm_head"] = (vocab, width)
        for layer in range(self.n_layer if self.parts.has_blocks else 0):
            for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo"):
                shapes[f"layer{layer}.{name}"] = (width, width)
            shapes[f"layer{layer}.mlp_fc1"] = (4 * width, width)
            shapes[f"layer{layer}.mlp_fc2"] = (width, 4 * width)
        return shapes

    def initial_std(self, name: str) -> float:
        """Return the standard deviation of a tensor's initial values."""
        starts_at_zero = self.zero_init_residual and name.endswith((".attn_wo", ".mlp_fc2"))
        return 0.0 if starts_at_zero else self.init_std

    def parameter_count(self) -> int:
        return sum(rows * columns for rows, columns in self.shapes().values())

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
