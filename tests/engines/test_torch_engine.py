"""The torch engine beyond the interface of every engine: replicas, passes, dtypes, errors, compilation, GPUs."""

import importlib
import re
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.models import (
    ADAM,
    ADAMW,
    SGD,
    assert_states_close,
    bigram,
    engine_of,
    examples_of,
    gpt,
    learning_rates,
    random_state,
    shown,
    workload,
)

from microgpt.engines.base import EngineState, Workload
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.engines.torch.batch_tensors import Batches
from microgpt.engines.torch.engine import TorchEngine
from microgpt.engines.torch.parameters import Layout
from microgpt.errors import UserError
from microgpt.installation import install_command
from microgpt.model.spec import ModelSpec

FOUND = f"this PyTorch ({torch.__version__}) finds only cpu"
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="this PyTorch finds no CUDA device")

SPECS = [
    gpt(),
    gpt(tie_lm_head=True, input_rmsnorm=False, activation="relu_squared", n_layer=2),
    gpt(n_head=3, n_layer=2),
    gpt(block_size=1),
    bigram(),
    bigram(tie_lm_head=True, input_rmsnorm=False),
]
LONG = gpt(block_size=70, n_embd=4, n_head=1)  # attention as one fused operation


def engine(
    spec: ModelSpec, optimizer: OptimizerSpec, work: Workload | None, state: EngineState, **options: Any
) -> TorchEngine:
    made = engine_of("torch", spec, optimizer, work, state, **options)
    assert isinstance(made, TorchEngine)
    return made


# Replicas and parts


def test_a_replica_does_not_depend_on_its_neighbours() -> None:
    spec = gpt(n_layer=2)
    state, examples = random_state(spec, replicas=4), examples_of(spec, 9)
    starts, rates = (0, 1, 4, 7), learning_rates(20, 0.01, 0.03, 0.002, 0.02)
    together = engine(spec, ADAM, workload(examples, 2, starts), state, dtype="float32")
    losses, evaluated = together.advance(0, rates), together.evaluate(examples)
    assert losses.shape == (20, 4)
    assert losses.dtype == np.float64
    for r, start in enumerate(starts):
        alone = engine(spec, ADAM, workload(examples, 2, (start,)), state.replica(r), dtype="float32")
        np.testing.assert_allclose(alone.advance(0, rates[:, r : r + 1])[:, 0], losses[:, r], rtol=1e-5)
        np.testing.assert_allclose(alone.evaluate(examples)[0], evaluated[r], rtol=1e-5)


def test_chunks_of_few_steps_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = gpt()
    state, work, rates = (
        random_state(spec, replicas=2),
        workload(examples_of(spec, 5), 2, (0, 3)),
        learning_rates(7, 0.1, 0.1),
    )
    whole = engine(spec, ADAM, work, state).advance(0, rates)
    monkeypatch.setattr("microgpt.engines.torch.batch_tensors.CHUNK_POSITIONS", 60)
    np.testing.assert_allclose(engine(spec, ADAM, work, state).advance(0, rates), whole, rtol=1e-12)


@pytest.mark.parametrize("micro_batch", [1, 2, 5, 9])
def test_the_gradients_of_passes_add_up_to_the_batch_s(micro_batch: int) -> None:
    spec, optimizer = gpt(), replace(ADAMW, grad_clip=0.5)
    state, work = random_state(spec, replicas=2), workload(examples_of(spec, 7), 5, (0, 3))
    rates = learning_rates(6, 0.02, 0.01)
    whole, passes = (engine(spec, optimizer, work, state, micro_batch=count) for count in (None, micro_batch))
    np.testing.assert_allclose(passes.advance(0, rates), whole.advance(0, rates), rtol=1e-12)
    assert_states_close(passes.state(), whole.state(), 1e-10)


def test_evaluation_in_many_small_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = gpt()
    ours, examples = engine(spec, SGD, None, random_state(spec, replicas=3)), examples_of(spec, 20)
    whole = ours.evaluate(examples)
    monkeypatch.setattr("microgpt.engines.torch.engine.EVALUATED_AT_ONCE", {"cpu": 1})
    np.testing.assert_allclose(ours.evaluate(examples), whole, rtol=1e-12)
    np.testing.assert_allclose(ours.evaluate(examples[::-1]), whole, rtol=1e-12)


