"""The native engine against the scalar engine on random small models, optimizers and documents."""

import math
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from microgpt.data.batches import BatchOrder
from microgpt.engines import make_engine
from microgpt.engines.base import Engine, EngineState, Workload
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.model.spec import ModelSpec


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    vocab_size, toggle = draw(st.integers(2, 18)), st.booleans()
    block_size = draw(st.integers(1, 6))
    spec = ModelSpec("bigram", vocab_size, vocab_size, 1, 0, block_size, draw(toggle), draw(toggle))
    if draw(st.integers(0, 3)) == 0:
        return spec
    n_embd = draw(st.integers(1, 12))
    return replace(
        spec,
        kind="gpt",
        n_embd=n_embd,
        n_head=draw(st.sampled_from([count for count in range(1, n_embd + 1) if n_embd % count == 0])),
        n_layer=draw(st.integers(1, 2)),
        activation=draw(st.sampled_from(["relu", "relu_squared"])),
    )


@st.composite
def optimizers(draw: st.DrawFn) -> OptimizerSpec:
    clip = draw(st.sampled_from([None, 0.1, 10.0]))
    if draw(st.booleans()):
        return OptimizerSpec("sgd", momentum=draw(st.sampled_from([0.0, 0.9])), grad_clip=clip)
    decay = draw(st.sampled_from([0.0, 0.3]))
    return OptimizerSpec("adamw" if decay else "adam", 0.9, 0.99, 1e-6, weight_decay=decay, grad_clip=clip)


@st.composite
def workloads(draw: st.DrawFn, spec: ModelSpec) -> Workload:
    tokens = st.lists(st.integers(0, spec.vocab_size - 1), min_size=2, max_size=spec.block_size + 1)
    examples = draw(st.lists(tokens, min_size=1, max_size=5))
    batch_size = draw(st.integers(1, 4) | st.integers(8, 11))
    share = draw(st.sampled_from([0.0, 0.4]))
    order = st.permutations(range(len(examples)))
    return Workload(examples, [BatchOrder(draw(order), draw(order), share, batch_size) for _ in range(2)])


@settings(deadline=None, database=None, max_examples=40)
@given(st.data())
def test_a_random_small_model_equals_the_scalar_engine(data: st.DataObject) -> None:
    spec, optimizer = data.draw(specs()), data.draw(optimizers())
    work = data.draw(workloads(spec))
    rng, first = np.random.default_rng(data.draw(st.integers(0, 2**32))), data.draw(st.integers(0, 3))
    state = EngineState({name: rng.normal(0, 0.5, (2, *shape)) for name, shape in spec.shapes().items()})
    rates = np.array(data.draw(st.lists(st.sampled_from([0.0, 0.001, 0.02]), min_size=1, max_size=3)))

    def engine(backend: str) -> Engine:
        options = EngineOptions(backend, dtype="float64", threads=2)
        return make_engine(options, spec, optimizer, work, state, say=lambda text: None)

    native, scalar = engine("native"), engine("python")
    found, expected = (engine.advance(first, np.outer(rates, [1.0, 0.5])) for engine in (native, scalar))
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    after, right = native.state(), scalar.state()
    for part in ("parameters", "m", "v"):
        arrays = getattr(right, part)
        assert set(getattr(after, part)) == set(arrays)
        for name in arrays:
            np.testing.assert_allclose(getattr(after, part)[name], arrays[name], rtol=1e-9, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(native.evaluate(work.examples), scalar.evaluate(work.examples), rtol=1e-9, atol=1e-12)
    decoders = native.decoder(1), scalar.decoder(1)
    for token in work.examples[0][:-1]:
        logits = [decoder.feed(token) for decoder in decoders]
        assert len(logits[0]) == spec.vocab_size
        assert all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9) for a, b in zip(*logits, strict=True))
