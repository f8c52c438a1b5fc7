"""The architecture of a model: its options, and the shapes and order of its tensors.

Tensor names and layout follow microgpt.py and the checkpoint format: every weight matrix W is stored row major as
(outputs, inputs) and used as y = x W^T (+ b). The defaults of all options give Karpathy's microgpt, which has no biases
and no gains.

Definition. E = n_embd, H = n_head, D = E / H (head_dim), K = n_kv_head or H, F = mlp_width or 4 E, V = vocab_size,
B = block_size; t is the position of a token in its text, counted from 0. Tensors of one row are vectors. The names of
a layer's tensors begin with `layer{i}.`; tensors and operations in brackets exist only with the option.

    x = wte[token]                     wte (V, E)
    x = x + wpe[t]                     [position=learned: wpe (B, E)]
    x = rms(x)                         [input_rmsnorm: without a gain, for any `norm`]
    for each layer:
        a = norm(x, attn_norm)
        q = linear(a, attn_wq)         attn_wq (E, E), H consecutive heads of D features
        k = linear(a, attn_wk)         attn_wk (K D, E), K heads
        v = linear(a, attn_wv)         attn_wv (K D, E)
        q, k = rope(q), rope(k)        [position=rope: for each head]
        q, k = rms(q), rms(k)          [qk_norm: for each head, after RoPE, without a gain]
        o = softmax(q k^T / sqrt(D)) v for each head, over the positions up to t;
                                       head h of q reads head h // (H / K) of k and v
        x = x + linear(o, attn_wo)     attn_wo (E, E)
        m = norm(x, mlp_norm)
        u = linear(m, mlp_fc1)         mlp_fc1 (F, E)
        u = act(u)                     or, with gated_mlp: u = act(linear(m, mlp_gate)) * u, mlp_gate (F, E)
        x = x + linear(u, mlp_fc2)     mlp_fc2 (E, F)
    x = norm(x, final_norm)            [final_norm]
    logits = x lm_head^T               lm_head (V, E), never with a bias; wte if tie_lm_head
    logits = c tanh(logits / c)        [logit_softcap = c]

    linear(x, W) = x W^T + b           [bias: b is the tensor `W_bias` (1, outputs), such as layer0.attn_wq_bias]
    norm(x, n)   = z * g + b           z by `norm`; [norm_gain: g is `n_gain` (1, E), such as layer0.attn_norm_gain];
                                       [bias with norm=layernorm: b is `n_bias` (1, E); rmsnorm has none]
        rmsnorm    z = x / sqrt(mean(x^2) + norm_eps)
        layernorm  z = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + norm_eps)
    rms(x)       = x / sqrt(mean(x^2) + norm_eps)
    rope(x)      : for j < D / 2, with angle = t * rope_theta^(-2 j / D), the pair (x[j], x[j + D/2]) becomes
                   (x[j] cos(angle) - x[j + D/2] sin(angle), x[j + D/2] cos(angle) + x[j] sin(angle))
    act          : relu          max(0, x)
                   relu_squared  max(0, x)^2
                   gelu          x (1 + erf(x / sqrt(2))) / 2
                   gelu_tanh     x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2
                   silu          x sigmoid(x) = x (1 + tanh(x / 2)) / 2

A bigram computes x = wte[token], x = rms(x) with input_rmsnorm, and logits = x lm_head^T. It has no other options.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

RMSNORM_EPSILON = 1e-5

# The keys of `model`, apart from the sizes, that only a model with blocks uses.
BLOCK_OPTIONS = (
    "position", "rope_theta", "norm", "norm_gain", "final_norm", "qk_norm", "bias", "activation", "gated_mlp",
    "mlp_width", "n_kv_head", "logit_softcap", "residual_init", "zero_init_residual",
)  # fmt: skip


@dataclass(frozen=True)
class ModelKind:
    """The sizes and options that a kind of model uses, and whether it has blocks."""

    sizes: tuple[str, ...]  # configurable sizes; if absent, n_embd, n_head, n_layer are vocab_size, 1, 0
    options: tuple[str, ...]  # the keys of `model` that it uses besides its sizes and the keys common to all kinds
    has_blocks: bool  # n_layer blocks of attention and MLP


@dataclass(frozen=True)
class PositionChoice:
    """The requirements of a position encoding."""

    has_embedding: bool = False  # wpe, added to wte
    keys: tuple[str, ...] = ()  # the keys of `model` that it uses
    needs_pairs: bool = False  # needs an even number of features per head


@dataclass(frozen=True)
class NormChoice:
    """The parameters of a normalization besides its optional gain."""

    has_bias: bool  # has a bias if the model has biases


# All allowed values of the keys of `model` that select an implementation. Each engine maps these names to its own.
MODEL_KINDS = {
    "gpt": ModelKind(sizes=("n_embd", "n_head", "n_layer"), options=BLOCK_OPTIONS, has_blocks=True),
    "bigram": ModelKind(sizes=(), options=(), has_blocks=False),
}
POSITIONS = {
    "learned": PositionChoice(has_embedding=True),
    "rope": PositionChoice(keys=("rope_theta",), needs_pairs=True),  # Su et al., RoFormer (2021)
    "none": PositionChoice(),  # only the causal mask distinguishes positions (Haviv et al., 2022)
}
NORMS = {"rmsnorm": NormChoice(has_bias=False), "layernorm": NormChoice(has_bias=True)}
ACTIVATIONS = ("relu", "relu_squared", "gelu", "gelu_tanh", "silu")
# A factor for the standard deviation of attn_wo and mlp_fc2, whose outputs are added to the residual stream. With
# `zero`, each block starts as the identity; `scaled` makes the variance of the sum of 2 n_layer outputs independent of
# n_layer (Radford et al., GPT-2, 2019).
RESIDUAL_INITS: dict[str, Callable[["ModelSpec"], float]] = {
    "normal": lambda spec: 1.0,
    "zero": lambda spec: 0.0,
    "scaled": lambda spec: (2 * spec.n_layer) ** -0.5,
}
# The standard deviation of a weight matrix with the given number of inputs; embeddings always use init_std.
INITS: dict[str, Callable[["ModelSpec", int], float]] = {
    "normal": lambda spec, inputs: spec.init_std,
    "fan_in": lambda spec, inputs: inputs**-0.5,  # LeCun et al., Efficient BackProp (1998)
}
INITIAL = ("init_std", "residual_init", "init")  # the options that affect only initial weights
EMBEDDINGS = ("wte", "wpe")  # looked up by row
RESIDUAL = (".attn_wo", ".mlp_fc2")


@dataclass(frozen=True)
class ModelSpec:
    """The complete architecture of a model: models with equal specs have tensors of equal shapes."""

    kind: str  # a key of MODEL_KINDS
    vocab_size: int  # V, including the begin-of-sequence token
    n_embd: int  # E, width of the residual stream; V for a bigram
    n_head: int
    n_layer: int
    block_size: int  # B, the maximum number of tokens in a model's context
    tie_lm_head: bool = False  # wte is also the output matrix; the gradients of both uses add up
    input_rmsnorm: bool = True  # normalize the summed embedding; the norms inside the blocks are always on
    activation: str = "relu"  # one of ACTIVATIONS
    init_std: float = 0.08
    position: str = "learned"  # a key of POSITIONS
    rope_theta: float = 10000.0
    norm: str = "rmsnorm"  # a key of NORMS
    norm_eps: float = RMSNORM_EPSILON  # used by every norm
    norm_gain: bool = False
    final_norm: bool = False
    qk_norm: bool = False
    bias: bool = False
    gated_mlp: bool = False
    mlp_width: int | None = None  # F; None: 4 E
    n_kv_head: int | None = None  # K, a divisor of n_head; None: n_head
    logit_softcap: float | None = None
    residual_init: str = "normal"  # a key of RESIDUAL_INITS
    init: str = "normal"  # a key of INITS

    @property
    def parts(self) -> ModelKind:
        return MODEL_KINDS[self.kind]

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads: n_kv_head, or n_head if that is unset."""
        return self.n_kv_head or self.n_head

    @property
    def mlp_features(self) -> int:
        """Number of hidden features of the MLP."""
        return self.mlp_width or 4 * self.n_embd

    @property
    def has_position_embedding(self) -> bool:
        return self.parts.has_blocks and POSITIONS[self.position].has_embedding

    @property
    def norm_has_bias(self) -> bool:
        return self.bias and NORMS[self.norm].has_bias

    @property
    def output_tensor(self) -> str:
        """Name of the matrix that maps the last hidden state to logits."""
        return "wte" if self.tie_lm_head else "lm_head"

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return the (rows, columns) of every tensor by name, in the order used by checkpoints and optimizers."""
        shapes = {"wte": (self.vocab_size, self.n_embd)}
        if self.has_position_embedding:
            shapes["wpe"] = (self.block_size, self.n_embd)
        if not self.tie_lm_head:
            shapes["lm_head"] = (self.vocab_size, self.n_embd)
        for layer in range(self.n_layer if self.parts.has_blocks else 0):
            shapes |= {f"layer{layer}.{name}": shape for name, shape in self.layer_shapes().items()}
        if self.final_norm:
            shapes |= self.norm_shapes("final_norm")
        return shapes

    def layer_shapes(self) -> dict[str, tuple[int, int]]:
        """Return the (rows, columns) of each tensor of one layer; the names lack the layer prefix."""
        width, kv_width, hidden = self.n_embd, self.kv_heads * self.head_dim, self.mlp_features
        return {
            **self.norm_shapes("attn_norm"),
            **self.linear_shapes("attn_wq", width, width),
            **self.linear_shapes("attn_wk", kv_width, width),
            **self.linear_shapes("attn_wv", kv_width, width),
            **self.linear_shapes("attn_wo", width, width),
            **self.norm_shapes("mlp_norm"),
            **self.linear_shapes("mlp_fc1", hidden, width),
            **(self.linear_shapes("mlp_gate", hidden, width) if self.gated_mlp else {}),
            **self.linear_shapes("mlp_fc2", width, hidden),
        }

    def linear_shapes(self, name: str, outputs: int, inputs: int) -> dict[str, tuple[int, int]]:
        return {name: (outputs, inputs)} | ({f"{name}_bias": (1, outputs)} if self.bias else {})

    def norm_shapes(self, name: str) -> dict[str, tuple[int, int]]:
        parts = (("gain", self.norm_gain), ("bias", self.norm_has_bias))
        return {f"{name}_{part}": (1, self.n_embd) for part, is_present in parts if is_present}

    def initial_std(self, name: str, inputs: int) -> float:
        """Return the standard deviation of the initial weights of a matrix with this number of columns."""
        if name in EMBEDDINGS:
            return self.init_std
        std = INITS[self.init](self, inputs)
        return std * RESIDUAL_INITS[self.residual_init](self) if name.endswith(RESIDUAL) else std

    def parameter_count(self) -> int:
        return sum(rows * columns for rows, columns in self.shapes().values())

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def constant_value(name: str) -> float | None:
    """Return the initial value of a gain or a bias, or None for a matrix, whose weights are drawn."""
    return 1.0 if name.endswith("_gain") else 0.0 if name.endswith("_bias") else None
