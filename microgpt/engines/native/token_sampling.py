"""Sampling a token for each of several rows of logits (kernels/token_sampling.py)."""

import sys
from collections.abc import Sequence

import numpy as np

from microgpt.engines.base import Choices
from microgpt.engines.native.machine_code import Kernels

COMPENSATED_SUM = int(sys.version_info >= (3, 12))  # since Python 3.12, `sum` of floats uses Neumaier's method


def choose(
    kernels: Kernels,
    activations: np.ndarray,
    logits: int,
    stride: int,
    vocab: int,
    rows: Sequence[int],
    uniforms: Sequence[float],
    temperatures: Sequence[float],
    top_k: Sequence[int | None],
) -> Choices:
    """See base.ChoosesTokens; the logits of row r begin at activations[logits + r * stride]."""
    probs, tokens = np.empty(len(rows) * vocab), np.empty(len(rows), np.int64)
    kernels.choose_tokens(
        activations, logits, stride, vocab, np.array(rows, np.int64), len(rows), np.array(uniforms, np.float64),
        np.array(temperatures, np.float64), np.array([min(k or vocab, vocab) for k in top_k], np.int64), -1.0,
        COMPENSATED_SUM, probs, tokens,
    )  # fmt: skip
    return Choices(tokens.tolist(), probs.reshape(len(rows), vocab))
