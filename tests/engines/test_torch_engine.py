"""The torch engine: against the scalar engine in float64, replicas apart from each other, and what is its own."""

import importlib
import math
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from microgpt.data.batches import BatchOrder
from microgpt.engines.base import Arrays, EngineState, Workload
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.engines.scalar.engine import ScalarEngine
from microgpt.engines.torch.engine import TorchEngine
from microgpt.engines.torch.parameters import Layout
from microgpt.errors import UserError
from microgpt.model.spec import ModelSpec

Examples = list[list[int]]

ADAM = OptimizerSpec("adam", beta1=0.85, beta2=0.99, eps=1e-8)
ADAMW = OptimizerSpec("adamw", beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.3)
SGD = OptimizerSpec("sgd", momentum=0.9)
each_optimizer = pytest.mark.parametrize("optimizer", [ADAM, ADAMW, SGD], ids=lambda o: o.name)
FOUND = f"this PyTorch ({torch.__version__}) finds cpu alone"
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="this PyTorch finds no CUDA device")


def gpt(**changes: Any) -> ModelSpec:
    return replace(ModelSpec("gpt", vocab_size=5, n_embd=6, n_head=2, n_layer=1, block_size=7), **changes)


def bigram(**changes: Any) -> ModelSpec:
    return replace(ModelSpec("bigram", vocab_size=7, n_embd=7, n_head=1, n_layer=0, block_size=7), **changes)


SPECS = [
    gpt(),
    gpt(tie_lm_head=True, input_rmsnorm=False, activation="relu_squared", n_layer=2),
    gpt(n_head=3, n_layer=2),
    gpt(block_size=1),
    bigram(),
    bigram(tie_lm_head=True, input_rmsnorm=False),
]
LONG = gpt(block_size=70, n_embd=4, n_head=1)  # attention as one fused operation


def shown(spec: ModelSpec) -> str:
    tied, normed = "tied" if spec.tie_lm_head else "untied", "normed" if spec.input_rmsnorm else "unnormed"
    return f"{spec.kind}-{tied}-{normed}-{spec.activation}-{spec.n_layer}x{spec.n_embd}h{spec.n_head}b{spec.block_size}"


def random_state(spec: ModelSpec, seed: int = 0, replicas: int = 1) -> EngineState:
    rng = np.random.default_rng(seed)
    return EngineState({name: rng.normal(0, 0.4, (replicas, *shape)) for name, shape in spec.shapes().items()})


def examples_of(spec: ModelSpec, count: int, seed: int = 0) -> Examples:
    """The first document fills the block, the second has one character, the others vary."""
    rng = np.random.default_rng(seed)
    bos = spec.vocab_size - 1
    lengths = [spec.block_size, 1, *rng.integers(1, spec.block_size + 1, count).tolist()][:count]
    return [[bos, *rng.integers(0, bos, length).tolist(), bos][: spec.block_size + 1] for length in lengths]


def workload(examples: Examples, batch_size: int, starts: tuple[int, ...] = (0,)) -> Workload:
    """A replica for each start: it meets the examples in turn from there on."""
    count = len(examples)
    orders = [BatchOrder([(start + i) % count for i in range(count)], (), 0.0, batch_size) for start in starts]
    return Workload(examples, orders)


def engine(
    spec: ModelSpec, optimizer: OptimizerSpec, work: Workload | None, state: EngineState, **options: Any
) -> TorchEngine:
    given = replace(EngineOptions("torch", device="cpu", dtype="float64"), **options)
    return TorchEngine(given, spec, optimizer, work, state, say=lambda text: None)


def falling(steps: int, *first: float) -> np.ndarray:
    """(steps, R): each replica's rate falls from its first to near zero."""
    return np.array(first) * (1 - np.arange(steps) / steps)[:, np.newaxis]


def replica_of(state: EngineState, r: int) -> EngineState:
    return EngineState(*[{n: a[r : r + 1] for n, a in part.items()} for part in (state.parameters, state.m, state.v)])


def assert_states_close(found: EngineState, expected: EngineState, tolerance: float) -> None:
    for part in ("parameters", "m", "v"):
        first: Arrays = getattr(found, part)
        second: Arrays = getattr(expected, part)
        assert list(first) == list(second), part
        for name in second:
            np.testing.assert_allclose(first[name], second[name], rtol=tolerance, atol=tolerance, err_msg=name)


# The same numbers as the scalar engine


