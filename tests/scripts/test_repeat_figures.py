"""scripts/repeat_figures.py: the commands of docs/performance.md and docs/log.md."""

from pathlib import Path
from types import ModuleType

import pytest
from support.program import load_script

ROOT = Path(__file__).parents[2]
PERFORMANCE = """
Text.

    python {good} --reference path/to/ref.py
    python {good} --peer d16=path/to/one --peer d64="path/to/two 100"
    python {bad}
"""


LOG = """
Text, and a command that the other page has too:

    python {good} --reference path/to/ref.py

    python {good} --here
    no command
    python -m this
"""


@pytest.fixture
def script() -> ModuleType:
    return load_script("repeat_figures")


@pytest.fixture
def stage(tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write pages with two programs: one prints its arguments, the other fails."""
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text("import sys; print('said', sys.argv[1:]); open('left', 'w')")
    bad.write_text("print('before the failure'); raise SystemExit(3)")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "performance.md").write_text(PERFORMANCE.format(good="good.py", bad="bad.py"))
    (tmp_path / "docs" / "log.md").write_text(LOG.format(good="good.py"))
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def logs(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("results/figures_*/*.log")}


def test_replacements_are_inserted_and_a_failure_is_reported(
    stage: Path, script: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--with", "ref.py=/a/ref.py", "--with", "two=/bin/two"]) == 1
    shown = capfd.readouterr().out
    assert "said ['--reference', '/a/ref.py']" in shown
    assert "said ['--peer', 'd64=/bin/two 100']" in shown  # the peer that was not given is left out
    assert "1 of the commands failed" in shown
    found = logs(stage)
    assert sorted(found) == ["01_good.log", "02_good.log", "03_bad.log", "04_good.log", "05_this.log"]
    assert "Beautiful is better than ugly" in found["05_this.log"]
    assert len(list(stage.rglob("left"))) == 1  # in the folder that they share
    assert not (stage / "left").exists()
    assert "before the failure" in found["03_bad.log"]
    assert "exit code 3" in found["03_bad.log"]


def test_a_command_without_its_replacement_is_skipped_with_a_message(
    stage: Path, script: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--only=--reference"]) == 0
    assert "it lacks --with ref.py=..." in capfd.readouterr().out
    assert logs(stage) == {}


def test_a_replacement_may_be_a_relative_path(
    stage: Path, script: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    (stage / "mine.py").touch()
    assert script.main(["--only=--reference", "--with", "ref.py=mine.py"]) == 0
    assert f"said ['--reference', '{stage / 'mine.py'}']" in capfd.readouterr().out


def test_a_dry_run_runs_and_writes_nothing(stage: Path, script: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--dry-run", "--with", "ref.py=x"]) == 0
    shown = capfd.readouterr().out
    assert "bad.py" in shown
    assert "said" not in shown
    assert not (stage / "results").exists()


def test_mistakes_are_one_sentence(stage: Path, script: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--only", "nothing like it"]) == 2
    with pytest.raises(SystemExit, match="2"):
        script.main(["--with", "ref.py"])
    assert "it is NAME=VALUE" in capfd.readouterr().err


def test_every_command_is_found_and_names_a_script_that_exists(script: ModuleType) -> None:
    found = script.figures([(ROOT / "docs" / name).read_text() for name in script.PAGES], {})
    scripts = {Path(each.argv[1]) for each in found if each.argv[1] != "-m"}
    assert all(script.is_file() for script in scripts)
    assert {script.name for script in scripts} >= {
        "benchmark_scalar.py", "benchmark_native.py", "benchmark_sweep.py", "benchmark_torch_replicas.py",
        "benchmark_serve.py", "benchmark_karpathy.py",
    }  # fmt: skip
    assert {each.argv[2] for each in found if each.argv[1] == "-m"} == {"microgpt"}
    assert not [each.shown for each in found if "..." in each.shown]
