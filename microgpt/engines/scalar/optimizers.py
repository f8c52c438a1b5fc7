"""The optimizers, written as formulas on lists of numbers: parameters p, gradients g, learning rate lr."""

from dataclasses import dataclass
from math import hypot, sqrt
from operator import mul

from microgpt.engines.optimizer import (
    NEWTON_SCHULZ,
    NEWTON_SCHULZ_STEPS,
    SMALLEST_NORM,
    OptimizerSpec,
    decays,
    is_orthogonalized,
)
from microgpt.engines.scalar.value import Value

Matrix = list[list[float]]


@dataclass(frozen=True)
class Tensor:
    """The range of a tensor in the flat list of parameters."""

    name: str
    place: slice
    columns: int


class Optimizer:
    """One model's parameters and their moments: m and, if the optimizer uses it, v have one number per parameter."""

    def __init__(self, spec: OptimizerSpec, weights: dict[str, list[list[Value]]]):
        self.spec = spec
        self.parameters: list[Value] = []
        self.decays: list[bool] = []  # for each parameter, whether weight decay applies
        self.tensors: list[Tensor] = []
        for name, matrix in weights.items():
            begin = len(self.parameters)
            self.parameters += [p for row in matrix for p in row]
            self.tensors.append(Tensor(name, slice(begin, len(self.parameters)), len(matrix[0])))
            self.decays += [decays(name)] * (len(self.parameters) - begin)
        self.m = [0.0] * len(self.parameters)
        self.v = [0.0] * len(self.parameters) if spec.moments == 2 else []

    def update(self, step: int, lr: float) -> None:
        """Update every parameter and reset the gradients to zero; `step` counts from 0."""
        if self.spec.grad_clip is not None:
            clip_gradients(self.parameters, self.spec.grad_clip)
        if self.spec.decay:
            self.decay_weights(lr)
        UPDATE_RULES[self.spec.name](self, step, lr)
        for p in self.parameters:
            p.grad = 0.0

    def decay_weights(self, lr: float) -> None:
        """p -= lr * weight_decay * p, independent of the gradient (Loshchilov and Hutter, 2017)."""
        keep = 1 - lr * self.spec.decay
        for p, is_decayed in zip(self.parameters, self.decays, strict=True):
            if is_decayed:
                p.data *= keep

    def sgd(self, step: int, lr: float) -> None:
        """m = momentum * m + g; p -= lr * m."""
        momentum = self.spec.momentum
        self.m = [momentum * m + p.grad for p, m in zip(self.parameters, self.m, strict=True)]
        for p, m in zip(self.parameters, self.m, strict=True):
            p.data -= lr * m

    def adam(self, step: int, lr: float) -> None:
        """Kingma and Ba (2014), algorithm 1, with bias-corrected moments m / (1 - beta1^t) and v / (1 - beta2^t)."""
        self.m, self.v = self.adam_moments(self.parameters, self.m, self.v, step, lr)

    def adam_moments(
        self, parameters: list[Value], m: list[float], v: list[float], step: int, lr: float
    ) -> tuple[list[float], list[float]]:
        """Update the given parameters with adam; return their new moments."""
        beta1, beta2, eps = self.spec.beta1, self.spec.beta2, self.spec.eps
        new1, new2 = 1 - beta1, 1 - beta2
        grads = [p.grad for p in parameters]
        m = [beta1 * mi + new1 * g for mi, g in zip(m, grads, strict=True)]
        v = [beta2 * vi + new2 * g * g for vi, g in zip(v, grads, strict=True)]
        correction1 = 1 - beta1 ** (step + 1)
        correction2 = 1 - beta2 ** (step + 1)
        for p, mi, vi in zip(parameters, m, v, strict=True):
            p.data -= lr * (mi / correction1) / (sqrt(vi / correction2) + eps)
        return m, v

    def lion(self, step: int, lr: float) -> None:
        """p -= lr * sign(beta1 * m + (1 - beta1) * g); m = beta2 * m + (1 - beta2) * g: Chen et al. (2023)."""
        beta1, beta2 = self.spec.beta1, self.spec.beta2
        grads = [p.grad for p in self.parameters]
        for p, m, g in zip(self.parameters, self.m, grads, strict=True):
            p.data -= lr * sign(beta1 * m + (1 - beta1) * g)
        self.m = [beta2 * m + (1 - beta2) * g for m, g in zip(self.m, grads, strict=True)]

    def muon(self, step: int, lr: float) -> None:
        """m = momentum m + (1 - momentum) g; u = momentum m + (1 - momentum) g; P -= lr * scale * orthogonalized(U).

        In Jordan et al. (2024), this rule updates each matrix of the blocks, with scale = sqrt(max(1, rows / columns));
        adam updates the other tensors with a separate learning rate.
        """
        momentum = self.spec.momentum
        for tensor in self.tensors:
            place, parameters = tensor.place, self.parameters[tensor.place]
            if not is_orthogonalized(tensor.name):
                rate = lr * self.spec.adam_lr_ratio
                self.m[place], self.v[place] = self.adam_moments(parameters, self.m[place], self.v[place], step, rate)
                continue
            grads = [p.grad for p in parameters]
            self.m[place] = [momentum * m + (1 - momentum) * g for m, g in zip(self.m[place], grads, strict=True)]
            moved = [momentum * m + (1 - momentum) * g for m, g in zip(self.m[place], grads, strict=True)]
            rows = [moved[begin : begin + tensor.columns] for begin in range(0, len(moved), tensor.columns)]
            scale = lr * max(1.0, len(rows) / tensor.columns) ** 0.5
            for p, u in zip(parameters, [u for row in orthogonalized(rows) for u in row], strict=True):
                p.data -= scale * u


UPDATE_RULES = {
    "adam": Optimizer.adam,
    "adamw": Optimizer.adam,  # after weight decay
    "sgd": Optimizer.sgd,
    "lion": Optimizer.lion,
    "muon": Optimizer.muon,
}


def sign(x: float) -> float:
    return (x > 0.0) - (x < 0.0)


def orthogonalized(matrix: Matrix) -> Matrix:
    """Return an approximation of U V^T, given U S V^T (SVD); its singular values are between about 0.7 and 1.2.

    The Newton-Schulz iteration X <- a X + (b A + c A^2) X with A = X X^T starts from the matrix divided by its norm,
    and transposed if it has more rows than columns.
    """
    if len(matrix) > len(matrix[0]):
        return transposed(orthogonalized(transposed(matrix)))
    a, b, c = NEWTON_SCHULZ
    norm = max(hypot(*[hypot(*row) for row in matrix]), SMALLEST_NORM)
    x = [[number / norm for number in row] for row in matrix]
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = product(x, transposed(x))
        squared = product(gram, gram)
        mixed = [[b * g + c * s for g, s in zip(*rows, strict=True)] for rows in zip(gram, squared, strict=True)]
        added = product(mixed, x)
        x = [[a * old + new for old, new in zip(*rows, strict=True)] for rows in zip(x, added, strict=True)]
    return x


def transposed(matrix: Matrix) -> Matrix:
    return [list(column) for column in zip(*matrix, strict=True)]


def product(x: Matrix, y: Matrix) -> Matrix:
    columns = transposed(y)
    return [[sum(map(mul, row, column)) for column in columns] for row in x]


def clip_gradients(parameters: list[Value], largest_norm: float) -> None:
    """Scale all gradients by one factor to a Euclidean norm of at most `largest_norm` (Pascanu et al., 2013)."""
    norm = hypot(*[p.grad for p in parameters])
    if norm > largest_norm:
        scale = largest_norm / norm
        for p in parameters:
            p.grad *= scale