@pytest.mark.parametrize("spec", SPECS, ids=shown)
def test_training_equals_the_scalar_engine(spec: ModelSpec) -> None:
    state, work = random_state(spec), workload(examples_of(spec, 7), 2)
    rates = falling(32, 0.02)
    ours, scalar = engine(spec, ADAM, work, state), ScalarEngine(EngineOptions("python"), spec, ADAM, work, state)
    np.testing.assert_allclose(ours.advance(0, rates), scalar.advance(0, rates), rtol=1e-9)
    assert_states_close(ours.state(), scalar.state(), 1e-7)


@pytest.mark.parametrize("grad_clip", [pytest.param(None, marks=pytest.mark.slow), 0.5], ids=["unclipped", "clipped"])
@each_optimizer
def test_optimizers_equal_the_scalar_engine_s(optimizer: OptimizerSpec, grad_clip: float | None) -> None:
    """Two replicas with rates of their own, a batch of 3, moments taken up and a step that is not the first."""
    spec, optimizer = gpt(tie_lm_head=True), replace(optimizer, grad_clip=grad_clip)
    state, work = random_state(spec, replicas=2), workload(examples_of(spec, 5), 3, (0, 2))
    ours, scalar = (
        engine(spec, optimizer, work, state),
        ScalarEngine(EngineOptions("python"), spec, optimizer, work, state),
    )
    for begin, rates in ((3, falling(20, 0.02, 0.05)), (23, falling(15, 0.01, 0.002))):
        np.testing.assert_allclose(ours.advance(begin, rates), scalar.advance(begin, rates), rtol=1e-9)
        assert_states_close(ours.state(), scalar.state(), 1e-7)


def test_fused_attention_over_long_blocks_equals_the_scalar_engine() -> None:
    state, work = random_state(LONG, replicas=2), workload(examples_of(LONG, 3), 2, (0, 1))
    ours, scalar = engine(LONG, ADAM, work, state), ScalarEngine(EngineOptions("python"), LONG, ADAM, work, state)
    rates = falling(2, 0.01, 0.02)
    np.testing.assert_allclose(ours.advance(0, rates), scalar.advance(0, rates), rtol=1e-9)
    np.testing.assert_allclose(ours.evaluate(work.examples), scalar.evaluate(work.examples), rtol=1e-9)


def test_fused_attention_goes_in_parts_where_a_device_cannot_count_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    work = workload(examples_of(LONG, 5), 5)
    whole = engine(LONG, SGD, work, random_state(LONG)).evaluate(work.examples)
    monkeypatch.setattr("microgpt.engines.torch.model.LARGEST_GRID", 2)
    np.testing.assert_allclose(engine(LONG, SGD, work, random_state(LONG)).evaluate(work.examples), whole, rtol=1e-12)


@pytest.mark.parametrize("spec", SPECS, ids=shown)
def test_evaluate_and_decoder_equal_the_scalar_engine_s(spec: ModelSpec) -> None:
    state, examples = random_state(spec, replicas=2), examples_of(spec, 6)
    ours, scalar = engine(spec, SGD, None, state), ScalarEngine(EngineOptions("python"), spec, SGD, None, state)
    np.testing.assert_allclose(ours.evaluate(examples), scalar.evaluate(examples), rtol=1e-12)
    for r in range(2):
        first, second = ours.decoder(r), scalar.decoder(r)
        for token in examples[0][: spec.block_size]:
            assert first.feed(token) == pytest.approx(second.feed(token), rel=1e-9, abs=1e-12)


def test_evaluating_in_many_small_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = gpt()
    ours, examples = engine(spec, SGD, None, random_state(spec, replicas=3)), examples_of(spec, 20)
    whole = ours.evaluate(examples)
    monkeypatch.setattr("microgpt.engines.torch.engine.EVALUATED_AT_ONCE", {"cpu": 1})
    np.testing.assert_allclose(ours.evaluate(examples), whole, rtol=1e-12)
    np.testing.assert_allclose(ours.evaluate(examples[::-1]), whole, rtol=1e-12)


def test_decoders_keep_the_weights_they_began_with_and_do_not_share_what_they_read() -> None:
    spec = gpt()
    ours = engine(spec, ADAM, workload(examples_of(spec, 3), 1), random_state(spec))
    first, second = ours.decoder(0), ours.decoder(0)
    read = [first.feed(token) for token in (4, 1, 2)]
    ours.advance(0, falling(2, 0.1))
    assert [second.feed(token) for token in (4, 1, 2)] == read
    assert ours.decoder(0).feed(4) != read[0]


