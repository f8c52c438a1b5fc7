"""What can be asked for: every option of every group, the rules, the identity of a run."""

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import cast

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from microgpt.app import config_directory
from microgpt.config.conversion import from_omegaconf, register_schema
from microgpt.config.identity import config_hash
from microgpt.config.schema import Config
from microgpt.config.validation import check
from microgpt.errors import UserError

# What an option needs beside itself to be allowed.
NEEDS = {
    "task=sample": ["checkpoint=latest"],
    "task=info": ["checkpoint=latest"],
    "task=chat": ["checkpoint=latest"],
    "task=export": ["checkpoint=latest"],
    "task=serve": ["checkpoint=latest"],
    "data=chat": ["style=classic"],
    "data=text": ["data.path=input.txt"],
}
GROUPS = ("task", "data", "model", "style", "optim", "schedule", "experiment")
OPTIONS = [
    f"{group}={file.stem}" for group in GROUPS for file in sorted(Path(config_directory(), group).glob("*.yaml"))
]


@pytest.fixture(scope="module", autouse=True)
def hydra_is_initialized() -> Iterator[None]:
    GlobalHydra.instance().clear()
    register_schema()
    OmegaConf.register_new_resolver("sweep_id", lambda: "sweep", use_cache=True, replace=True)
    with initialize_config_dir(config_directory(), version_base="1.3"):
        yield


@cache
def composed_options(*options: str) -> DictConfig:
    return compose("config", overrides=list(options))


def composed(*overrides: str) -> Config:
    """Hydra composes the options, once each since that takes long; the keys are set on top."""
    options = [override for override in overrides if "." not in override.split("=")[0]]
    keys = [override for override in overrides if override not in options]
    return from_omegaconf(
        cast(DictConfig, OmegaConf.merge(composed_options(*options), OmegaConf.from_dotlist(keys))), {}
    )


def test_every_group_has_options() -> None:
    assert {option.split("=")[0] for option in OPTIONS} == set(GROUPS)


@pytest.mark.parametrize("option", [*OPTIONS, "backend=python", "mode=scalar"])
def test_option_composes_and_keeps_the_rules(option: str) -> None:
    group, name = option.split("=")
    config = composed(option, *NEEDS.get(option, []))
    check(config)
    if group != "experiment":
        assert getattr(config, group).name == name


@pytest.mark.parametrize("backend", ["native", "torch", "auto"])
def test_tensor_mode_composes_with_each_of_its_backends(backend: str) -> None:
    config = composed("mode=tensor", f"backend={backend}")
    assert (config.mode.name, config.backend.name) == ("tensor", backend)
    check(config)


def test_scalar_mode_chooses_the_python_backend() -> None:
    assert composed("mode=scalar").backend.name == "python"


def test_defaults_are_the_reference_s() -> None:
    config = composed()
    assert (config.model.n_embd, config.model.n_head, config.model.n_layer, config.model.block_size) == (16, 4, 1, 16)
    assert (config.model.kind, config.model.activation, config.model.init_std) == ("gpt", "relu", 0.08)
    assert (config.model.tie_lm_head, config.model.input_rmsnorm) == (False, True)
    optim = config.optim
    assert (optim.name, optim.lr, optim.beta1, optim.beta2, optim.eps) == ("adam", 0.01, 0.85, 0.99, 1e-8)
    assert (config.schedule.name, config.schedule.total_steps, config.schedule.warmup_steps) == ("linear", None, 0)
    assert (config.train.steps, config.train.batch_size, config.seed) == (1000, 1, 42)
    assert (config.sample.temperature, config.sample.num_samples) == (0.5, 20)
    assert config.style.name == "futuristic"


def test_karpathy_is_the_reference_on_its_own_data() -> None:
    config = composed("experiment=karpathy")
    assert (config.data.name, config.data.val_fraction, config.style.name) == ("makemore", 0, "classic")
    assert (config.style.share, config.style.bias, config.style.documents, config.style.phrases) == (0, 0, [], [])


def test_karpathy_first_is_the_first_version() -> None:
    config = composed("experiment=karpathy_first")
    model = config.model
    assert (model.block_size, model.activation, model.init_std, model.zero_init_residual) == (
        8, "relu_squared", 0.02, True,
    )  # fmt: skip
    assert (config.optim.beta1, config.optim.beta2, config.train.steps) == (0.9, 0.95, 500)
    assert (config.schedule.name, config.data.name, config.data.val_fraction) == ("cosine", "makemore", 0)


