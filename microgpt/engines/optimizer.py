"""The optimizers and their settings, which are the same for every engine."""

from dataclasses import dataclass

from microgpt.model.spec import EMBEDDINGS, constant_value


@dataclass(frozen=True)
class OptimizerChoice:
    """The configuration keys and moments that an optimizer uses."""

    keys: tuple[str, ...]  # the keys of `optim` that it uses besides lr and grad_clip
    moments: int  # 1: m, 2: m and v


# All allowed values of optim.name. Each engine maps these names to its implementations.
OPTIMIZERS = {
    "adam": OptimizerChoice(("beta1", "beta2", "eps"), moments=2),
    "adamw": OptimizerChoice(("beta1", "beta2", "eps", "weight_decay"), moments=2),
    "sgd": OptimizerChoice(("momentum",), moments=1),
    "lion": OptimizerChoice(("beta1", "beta2", "weight_decay"), moments=1),
    # momentum is for the matrices of the blocks, whose v stays zero; the other keys are for the rest, updated by adam
    "muon": OptimizerChoice(("momentum", "beta1", "beta2", "eps", "weight_decay", "adam_lr_ratio"), moments=2),
}


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer with its settings. Settings that the optimizer does not use have no effect."""

    name: str  # a key of OPTIMIZERS
    beta1: float = 0.0
    beta2: float = 0.0
    eps: float = 0.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    adam_lr_ratio: float = 1.0
    grad_clip: float | None = None  # maximum Euclidean norm of all gradients of a model; None: no clipping

    @property
    def moments(self) -> int:
        return OPTIMIZERS[self.name].moments

    @property
    def decay(self) -> float:
        """Decoupled weight decay (Loshchilov and Hutter, 2017); 0 for an optimizer without weight decay."""
        return self.weight_decay if "weight_decay" in OPTIMIZERS[self.name].keys else 0.0


# Newton-Schulz iteration of muon: the coefficients of X <- a X + (b A + c A^2) X with A = X X^T, the number of steps,
# and the minimum divisor (Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024)
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
SMALLEST_NORM = 1e-7


def is_orthogonalized(tensor: str) -> bool:
    """Return whether muon orthogonalizes the update of a tensor: only the matrices of the blocks."""
    return tensor.startswith("layer") and constant_value(tensor) is None


def decays(tensor: str) -> bool:
    """Return whether weight decay applies to a tensor: all except embeddings, gains and biases."""
    return tensor not in EMBEDDINGS and constant_value(tensor) is None
