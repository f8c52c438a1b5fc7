"""An optimizer and its settings in the form that kernels receive: a code and a record of numbers."""

import math
from typing import NamedTuple

import numpy as np

from microgpt.engines.base import implementation
from microgpt.engines.optimizer import NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS, SMALLEST_NORM, OptimizerSpec

ADAM, SGD, LION, MUON = range(4)
CODES = {"adam": ADAM, "adamw": ADAM, "sgd": SGD, "lion": LION, "muon": MUON}  # adamw: with decoupled weight decay
ADD, NORM, UPDATE, TRANSPOSE = range(4)  # the phases of `finish_step` in kernels/train.py


class Settings(NamedTuple):
    """An OptimizerSpec as the plain numbers that kernels receive."""

    code: int
    moments: int
    beta1: float
    beta2: float
    eps: float
    momentum: float
    adam_lr_ratio: float
    decay: float  # decoupled weight decay; 0: none
    largest_norm: float  # infinity: gradients are not clipped
    steps: int  # steps of the Newton-Schulz iteration X <- a X + (b A + c A^2) X
    a: float
    b: float
    c: float
    smallest_norm: float


DTYPE = np.dtype([(field, np.int64 if kind is int else np.float64) for field, kind in Settings.__annotations__.items()])


def settings_record(spec: OptimizerSpec) -> np.ndarray:
    """Return settings for kernels: an array with one record. Raises UserError for an optimizer without a kernel."""
    settings = Settings(
        code=implementation(CODES, "optim.name", spec.name, "CODES in engines/native/optimizer_settings.py"),
        moments=spec.moments,
        beta1=spec.beta1,
        beta2=spec.beta2,
        eps=spec.eps,
        momentum=spec.momentum,
        adam_lr_ratio=spec.adam_lr_ratio,
        decay=spec.decay,
        largest_norm=math.inf if spec.grad_clip is None else spec.grad_clip,
        steps=NEWTON_SCHULZ_STEPS,
        a=NEWTON_SCHULZ[0],
        b=NEWTON_SCHULZ[1],
        c=NEWTON_SCHULZ[2],
        smallest_norm=SMALLEST_NORM,
    )
    return np.array([tuple(settings)], dtype=DTYPE)


def bias_corrections(spec: OptimizerSpec, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Return 1 - beta1^t and 1 - beta2^t, with t = step + 1, for the steps begin .. end - 1 (counted from 0)."""
    t = np.arange(begin + 1, end + 1)
    return 1 - spec.beta1**t, 1 - spec.beta2**t