# Replicas


def test_a_replica_does_not_depend_on_its_neighbours() -> None:
    spec = gpt(n_layer=2)
    state, examples = random_state(spec, replicas=4), examples_of(spec, 9)
    starts, rates = (0, 1, 4, 7), falling(20, 0.01, 0.03, 0.002, 0.02)
    together = engine(spec, ADAM, workload(examples, 2, starts), state, dtype="float32")
    losses, evaluated = together.advance(0, rates), together.evaluate(examples)
    assert losses.shape == (20, 4)
    assert losses.dtype == np.float64
    for r, start in enumerate(starts):
        alone = engine(spec, ADAM, workload(examples, 2, (start,)), replica_of(state, r), dtype="float32")
        np.testing.assert_allclose(alone.advance(0, rates[:, r : r + 1])[:, 0], losses[:, r], rtol=1e-5)
        np.testing.assert_allclose(alone.evaluate(examples)[0], evaluated[r], rtol=1e-5)


def test_pieces_of_few_steps_on_the_device_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = gpt()
    state, work, rates = random_state(spec, replicas=2), workload(examples_of(spec, 5), 2, (0, 3)), falling(7, 0.1, 0.1)
    whole = engine(spec, ADAM, work, state).advance(0, rates)
    monkeypatch.setattr("microgpt.engines.torch.batch_tensors.CHUNK_POSITIONS", 60)
    np.testing.assert_allclose(engine(spec, ADAM, work, state).advance(0, rates), whole, rtol=1e-12)


@each_optimizer
def test_a_diverging_replica_fails_alone(optimizer: OptimizerSpec) -> None:
    spec = gpt()
    state, work = random_state(spec, replicas=3), workload(examples_of(spec, 3), 1, (0, 1, 2))
    rates = np.full((6, 3), 0.01)
    wild = rates.copy()
    wild[1, 1] = 1e100
    calm_engine, ours, until_then = (engine(spec, optimizer, work, state) for _ in range(3))
    calm, losses = calm_engine.advance(0, rates), ours.advance(0, wild)
    until_then.advance(0, wild[:2])
    assert np.isfinite(losses).tolist() == [[True] * 3] * 2 + [[True, False, True]] * 4
    assert np.isnan(losses[3:, 1]).all()
    assert np.array_equal(losses[:, [0, 2]], calm[:, [0, 2]])
    for r in (0, 2):
        assert_states_close(replica_of(ours.state(), r), replica_of(calm_engine.state(), r), 0)
    assert_states_close(replica_of(ours.state(), 1), replica_of(until_then.state(), 1), 0)


@pytest.mark.parametrize("spec", [gpt(), bigram()], ids=shown)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_loss_that_is_not_finite_changes_nothing_and_ends_the_training(spec: ModelSpec, dtype: str) -> None:
    """The scalar engine's loss is infinite where a probability underflows; a log-softmax would be finite."""
    state, work = random_state(spec), workload(examples_of(spec, 3), 2)
    output = state.parameters[spec.output_tensor]
    output[:] = np.where(np.arange(spec.vocab_size)[:, np.newaxis] == 1, 1e4, -1e4)
    state.parameters["wte"][:] = 1.0
    ours, scalar = (
        engine(spec, ADAM, work, state, dtype=dtype),
        ScalarEngine(EngineOptions("python"), spec, ADAM, work, state),
    )
    before = ours.state()
    losses = ours.advance(0, np.full((3, 1), 0.01))[:, 0]
    assert losses[0] == scalar.advance(0, np.full((1, 1), 0.01))[0, 0] == math.inf
    assert np.isnan(losses[1:]).all()
    assert_states_close(ours.state(), before, 0)
    assert ours.advance(3, np.zeros((0, 1))).shape == (0, 1)
    assert ours.evaluate(work.examples)[0] == math.inf


# States


@each_optimizer
def test_a_state_that_is_loaded_goes_on_as_if_training_had_not_stopped(optimizer: OptimizerSpec) -> None:
    spec, rates = gpt(n_layer=2), falling(6, 0.05, 0.02)
    work, state = workload(examples_of(spec, 5), 2, (0, 1)), random_state(spec, replicas=2)
    straight, stopped = (engine(spec, optimizer, work, state, dtype="float32") for _ in range(2))
    losses = straight.advance(0, rates)
    first = stopped.advance(0, rates[:3])
    saved = stopped.state()
    resumed = engine(spec, optimizer, work, random_state(spec, seed=9, replicas=2), dtype="float32")
    resumed.advance(0, rates[:1])
    resumed.load(saved)
    assert_states_close(resumed.state(), saved, 0)
    assert np.array_equal(np.concatenate([first, resumed.advance(3, rates[3:])]), losses)
    assert_states_close(resumed.state(), straight.state(), 0)