def test_fused_attention_in_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    work = workload(examples_of(LONG, 5), 5)
    whole = engine(LONG, SGD, work, random_state(LONG)).evaluate(work.examples)
    monkeypatch.setattr("microgpt.engines.torch.model.LARGEST_GRID", 2)
    np.testing.assert_allclose(engine(LONG, SGD, work, random_state(LONG)).evaluate(work.examples), whole, rtol=1e-12)


def test_a_decoder_keeps_the_weights_it_was_made_with() -> None:
    spec = gpt()
    ours = engine(spec, ADAM, workload(examples_of(spec, 3), 1), random_state(spec))
    before, kept = ours.decoder(0).feed(4), ours.decoder(0)
    ours.advance(0, learning_rates(2, 0.1))
    assert kept.feed(4) == before
    assert ours.decoder(0).feed(4) != before


# Types and options


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_state_of_any_float_type_is_loaded(dtype: type) -> None:
    spec = bigram()
    given = EngineState({name: array.astype(dtype) for name, array in random_state(spec).parameters.items()})
    found = engine(spec, ADAM, None, given).state().parameters
    assert all(np.array_equal(found[name], given.parameters[name].astype(np.float64)) for name in found)


def test_bfloat16_is_close_to_float32_and_keeps_its_weights_in_float32() -> None:
    spec = gpt(n_embd=16, n_layer=2)
    state, work = random_state(spec, replicas=2), workload(examples_of(spec, 7), 4, (0, 3))
    rates = learning_rates(20, 0.002, 0.001)
    exact, rough = (engine(spec, ADAM, work, state, dtype=dtype) for dtype in ("float32", "bfloat16"))
    expected, found = exact.advance(0, rates), rough.advance(0, rates)
    np.testing.assert_allclose(found, expected, rtol=0.05)
    assert {array.dtype for array in rough.state().parameters.values()} == {np.dtype("float32")}
    assert not np.allclose(found, expected, rtol=1e-6), "nothing was computed in bfloat16"
    np.testing.assert_allclose(rough.evaluate(work.examples), exact.evaluate(work.examples), rtol=0.05)
    np.testing.assert_allclose(rough.decoder(0).feed(4), exact.decoder(0).feed(4), atol=0.2)


def test_info_says_where_it_ran() -> None:
    info = engine(gpt(), ADAM, None, random_state(gpt()), dtype=None, reason="a reason").info
    assert (info.backend, info.device, info.using_gpu, info.dtype, info.kernel) == (
        "torch", "cpu", False, "float32", "eager",
    )  # fmt: skip
    assert (info.threads, info.reason) == (torch.get_num_threads(), "a reason")


def test_the_requested_number_of_threads_is_used() -> None:
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
        ({"device": "tpu"}, "backend.device=tpu is not allowed: choose one of auto, cpu, cuda, mps"),
        ({"dtype": "int8"}, "backend.dtype=int8 is not possible on cpu: choose one of float32, float64, bfloat16"),
    ],
    ids=lambda given: str(next(iter(given.values()))) if isinstance(given, dict) else "",
)
def test_what_this_machine_lacks_is_one_sentence(
    options: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError) as raised:
        engine(gpt(), ADAM, None, random_state(gpt()), **options)
    assert str(raised.value) == sentence


def test_a_missing_pytorch_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "microgpt.engines.torch.engine")
    with pytest.raises(UserError, match=re.escape(f"backend=torch needs PyTorch: {install_command('torch')}")):
        importlib.import_module("microgpt.engines.torch.engine")


def test_a_layout_unpacks_what_it_packed() -> None:
    for spec in [*SPECS, LONG]:
        layout, given = Layout(spec), random_state(spec, replicas=2).parameters
        flat = layout.pack(given, torch.float64)
        assert flat.shape == (2, spec.parameter_count())
        found = layout.unpack(flat)
        assert list(found) == list(given)
        assert all(np.array_equal(found[name], given[name]) for name in given)


# torch.compile


