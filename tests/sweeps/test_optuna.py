"""hydra/sweeper=optuna with the real plugin: proposals, trials side by side, failed trials, and continued studies."""

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.errors import HydraException
from support.program import read_record
from support.sweep_runs import SMALL, names

from microgpt.app import config_directory, execute, finish
from microgpt.config.hydra_errors import explain
from microgpt.config.hydra_optuna import Proposals, new_optuna_sweeper
from microgpt.errors import UserError
from microgpt.sweeps.folder import SweepFolder
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
    """A trial that a killed process has left keeps its number and its values."""
    command = "optim.lr=tag(log, interval(1e-3, 1e-1))", "hydra.sweeper.storage=sqlite:///study.db"
    for count in (3, 2):
        assert sweep(*command, f"hydra.sweeper.n_trials={count}") == 0
    assert list(trials(folder)) == list(range(5))
    left = optuna.load_study(study_name=folder_name(folder), storage="sqlite:///study.db").ask()
    left._suggest("optim.lr", optuna.distributions.LogUniformDistribution(1e-3, 1e-1))
    (folder / "outputs" / "sweeps" / folder_name(folder) / ".locks" / "trial_5.lock").touch()
    assert sweep(*command, "hydra.sweeper.n_trials=1") == 0
    found = trials(folder)
    assert {number: record["run_id"].split("/")[-1] for number, record in found.items()} == {
        n: str(n) for n in range(6)
    }
    assert {record["status"] for record in found.values()} == {"completed"}
    rates = [record["config"]["optim"]["lr"] for record in found.values()]
    assert rates[5] == left.params["optim.lr"]
    assert len(set(rates)) == 6
    for argument, message in (
        ("sweep.fresh=true", "would continue the study"),
        ("hydra.sweeper.direction=maximize", "the study .* has minimize"),
        ("optim.lr=choice(0.1,0.2)", "optim.lr cannot have other choices in the study"),
    ):
        with pytest.raises(UserError, match=message):
            sweep(*command, f"hydra.sweeper.study_name={folder_name(folder)}", argument)


