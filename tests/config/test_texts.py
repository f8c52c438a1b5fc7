"""Overrides of text keys are read as written, in single runs and in sweeps; values in files must be strings."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from support.compositions import composition

from microgpt.app import config_directory
from microgpt.config.hydra_compat import combinations
from microgpt.config.hydra_errors import explain
from microgpt.config.hydra_schema import register_schema
from microgpt.config.keys import text_keys, walk
from microgpt.config.schema import Config

KEYS = text_keys(Config)
LISTS = {name for name, value, _ in walk(Config()) if isinstance(value, list) and name in KEYS}
SPELLINGS = (
    "true", "FALSE", "1.50", "0x10", "007", "1_000", "+5", "-inf", "nan", ".5", "2026-01-01", "12:30", "yes",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _registered() -> None:
    register_schema()


def jobs_of(*overrides: str) -> list[list[str]]:
    """Return the overrides of each job as Hydra's sweeper writes them."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return combinations(parsed)


def test_every_text_of_the_schema_is_known() -> None:
    texts = {name for name, value, _ in walk(Config()) if isinstance(value, str)}
    assert texts < KEYS.keys()
    assert {"sample.prompt", "style.documents", "data.path", "checkpoint", "outputs_dir"} < KEYS.keys()
    assert not {"seed", "train.steps", "benchmark.widths", "backend.compile"} & KEYS.keys()
    assert {key for key, null in KEYS.items() if null} >= {"data.path", "checkpoint", "backend.dtype"}


@pytest.mark.parametrize("spelling", ["1e3", "null"])
def test_every_text_key_keeps_the_spelling_of_an_override_alone_and_in_a_sweep(spelling: str) -> None:
    alone = [f"{key}=[{spelling},a]" if key in LISTS else f"{key}={spelling}" for key in KEYS]
    ((*job,),) = jobs_of(*alone)
    for overrides in (alone, job):
        config = OmegaConf.to_container(composition(*overrides))
        assert isinstance(config, dict)
        for key, null_allowed in KEYS.items():
            group, _, name = key.rpartition(".")
            found = config[group][name] if group else config[name]
            text = None if spelling == "null" and null_allowed else spelling
            assert found == ([spelling, "a"] if key in LISTS else text), key


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_kept_alone_and_in_a_sweep(spelling: str) -> None:
    alone = [f"sample.prompt={spelling}", f"style.documents=[{spelling}]"]
    ((*job,),) = jobs_of(*alone)
    for overrides in (alone, job):
        prompt, documents = OverridesParser.create().parse_overrides(overrides)
        assert (prompt.value(), documents.value()) == (spelling, [spelling])


@pytest.mark.parametrize(
    ("value", "prompts"),
    [
        ("1e3,true,b,null", ["1e3", "true", "b", "null"]),
        ("choice(1e3,null)", ["1e3", "null"]),
        ("sort(1e3,20,true)", ["1e3", "20", "true"]),
        ("range(1,4,2)", ["1", "3"]),
        ("'1e3',\"a,b\"", ["1e3", "a,b"]),
        ("str(1.50)", ["1.50"]),
    ],
)
def test_values_of_a_sweep_keep_their_spelling(value: str, prompts: list[str]) -> None:
    jobs = [OverridesParser.create().parse_overrides(job) for job in jobs_of(f"sample.prompt={value}")]
    assert [str(prompt.value()) for (prompt,) in jobs] == prompts


def test_text_in_a_group_of_values_keeps_its_spelling_and_numbers_stay_numbers() -> None:
    config = composition("sample={prompt: 1.50, seed: 1, num_samples: 2}", "optim.lr=1e-3", "seed=1_000")
    assert (config.sample.prompt, config.sample.num_samples, config.optim.lr, config.seed) == ("1.50", 2, 0.001, 1000)
    assert composition("sample.prompt=${seed}").sample.prompt == "42"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("name: 1e3", "style.name=1000.0 is not allowed (in style/mine.yaml): style.name takes a string, but YAML "
                      "reads this value as a number; put it in quotes"),
        ("phrases: [a, true]", "style.phrases=true is not allowed (in style/mine.yaml): style.phrases takes a string, "
                               "but YAML reads this value as a boolean; put it in quotes"),
        ("# @package _global_\nhydra: {sweeper: {params: {seed: 1, sample.prompt: 1e3}}}",
         "sample.prompt=1000.0 is not allowed (in style/mine.yaml): sample.prompt takes a string, but YAML reads this "
         "value as a number; put it in quotes"),
        ("name: '1e3'", None),
        ("name: 2026-01-01", None),
    ],
)  # fmt: skip
def test_value_in_a_file_that_yaml_does_not_read_as_a_text_is_refused(
    tmp_path: Path, line: str, sentence: str | None
) -> None:
    (tmp_path / "style").mkdir()
    (tmp_path / "style" / "mine.yaml").write_text(line + "\n")
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_directory(), version_base="1.3"):
        try:
            config = compose("config", [f"hydra.searchpath=[file://{tmp_path}]", "style=mine"])
            said = None
            assert config.style.name in ("1e3", "2026-01-01")
        except Exception as error:
            said, code = explain(error)
            assert code == 2
    assert said == sentence