@pytest.mark.parametrize(("batch_size", "lengths"), [(1, [2, 4]), (3, [2, 4]), (20, [4])])
def test_a_second_length_is_compiled_for_if_enough_steps_are_short(batch_size: int, lengths: list[int]) -> None:
    examples = [[0, 1], [0, 1, 2], [0, 1], [0, 1, 2, 3, 4]]
    work = workload(examples, batch_size)
    found = Batches(work, 5, torch.device("cpu"), torch.float64, few_lengths=True).lengths
    assert found.tolist() == lengths


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "batch_size", "micro_batch", "lengths"),
    [(gpt(), 4, None, [7]), (bigram(), 3, 2, [4, 7])],
    ids=["whole", "passes of two lengths"],
)
def test_a_compiled_engine_computes_the_same_and_compiles_once(
    spec: ModelSpec, batch_size: int, micro_batch: int | None, lengths: list[int]
) -> None:
    """A compilation for each length takes seconds; the test below has a GPT of two lengths without a C++ compiler."""
    said: list[str] = []
    work, state = workload(examples_of(spec, 9), batch_size, (0, 4)), random_state(spec, replicas=2)
    rates = learning_rates(12, 0.05, 0.02)
    options = EngineOptions("torch", device="cpu", dtype="float64", compile=True, micro_batch=micro_batch)
    compiled = TorchEngine(options, spec, ADAM, work, state, said.append)
    assert compiled.batches is not None
    assert compiled.batches.lengths.tolist() == lengths
    assert compiled.compile_seconds == 0
    inductor = importlib.import_module("torch._inductor.config")
    with inductor.patch({"cpp.vec_isa_ok": True}):  # otherwise programs are compiled to find out
        first = compiled.advance(0, rates[:4])
    seconds = compiled.compile_seconds
    assert seconds > 0
    assert said == ["compiling the model for PyTorch ...", f"compiled in {seconds:.1f} s"]
    assert compiled.info.kernel == "compiled"
    with torch.compiler.set_stance("fail_on_recompile"):  # for any length, and after loading a state
        compiled.load(compiled.state())
        rest = compiled.advance(4, rates[4:])
    expected = engine(spec, ADAM, work, state).advance(0, rates)
    np.testing.assert_allclose(np.concatenate([first, rest]), expected, rtol=1e-10)
    assert compiled.compile_seconds == seconds


@pytest.mark.slow
def test_many_engines_of_a_process_are_compiled_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compilation more than one for each engine and length would raise."""
    compile_function, compiled = torch.compile, []

    def compile_eager(function: Any, **options: Any) -> Any:
        compiled.append(function)
        return compile_function(function, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", compile_eager)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True, recompile_limit=3):
        for width in range(1, 4):
            spec = gpt(n_embd=2 * width)
            case = spec, ADAM, workload(examples_of(spec, 9), 3), random_state(spec)
            ours, eager = engine(*case, compile=True), engine(*case)
            first = ours.advance(0, learning_rates(1, 0.01))
            with torch.compiler.set_stance("fail_on_recompile"):
                rest = ours.advance(1, learning_rates(12, 0.01))
            expected = [eager.advance(0, learning_rates(1, 0.01)), eager.advance(1, learning_rates(12, 0.01))]
            np.testing.assert_allclose(np.concatenate([first, rest]), np.concatenate(expected), rtol=1e-10)
    assert len(compiled) == 3


@pytest.mark.slow
def test_a_missing_compiler_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (str(tmp_path / "no-such-compiler"),))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    spec = bigram()
    ours = engine(spec, SGD, workload(examples_of(spec, 3), 1), random_state(spec), dtype="float32", compile=True)
    with pytest.raises(UserError, match=r"^backend\.compile=true does not work on this machine: .*compiler"):
        ours.advance(0, learning_rates(2, 0.1))


# GPUs


@needs_cuda
@pytest.mark.parametrize("spec", [*SPECS, LONG], ids=shown)
def test_cuda_equals_the_cpu(spec: ModelSpec) -> None:
    state, work = random_state(spec, replicas=3), workload(examples_of(spec, 7), 2, (0, 1, 2))
    rates = learning_rates(10, 0.02, 0.01, 1e100)
    cpu, cuda = (engine(spec, ADAM, work, state, device=device) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(cuda.advance(0, rates), cpu.advance(0, rates), rtol=1e-8)
    assert_states_close(cuda.state().replica(0), cpu.state().replica(0), 1e-6)
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
    losses = together.advance(0, learning_rates(5, *[0.01] * replicas))
    np.testing.assert_allclose(losses[:, :1], alone.advance(0, learning_rates(5, 0.01)), rtol=1e-4)
