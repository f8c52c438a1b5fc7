"""The updates of engines/scalar/optimizers.py on all parameters of all models at once, in place."""

import torch
from torch import Tensor

from microgpt.engines.optimizer import OptimizerSpec


class Optimizer:
    """The moments of parameters (R, NP), and the rule that moves them. sgd has no second moments."""

    def __init__(self, spec: OptimizerSpec, decays: Tensor, m: Tensor, v: Tensor | None):
        self.spec = spec
        self.decays = decays  # (NP,): 1 where weight decay applies, else 0
        self.m = m  # (R, NP)
        self.v = v
        self.scratch = torch.empty_like(m)  # to allocate this much anew costs more than to fill it

    def update(self, parameters: Tensor, grad: Tensor, step: int, lr: Tensor, keep: Tensor | None) -> None:
        """Move parameters (R, NP) against grad (R, NP), which is overwritten; step counts from 0, lr is (R, 1).

        Replicas that are False in keep (R, 1) stay as they are, moments too; None moves all.
        """
        changing = [parameters, self.m] if self.v is None else [parameters, self.m, self.v]
        before = [] if keep is None else [tensor.clone() for tensor in changing]
        if self.spec.grad_clip is not None:
            clip_gradients(grad, self.spec.grad_clip)
        if self.spec.name == "adamw":
            lost = torch.mul(self.decays, lr * self.spec.weight_decay, out=self.scratch)
            parameters.addcmul_(parameters, lost, value=-1)
        if self.v is None:
            self.m.mul_(self.spec.momentum).add_(grad)
            parameters.addcmul_(self.m, lr, value=-1)
        else:
            self.adam(parameters, grad, step, lr, self.v)
        if keep is not None:
            for tensor, old in zip(changing, before, strict=True):
                torch.where(keep, tensor, old, out=tensor)

    def adam(self, parameters: Tensor, grad: Tensor, step: int, lr: Tensor, v: Tensor) -> None:
        """p -= lr * (m / correction1) / (sqrt(v / correction2) + eps)."""
        beta1, beta2 = self.spec.beta1, self.spec.beta2
        correction1 = 1 - beta1 ** (step + 1)
        correction2 = 1 - beta2 ** (step + 1)
        self.m.lerp_(grad, 1 - beta1)
        v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        # On CPUs torch.sqrt is slow where there are zeros, as in the rows of tokens that are yet to come.
        root = torch.rsqrt(v, out=grad).reciprocal_()
        divisor = root.mul_(correction2**-0.5).add_(self.spec.eps)
        parameters.addcdiv_(torch.mul(self.m, lr / -correction1, out=self.scratch), divisor)


def clip_gradients(grad: Tensor, largest_norm: float) -> None:
    """Scale each replica's gradients so that their Euclidean norm is at most `largest_norm`."""
    norm = torch.linalg.vector_norm(grad, dim=1, keepdim=True)  # (R, 1)
    grad.mul_(torch.where(norm > largest_norm, largest_norm / norm, 1.0))
