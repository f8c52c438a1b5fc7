"""The optimizers of engines/scalar/optimizers.py on all parameters of all replicas at once, in place."""

import torch
from torch import Tensor

from microgpt.engines.base import implementation
from microgpt.engines.optimizer import OptimizerSpec


class Optimizer:
    """The moments of parameters (R, NP), and the update of both."""

    def __init__(self, spec: OptimizerSpec, decays: Tensor, moments: list[Tensor]):
        self.spec = spec
        self.decays = decays  # (NP,): 1 for parameters with weight decay, else 0
        self.moments = moments  # m, or m and v: (R, NP)
        self.scratch = torch.empty_like(moments[0])  # allocating this much at each step costs more than filling it
        self.rule = implementation(UPDATE_RULES, "optim.name", spec.name, "UPDATE_RULES in engines/torch/optimizer.py")

    def update(self, parameters: Tensor, grad: Tensor, step: int, lr: Tensor, keep: Tensor | None) -> None:
        """Update parameters (R, NP) by grad (R, NP), which is overwritten; `step` counts from 0, lr is (R, 1).

        Replicas that are False in keep (R, 1) keep their parameters and moments; None updates all.
        """
        changing = [parameters, *self.moments]
        before = [] if keep is None else [tensor.clone() for tensor in changing]
        if self.spec.grad_clip is not None:
            clip_gradients(grad, self.spec.grad_clip)
        if self.spec.decay:
            lost = torch.mul(self.decays, lr * self.spec.decay, out=self.scratch)
            parameters.addcmul_(parameters, lost, value=-1)
        self.rule(self, parameters, grad, step, lr)
        if keep is not None:
            for tensor, old in zip(changing, before, strict=True):
                torch.where(keep, tensor, old, out=tensor)

    def sgd(self, parameters: Tensor, grad: Tensor, step: int, lr: Tensor) -> None:
        (m,) = self.moments
        m.mul_(self.spec.momentum).add_(grad)
        parameters.addcmul_(m, lr, value=-1)

    def adam(self, parameters: Tensor, grad: Tensor, step: int, lr: Tensor) -> None:
        """p -= lr * (m / correction1) / (sqrt(v / correction2) + eps)."""
        m, v = self.moments
        beta1, beta2 = self.spec.beta1, self.spec.beta2
        correction1 = 1 - beta1 ** (step + 1)
        correction2 = 1 - beta2 ** (step + 1)
        m.lerp_(grad, 1 - beta1)
        v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        # On CPUs torch.sqrt is slow on zeros, such as the rows of tokens that have not occurred yet.
        root = torch.rsqrt(v, out=grad).reciprocal_()
        divisor = root.mul_(correction2**-0.5).add_(self.spec.eps)
        parameters.addcdiv_(torch.mul(m, lr / -correction1, out=self.scratch), divisor)


UPDATE_RULES = {"adam": Optimizer.adam, "adamw": Optimizer.adam, "sgd": Optimizer.sgd}  # adamw: adam after weight decay


def clip_gradients(grad: Tensor, largest_norm: float) -> None:
    """Scale each replica's gradients so that their Euclidean norm is at most `largest_norm`."""
    norm = torch.linalg.vector_norm(grad, dim=1, keepdim=True)  # (R, 1)
    grad.mul_(torch.where(norm > largest_norm, largest_norm / norm, 1.0))
