"""The engine of backend=auto with its reason, and the errors for what this machine lacks."""

from collections.abc import Callable
from dataclasses import fields, replace
from importlib.machinery import ModuleSpec
from itertools import product
from typing import Any

import pytest

from microgpt.engines import ENGINES, auto_backend, make_engine
from microgpt.engines.auto_backend import check_available, choose
from microgpt.engines.base import EngineState
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import BACKENDS, MODEL_OPTIONS, EngineOptions
from microgpt.engines.torch import device as torch_device
from microgpt.errors import UserError
from microgpt.installation import install_command
from microgpt.model.spec import INITIAL, ModelSpec

SPEC = ModelSpec("gpt", vocab_size=65, n_embd=384, n_head=6, n_layer=6, block_size=256)
ENOUGH = auto_backend.LARGE_STEP / (6 * SPEC.parameter_count())  # targets of a step that is just large enough for a GPU
NO_GPU = "PyTorch finds no GPU for"
AVAILABLE = "is available and a step has 2.0e+09 operations"
Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """`machine("cuda", "cpu")` makes PyTorch find these devices, the fastest first; `machine()` removes PyTorch."""

    def become(*devices: str) -> None:
        found = ModuleSpec("torch", None) if devices else None
        monkeypatch.setattr(
            auto_backend, "find_spec", lambda name: found if name == "torch" else ModuleSpec(name, None)
        )
        monkeypatch.setattr(torch_device, "available_devices", lambda: list(devices))

    return become


def auto(**given: Any) -> EngineOptions:
    return EngineOptions("auto", **given)


@pytest.mark.parametrize(
    ("devices", "options", "backend", "device", "reason"),
    [
        (("cuda", "cpu"), {}, "torch", "cuda", f"cuda {AVAILABLE}"),
        (("mps", "cpu"), {"dtype": "float32"}, "torch", "mps", f"mps {AVAILABLE}"),
        (("cuda", "mps", "cpu"), {}, "torch", "cuda", f"cuda {AVAILABLE}"),
        (("cuda", "cpu"), {"dtype": "float64"}, "torch", "cuda", f"cuda {AVAILABLE}"),
        (("mps", "cpu"), {"dtype": "float64"}, "native", "auto", f"{NO_GPU} float64"),  # mps has no float64
        (("cpu",), {}, "native", "auto", f"{NO_GPU} float32"),
        (("cpu",), {"dtype": "float64"}, "native", "auto", f"{NO_GPU} float64"),
        ((), {}, "native", "auto", "PyTorch is not installed, so no GPU can be used"),
        (("cuda", "cpu"), {"device": "cpu"}, "native", "cpu", "backend.device=cpu was requested"),
        (("cuda", "cpu"), {"device": "cpu", "world_size": 2}, "torch", "cpu", "2 processes share the work"),
    ],
)
def test_engine_of_a_large_step(
    machine: Machine, devices: tuple[str, ...], options: dict[str, Any], backend: str, device: str, reason: str
) -> None:
    machine(*devices)
    given = auto(threads=3, **options)
    expected = replace(given, backend=backend, device=device, reason=reason)
    assert choose(given, SPEC, 2 * ENOUGH) == expected


@pytest.mark.parametrize(("tokens", "backend"), [(0.99 * ENOUGH, "native"), (1.01 * ENOUGH, "torch")])
def test_the_operations_of_a_step_decide(machine: Machine, tokens: float, backend: str) -> None:
    machine("cuda", "cpu")
    chosen = choose(auto(), SPEC, tokens)
    assert chosen.backend == backend
    assert ("too small for a GPU" in chosen.reason) == (backend == "native")


