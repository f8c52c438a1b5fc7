"""What an optimizer is told, whatever engine it runs in. Standard library alone."""

from dataclasses import dataclass


@dataclass(frozen=True)
class OptimizerSpec:
    """How parameters move. Fields that an optimizer does not use keep their defaults."""

    name: str  # adam | adamw | sgd
    beta1: float = 0.0
    beta2: float = 0.0
    eps: float = 0.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    grad_clip: float | None = None


def decays(tensor: str) -> bool:
    """Whether adamw's weight decay applies to a tensor: to matrices that multiply, not to embeddings."""
    return tensor not in ("wte", "wpe")
