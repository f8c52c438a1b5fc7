"""Small models, examples and engines for the tests of engines."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from microgpt.data.batches import BatchOrder
from microgpt.engines import make_engine
from microgpt.engines.base import Arrays, Engine, EngineState, Workload
from microgpt.engines.optimizer import OPTIMIZERS, OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.model.spec import ACTIVATIONS, BLOCK_OPTIONS, NORMS, POSITIONS, ModelSpec

SETTINGS = {"beta1": 0.85, "beta2": 0.99, "eps": 1e-8, "momentum": 0.9, "weight_decay": 0.3, "adam_lr_ratio": 0.5}
# Every optimizer of the table. One with another key needs a value in SETTINGS.
EACH_OPTIMIZER = {
    name: OptimizerSpec(name, **{key: SETTINGS[key] for key in choice.keys}) for name, choice in OPTIMIZERS.items()
}
ADAM, ADAMW, SGD = (EACH_OPTIMIZER[name] for name in ("adam", "adamw", "sgd"))
each_optimizer = pytest.mark.parametrize("optimizer", EACH_OPTIMIZER.values(), ids=EACH_OPTIMIZER)


def gpt(**changes: Any) -> ModelSpec:
    return replace(ModelSpec("gpt", vocab_size=5, n_embd=6, n_head=2, n_layer=1, block_size=7), **changes)


def bigram(**changes: Any) -> ModelSpec:
    return replace(ModelSpec("bigram", vocab_size=7, n_embd=7, n_head=1, n_layer=0, block_size=7), **changes)


# Values of each option besides the default. An option that is a number needs one here.
NUMBERS = {"norm_eps": 0.1, "mlp_width": 5, "n_kv_head": 1, "logit_softcap": 1.5}
CHOICES = {"position": POSITIONS, "norm": NORMS, "activation": ACTIVATIONS}
WITHOUT_EFFECT_ON_THE_FORWARD_PASS = ("residual_init", "zero_init_residual")
DEFAULTS = {field.name: field.default for field in fields(ModelSpec)}
ALTERNATIVES: dict[str, tuple[Any, ...]] = {
    name: (not DEFAULTS[name],)
    if isinstance(DEFAULTS.get(name), bool)
    else tuple(value for value in CHOICES.get(name, (NUMBERS.get(name),)) if value != DEFAULTS[name])
    for name in ("norm_eps", *BLOCK_OPTIONS)
    if name not in ("rope_theta", *WITHOUT_EFFECT_ON_THE_FORWARD_PASS)
}
# Each option of the architecture alone, then the presets' combinations, and everything at once.
OPTIONS: dict[str, dict[str, Any]] = {
    **{f"{name}={value}": {name: value, **({"rope_theta": 50.0} if value == "rope" else {})}
       for name, values in ALTERNATIVES.items() for value in values},
    "layernorm-bias": {"norm": "layernorm", "bias": True},
    "gpt2": {
        "input_rmsnorm": False, "tie_lm_head": True, "norm": "layernorm", "norm_gain": True, "final_norm": True,
        "bias": True, "activation": "gelu_tanh",
    },
    "llama": {
        "input_rmsnorm": False, "position": "rope", "norm_gain": True, "final_norm": True, "activation": "silu",
        "gated_mlp": True, "mlp_width": 7, "n_kv_head": 1,
    },
    "nanochat": {
        "position": "rope", "final_norm": True, "qk_norm": True, "activation": "relu_squared", "logit_softcap": 2.0,
        "n_kv_head": 1, "norm_eps": 1e-6,
    },
    "everything": {
        "position": "rope", "norm": "layernorm", "norm_gain": True, "final_norm": True, "qk_norm": True, "bias": True,
        "activation": "gelu", "gated_mlp": True, "mlp_width": 5, "n_kv_head": 1, "logit_softcap": 1.5,
    },
}  # fmt: skip


def with_options(name: str, **changes: Any) -> ModelSpec:
    """Return a small model with the options of that name: two heads of four features."""
    return gpt(n_embd=8, **(OPTIONS[name] | changes))


def shown(thing: Any) -> str:
    if not isinstance(thing, ModelSpec):
        return str(thing)
    tied, normed = "tied" if thing.tie_lm_head else "untied", "normed" if thing.input_rmsnorm else "unnormed"
    size = f"{thing.n_layer}x{thing.n_embd}h{thing.n_head}b{thing.block_size}"
    return f"{thing.kind}-{tied}-{normed}-{thing.activation}-{size}"


def random_state(spec: ModelSpec, seed: int = 0, replicas: int = 1) -> EngineState:
    """Return weights larger than initial ones, so that attention is far from uniform."""
    rng = np.random.default_rng(seed)
    return EngineState({name: rng.normal(0, 0.4, (replicas, *shape)) for name, shape in spec.shapes().items()})


def examples_of(spec: ModelSpec, count: int, seed: int = 0) -> list[list[int]]:
    """Return examples of which the first fills the block, the second has one character, and the others vary."""
    rng = np.random.default_rng(seed)
    bos = spec.vocab_size - 1
    lengths = [spec.block_size, 1, *rng.integers(1, spec.block_size + 1, count).tolist()][:count]
    return [[bos, *rng.integers(0, bos, length).tolist(), bos][: spec.block_size + 1] for length in lengths]


def cyclic_order(count: int, batch_size: int, start: int = 0) -> BatchOrder:
    return BatchOrder([(start + i) % count for i in range(count)], (), 0.0, batch_size)


def workload(examples: list[list[int]], batch_size: int, starts: tuple[int, ...] = (0,)) -> Workload:
    """Return a workload with a replica for each start, which reads the examples cyclically from there on."""
    return Workload(examples, [cyclic_order(len(examples), batch_size, start) for start in starts])


def engine_of(
    backend: str, spec: ModelSpec, optimizer: OptimizerSpec, work: Workload | None, state: EngineState, **options: Any
) -> Engine:
    given = replace(EngineOptions(backend, device="cpu", dtype="float64", threads=1), **options)
    return make_engine(given, spec, optimizer, work, state, say=lambda text: None)


def learning_rates(steps: int, *first: float) -> np.ndarray:
    """Return rates (steps, R) that fall linearly, each replica's from its own first."""
    return np.array(first) * (1 - np.arange(steps) / steps)[:, np.newaxis]


def assert_close(found: Arrays, expected: Arrays, tolerance: float) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=tolerance, atol=tolerance, err_msg=name)


def assert_states_close(found: EngineState, expected: EngineState, tolerance: float) -> None:
    for part in ("parameters", "m", "v"):
        assert_close(getattr(found, part), getattr(expected, part), tolerance)


def assert_identical(found: EngineState, expected: EngineState) -> None:
    """Compare shapes, order and every bit."""
    for part in ("parameters", "m", "v"):
        first, second = getattr(found, part), getattr(expected, part)
        assert list(first) == list(second), part
        for name, array in second.items():
            assert first[name].shape == array.shape
            assert first[name].tobytes() == array.tobytes(), f"{part} of {name}"
