"""Starting the program is fast: --help, --cfg and the scalar mode load no heavy libraries."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.program import HEAVY, SPY, Program

from microgpt.config.choices import SCHEDULES
from microgpt.engines.optimizer import OPTIMIZERS


@pytest.mark.parametrize(
    "arguments",
    [
        ["mode=scalar", "experiment=debug", "train.steps=2", "sample.num_samples=1"],
        ["--help"],
        ["--cfg", "job"],
    ],
    ids=" ".join,
)
def test_no_heavy_library_is_loaded(tmp_path: Path, arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", SPY, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].rstrip() == "loaded:", done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("flag", ["--help", "--cfg=job"])
def test_commands_that_only_compose_start_without_numpy(tmp_path: Path, flag: str) -> None:
    """Importing numpy would add a quarter to the time of --help."""
    spy = SPY.replace(f"{HEAVY}", '("numpy",)')
    done = subprocess.run([sys.executable, "-c", spy, *flag.split("=")], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].rstrip() == "loaded:", done.stderr


def test_importing_the_application_registers_nothing_and_writes_nothing(tmp_path: Path) -> None:
    check = """
import sys
import microgpt.app, microgpt.sweeps.lifecycle, microgpt.tasks
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
assert "schema.yaml" not in ConfigStore.instance().repo
assert "__deepcopy__" not in vars(ConfigStore)
assert "hydra_plugins.microgpt" not in sys.modules
assert not OmegaConf.has_resolver("sweep_id")
"""
    subprocess.run([sys.executable, "-c", check], cwd=tmp_path, check=True)
    assert not list(tmp_path.iterdir())


def test_help_lists_groups_options_and_keys(microgpt: Program) -> None:
    stdout = microgpt("--help", "notes='$5'").stdout
    assert "notes: $5" in stdout, "Hydra would read a variable"
    for line in (
        "task: benchmark, chat, explain, export, info, sample, serve, train",
        "mode: scalar, tensor",
        "backend: auto, native, python, torch",
        "data: alice, chat, makemore, names, text",
        "style: classic, futuristic",
        f"optim: {', '.join(sorted(OPTIMIZERS))}",
        f"schedule: {', '.join(sorted(SCHEDULES))}",
    ):
        assert line in stdout.splitlines()
    assert "python -m microgpt experiment=ablation" in stdout
    assert "  block_size: 16                # context length in tokens" in stdout.splitlines()
    assert not microgpt.files()


def test_cfg_job_shows_the_configuration_and_runs_nothing(microgpt: Program) -> None:
    lines = microgpt("--cfg", "job", "train.steps=7").stdout.splitlines()
    groups = {line.rstrip(":") for line in lines if line.endswith(":") and not line.startswith(" ")}
    assert groups >= {"task", "mode", "backend", "model", "style", "data", "optim", "schedule", "train", "sample"}
    assert "  steps: 7" in lines
    assert not microgpt.files()
