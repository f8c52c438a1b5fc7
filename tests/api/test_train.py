"""`train` and `sweep` behave like the program: the same files, errors and bits, and no state is left behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any, cast

import pytest
from api.conftest import SMALL, quietly
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobRuntime
from support.program import ROOT, Program, environment, read_record, results_of, wait_for
from support.sweep_runs import written_by

import microgpt
from microgpt.api.documents import encoded
from microgpt.errors import MicrogptError, NonFiniteError

OVERRIDES = [f"{key}={value}" for key, value in SMALL.items()]
SWEPT = ["seed=range(2)", "optim.lr=0.01,0.005"]


def test_importing_the_package_imports_nothing_else() -> None:
    check = """
import inspect
import sys
before = set(sys.modules)
import microgpt
assert set(microgpt.__all__) <= set(dir(microgpt))
ours = {name for name in set(sys.modules) - before if name.partition(".")[0] not in sys.stdlib_module_names}
assert ours == {"microgpt"}, ours
microgpt.train, microgpt.Run
heavy = {"torch", "numba", "pandas", "scipy", "matplotlib", "hydra"} & set(sys.modules)
assert not heavy, heavy
import microgpt.runs.record
assert callable(microgpt.runs)
assert list(inspect.signature(microgpt.runs).parameters) == ["folder"]
assert inspect.getdoc(microgpt.runs).startswith('microgpt.runs(folder="outputs") returns one row per run')
"""
    subprocess.run([sys.executable, "-c", check], check=True)


@pytest.mark.slow
def test_calls_leave_nothing_behind(tmp_path: Path, run: microgpt.Run) -> None:
    """An error does not affect the next call, the calling application keeps its Hydra state, and results are equal."""
    (tmp_path / "config.yaml").write_text("x: 1\n")
    ConfigStore.instance().store(name="schema", node={"y": 2})
    arguments = list(sys.argv)
    with initialize_config_dir(str(tmp_path), version_base=None), quietly(tmp_path):
        around, name = GlobalHydra.instance().hydra, JobRuntime.instance().get("name")
        with pytest.raises(microgpt.UserError, match=r"^optim.lr=-1.0 is not allowed: optim.lr must be") as negative:
            microgpt.train(SMALL, {"optim.lr": -1})
        assert negative.value.__cause__ is None
        assert len(traceback.extract_tb(negative.value.__traceback__)) < 6
        with pytest.raises(microgpt.UserError, match=r"^data=\[judy\] is not allowed: data takes the name"):
            microgpt.train("data=[judy]")
        with pytest.raises(microgpt.UserError, match=r"^modee is not a key"):
            microgpt.train("modee=tensor")
        with pytest.raises(microgpt.UserError, match=r"^train.steps=x is not allowed"):
            microgpt.sweep(SMALL, {"train.steps": "x", "seed": range(2)})
        with pytest.raises(microgpt.UserError, match=r"^2 of 2 jobs cannot .* no job was started: .*=x is") as mistakes:
            microgpt.sweep(SMALL, {"train.steps": ["x", "y"]})
        assert mistakes.value.__notes__ == ["train.steps=y is not allowed: train.steps must be an integer"]
        with pytest.raises(microgpt.UserError, match=r"^experiment=ablation starts a sweep, .* use microgpt\.sweep"):
            microgpt.train(SMALL, "experiment=ablation")
        assert not (tmp_path / "outputs").exists()
        again = microgpt.train(SMALL)
        assert GlobalHydra.instance().hydra is around
        assert JobRuntime.instance().get("name") == name
    assert sys.argv == arguments
    del ConfigStore.instance().repo["schema.yaml"]
    assert results_of(again.folder, 30) == results_of(run.folder, 30)
    assert again.record.overrides == OVERRIDES
    assert again.record.command == f"python -m microgpt {' '.join(OVERRIDES)}"


def test_own_documents_are_kept_in_a_file_for_the_next_call(tmp_path: Path) -> None:
    documents = [f"{a}{b}" for a in "abcde" for b in "uvwxyz"]
    with quietly(tmp_path):
        one = microgpt.train(SMALL, {"train.steps": 2}, documents=iter(documents))
        again = microgpt.train(*one.record.overrides)
        assert again.metrics.val_loss == one.metrics.val_loss == pytest.approx(one.model.loss(one.validation_documents))
        assert set(one.validation_documents) < set(documents)
        (file,) = (tmp_path / "outputs" / "documents").iterdir()
        assert file.stem == str(read_record(one.folder)["data"]["sha256"])[:16]
        file.write_text("changed\n")
        with pytest.raises(microgpt.UserError, match="has changed since the run"):
            print(again.validation_documents)
    for given, key, sentence in (
        (documents, "data=names", "data=names is not allowed: the argument documents is the data"),
        (["one", "two\n"], "seed=1", r"documents\[1\] has a line break"),
        (["one", 2], "seed=1", r"documents\[1\] must be a string, not int"),
        ("one", "seed=1", "documents must be a list of strings or of conversations, not str"),
        ([" "], "seed=1", "documents is empty"),
        (["one"], f"outputs_dir={tmp_path}/new", "^documents is too small to split: 1 distinct document"),
    ):
        with pytest.raises(microgpt.UserError, match=sentence), quietly(tmp_path):
            microgpt.train(SMALL, key, documents=cast(Any, given))
    assert not (tmp_path / "new").exists()


def test_own_conversations_are_data_for_chat() -> None:
    turns = [{"role": "user", "content": "hé"}, {"role": "assistant", "content": "\n"}]
    name, content = encoded([turns, turns])
    assert name == "chat"
    assert [json.loads(line) for line in content.splitlines()] == [turns, turns]


@pytest.mark.slow
def test_a_run_that_fails_raises_its_error_and_is_recorded(tmp_path: Path) -> None:
    with quietly(tmp_path), pytest.raises(NonFiniteError, match=r"the loss of step \d is "):
        microgpt.train(SMALL, {"optim.lr": 1e30})
    assert [one.record.status for one in microgpt.Runs(tmp_path / "outputs")] == ["failed"]


@pytest.mark.slow
def test_runs_and_sweeps_are_those_of_the_command_line(tmp_path: Path, run: microgpt.Run) -> None:
    program, theirs = Program(tmp_path), tmp_path / "theirs"
    program(*OVERRIDES)
    assert results_of(program.only_run(), 30) == results_of(run.folder, 30)
    shutil.rmtree(tmp_path / "outputs")
    program("-m", *OVERRIDES, *SWEPT)
    theirs.mkdir()
    for name in ("outputs", "results"):
        (tmp_path / name).rename(theirs / name)
    values = {"seed": range(2), "optim.lr": [0.01, 0.005]}
    with quietly(tmp_path):
        runs = microgpt.sweep(SMALL, values)
        (sweep,) = runs.folders
        written = [path.stat().st_mtime_ns for path in sorted(sweep.rglob("run.json"))]
        assert [one.folder for one in microgpt.sweep(SMALL, values)] == [one.folder for one in runs]
        assert [path.stat().st_mtime_ns for path in sorted(sweep.rglob("run.json"))] == written
    for name in (sweep.relative_to(tmp_path), "results"):
        assert {path.name for path in (tmp_path / name).iterdir()} == {path.name for path in (theirs / name).iterdir()}
    for one in runs:
        assert written_by(one.folder) == written_by(theirs / one.folder.relative_to(tmp_path))
    assert runs.compare("optim.lr")["seeds"].tolist() == [2]
    assert "optim.lr=0.005" in runs.report(tmp_path / "pages" / "report.html").read_text()
    with pytest.raises(microgpt.UserError, match="cannot be written"):
        runs.report("/proc/none/report.html")
    with quietly(tmp_path):
        some = microgpt.sweep(SMALL, {"optim.lr": [0.01, 1e30]})
        assert [one.record.status for one in some.not_completed] == ["failed"]
        with pytest.raises(MicrogptError, match=r"the loss of step \d is"):
            microgpt.sweep(SMALL, {"optim.lr": [1e29, 1e30]})


@pytest.mark.slow
def test_an_interrupted_call_is_finished_by_the_same_call(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import microgpt\n"
        "steps = {'steps': 60000, 'eval_every': None, 'eval_documents': 20, 'checkpoint_every': 1000}\n"
        "run = microgpt.train('mode=tensor', 'backend=native', 'style=classic', {'train': steps})\n"
        "print(run.metrics.steps, len(run.record.resumed))\n"
    )
    process = subprocess.Popen(
        [sys.executable, script],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(tmp_path, "outputs/*/*/checkpoint/step_00001000", seconds=60)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert "interrupted: the last checkpoint is in" in printed
    assert "KeyboardInterrupt" in errors or "Interrupted" in errors
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "60000 1", done.stderr


# What the client does not import itself is not checked, which takes a minute.
MYPY = """[mypy]
strict = true
[mypy-numpy.*,pandas.*,hydra.*,omegaconf.*,torch.*,rich.*,scipy.*,matplotlib.*,numba.*,jinja2.*,safetensors.*]
follow_imports = skip
"""


@pytest.mark.slow
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_type_checkers_accept_a_client(checker: str, tmp_path: Path) -> None:
    pytest.importorskip(checker)
    (tmp_path / "mypy.ini").write_text(MYPY)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    client = shutil.copy(ROOT / "tests" / "api" / "client.py", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", checker, client], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "MYPYPATH": str(ROOT), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