def test_futuristic_has_the_documents_and_phrases_of_the_earlier_systems() -> None:
    style = composed("style=futuristic").style
    assert style.documents == [
        "neon skylines hum over orbital transit lanes.",
        "quantum couriers sync with neural uplinks at dawn.",
        "autonomous swarms calibrate reactor lattices in silence.",
        "synthetic pilots chart wormhole routes beyond saturn.",
    ]
    assert style.phrases == ["neon", "quantum", "neural", "orbital", "reactor", "wormhole", "autonomous", "synthetic"]


# (overrides, the key that the sentence names, the value that it names)
BROKEN = [
    (["task.name=dance"], "task.name", "dance"),
    (["mode.name=vector"], "mode.name", "vector"),
    (["backend.name=abacus"], "backend.name", "abacus"),
    (["backend=torch"], "backend", "torch"),
    (["mode=tensor", "backend=python"], "backend", "python"),
    (["mode=tensor", "backend=native", "backend.device=cuda"], "backend.device", "cuda"),
    (["mode=tensor", "backend=native", "backend.dtype=bfloat16"], "backend.dtype", "bfloat16"),
    (["mode=tensor", "backend=native", "backend.compile=true"], "backend.compile", "True"),
    (["mode=tensor", "backend=auto", "backend.micro_batch=4"], "backend.micro_batch", "4"),
    (["mode=tensor", "backend=native", "backend.kernel=lanes"], "backend.kernel", "lanes"),
    (["mode=tensor", "backend=torch", "backend.kernel=features"], "backend.kernel", "features"),
    (["mode=tensor", "backend=torch", "backend.device=mps", "backend.dtype=float64"], "backend.dtype", "float64"),
    (["mode=tensor", "backend=torch", "backend.micro_batch=0"], "backend.micro_batch", "0"),
    (["mode=tensor", "backend.threads=0"], "backend.threads", "0"),
    (["backend.threads=2"], "backend.threads", "2"),
    (["backend.dtype=float32"], "backend.dtype", "float32"),
    (["task=sample", "checkpoint=x", "sample.bulk=true"], "sample.bulk", "True"),
    (["mode=tensor", "backend=torch", "task=sample", "checkpoint=x", "sample.bulk=true"], "sample.bulk", "True"),
    (["mode=tensor", "sample.bulk=true"], "sample.bulk", "True"),
    (["model.kind=rnn"], "model.kind", "rnn"),
    (["model.activation=gelu"], "model.activation", "gelu"),
    (["model.block_size=0"], "model.block_size", "0"),
    (["model.init_std=-0.1"], "model.init_std", "-0.1"),
    (["model.init_std=inf"], "model.init_std", "inf"),
    (["model.n_embd=18"], "model.n_embd", "18"),
    (["model.n_embd=null"], "model.n_embd", "null"),
    (["model.n_head=0"], "model.n_head", "0"),
    (["model.n_layer=0"], "model.n_layer", "0"),
    (["model=bigram", "model.n_embd=16"], "model.n_embd", "16"),
    (["model=bigram", "model.zero_init_residual=true"], "model.zero_init_residual", "True"),
    (["model=bigram", "model.activation=relu_squared"], "model.activation", "relu_squared"),
    (["style.name=../up"], "style.name", "../up"),
    (["style.share=1"], "style.share", "1.0"),
    (["style.share=nan"], "style.share", "nan"),
    (["style.share=0"], "style.share", "0.0"),
    (["style=classic", "style.share=0.1"], "style.share", "0.1"),
    (["style.phrases=[neon,'']"], "style.phrases", "['neon', '']"),
    (["style.documents=['  ']"], "style.documents", "['  ']"),
    (["style.bias=inf"], "style.bias", "inf"),
    (["style.long_documents=fold"], "style.long_documents", "fold"),
    (["data.name=poems"], "data.name", "poems"),
    (["data.format=xml"], "data.format", "xml"),
    (["data.format=stream"], "data.format", "stream"),
    (["data.long_documents=fold"], "data.long_documents", "fold"),
    (["data.val_fraction=1"], "data.val_fraction", "1.0"),
    (["data.val_fraction=-0.1"], "data.val_fraction", "-0.1"),
    (["data.val_fraction=nan"], "data.val_fraction", "nan"),
    (["data.path=input.txt"], "data.path", "input.txt"),
    (["data=text"], "data.path", "null"),
    (["optim.name=lion"], "optim.name", "lion"),
    (["optim.lr=-1"], "optim.lr", "-1.0"),
    (["optim.lr=nan"], "optim.lr", "nan"),
    (["optim.beta1=1"], "optim.beta1", "1.0"),
    (["optim.beta2=-0.5"], "optim.beta2", "-0.5"),
    (["optim.beta2=null"], "optim.beta2", "null"),
    (["optim.eps=0"], "optim.eps", "0.0"),
    (["optim.grad_clip=0"], "optim.grad_clip", "0.0"),
    (["optim.momentum=0.9"], "optim.momentum", "0.9"),
    (["optim=sgd", "optim.momentum=1"], "optim.momentum", "1.0"),
    (["optim=sgd", "optim.beta1=0.9"], "optim.beta1", "0.9"),
    (["optim=adamw", "optim.weight_decay=-1"], "optim.weight_decay", "-1.0"),
    (["schedule.name=zigzag"], "schedule.name", "zigzag"),
    (["schedule.warmup_steps=-1"], "schedule.warmup_steps", "-1"),
    (["schedule=warmdown", "schedule.warmdown_steps=0"], "schedule.warmdown_steps", "0"),
    (["schedule.warmdown_steps=5"], "schedule.warmdown_steps", "5"),
    (["train.steps=100", "schedule.total_steps=99"], "schedule.total_steps", "99"),
    (["train.steps=-1"], "train.steps", "-1"),
    (["train.batch_size=0"], "train.batch_size", "0"),
    (["train.log_every=0"], "train.log_every", "0"),
    (["train.eval_every=0"], "train.eval_every", "0"),
    (["train.eval_documents=0"], "train.eval_documents", "0"),
    (["train.checkpoint_every=0"], "train.checkpoint_every", "0"),
    (["train.keep_checkpoints=0"], "train.keep_checkpoints", "0"),
    (["train.last_n=0"], "train.last_n", "0"),
    (["train.max_memory_growth=1"], "train.max_memory_growth", "1.0"),
    (["train.max_memory_growth=nan"], "train.max_memory_growth", "nan"),
    (["train.resume=''"], "train.resume", "''"),
    (["sample.temperature=-0.1"], "sample.temperature", "-0.1"),
    (["sample.temperature=inf"], "sample.temperature", "inf"),
    (["sample.top_k=0"], "sample.top_k", "0"),
    (["sample.num_samples=-1"], "sample.num_samples", "-1"),
    (["sample.max_new_tokens=0"], "sample.max_new_tokens", "0"),
    (["task=sample"], "checkpoint", "null"),
    (["checkpoint=latest"], "checkpoint", "latest"),
]


