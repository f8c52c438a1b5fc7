"""A choice of a table without an implementation is an error when the engine is made, and names the place to extend."""

from dataclasses import replace
from typing import Any

import pytest
from support.models import SGD, engine_of, gpt, random_state

from microgpt.engines import ENGINES
from microgpt.engines.optimizer import OPTIMIZERS, OptimizerChoice, OptimizerSpec
from microgpt.engines.options import BACKENDS
from microgpt.engines.scalar import model as scalar_model
from microgpt.engines.scalar import optimizers as scalar_optimizers
from microgpt.engines.torch import device as torch_device
from microgpt.engines.torch import model as torch_model
from microgpt.engines.torch import optimizer as torch_optimizer
from microgpt.errors import UserError
from microgpt.model import spec as spec_module
from microgpt.model.spec import ACTIVATIONS, MODEL_KINDS, NORMS, POSITIONS, ModelSpec

PLACES = {
    "python": ("engines/scalar/model.py", "engines/scalar/optimizers.py"),
    "torch": ("engines/torch/model.py", "engines/torch/optimizer.py"),
}
each_backend = pytest.mark.parametrize("backend", PLACES)


def refusal(backend: str, spec: ModelSpec, optimizer: OptimizerSpec = SGD, **options: Any) -> str:
    with pytest.raises(UserError) as raised:
        engine_of(backend, spec, optimizer, None, random_state(spec), **options)
    return str(raised.value)


@each_backend
def test_a_model_kind_that_an_engine_lacks(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODEL_KINDS, "mixer", MODEL_KINDS["gpt"])
    table = f"FORWARD in {PLACES[backend][0]}"
    assert refusal(backend, gpt(kind="mixer")) == (
        f"model.kind=mixer is not implemented by this engine: add it to {table}"
    )


@each_backend
def test_an_activation_that_an_engine_lacks(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec_module, "ACTIVATIONS", (*ACTIVATIONS, "tanh"))
    table = f"ACTIVATIONS in {PLACES[backend][0]}"
    assert refusal(backend, gpt(activation="tanh")) == (
        f"model.activation=tanh is not implemented by this engine: add it to {table}"
    )


@each_backend
@pytest.mark.parametrize(("option", "table"), [("position", POSITIONS), ("norm", NORMS)])
def test_a_choice_of_the_model_that_an_engine_lacks(
    backend: str, option: str, table: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(table, "invented", table["none" if option == "position" else "rmsnorm"])
    assert refusal(backend, gpt(**{option: "invented"})) == (
        f"model.{option}=invented is not implemented by this engine: "
        f"add it to {option.upper()}S in {PLACES[backend][0]}"
    )


@each_backend
def test_an_optimizer_that_an_engine_lacks(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIMIZERS, "adagrad", OptimizerChoice(("eps",), moments=1))
    table = f"UPDATE_RULES in {PLACES[backend][1]}"
    assert refusal(backend, gpt(), OptimizerSpec("adagrad")) == (
        f"optim.name=adagrad is not implemented by this engine: add it to {table}"
    )


def test_a_backend_without_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "jax", BACKENDS["native"])
    sentence = "backend=jax is not one of the engines python, native, torch: add it to ENGINES in engines/__init__.py"
    assert refusal("jax", gpt()) == sentence
    for name in ("auto", "typo"):
        assert refusal(name, gpt()) == f"backend={name} is not one of the engines python, native, torch"


def test_a_dtype_that_the_torch_engine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    more = replace(BACKENDS["torch"], dtypes=("float16", *BACKENDS["torch"].dtypes))
    monkeypatch.setattr(torch_device, "CHOICE", more)
    assert refusal("torch", gpt(), dtype="float16").endswith("add it to DTYPES in engines/torch/device.py")


@pytest.mark.parametrize(
    ("table", "implemented"),
    [
        (set(BACKENDS) - {"auto"}, ENGINES),
        (MODEL_KINDS, scalar_model.FORWARD),
        (MODEL_KINDS, torch_model.FORWARD),
        (ACTIVATIONS, scalar_model.ACTIVATIONS),
        (ACTIVATIONS, torch_model.ACTIVATIONS),
        (POSITIONS, scalar_model.POSITIONS),
        (POSITIONS, torch_model.POSITIONS),
        (NORMS, scalar_model.NORMS),
        (NORMS, torch_model.NORMS),
        (OPTIMIZERS, scalar_optimizers.UPDATE_RULES),
        (OPTIMIZERS, torch_optimizer.UPDATE_RULES),
        (BACKENDS["torch"].dtypes, torch_device.DTYPES),
    ],
    ids=lambda names: " ".join(sorted(names)),
)
def test_every_choice_of_a_table_is_implemented_and_no_other(table: Any, implemented: Any) -> None:
    assert set(implemented) == set(table)
