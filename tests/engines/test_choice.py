"""backend=auto: which engine computes, and that the record's reason says why; what is not there is refused."""

from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import Any

import pytest

from microgpt.engines import choice
from microgpt.engines.choice import check_available, choose
from microgpt.engines.options import EngineOptions
from microgpt.engines.torch import device as torch_device
from microgpt.errors import UserError
from microgpt.model.spec import ModelSpec

SPEC = ModelSpec("gpt", vocab_size=65, n_embd=384, n_head=6, n_layer=6, block_size=256)
ENOUGH = choice.LARGE_STEP / (6 * SPEC.parameter_count())  # targets of a step that is just large enough for a GPU
Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """`machine("cuda", "cpu")` is one whose PyTorch finds these devices, the best first; `machine()` has no PyTorch."""

    def become(*devices: str) -> None:
        found = ModuleSpec("torch", None) if devices else None
        monkeypatch.setattr(choice, "find_spec", lambda name: found if name == "torch" else ModuleSpec(name, None))
        monkeypatch.setattr(torch_device, "available_devices", lambda: list(devices))

    return become


def auto(**given: Any) -> EngineOptions:
    return EngineOptions("auto", **given)


# What is chosen


def test_large_step_runs_on_the_gpu_that_is_there(machine: Machine) -> None:
    machine("cuda", "cpu")
    chosen = choose(auto(), SPEC, 2 * ENOUGH)
    assert (chosen.backend, chosen.device) == ("torch", "cuda")
    assert chosen.reason == "cuda is available and a step has 2.0e+09 operations"


def test_large_step_runs_on_apple_s_gpu_where_that_is_there(machine: Machine) -> None:
    machine("mps", "cpu")
    chosen = choose(auto(dtype="float32"), SPEC, 2 * ENOUGH)
    assert (chosen.backend, chosen.device) == ("torch", "mps")
    assert chosen.reason.startswith("mps is available")


def test_best_of_two_gpus_is_taken(machine: Machine) -> None:
    machine("cuda", "mps", "cpu")
    assert choose(auto(), SPEC, 2 * ENOUGH).device == "cuda"


@pytest.mark.parametrize("dtype", [None, "float32", "float64"])
def test_large_step_without_a_gpu_is_native_and_says_so(machine: Machine, dtype: str | None) -> None:
    machine("cpu")
    chosen = choose(auto(dtype=dtype), SPEC, 2 * ENOUGH)
    assert (chosen.backend, chosen.reason) == ("native", f"PyTorch finds no GPU for {dtype or 'float32'}")


def test_float64_never_goes_to_mps_which_has_none(machine: Machine) -> None:
    machine("mps", "cpu")
    chosen = choose(auto(dtype="float64"), SPEC, 2 * ENOUGH)
    assert (chosen.backend, chosen.reason) == ("native", "PyTorch finds no GPU for float64")


def test_float64_goes_to_cuda_which_has_it(machine: Machine) -> None:
    machine("cuda", "cpu")
    assert choose(auto(dtype="float64"), SPEC, 2 * ENOUGH).backend == "torch"


def test_large_step_without_pytorch_is_native_and_says_so(machine: Machine) -> None:
    machine()
    chosen = choose(auto(), SPEC, 2 * ENOUGH)
    assert chosen.backend == "native"
    assert "PyTorch is not installed" in chosen.reason


@pytest.mark.parametrize(("tokens", "backend"), [(0.99 * ENOUGH, "native"), (1.01 * ENOUGH, "torch")])
def test_operations_of_a_step_decide(machine: Machine, tokens: float, backend: str) -> None:
    machine("cuda", "cpu")
    chosen = choose(auto(), SPEC, tokens)
    assert chosen.backend == backend
    assert ("too small for a GPU" in chosen.reason) == (backend == "native")


