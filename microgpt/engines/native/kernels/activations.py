"""Activation functions of the MLP, with and without a gate, and their gradients.

`pre` is the output of fc1, (rows, fc1_lanes) in A, and `act` is the input of fc2, (rows, hidden_lanes):

    act = f(pre)          without a gate
    act = f(gate) * up    with a gate: a row of `pre` contains gate, then up

The forward pass overwrites `pre` with the factors by which the backward pass multiplies the gradient of `act`: f'(pre),
or up f'(gate) and f(gate). Exponentials are therefore computed only once. relu without a gate is computed in place
instead, because its gradient follows from its output. f(0) is 0 for every f, so that padding stays zero.
"""

import math

from numba.extending import register_jitable

from microgpt.engines.native.kernels.declaration import Floats, kernel
from microgpt.engines.native.kernels.simd.tanh_erf import normal_cdf, sigmoid
from microgpt.engines.native.kernels.simd.vector import LANES, load, splat, store, where_positive
from microgpt.engines.native.layout import GELU, GELU_TANH, RELU, RELU_SQUARED, SILU


@register_jitable(forceinline=True)
def value_and_slope(x, activation):
    """f(x) and f'(x)"""
    if activation == RELU:
        return where_positive(x, x), where_positive(x, splat(x, 1.0))
    if activation == RELU_SQUARED:
        positive = where_positive(x, x)
        return positive * positive, positive * 2.0
    if activation == GELU:  # x Phi(x), with the normal distribution's Phi (Hendrycks and Gimpel, 2016)
        below, density = normal_cdf(x)
        return x * below, below + x * density
    if activation == GELU_TANH:  # x (1 + tanh(u)) / 2 = x sigmoid(2 u) with u = sqrt(2 / pi) (x + 0.044715 x^3)
        cubic = x * x * 0.044715
        s, rest = sigmoid(x * (cubic + 1.0) * (8 / math.pi) ** 0.5)
        return x * s, s + x * s * rest * (cubic * 3.0 + 1.0) * (8 / math.pi) ** 0.5
    if activation == SILU:  # x sigmoid(x)
        s, rest = sigmoid(x)
        return x * s, s + x * s * rest
    return x * math.nan, x * math.nan  # a code without a branch: NaN ends training at the first step


@kernel
def activate(A: Floats, act: int, pre: int, lanes: int, rows: int, gated: int, activation: int):
    """act = f(pre) or f(gate) up; a row of `act` has `lanes` lanes, a row of `pre` twice as many with a gate."""
    if act == pre:
        for i in range(act, act + rows * lanes, LANES):
            value = load(A, i)
            store(A, i, where_positive(value, value))
        return
    for p in range(rows):
        target, source = act + p * lanes, pre + p * lanes * (1 + gated)
        for i in range(0, lanes, LANES):
            value, slope = value_and_slope(load(A, source + i), activation)
            store(A, target + i, value)
            store(A, source + i, slope)
        if gated:
            for i in range(0, lanes, LANES):
                value, up = load(A, target + i), load(A, source + lanes + i)
                store(A, target + i, value * up)
                store(A, source + i, load(A, source + i) * up)
                store(A, source + lanes + i, value)


@kernel
def activate_backward(A: Floats, dpre: int, dact: int, act: int, pre: int, lanes: int, rows: int, gated: int):
    """Gradient of `pre` from the gradient of `act`; without a gate, the two have the same place."""
    if act == pre:
        for i in range(0, rows * lanes, LANES):
            store(A, dpre + i, where_positive(load(A, act + i), load(A, dact + i)))
    elif gated:
        for p in range(rows):
            for i in range(p * lanes, (p + 1) * lanes, LANES):
                gradient, gate = load(A, dact + i), p * lanes + i
                store(A, dpre + gate, gradient * load(A, pre + gate))
                store(A, dpre + gate + lanes, gradient * load(A, pre + gate + lanes))
    else:
        for i in range(0, rows * lanes, LANES):
            store(A, dpre + i, load(A, dact + i) * load(A, pre + i))
