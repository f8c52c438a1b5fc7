"""The optimizers as formulas on lists of numbers: parameters p, gradients g, learning rate lr."""

from collections.abc import Sequence
from math import hypot, sqrt

from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.scalar.value import Value


class Optimizer:
    """One model's parameters and their moments: a number for each parameter in m and, if the optimizer has it, in v."""

    def __init__(self, spec: OptimizerSpec, parameters: list[Value], decays: list[bool]):
        self.spec = spec
        self.parameters = parameters
        self.decays = decays  # which parameters weight decay applies to
        self.m = [0.0] * len(parameters)
        self.v = [0.0] * len(parameters) if spec.moments == 2 else []

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
        """p -= lr * weight_decay * p, apart from the gradient (Loshchilov and Hutter, 2017)."""
        keep = 1 - lr * self.spec.decay
        for p, decays in zip(self.parameters, self.decays, strict=True):
            if decays:
                p.data *= keep

    def sgd(self, step: int, lr: float) -> None:
        """m = momentum * m + g; p -= lr * m."""
        momentum = self.spec.momentum
        self.m = [momentum * m + p.grad for p, m in zip(self.parameters, self.m, strict=True)]
        for p, m in zip(self.parameters, self.m, strict=True):
            p.data -= lr * m

    def adam(self, step: int, lr: float) -> None:
        """Kingma and Ba (2014), algorithm 1, with the moments' bias corrected: m / (1 - beta1^t), v / (1 - beta2^t)."""
        beta1, beta2, eps = self.spec.beta1, self.spec.beta2, self.spec.eps
        new1, new2 = 1 - beta1, 1 - beta2
        grads = [p.grad for p in self.parameters]
        self.m = [beta1 * m + new1 * g for m, g in zip(self.m, grads, strict=True)]
        self.v = [beta2 * v + new2 * g * g for v, g in zip(self.v, grads, strict=True)]
        correction1 = 1 - beta1 ** (step + 1)
        correction2 = 1 - beta2 ** (step + 1)
        for p, m, v in zip(self.parameters, self.m, self.v, strict=True):
            p.data -= lr * (m / correction1) / (sqrt(v / correction2) + eps)


UPDATE_RULES = {"adam": Optimizer.adam, "adamw": Optimizer.adam, "sgd": Optimizer.sgd}  # adamw: adam after weight decay


def clip_gradients(parameters: Sequence[Value], largest_norm: float) -> None:
    """Scale all gradients together so that their Euclidean norm is at most `largest_norm` (Pascanu et al., 2013)."""
    norm = hypot(*[p.grad for p in parameters])
    if norm > largest_norm:
        scale = largest_norm / norm
        for p in parameters:
            p.grad *= scale