def test_a_state_is_a_copy_of_the_given_shapes_in_the_engine_s_dtype() -> None:
    spec = gpt(tie_lm_head=True, n_layer=2)
    given = random_state(spec, replicas=2)
    for dtype, expected in (("float32", np.float32), ("float64", np.float64), ("bfloat16", np.float32)):
        ours = engine(spec, ADAM, None, given, dtype=dtype)
        taken = ours.state()
        for part in (taken.parameters, taken.m, taken.v):
            assert {n: a.shape for n, a in part.items()} == {n: (2, *shape) for n, shape in spec.shapes().items()}
            assert list(part) == list(spec.shapes())
            assert all(a.dtype == expected for a in part.values())
        for name, array in taken.parameters.items():
            assert np.array_equal(array, given.parameters[name].astype(expected))
            array += 1
        assert_states_close(ours.state(), engine(spec, ADAM, None, given, dtype=dtype).state(), 0)
    assert engine(spec, SGD, None, given).state().v == {}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_state_of_any_float_type_is_loaded(dtype: type) -> None:
    spec = bigram()
    given = EngineState({name: array.astype(dtype) for name, array in random_state(spec).parameters.items()})
    found = engine(spec, ADAM, None, given).state().parameters
    assert all(np.array_equal(found[name], given.parameters[name].astype(np.float64)) for name in found)


# What is PyTorch's own


@pytest.mark.parametrize("micro_batch", [1, 2, 5, 9])
def test_passes_of_a_batch_add_up_to_the_whole(micro_batch: int) -> None:
    spec, optimizer = gpt(), replace(ADAMW, grad_clip=0.5)
    state, work = random_state(spec, replicas=2), workload(examples_of(spec, 7), 5, (0, 3))
    rates = falling(6, 0.02, 0.01)
    whole, passes = (engine(spec, optimizer, work, state, micro_batch=count) for count in (None, micro_batch))
    np.testing.assert_allclose(passes.advance(0, rates), whole.advance(0, rates), rtol=1e-12)
    assert_states_close(passes.state(), whole.state(), 1e-10)


def test_bfloat16_runs_near_float32() -> None:
    spec = gpt(n_embd=16, n_layer=2)
    state, work = random_state(spec, replicas=2), workload(examples_of(spec, 7), 4, (0, 3))
    rates = falling(20, 0.002, 0.001)
    exact, rough = (engine(spec, ADAM, work, state, dtype=dtype) for dtype in ("float32", "bfloat16"))
    expected, found = exact.advance(0, rates), rough.advance(0, rates)
    np.testing.assert_allclose(found, expected, rtol=0.05)
    assert not np.allclose(found, expected, rtol=1e-6), "nothing was computed in bfloat16"
    np.testing.assert_allclose(rough.evaluate(work.examples), exact.evaluate(work.examples), rtol=0.05)
    np.testing.assert_allclose(rough.decoder(0).feed(4), exact.decoder(0).feed(4), atol=0.2)


def test_info_says_where_it_ran() -> None:
    info = engine(gpt(), ADAM, None, random_state(gpt()), dtype=None, reason="it was asked for").info
    assert (info.backend, info.device, info.using_gpu, info.dtype, info.kernel) == (
        "torch", "cpu", False, "float32", "eager",
    )  # fmt: skip
    assert (info.threads, info.reason) == (torch.get_num_threads(), "it was asked for")


def test_threads_are_those_that_were_asked_for() -> None:
    before = torch.get_num_threads()
    try:
        assert engine(gpt(), ADAM, None, random_state(gpt()), threads=1).info.threads == 1
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device": "cuda"}, f"backend.device=cuda is not available: {FOUND}"),
        ({"device": "mps"}, f"backend.device=mps is not available: {FOUND}"),
        ({"device": "tpu"}, "backend.device=tpu is not allowed: it is one of auto, cpu, cuda, mps"),
        ({"dtype": "int8"}, "backend.dtype=int8 is not possible on cpu: it is one of float32, float64, bfloat16"),
    ],
    ids=lambda given: str(next(iter(given.values()))) if isinstance(given, dict) else "",
)
def test_what_this_machine_cannot_do_is_a_sentence(
    options: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError) as raised:
        engine(gpt(), ADAM, None, random_state(gpt()), **options)
    assert str(raised.value) == sentence


