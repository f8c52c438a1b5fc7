"""Every option of every group composes, is valid and has the documented values; the schema's defaults."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.compositions import composed

from microgpt.app import config_directory
from microgpt.config.keys import check_keys, walk
from microgpt.config.schema import Config, StyleConfig
from microgpt.config.validation import check

# Keys that an option requires.
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


def test_every_group_has_options() -> None:
    assert {option.split("=")[0] for option in OPTIONS} == set(GROUPS)


@pytest.mark.parametrize("file", sorted(Path(config_directory()).rglob("*.yaml")), ids=lambda file: file.stem)
def test_option_begins_with_the_command_that_runs_it(file: Path) -> None:
    first, second = file.read_text().splitlines()[:2]
    assert (second if first == "# @package _global_" else first).startswith("# python -m microgpt ")


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


def test_configuration_is_frozen() -> None:
    config = composed()
    with pytest.raises(AttributeError):
        config.seed = 1  # pyright: ignore[reportAttributeAccessIssue]
    assert replace(config, seed=1).seed == 1


def test_every_key_has_help_or_a_list_of_names() -> None:
    assert [name for name, _, stated in walk(Config()) if not (stated.help or stated.one_of)] == []


def test_defaults_of_the_schema_meet_its_constraints() -> None:
    check_keys(replace(Config(), style=StyleConfig(name="any")))
