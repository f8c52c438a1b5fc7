"""The presets against the classes of transformers, and gpt2 against nanoGPT's model.py, in float64.

Weights are copied both ways; the logits and the gradient of every parameter must be equal to 1e-9. The classes compute
some parts in float32 whatever the dtype of the weights: `in_float64` makes those parts float64 too.
"""

import os
import sys
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from support.compositions import composed
from support.models import examples_of
from support.program import mostly_slow
from torch import Tensor, nn
from torch.nn import functional

from microgpt.data.batches import BatchOrder
from microgpt.engines import make_engine
from microgpt.engines.base import Arrays, EngineState, Workload
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.model.spec import ModelSpec
from microgpt.runs.transformers_families import FAMILIES, Family, config_of, family_of, spec_of
from microgpt.training.from_config import model_spec

TOLERANCE = 1e-9
NANOGPT = "MICROGPT_NANOGPT"


class Torch64:
    """PyTorch with float64 in place of float32."""

    float32 = float = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    for family in FAMILIES:
        module = import_module(f"transformers.models.{family}.modeling_{family}")
        monkeypatch.setattr(module, "torch", Torch64())
    monkeypatch.setattr(Tensor, "float", Tensor.double)


def preset(*overrides: str) -> ModelSpec:
    return model_spec(composed(*overrides), vocab_size=27)


PRESETS = {
    "gpt2": ["model=gpt2"],
    "gpt2, untied, two layers": ["model=gpt2", "model.tie_lm_head=false", "model.n_layer=2", "model.mlp_width=40"],
    "llama": ["model=llama"],
    "llama, grouped-query attention": ["model=llama", "model.n_kv_head=2", "model.n_layer=2", "model.mlp_width=43"],
    "llama, one head of keys, biases, tied": ["model=llama", "model.n_kv_head=1", "model.bias=true",
                                             "model.tie_lm_head=true", "model.rope_theta=500"],
    "nanochat": ["model=nanochat"],
    "nanochat, grouped-query attention": ["model=nanochat", "model.n_kv_head=2", "model.n_layer=2",
                                          "model.logit_softcap=2"],
}  # fmt: skip


def random_arrays(spec: ModelSpec) -> Arrays:
    rng = np.random.default_rng(1)
    return {name: rng.normal(float(name.endswith("gain")), 0.4, shape) for name, shape in spec.shapes().items()}


@dataclass
class Computed:
    logits: np.ndarray  # (T, V) of the first example
    gradients: Arrays  # of the mean loss of all examples, by tensor of ours


def ours(spec: ModelSpec, arrays: Arrays, backend: str) -> Computed:
    examples = examples_of(spec, 3)
    work = Workload(examples, [BatchOrder(range(3), (), 0.0, 3)])
    state = EngineState({name: array[np.newaxis] for name, array in arrays.items()})
    engine = make_engine(
        EngineOptions(backend, dtype="float64", threads=1), spec, OptimizerSpec("sgd"), work, state, lambda line: None
    )
    decoder = engine.decoder(0)
    logits = np.array([decoder.feed(token) for token in examples[0][:-1]])
    engine.advance(0, np.zeros((1, 1)))
    return Computed(logits, {name: moment[0] for name, moment in engine.state().m.items()})


def theirs(model: nn.Module, spec: ModelSpec, logits_of: Any) -> tuple[np.ndarray, Arrays]:
    """Return logits and the gradients by the class's names."""
    logits, losses = [], []
    for example in examples_of(spec, 3):
        logits.append(logits_of(torch.tensor([example[:-1]]))[0])
        losses.append(functional.cross_entropy(logits[-1], torch.tensor(example[1:]), reduction="none"))
    torch.cat(losses).mean().backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    return logits[0].detach().numpy(), gradients


def transformers_model(family: Family, spec: ModelSpec) -> Any:
    """Return a model of the class with random weights in float64."""
    import transformers

    config = transformers.AutoConfig.for_model(**config_of(family, spec, bos=26, dtype="float64"))
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    assert type(model).__name__ == family.architecture
    read = spec_of(model.config.to_dict())
    assert read == (family, replace(spec, **initial_values()))
    return model.eval()


def initial_values() -> dict[str, Any]:
    """A config.json does not state how a model was initialized."""
    plain = ModelSpec("gpt", 1, 1, 1, 1, 1)
    return {key: getattr(plain, key) for key in ("init_std", "init", "residual_init")}