def test_without_pytorch_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "microgpt.engines.torch.engine")
    with pytest.raises(UserError, match=r"^backend=torch needs PyTorch: pip install 'microgpt\[torch\]'$"):
        importlib.import_module("microgpt.engines.torch.engine")


def test_a_layout_gives_back_what_it_was_given() -> None:
    for spec in [*SPECS, LONG]:
        layout, given = Layout(spec), random_state(spec, replicas=2).parameters
        flat = layout.pack(given, torch.float64)
        assert flat.shape == (2, spec.parameter_count())
        found = layout.unpack(flat)
        assert list(found) == list(given)
        assert all(np.array_equal(found[name], given[name]) for name in given)


# Compiling


@pytest.mark.slow
@pytest.mark.parametrize(("spec", "micro_batch"), [(gpt(), None), (bigram(), 2)], ids=["whole", "passes"])
def test_a_compiled_engine_computes_the_same_and_compiles_once(spec: ModelSpec, micro_batch: int | None) -> None:
    said: list[str] = []
    work, state = workload(examples_of(spec, 9), 3, (0, 4)), random_state(spec, replicas=2)
    rates = falling(12, 0.05, 0.02)
    options = EngineOptions("torch", device="cpu", dtype="float64", compile=True, micro_batch=micro_batch)
    compiled = TorchEngine(options, spec, ADAM, work, state, said.append)
    assert compiled.compile_seconds == 0
    first = compiled.advance(0, rates[:4])
    seconds = compiled.compile_seconds
    assert seconds > 0
    assert said == ["compiling the model for PyTorch ...", f"compiled in {seconds:.1f} s"]
    assert compiled.info.kernel == "compiled"
    with torch.compiler.set_stance("fail_on_recompile"):  # of any length, and of a state loaded anew
        compiled.load(compiled.state())
        rest = compiled.advance(4, rates[4:])
    expected = engine(spec, ADAM, work, state).advance(0, rates)
    np.testing.assert_allclose(np.concatenate([first, rest]), expected, rtol=1e-10)
    assert compiled.compile_seconds == seconds


@pytest.mark.slow
def test_compiling_without_a_compiler_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (str(tmp_path / "no-such-compiler"),))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    spec = bigram()
    ours = engine(spec, SGD, workload(examples_of(spec, 3), 1), random_state(spec), dtype="float32", compile=True)
    with pytest.raises(UserError, match=r"^backend\.compile=true does not work on this machine: .*compiler"):
        ours.advance(0, falling(2, 0.1))


# A GPU


@needs_cuda
@pytest.mark.parametrize("spec", [*SPECS, LONG], ids=shown)
def test_cuda_equals_the_cpu(spec: ModelSpec) -> None:
    state, work = random_state(spec, replicas=3), workload(examples_of(spec, 7), 2, (0, 1, 2))
    rates = falling(10, 0.02, 0.01, 1e100)
    cpu, cuda = (engine(spec, ADAM, work, state, device=device) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(cuda.advance(0, rates), cpu.advance(0, rates), rtol=1e-8)
    assert_states_close(replica_of(cuda.state(), 0), replica_of(cpu.state(), 0), 1e-6)
    np.testing.assert_allclose(cuda.evaluate(work.examples)[:2], cpu.evaluate(work.examples)[:2], rtol=1e-8)
    assert cuda.info.using_gpu


@needs_cuda
def test_cuda_trains_thousands_of_replicas() -> None:
    spec, replicas = gpt(n_embd=16, n_head=4, block_size=16), 4096
    one = random_state(spec)
    state = EngineState({name: np.repeat(array, replicas, axis=0) for name, array in one.parameters.items()})
    examples = examples_of(spec, 50)
    many = workload(examples, 20, tuple(i % 50 for i in range(replicas)))
    together = engine(spec, ADAM, many, state, device="cuda", dtype="float32")
    alone = engine(spec, ADAM, workload(examples, 20), one, device="cpu", dtype="float32")
    losses = together.advance(0, falling(5, *[0.01] * replicas))
    np.testing.assert_allclose(losses[:, :1], alone.advance(0, falling(5, 0.01)), rtol=1e-4)
