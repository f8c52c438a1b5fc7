"""hydra/sweeper=optuna with the real plugin: proposals, trials side by side, failed trials, and continued studies."""

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.program import read_record
from support.sweep_runs import SMALL, names

from microgpt.app import execute, finish
from microgpt.errors import UserError
from microgpt.sweeps.lifecycle import new_sweep

pytestmark = pytest.mark.slow
pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
optuna = pytest.importorskip("optuna")
needs_storage = pytest.mark.skipif(
    not metadata.version("sqlalchemy").startswith("1."), reason="Optuna 2 stores studies with SQLAlchemy 1.4 alone"
)
COMMAND = (
    "-m", "hydra/sweeper=optuna", *SMALL, "model.n_head=2", "data=text", "data.path=names.txt", "sample.num_samples=0",
    "hydra.sweeper.sampler.seed=1", "hydra.sweeper.sampler.n_startup_trials=3", "hydra.sweeper.n_trials=8",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    names(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sweep(*arguments: str) -> int:
    with new_sweep() as current:
        execute([*COMMAND, *arguments])
        return finish(current)


def folder_name(folder: Path) -> str:
    (found,) = (folder / "outputs" / "sweeps").iterdir()
    return found.name


def trials(folder: Path) -> dict[int, dict[str, Any]]:
    records = [read_record(path.parent) for path in folder.glob("outputs/sweeps/*/*/run.json")]
    return dict(sorted((record["trial"], record) for record in records))


def test_trials_train_side_by_side_and_failing_ones_do_not_end_the_study(folder: Path) -> None:
    """Three options, a log interval, and two kinds of failure: 9 is not a multiple of n_head, and sgd diverges."""
    code = sweep("optim=choice(adam,sgd)", "optim.lr=tag(log, interval(1e-3, 1e30))", "model.n_embd=choice(8,9)")
    found = trials(folder)
    assert list(found) == list(range(8))
    assert {record["run_id"].split("/")[-1] for record in found.values()} == set("01234567")
    configs = {number: record["config"] for number, record in found.items()}
    assert {config["optim"]["name"] for config in configs.values()} == {"adam", "sgd"}
    assert {configs[number]["model"]["n_embd"] for number in found if found[number]["status"] == "completed"} == {8}
    assert {record["status"] for record in found.values()} == {"completed", "failed"}
    errors = " ".join(record["error"] or "" for record in found.values())
    assert "it must be a multiple of model.n_head=2" in errors
    assert "the loss of step" in errors
    assert max(record["group"] or 0 for record in found.values()) > 1
    assert code in (1, 2)
    losses = [record["metrics"]["val_loss"] for record in found.values() if record["status"] == "completed"]
    (results,) = folder.glob("outputs/sweeps/*/optimization_results.yaml")
    assert yaml.safe_load(results.read_text())["best_value"] == min(losses)
    rows = (folder / "results" / "runs_style-classic.jsonl").read_text().splitlines()
    assert sorted(json.loads(row)["trial"] for row in rows) == list(found)


def test_a_study_in_which_every_trial_fails_ends_with_its_tables(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("model.n_embd=choice(7,9)", "hydra.sweeper.n_trials=2") == 2
    assert [record["status"] for record in trials(folder).values()] == ["failed"] * 2
    assert "no trial was completed" in capsys.readouterr().out


@needs_storage
def test_the_same_command_continues_a_stored_study(folder: Path) -> None:
    command = "optim.lr=tag(log, interval(1e-3, 1e-1))", "hydra.sweeper.storage=sqlite:///study.db"
    for count in (3, 2):
        assert sweep(*command, f"hydra.sweeper.n_trials={count}") == 0
    assert list(trials(folder)) == list(range(5))
    assert {record["status"] for record in trials(folder).values()} == {"completed"}
    left = optuna.load_study(study_name=folder_name(folder), storage="sqlite:///study.db").ask()
    left._suggest("optim.lr", optuna.distributions.LogUniformDistribution(1e-3, 1e-1))  # by a command that was killed
    assert sweep(*command, "hydra.sweeper.n_trials=1") == 0
    assert trials(folder)[6]["config"]["optim"]["lr"] == left.params["optim.lr"]
    with pytest.raises(UserError, match="would continue the study"):
        sweep(*command, "sweep.fresh=true")


@pytest.mark.skipif(metadata.version("sqlalchemy").startswith("1."), reason="needs an SQLAlchemy that is too new")
def test_a_study_is_not_stored_with_a_library_that_cannot(folder: Path) -> None:
    with pytest.raises(UserError, match="needs SQLAlchemy"):
        sweep("seed=1,2", "hydra.sweeper.storage=sqlite:///study.db")