@pytest.mark.parametrize("overrides", PRESETS.values(), ids=PRESETS)
def test_our_weights_in_a_class_of_transformers(overrides: list[str], in_float64: None) -> None:
    spec = preset(*overrides)
    family, arrays = family_of(spec), random_arrays(spec)
    model = transformers_model(family, spec)
    tensors = {name: torch.tensor(a) for name, a in family.to_tensors(spec, arrays).items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert (set(missing) - ({"lm_head.weight"} if spec.tie_lm_head else set()), unexpected) == (set(), [])
    logits, gradients = theirs(model, spec, lambda ids: model(ids).logits)
    for backend in ("python", "torch"):
        found = ours(spec, arrays, backend)
        np.testing.assert_allclose(found.logits, logits, rtol=TOLERANCE, atol=TOLERANCE)
        expected = family.from_tensors(spec, gradients)
        assert found.gradients.keys() == expected.keys()
        for name, gradient in expected.items():
            np.testing.assert_allclose(found.gradients[name], gradient, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


@mostly_slow(1, "overrides", PRESETS.values(), ids=PRESETS)
def test_the_weights_of_a_class_of_transformers_in_our_engines(overrides: list[str], in_float64: None) -> None:
    spec = preset(*overrides)
    family = family_of(spec)
    torch.manual_seed(1)
    model = transformers_model(family, spec)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    arrays = family.from_tensors(spec, {name: p.detach().numpy() for name, p in model.state_dict().items()})
    found = ours(spec, arrays, "torch")
    text = torch.tensor([examples_of(spec, 3)[0][:-1]])
    np.testing.assert_allclose(found.logits, model(text).logits[0].detach(), rtol=TOLERANCE, atol=TOLERANCE)
    again = family.to_tensors(spec, arrays)
    expected = {name: p for name, p in model.state_dict().items() if name in again}
    assert all(np.array_equal(again[name], p) for name, p in expected.items())


def test_a_model_without_gains_and_biases_is_one_with_ones_and_zeros(in_float64: None) -> None:
    spec = preset("model=gpt2", "model.bias=false", "model.norm_gain=false", "model.activation=gelu")
    family, arrays = family_of(spec), random_arrays(spec)
    model = transformers_model(family, replace(spec, bias=True, norm_gain=True))
    model.load_state_dict({n: torch.tensor(a) for n, a in family.to_tensors(spec, arrays).items()}, strict=False)
    text = torch.tensor([examples_of(spec, 3)[0][:-1]])
    logits = model(text).logits[0].detach()
    np.testing.assert_allclose(ours(spec, arrays, "torch").logits, logits, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.fixture(scope="module")
def nanogpt() -> ModuleType:
    """nanoGPT's model.py: MICROGPT_NANOGPT is its path or a checkout's."""
    path = Path(os.environ.get(NANOGPT, ""))
    path = path / "model.py" if path.is_dir() else path
    if NANOGPT not in os.environ or not path.is_file():
        pytest.skip(f"{NANOGPT} does not name nanoGPT's model.py")
    spec = spec_from_file_location("nanogpt_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["nanogpt_model"] = module  # its dataclass looks its own module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("bias", [True, False], ids=["biases", "no biases"])
def test_gpt2_with_gelu_is_nanogpt(nanogpt: ModuleType, bias: bool) -> None:
    spec = preset("model=gpt2", "model.activation=gelu", f"model.bias={bias}", "model.n_layer=2")
    family, arrays = FAMILIES["gpt2"], random_arrays(spec)
    sizes = {key: getattr(spec, key) for key in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd")}
    model = nanogpt.GPT(nanogpt.GPTConfig(**sizes, dropout=0.0, bias=bias)).double()

    def transposed(name: str, tensor: np.ndarray) -> np.ndarray:
        """nn.Linear in place of transformers' Conv1D."""
        return tensor.T if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) else tensor

    own = {name for name, _ in model.named_parameters()}
    tensors = {n: torch.tensor(transposed(n, a)) for n, a in family.to_tensors(spec, arrays).items() if n in own}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert (set(missing) - {"lm_head.weight"}, unexpected) == (set(), [])
    logits, gradients = theirs(model, spec, lambda ids: model(ids, ids)[0])
    found = ours(spec, arrays, "python")
    np.testing.assert_allclose(found.logits, logits, rtol=TOLERANCE, atol=TOLERANCE)
    complete = replace(spec, **family.always)
    zeros = {n: np.zeros_like(a) for n, a in family.to_tensors(spec, arrays).items()}
    expected = family.from_tensors(complete, zeros | {n: transposed(n, g) for n, g in gradients.items()})
    for name, gradient in found.gradients.items():
        np.testing.assert_allclose(gradient, expected[name], rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)
