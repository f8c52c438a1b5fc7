"""The vector functions of the native engine against math, and rope's tables."""

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
from numba import types
from numba.extending import intrinsic
from support.models import OPTIONS, gpt

from microgpt.engines.native.kernels.simd.tanh_erf import normal_cdf, sigmoid, tanh
from microgpt.engines.native.kernels.simd.vector import LANES, load, store
from microgpt.engines.native.layout import layout_of
from microgpt.engines.native.weights import rope_tables


def define_address(typing: Any, array: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return context.make_array(array)(context, builder, values[0]).data

    return types.CPointer(array.dtype)(array), emit


address: Any = intrinsic(define_address)  # the pointer to the first element of an array


@numba.njit(error_model="numpy")
def functions(x: Any, y: Any) -> None:
    """y = sigmoid, 1 - sigmoid, tanh, tanh', the normal distribution's cdf and density, one after the other"""
    source, target, size = address(x), address(y), len(x)
    for i in range(0, size, LANES):
        value = load(source, i)
        below, above = sigmoid(value)
        store(target, i, below)
        store(target, i + size, above)
        result, slope = tanh(value)
        store(target, i + 2 * size, result)
        store(target, i + 3 * size, slope)
        cdf, density = normal_cdf(value)
        store(target, i + 4 * size, cdf)
        store(target, i + 5 * size, density)


EXPECTED: dict[str, Callable[[float], float]] = {
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "1 - sigmoid": lambda x: 1 / (1 + math.exp(x)),
    "tanh": math.tanh,
    "tanh'": lambda x: math.cosh(x) ** -2,
    "normal cdf": lambda x: math.erfc(-x * 2**-0.5) / 2,
    "normal density": lambda x: math.exp(-x * x / 2) / math.sqrt(2 * math.pi),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-15), ("float32", 2e-7)])
def test_smooth_functions_equal_those_of_the_c_library(dtype: str, tolerance: float) -> None:
    x = np.concatenate([np.linspace(-9, 9, 4001), np.linspace(-90, 90, 77), 10.0 ** np.arange(-30, 1), [0.0]])
    x = np.resize(x, -(-len(x) // LANES) * LANES).astype(dtype)
    y = np.full(len(EXPECTED) * len(x), np.nan, dtype)
    functions(x, y)
    for (name, function), found in zip(EXPECTED.items(), np.split(y, len(EXPECTED)), strict=True):
        expected = [function(number) for number in x.tolist()]
        assert np.abs(found - expected).max() <= tolerance, name


def test_smooth_functions_of_zero_nan_and_infinity() -> None:
    x = np.zeros(LANES, np.float32)
    x[1:4] = np.nan, np.inf, -np.inf
    y = np.zeros(len(EXPECTED) * LANES, np.float32)
    functions(x, y)
    found = y.reshape(-1, LANES)
    assert found[:, 0].tolist() == pytest.approx([0.5, 0.5, 0, 1, 0.5, (2 * math.pi) ** -0.5])
    assert np.isnan(found[:, 1]).all()
    assert found[:, 2].tolist() == pytest.approx([1, 0, 1, 0, 1, 0])
    assert found[:, 3].tolist() == pytest.approx([0, 1, -1, 0, 0, 0])


@pytest.mark.parametrize(("n_embd", "n_head"), [(12, 6), (12, 2), (40, 1), (64, 2)])
def test_rope_turns_the_pairs_of_a_head_by_the_angle_of_their_position(n_embd: int, n_head: int) -> None:
    """As lanes: the first half of a head's features is in front of its slot, the second in the middle."""
    spec = gpt(n_embd=n_embd, n_head=n_head, **OPTIONS["position=rope"])
    layout = layout_of(spec, 8)
    tables, half, slot = rope_tables(spec, layout), n_embd // n_head // 2, layout.slot_vectors * layout.slot_width
    assert tables.shape == (spec.block_size, 2, max(slot, LANES))
    for position in range(spec.block_size):
        angles = [position * spec.rope_theta ** (-2 * j / spec.head_dim) for j in range(half)]
        for begin in range(0, tables.shape[2], slot):
            for place, sign in ((begin, -1), (begin + slot // 2, 1)):
                cos, sin = tables[position, :, place : place + half]
                np.testing.assert_allclose(cos, np.cos(angles))
                np.testing.assert_allclose(sin, sign * np.sin(angles))