@pytest.mark.parametrize(("overrides", "key", "value"), BROKEN, ids=[" ".join(overrides) for overrides, *_ in BROKEN])
def test_broken_rule_names_key_and_value(overrides: list[str], key: str, value: str) -> None:
    config = composed(*overrides)
    with pytest.raises(UserError) as caught:
        check(config)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.startswith((f"{key}={value} ", f"{key}: "))
    assert re.search(rf"(?<![\w.]){re.escape(value)}(?![\w])", sentence)


def test_key_added_with_plus_is_refused_with_what_was_meant() -> None:
    with pytest.raises(UserError, match=r"^train\.step is not a key: .*did you mean train\.steps\?$"):
        from_omegaconf(compose("config", overrides=["+train.step=3"]), {})


def test_temperature_zero_and_the_widest_allowed_values_are_accepted() -> None:
    check(composed("sample.temperature=0", "sample.num_samples=0", "train.steps=0", "optim.lr=0", "model.init_std=0"))
    check(composed("train.eval_every=null", "train.checkpoint_every=null", "train.max_memory_growth=null"))
    check(composed("train.steps=10", "schedule.total_steps=10", "data.val_fraction=0"))


@pytest.mark.parametrize("override", ["outputs_dir=a", "results_dir=b", "train.resume=never", "task.name=info"])
def test_config_hash_ignores_where_files_go_and_whether_to_resume(override: str) -> None:
    assert config_hash(composed(override)) == config_hash(composed())


@pytest.mark.parametrize(
    "override",
    ["seed=1", "train.resume=outputs/some/run", "train.steps=999", "optim.lr=0.02", "model.tie_lm_head=true",
     "style.bias=1", "data.split_seed=1", "sample.num_samples=3", "train.eval_documents=7"],
)  # fmt: skip
def test_config_hash_changes_with_what_a_run_computes(override: str) -> None:
    assert config_hash(composed(override)) != config_hash(composed())


def test_config_hash_does_not_depend_on_how_a_value_was_written() -> None:
    assert config_hash(composed("optim.lr=1e-2")) == config_hash(composed("optim.lr=0.01"))
    assert math.isclose(composed("optim.lr=1e-2").optim.lr, 0.01)


def test_configuration_is_frozen() -> None:
    config = composed()
    with pytest.raises(AttributeError):
        config.seed = 1  # pyright: ignore[reportAttributeAccessIssue]
    assert replace(config, seed=1).seed == 1