@needs_storage
def test_two_processes_add_their_trials_to_one_study(folder: Path) -> None:
    quick = (
        "model.n_embd=8",
        "train.steps=1",
        "train.eval_documents=2",
        "hydra.sweeper.n_trials=3",
        "hydra.sweeper.n_jobs=1",
    )
    scalar = [one for one in COMMAND if not one.startswith(("mode", "backend"))]
    command = *scalar, *quick, "optim.lr=interval(0.001,0.1)", "hydra.sweeper.storage=sqlite:///study.db"
    both = [subprocess.Popen([sys.executable, "-m", "microgpt", *command]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    found = trials(folder)
    assert list(found) == list(range(6))
    assert len({record["config"]["optim"]["lr"] for record in found.values()}) == 6
    assert len((folder / "results" / "runs_style-classic.jsonl").read_text().splitlines()) == 6
    study = optuna.load_study(study_name=folder_name(folder), storage="sqlite:///study.db")
    assert {trial.state.name for trial in study.trials} == {"COMPLETE"}


def proposals(folder: Path, storage: Any, **options: Any) -> Proposals:
    """Return what one process proposes to the study in `storage`."""
    defaults = yaml.safe_load((Path(config_directory()) / "hydra" / "sweeper" / "optuna.yaml").read_text())
    known = {key: value for key, value in defaults.items() if key != "defaults" and not key.startswith("_")}
    sampler = {"_target_": "optuna.samplers.TPESampler", "seed": 7}
    plugin = new_optuna_sweeper(known | {"sampler": sampler, "study_name": "q"} | options)
    plugin.storage = storage
    return Proposals(plugin, ["optim.lr=interval(0.0,1.0)", "train.steps=1"], SweepFolder(folder), lambda key: None)


def proposed(process: Proposals, count: int) -> dict[int, str]:
    asked, overrides = process.propose(count)
    return {trial.number: own[0] for trial, own in zip(asked, overrides, strict=True)}


def test_only_trials_of_a_stopped_process_are_continued(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = optuna.storages.InMemoryStorage()
    first, second = proposals(folder, storage), proposals(folder, storage)
    begun = proposed(first, 3)
    assert list(proposed(second, 1)) == [3]
    assert list(begun) == [0, 1, 2]
    stale = first.running()
    first.tell(optuna.trial.Trial(first.study, 0), 1.0)
    first.release()  # as if the process had been killed
    answers = iter([stale])
    current = second.running
    monkeypatch.setattr(second, "running", lambda: next(answers, None) or current())  # read before trial 0 ended
    continued = proposed(second, 3)
    assert list(continued) == [1, 2, 4]
    assert {number: continued[number] for number in (1, 2)} == {number: begun[number] for number in (1, 2)}
    elsewhere = proposals(folder / "another", storage)
    second.release()
    assert list(proposed(elsewhere, 1)) == [5]


def test_commands_that_add_trials_to_a_study_propose_other_values(folder: Path) -> None:
    """But the same ones if they are repeated from the same study, and with an unstored study."""

    def command(storage: Any) -> list[str]:
        process = proposals(folder, storage)
        asked, overrides = process.propose(2)
        for trial in asked:
            process.tell(trial, 1.0)
        return [own[0] for own in overrides]

    studies = [optuna.storages.InMemoryStorage() for _ in range(2)]
    values = [[command(study) for _ in range(3)] for study in studies]
    assert values[0] == values[1]
    assert len({value for one in values[0] for value in one}) == 6
    assert command(None) == command(None) == values[0][0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["hydra/sweeper/sampler=foo"], "hydra/sweeper/sampler=foo is not an option: .* must be one of cmaes, .*, tpe"),
        (["~hydra/sweeper/sampler"], "hydra.sweeper.sampler=null is not allowed: it must be an option of"),
        (["hydra.sweeper.sampler.seed=-1"], "hydra.sweeper.sampler.seed=-1 is not allowed: it must be an integer from"),
        (["hydra.sweeper.direction=foo"], "hydra.sweeper.direction=foo is not allowed: it must be minimize or"),
        (["hydra.sweeper.n_jobs=0"], "hydra.sweeper.n_jobs=0 is not allowed: it must be an integer of at least 1"),
        (["optim.lr=interval(0.1,0.01)"], r"optim.lr=interval\(0.1,0.01\) is not allowed: the low value must be"),
        (["model=glob(*)"], r"model=glob\(\*\) is not allowed: hydra/sweeper=optuna takes lists, ranges, choices and"),
        (["nope=interval(1,2)"], "nope is not a key: the configuration has "),
        (["optim.lr=interval(0,1)", "hydra/sweeper/sampler=grid"], "optim.lr=.*sampler=grid takes lists"),
        pytest.param(
            ["hydra.sweeper.storage=foo"], "hydra.sweeper.storage=foo cannot be used: could not parse",
            marks=needs_storage,
        ),
        pytest.param(
            ["hydra.sweeper.storage=sqlite:////nope/x.db"], "hydra.sweeper.storage=.* cannot be used: unable to open",
            marks=needs_storage,
        ),
    ],
    ids=lambda part: part[-1] if isinstance(part, list) else "",
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_leaves_no_files(
    folder: Path, arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = [one for one in COMMAND if not any(two.startswith(f"{one.partition('=')[0]}=") for two in arguments)]
    if "hydra/sweeper/sampler" in "".join(arguments):
        own = [one for one in own if "sampler" not in one]
    monkeypatch.setattr(sys, "argv", ["microgpt", *own, *arguments])
    with new_sweep(), pytest.raises((UserError, HydraException)) as raised:
        execute(sys.argv[1:])
    found, code = explain(raised.value)
    assert code == 2
    assert re.match(sentence, found or "")
    assert [path.name for path in folder.iterdir()] == ["names.txt"]


@pytest.mark.skipif(metadata.version("sqlalchemy").startswith("1."), reason="needs an SQLAlchemy that is too new")
def test_a_study_is_not_stored_with_a_library_that_cannot(folder: Path) -> None:
    with pytest.raises(UserError, match="needs SQLAlchemy"):
        sweep("seed=1,2", "hydra.sweeper.storage=sqlite:///study.db")
