"""scripts/repeat_figures.py: the parts of docs/performance.md, their results, and the page."""

import json
from pathlib import Path
from types import ModuleType

import pytest
from support.program import load_script

ROOT = Path(__file__).parents[2]
PAGE = "# Performance\n\nText.\n\n<!-- figures: begin -->\nold\n<!-- figures: end -->\n\nThe end.\n"
TABLE = "1 thing\\n| a | b |\\n|---|---|\\n| one | 0.50 |\\nnoise"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the script with two parts, whose programs append to the file `ran`: the second one fails."""
    script = load_script("repeat_figures")
    part, goal = script.Part, script.Goal
    for name, last in (("good", f"print('{TABLE}', sys.argv[1:])"), ("bad", "print('before'); raise SystemExit(3)")):
        (tmp_path / f"{name}.py").write_text(f"import sys; open('{tmp_path}/ran', 'a').write('{name} '); {last}")
    goals = (goal("at most 0.4", r"\| one \| ([\d.]+)", 0.4), goal("at least 1", r"^(\d) thing", 1, at_least=True))
    parts = (
        part("one", "First", "About it.", ("python good.py --peer a=path/to/a --x path/to/x",), goals, "thing|^\\|"),
        part("two", "Second", "About that.", ("python bad.py",), (goal("never", "(nothing)", 1),)),
    )
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "performance.md").write_text(PAGE)
    monkeypatch.setattr(script, "PARTS", parts)
    monkeypatch.setattr(script.os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    return script


def ran(folder: Path) -> list[str]:
    return (folder / "ran").read_text().split() if (folder / "ran").exists() else []


def test_replacements_are_inserted_and_an_optional_one_may_be_missing(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    command = 'python good.py --peer a="path/to/a 10" --peer b=path/to/b --x path/to/x'
    argv, lacks = script.argv_of(command, {"a": "/bin/a", "x": script.absolute("mine")})
    assert argv[1:] == [str(tmp_path / "good.py"), "--peer", "a=/bin/a 10", "--x", str(tmp_path / "mine")]
    assert lacks == []
    assert script.argv_of(command, {})[1] == ["x"]


def test_outputs_do_not_name_folders_of_this_machine(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROGPT_DATA_DIR", "/a/data/")
    values = {"a": "/a/data/program", "b": "program"}
    shown = script.without_paths("/a/data/names.txt, /a/data/program 10, program", values)
    assert shown == "$MICROGPT_DATA_DIR/names.txt, path/to/a 10, program"
    assert "/names.txt" not in (ROOT / "docs/performance.json").read_text().replace("$MICROGPT_DATA_DIR/names.txt", "")


def test_parts_are_measured_once_for_a_commit_and_the_page_is_written_from_them(
    script: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--with", "x=1"]) == 1
    assert "failed: python bad.py" in capfd.readouterr().err
    assert ran(tmp_path) == ["good", "bad"]
    kept = json.loads((tmp_path / "results/figures/one.json").read_text())
    assert kept["runs"][0]["output"].splitlines() == ["1 thing", "| a | b |", "|---|---|", "| one | 0.50 |"]
    page = (tmp_path / "results/figures/performance.md").read_text()
    assert page.startswith("# Performance\n\nText.\n")
    assert page.endswith("<!-- figures: end -->\n\nThe end.\n")
    assert "| First | at most 0.4 | 0.50 | **missed** |\n| First | at least 1 | 1 | met |" in page
    assert "| Second | never |  | not measured |" in page
    assert "```text\n1 thing\n```\n\n| a | b |" in page
    assert "`python bad.py` failed with exit code 3." in page
    assert "old" not in page
    assert (tmp_path / "docs/performance.md").read_text() == PAGE, "only --write changes it"

    assert script.main(["--only", "one", "--with", "x=1"]) == 0
    assert ran(tmp_path) == ["good", "bad"], "measured already"
    assert script.main(["--only", "one", "--fresh", "--write", "--with", "x=1"]) == 0
    assert ran(tmp_path) == ["good", "bad", "good"]
    assert (tmp_path / "docs/performance.md").read_text().count("<!-- figures: begin -->") == 1
    assert list(json.loads((tmp_path / "docs/performance.json").read_text())) == ["one", "two"]


def test_a_command_without_its_replacement_is_skipped_and_keeps_the_earlier_result(
    script: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--only", "one"]) == 0
    assert "it needs --with x=..." in capfd.readouterr().err
    assert ran(tmp_path) == []
    assert not (tmp_path / "results/figures/one.json").exists()


def test_the_list_measures_nothing_and_mistakes_are_one_sentence(
    script: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--list"]) == 0
    assert "python bad.py" in capfd.readouterr().out
    assert ran(tmp_path) == []
    for wrong, sentence in ((["--only", "three"], "'three' is not allowed"), (["--with", "x"], "must be NAME=VALUE")):
        with pytest.raises(SystemExit, match="2"):
            script.main(wrong)
        assert sentence in capfd.readouterr().err


def test_the_page_is_what_the_results_give_and_every_script_exists() -> None:
    script = load_script("repeat_figures")
    results = json.loads((ROOT / "docs/performance.json").read_text())
    page = (ROOT / "docs/performance.md").read_text()
    assert script.page_with(results, page) == page, "python scripts/repeat_figures.py --only none --write"
    for part in script.PARTS:
        for command in part.commands:
            program = script.argv_of(command, {})[0][1]
            assert program == "-m" or Path(program).is_file(), command


def test_goals_find_their_figures_in_what_the_commands_print() -> None:
    script = load_script("repeat_figures")
    results = json.loads((ROOT / "docs/performance.json").read_text())
    measured = [part for part in script.PARTS if part.name in results]
    assert {"native", "scalar"} <= {part.name for part in measured}
    for part in measured:
        for goal in part.goals:
            assert script.figure_of(goal, script.output_of(results[part.name])), f"{part.name}: {goal.about}"