def test_small_step_does_not_even_ask_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing PyTorch takes longer than a small run."""

    def asked(*name: str) -> None:
        raise AssertionError("asked for PyTorch")

    monkeypatch.setattr(choice, "find_spec", asked)
    monkeypatch.setattr(torch_device, "available_devices", asked)
    assert choose(auto(), SPEC, 1).reason == "a step of 6.5e+07 operations is too small for a GPU"
    assert choose(auto(device="cpu"), SPEC, 2 * ENOUGH).backend == "native"


# What was asked for is kept


def test_cpu_that_was_asked_for_is_native_whatever_is_there(machine: Machine) -> None:
    machine("cuda", "cpu")
    chosen = choose(auto(device="cpu"), SPEC, 2 * ENOUGH)
    assert (chosen.backend, chosen.device, chosen.reason) == ("native", "cpu", "backend.device=cpu was requested")


@pytest.mark.parametrize("device", ["cuda", "mps"])
@pytest.mark.parametrize("tokens", [1, 2 * ENOUGH], ids=["small step", "large step"])
@pytest.mark.parametrize("there", [(), ("cpu",), ("cuda", "mps", "cpu")], ids=str)
def test_gpu_that_was_asked_for_is_never_silently_a_cpu(
    machine: Machine, device: str, tokens: float, there: tuple[str, ...]
) -> None:
    machine(*there)
    chosen = choose(auto(device=device), SPEC, tokens)
    assert (chosen.backend, chosen.device) == ("torch", device)
    assert chosen.reason == f"backend.device={device} was requested"
    if device not in there:
        with pytest.raises(UserError):
            check_available(chosen)
    else:
        check_available(chosen)


@pytest.mark.parametrize("backend", ["python", "native", "torch"])
def test_backend_that_was_named_is_left_alone(machine: Machine, backend: str) -> None:
    machine("cuda", "cpu")
    named = EngineOptions(backend, dtype="float64", threads=3)
    assert choose(named, SPEC, 2 * ENOUGH) is named


@pytest.mark.parametrize("there", [(), ("cpu",), ("cuda", "cpu")], ids=str)
def test_choice_keeps_everything_else_that_was_asked_for(machine: Machine, there: tuple[str, ...]) -> None:
    machine(*there)
    chosen = choose(auto(dtype="float64", threads=3), SPEC, 2 * ENOUGH)
    assert (chosen.dtype, chosen.threads, chosen.kernel) == ("float64", 3, "auto")


@pytest.mark.parametrize("there", [(), ("cpu",), ("cuda", "cpu"), ("mps", "cpu")], ids=str)
@pytest.mark.parametrize("device", ["auto", "cpu"])
@pytest.mark.parametrize("dtype", [None, "float32", "float64"])
@pytest.mark.parametrize("tokens", [1, 2 * ENOUGH], ids=["small step", "large step"])
def test_what_is_chosen_without_asking_for_a_gpu_is_always_there(
    machine: Machine, there: tuple[str, ...], device: str, dtype: str | None, tokens: float
) -> None:
    machine(*there)
    chosen = choose(auto(device=device, dtype=dtype), SPEC, tokens)
    assert chosen.backend in ("native", "torch")
    assert chosen.reason
    check_available(chosen)


# What is not there


def test_torch_that_is_not_installed_is_refused_with_what_to_install(machine: Machine) -> None:
    machine()
    with pytest.raises(UserError) as caught:
        check_available(EngineOptions("torch"))
    assert str(caught.value) == "backend=torch needs PyTorch: pip install 'microgpt[torch]'"


@pytest.mark.parametrize(
    ("there", "device", "found"),
    [(("cpu",), "cuda", "cpu alone"), (("cuda", "cpu"), "mps", "cuda, cpu"), (("mps", "cpu"), "cuda", "mps, cpu")],
)
def test_device_that_is_not_there_is_refused_with_those_that_are(
    machine: Machine, there: tuple[str, ...], device: str, found: str
) -> None:
    machine(*there)
    with pytest.raises(UserError) as caught:
        check_available(EngineOptions("torch", device=device))
    assert str(caught.value).startswith(f"backend.device={device} is not available: ")
    assert str(caught.value).endswith(f" finds {found}")


def test_float64_is_refused_where_the_best_device_has_none(machine: Machine) -> None:
    machine("mps", "cpu")
    with pytest.raises(UserError, match="float64 is not possible on mps: it is one of float32, bfloat16"):
        check_available(EngineOptions("torch", dtype="float64"))
    check_available(EngineOptions("torch", dtype="float64", device="cpu"))


@pytest.mark.parametrize("backend", ["python", "native"])
def test_engines_without_pytorch_are_always_there(machine: Machine, backend: str) -> None:
    machine()
    check_available(EngineOptions(backend))
    with pytest.raises(UserError, match="needs PyTorch"):
        check_available(EngineOptions("torch"))
