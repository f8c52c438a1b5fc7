"""The optimizers of engines/scalar/optimizers.py, applied in place to all parameters of all replicas at once."""

import torch
from torch import Tensor

from microgpt.engines.base import implementation
from microgpt.engines.optimizer import (
    NEWTON_SCHULZ,
    NEWTON_SCHULZ_STEPS,
    SMALLEST_NORM,
    OptimizerSpec,
    is_orthogonalized,
)
from microgpt.engines.torch.parameters import Layout

Step = int | Tensor  # counted from 0; a tensor () in a CUDA graph, where no branch may depend on the step


class Optimizer:
    """The moments of parameters (R, NP), and the rules that update parameters and moments."""

    def __init__(self, spec: OptimizerSpec, layout: Layout, decays: Tensor, moments: list[Tensor]):
        self.spec = spec
        self.layout = layout
        self.decays = decays  # (NP,): 1 for parameters with weight decay, otherwise 0
        self.moments = moments  # m, or m and v: (R, NP)
        self.scratch = torch.empty_like(moments[0])  # reused: allocating it in each step costs more than filling it
        self.rule = implementation(UPDATE_RULES, "optim.name", spec.name, "UPDATE_RULES in engines/torch/optimizer.py")

    def update(self, parameters: Tensor, grad: Tensor, step: Step, lr: Tensor, keep: Tensor | None) -> None:
        """Update parameters (R, NP) with grad (R, NP), which is overwritten; lr has the shape (R, 1).

        Replicas with False in keep (R, 1) keep their old parameters and moments; None updates all replicas.
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

    def sgd(self, parameters: Tensor, grad: Tensor, step: Step, lr: Tensor) -> None:
        (m,) = self.moments
        m.mul_(self.spec.momentum).add_(grad)
        parameters.addcmul_(m, lr, value=-1)

    def adam(self, parameters: Tensor, grad: Tensor, step: Step, lr: Tensor) -> None:
        """p -= lr * (m / correction1) / (sqrt(v / correction2) + eps)."""
        m, v = self.moments
        self.adam_part(parameters, grad, m, v, self.scratch, step, lr)

    def adam_part(
        self, parameters: Tensor, grad: Tensor, m: Tensor, v: Tensor, scratch: Tensor, step: Step, lr: Tensor
    ) -> None:
        beta1, beta2 = self.spec.beta1, self.spec.beta2
        correction1 = 1 - beta1 ** (step + 1)
        correction2 = 1 - beta2 ** (step + 1)
        m.lerp_(grad, 1 - beta1)
        v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        # On CPUs, torch.sqrt is slow for zeros, such as the rows of tokens that have not occurred yet.
        root = torch.rsqrt(v, out=grad).reciprocal_()
        divisor = root.mul_(correction2**-0.5).add_(self.spec.eps)
        parameters.addcdiv_(torch.mul(m, lr / -correction1, out=scratch), divisor)

    def lion(self, parameters: Tensor, grad: Tensor, step: Step, lr: Tensor) -> None:
        (m,) = self.moments
        beta1, beta2 = self.spec.beta1, self.spec.beta2
        mixed = torch.mul(m, beta1, out=self.scratch).add_(grad, alpha=1 - beta1)
        parameters.addcmul_(mixed.sign_(), lr, value=-1)
        m.mul_(beta2).add_(grad, alpha=1 - beta2)

    def muon(self, parameters: Tensor, grad: Tensor, step: Step, lr: Tensor) -> None:
        m, v = self.moments
        momentum = self.spec.momentum
        parts = [self.layout.tensors(flat) for flat in (parameters, grad, m, v, self.scratch)]
        for name in self.layout.shapes:
            p, g, own_m, own_v, scratch = (part[name] for part in parts)
            if not is_orthogonalized(name):
                ratio = self.spec.adam_lr_ratio
                self.adam_part(p, g, own_m, own_v, scratch, step, lr[:, :, None] * ratio)
                continue
            own_m.lerp_(g, 1 - momentum)
            inputs, outputs = g.shape[1:]  # the layout's matrices are transposed
            scale = lr[:, :, None] * max(1.0, outputs / inputs) ** 0.5
            p.addcmul_(orthogonalized(g.lerp(own_m, momentum)), scale, value=-1)


UPDATE_RULES = {
    "adam": Optimizer.adam,
    "adamw": Optimizer.adam,  # after weight decay
    "sgd": Optimizer.sgd,
    "lion": Optimizer.lion,
    "muon": Optimizer.muon,
}


def orthogonalized(matrices: Tensor) -> Tensor:
    """Return an approximation of U V^T from each matrix's SVD, with the same iteration as the scalar engine."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalized(matrices.mT).mT
    a, b, c = NEWTON_SCHULZ
    x = matrices / torch.linalg.matrix_norm(matrices, keepdim=True).clamp(min=SMALLEST_NORM)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def clip_gradients(grad: Tensor, largest_norm: float) -> None:
    """Scale each replica's gradients so that their Euclidean norm is at most `largest_norm`."""
    norm = torch.linalg.vector_norm(grad, dim=1, keepdim=True)  # (R, 1)
    grad.mul_(torch.where(norm > largest_norm, largest_norm / norm, torch.ones_like(norm)))