def test_a_small_step_does_not_import_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing PyTorch takes longer than a small run."""

    def imported(*name: str) -> None:
        raise AssertionError("looked for PyTorch")

    monkeypatch.setattr(auto_backend, "find_spec", imported)
    monkeypatch.setattr(torch_device, "available_devices", imported)
    assert choose(auto(), SPEC, 1).reason == "a step of 6.5e+07 operations is too small for a GPU"
    assert choose(auto(device="cpu"), SPEC, 2 * ENOUGH).backend == "native"


@pytest.mark.parametrize("device", ["cuda", "mps"])
@pytest.mark.parametrize("tokens", [1, 2 * ENOUGH], ids=["small step", "large step"])
@pytest.mark.parametrize("devices", [(), ("cpu",), ("cuda", "mps", "cpu")], ids=str)
def test_a_requested_gpu_is_never_replaced_by_the_cpu(
    machine: Machine, device: str, tokens: float, devices: tuple[str, ...]
) -> None:
    machine(*devices)
    chosen = choose(auto(device=device), SPEC, tokens)
    assert (chosen.backend, chosen.device) == ("torch", device)
    assert chosen.reason == f"backend.device={device} was requested"
    if device not in devices:
        with pytest.raises(UserError):
            check_available(chosen)
    else:
        check_available(chosen)


@pytest.mark.parametrize("backend", ENGINES)
def test_a_named_backend_is_kept(machine: Machine, backend: str) -> None:
    machine("cuda", "cpu")
    named = EngineOptions(backend, dtype="float64", threads=3)
    assert choose(named, SPEC, 2 * ENOUGH) is named


@pytest.mark.parametrize("devices", [(), ("cpu",), ("cuda", "cpu"), ("mps", "cpu")], ids=str)
def test_the_engine_of_auto_is_always_available(machine: Machine, devices: tuple[str, ...]) -> None:
    machine(*devices)
    for device, dtype, tokens in product(("auto", "cpu"), (None, "float32", "float64"), (1, 2 * ENOUGH)):
        chosen = choose(auto(device=device, dtype=dtype), SPEC, tokens)
        assert chosen.reason
        check_available(chosen)


# What a machine lacks


def test_a_missing_pytorch_is_an_error_with_the_command_that_installs_it(machine: Machine) -> None:
    machine()
    with pytest.raises(UserError) as raised:
        check_available(EngineOptions("torch"))
    assert str(raised.value) == f"backend=torch needs PyTorch: {install_command('torch')}"
    for backend in ("python", "native"):
        check_available(EngineOptions(backend))


@pytest.mark.parametrize(
    ("devices", "device", "found"),
    [(("cpu",), "cuda", "only cpu"), (("cuda", "cpu"), "mps", "cuda, cpu"), (("mps", "cpu"), "cuda", "mps, cpu")],
)
def test_a_missing_device_is_an_error_with_those_that_are_available(
    machine: Machine, devices: tuple[str, ...], device: str, found: str
) -> None:
    machine(*devices)
    with pytest.raises(UserError) as raised:
        check_available(EngineOptions("torch", device=device))
    assert str(raised.value).startswith(f"backend.device={device} is not available: ")
    assert str(raised.value).endswith(f" finds {found}")


def test_float64_is_an_error_if_the_fastest_device_lacks_it(machine: Machine) -> None:
    machine("mps", "cpu")
    with pytest.raises(UserError, match="float64 is not possible on mps: choose one of float32, bfloat16"):
        check_available(EngineOptions("torch", dtype="float64"))
    check_available(EngineOptions("torch", dtype="float64", device="cpu"))


def test_an_option_that_only_torch_computes_is_refused_by_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise they would train another model without a word."""
    fewer = tuple(name for name in MODEL_OPTIONS if name != "qk_norm")
    for backend in ("native", "python"):
        monkeypatch.setitem(BACKENDS, backend, replace(BACKENDS[backend], model_options=fewer))
    spec = replace(SPEC, qk_norm=True)
    chosen = choose(auto(), spec, 1)
    assert (chosen.backend, chosen.reason) == ("torch", "backend=native does not implement model.qk_norm=true")
    assert choose(auto(), SPEC, 1).backend == "native"
    for backend in ("native", "python"):
        with pytest.raises(
            UserError, match=rf"^model\.qk_norm=true is not implemented by backend={backend}: .*options\.py$"
        ):
            make_engine(EngineOptions(backend), spec, OptimizerSpec("adam"), None, EngineState({}))


def test_every_option_of_a_model_is_computed_by_a_backend() -> None:
    sizes = {"kind", "vocab_size", "n_embd", "n_head", "n_layer", "block_size"}
    computed = {option for backend in BACKENDS.values() for option in backend.model_options}
    assert {field.name for field in fields(ModelSpec)} == sizes | set(INITIAL) | computed
