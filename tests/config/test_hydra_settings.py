"""Every Hydra key takes effect or is rejected with one sentence; a key of a new Hydra version fails here by name."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from support.application import microgpt
from support.program import ROOT, read_record

from microgpt.errors import UserError

PAGE = (ROOT / "docs" / "hydra.md").read_text()
QUICK = (
    "mode=scalar", "train.steps=0", "train.eval_documents=2", "sample.num_samples=0", "train.eval_every=null",
    "data=text", "data.path=names.txt", "style=classic",
)  # fmt: skip


@pytest.fixture(autouse=True)
def folder(text_folder: Path) -> Path:
    return text_folder


# Key or node -> the test that shows that it is honoured.
HONOURED = {
    "hydra.mode": "test_keys_of_hydra_are_honoured",
    "hydra.searchpath": "test_keys_of_hydra_are_honoured",
    "hydra.verbose": "test_keys_of_hydra_are_honoured",
    "hydra.hydra_logging": "test_keys_of_hydra_are_honoured",
    "hydra.job_logging": "test_keys_of_hydra_are_honoured",
    "hydra.job.name": "test_keys_of_hydra_are_honoured",
    "hydra.help": "test_keys_of_hydra_are_honoured",
    "hydra.hydra_help": "test_keys_of_hydra_are_honoured",
    "hydra.job.num": "test_keys_of_hydra_are_honoured",
    "hydra.job.id": "test_keys_of_hydra_are_honoured",
    "hydra.job.config": "test_keys_of_hydra_are_honoured",
    "hydra.run.dir": "test_hydra_run_dir_names_the_folder_which_is_resumed_or_refused",
    "hydra.sweep.dir": "test_a_sweep_s_folder_and_those_of_its_jobs_are_named_and_found_again",
    "hydra.sweep.subdir": "test_a_sweep_s_folder_and_those_of_its_jobs_are_named_and_found_again",
    "hydra.output_subdir": "test_output_subdir_renames_hydra_s_files_or_leaves_them_out",
    "hydra.sweeper": "test_experiment_ablation_is_a_sweep_without_m",
    "hydra.launcher": "test_callbacks_are_called_for_each_job_and_know_of_a_failed_one",
    "hydra.callbacks": "test_callbacks_are_called_for_each_job_and_know_of_a_failed_one",
    "hydra.job.env_set": "test_values_of_a_job_are_those_under_hydra_s_own_launcher",
    "hydra.job.env_copy": "test_values_of_a_job_are_those_under_hydra_s_own_launcher",
    "hydra.job.chdir": "test_with_chdir_the_working_directory_is_the_folder_and_paths_start_from_the_original_one",
    "hydra.env": "",  # an empty group, for installations of Hydra to fill
}
REFUSED = {
    "hydra.runtime.cwd": "hydra.runtime.cwd=x",
    "hydra.runtime": "hydra.runtime.output_dir=x",
    "hydra.overrides": "hydra.overrides.task=[x]",
    "hydra.job.override_dirname": "hydra.job.override_dirname=x",
    "hydra.job.config_name": "hydra.job.config_name=x",
}
REFUSED_IN_SWEEPS = {
    "hydra.job.num": ("hydra.job.num=3", "Hydra sets hydra.job.num itself"),
    "hydra.job.id": ("hydra.job.id=3", "Hydra sets hydra.job.id itself"),
    "hydra.job.chdir": ("hydra.job.chdir=true", "jobs of hydra/launcher=vectorized share a process"),
    "hydra.job_logging": ("hydra/job_logging=default", "jobs of hydra/launcher=vectorized share a process"),
}


WHOLE = ("sweeper", "launcher", "callbacks", "hydra_logging", "job_logging", "help", "hydra_help", "env", "config")


def keys(node: dict[str, Any], path: str) -> Iterator[str]:
    """Yield the keys of the hydra node, without the inner keys of plugins, logging and help."""
    for name, value in node.items():
        if isinstance(value, dict) and name not in (*WHOLE, "env_set", "choices"):
            yield from keys(value, f"{path}.{name}")
        else:
            yield f"{path}.{name}"


def test_every_key_of_hydra_is_honoured_or_refused() -> None:
    GlobalHydra.instance().clear()
    with initialize_config_module("microgpt.conf", version_base="1.3"):
        config = compose("config", [], return_hydra_config=True)
    stated, node = HONOURED.keys() | REFUSED.keys(), OmegaConf.to_container(config.hydra)
    assert isinstance(node, dict)
    found = set(keys({str(key): value for key, value in node.items()}, "hydra"))
    assert {"hydra.run.dir", "hydra.job.num", "hydra.runtime.output_dir", "hydra.sweeper"} <= found
    unknown = {key for key in found if not any(f"{key}.".startswith(f"{one}.") for one in stated)}
    assert unknown == set()


def test_each_of_them_is_in_the_table_of_the_page_and_has_a_test() -> None:
    table = PAGE[PAGE.index("## Hydra's own keys") :]
    assert {key for key in HONOURED | REFUSED if f"`{key}`" not in table} == {"hydra.runtime.cwd"}
    text = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    assert {test for test in HONOURED.values() if test and f"def {test}(" not in text} == set()
    assert set(re.findall(r"`(hydra\.[a-z_.]+)`", table)) <= HONOURED.keys() | REFUSED.keys()


@pytest.mark.parametrize("override", REFUSED.values())
def test_a_key_that_hydra_sets_itself_is_refused(folder: Path, override: str) -> None:
    for flags in ([], ["-m", "seed=1,2"]):
        with pytest.raises(UserError, match=r"is not allowed: Hydra sets hydra\.[a-z_.]+ itself"):
            microgpt(*flags, *QUICK, override)
    assert [path.name for path in folder.iterdir()] == ["names.txt"]


@pytest.mark.parametrize(("override", "why"), REFUSED_IN_SWEEPS.values())
def test_a_key_that_jobs_cannot_have_together_is_refused(folder: Path, override: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        microgpt("-m", "seed=1,2", *QUICK, override)
    assert [path.name for path in folder.iterdir()] == ["names.txt"]


@pytest.mark.slow
def test_keys_of_hydra_are_honoured(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine" / "style").mkdir(parents=True)
    (folder / "mine" / "style" / "own.yaml").write_text("documents: [ab]\nshare: 0.1\n")
    style = f"hydra.searchpath=[file://{folder}/mine]", "style=own"
    logging_keys = "hydra/job_logging=default", "hydra.job.name=mine", "hydra.verbose=[microgpt.test]"
    names = "hydra.job.num=4", "hydra.job.id=fe", "hydra.job.config.override_dirname.exclude_keys=[mode]"
    values = "sample.num_samples=1", "sample.seed=${hydra:job.num}", "sample.prompt=${hydra:job.id}"
    microgpt(*QUICK, *style, *logging_keys, *names, "hydra.run.dir=X", "hydra/hydra_logging=disabled", *values)
    config = read_record(folder / "X")["config"]
    assert (config["style"]["name"], config["sample"]["seed"], config["sample"]["prompt"]) == ("own", 4, "fe")
    hydra: Any = OmegaConf.load(folder / "X" / ".hydra" / "hydra.yaml")
    assert "mode=" not in OmegaConf.to_container(hydra)["hydra"]["job"]["override_dirname"]  # type: ignore[index]
    assert (folder / "X" / "mine.log").is_file()
    assert logging.getLogger("microgpt.test").level == logging.DEBUG
    microgpt("hydra.mode=MULTIRUN", *QUICK, "hydra.sweep.dir=S")
    assert (folder / "S" / "0" / "run.json").is_file()
    for flag, key in (("--help", "hydra.help.header=greeting"), ("--hydra-help", "hydra.hydra_help.template=greeting")):
        with pytest.raises(SystemExit):
            microgpt(flag, key)
        assert "greeting" in capsys.readouterr().out
