"""scripts/compare_versions.py: each kind of difference is found, and what differs between any two runs is ignored."""

import csv
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.program import ROOT, load_script

RUNS = {"before": "2026-01-01/10-00-00_aaaaaaaa", "after": "2026-02-02/23-59-59_bbbbbbbb"}
WEIGHTS = {"wte": np.linspace(1, 2, 6, dtype=np.float32).reshape(2, 3)}
HISTORY = [{"step": 0, "val_loss": 3.5}, {"step": 10, "loss": 2.5, "lr": 0.01}]
MARKDOWN = "# Report\n\n| variant | val_loss | steps_per_sec |\n| --- | --- | --- |\n| tied | {} | {} |\n"


@pytest.fixture
def script() -> ModuleType:
    return load_script("compare_versions")


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Two scratch folders with the same results, made at other times, in other places, at other rates."""
    made = {side: tmp_path / side / "case" for side in RUNS}
    for number, (side, folder) in enumerate(made.items()):
        run = folder / "outputs" / RUNS[side]
        checkpoint = run / "checkpoint" / "step_00000010"
        checkpoint.mkdir(parents=True)
        save_file(WEIGHTS, checkpoint / "weights.safetensors")
        write_json(checkpoint / "train_state.json", {"step": 10, "train_seconds": number})
        write_json(checkpoint / "checksums.json", {"train_state.json": str(number)})
        (run / "checkpoint" / "latest").symlink_to("step_00000010")
        (run / "history.jsonl").write_text("\n".join(map(json.dumps, HISTORY)))
        (run / "samples.txt").write_text("anna\nemma\n")
        record = {"run_id": RUNS[side], "started_at": side, "config_hash": "a", "metrics": {"steps_per_sec": number}}
        write_json(run / "run.json", {**record, "timings": {"train": number}, "git": {"commit": side}})
        (folder / "results").mkdir()
        write_table(folder, path=f"outputs/{RUNS[side]}", steps_per_sec=number)
        (folder / "results" / "ablation.md").write_text(MARKDOWN.format("2.0100", number))
        (folder / "results" / "report.html").write_text(side)
        (folder / "printed_1.txt").write_text(f"sample  1: anna\nrun: {folder}/outputs/{RUNS[side]}")
    return made


def write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document))


def write_table(folder: Path, **cells: Any) -> None:
    row = {"variant": "tied", "val_loss": 2.01, "config_hash": "a", **cells}
    with (folder / "results" / "runs.csv").open("w") as file:
        table = csv.DictWriter(file, row)
        table.writeheader()
        table.writerow(row)


def run_of(folder: Path) -> Path:
    (record,) = folder.glob("outputs/*/*/run.json")
    return record.parent


def compare(script: ModuleType, folders: dict[str, Path], *more: str) -> str:
    """Return the description of the differences."""
    differences, count = script.compare_folders(*folders.values(), {*script.IGNORED_KEYS, *more})
    assert count
    return "\n".join(script.describe(differences))


def test_times_paths_rates_and_versions_are_ignored(script: ModuleType, folders: dict[str, Path]) -> None:
    assert compare(script, folders) == ""


def test_an_altered_weight_is_found(script: ModuleType, folders: dict[str, Path]) -> None:
    (path,) = folders["after"].rglob("weights.safetensors")
    altered = WEIGHTS["wte"].copy()
    altered[1, 2] = np.nextafter(altered[1, 2], np.float32(0))
    save_file({"wte": altered}, path)
    said = compare(script, folders)
    assert "outputs/run1/checkpoint/step_00000010/weights.safetensors: 1 difference" in said
    assert "wte[1, 2] (1 elements differ): 2.0 -> 1.9999998807907104 (relative difference 6e-08)" in said


def test_another_type_or_shape_of_a_tensor_is_found(script: ModuleType, folders: dict[str, Path]) -> None:
    (path,) = folders["after"].rglob("weights.safetensors")
    save_file({"wte": WEIGHTS["wte"].astype(np.float64)}, path)
    assert "wte: float32 (2, 3) -> float64 (2, 3)" in compare(script, folders)


def test_nan_and_the_sign_of_zero_are_found() -> None:
    compare_values = load_script("result_files").compare_values
    for before, after, relative in ((0.0, -0.0, "0"), (1.0, float("nan"), "inf")):
        found = compare_values("x", np.array([before]), np.array([after]))
        assert f"(relative difference {relative})" in str(found)
        assert f"(relative difference {relative})" in str(compare_values("x", before, after))
    assert compare_values("x", np.array([np.nan]), np.array([np.nan])) is None


def test_an_altered_value_of_the_history_is_found_at_its_step(script: ModuleType, folders: dict[str, Path]) -> None:
    altered = [HISTORY[0], {**HISTORY[1], "loss": 2.5000001}]
    (run_of(folders["after"]) / "history.jsonl").write_text("\n".join(map(json.dumps, altered)))
    assert "[2] (step 10) loss: 2.5 -> 2.5000001 (relative difference 4e-08)" in compare(script, folders)


def test_a_missing_file_line_and_key_are_found(script: ModuleType, folders: dict[str, Path]) -> None:
    (path,) = folders["after"].rglob("train_state.json")
    path.unlink()
    run = run_of(folders["before"])
    (run / "history.jsonl").write_text(json.dumps(HISTORY[0]))
    write_json(run / "run.json", {**json.loads((run / "run.json").read_text()), "seed": 42})
    said = compare(script, folders)
    assert "step_00000010/train_state.json: 1 difference\n    file: present -> missing" in said
    assert "[2] (step 10) loss: absent -> 2.5" in said
    assert "seed: 42 -> absent" in said


def test_a_changed_sample_is_found(script: ModuleType, folders: dict[str, Path]) -> None:
    (run_of(folders["after"]) / "samples.txt").write_text("anna\nemmy\n")
    (folders["after"] / "printed_1.txt").write_text("sample  1: anne\n")
    said = compare(script, folders)
    assert "samples.txt: 1 difference\n    [2]: emma -> emmy" in said
    assert "[1]: sample  1: anna -> sample  1: anne" in said


def test_a_changed_cell_of_a_table_is_found(script: ModuleType, folders: dict[str, Path]) -> None:
    write_table(folders["after"], path=f"outputs/{RUNS['after']}", steps_per_sec=1, val_loss=2.02)
    (folders["after"] / "results" / "ablation.md").write_text(MARKDOWN.format("2.0200", 1))
    said = compare(script, folders)
    assert "runs.csv: 1 difference, largest relative difference 0.005\n    [1] val_loss: 2.01 -> 2.02" in said
    assert "[1] [2] val_loss: 2.0100 -> 2.0200" in said


def test_many_differences_are_summarised_with_the_largest(script: ModuleType, folders: dict[str, Path]) -> None:
    for number in range(9):
        for side, factor in (("before", 1.0), ("after", 1.5)):
            write_json(folders[side] / f"{number}.json", {"x": [1.0 * factor, 0.5 * factor, 0.25 * factor]})
    said = compare(script, folders)
    assert "0.json: 3 differences, largest relative difference 0.33\n    x [1]: 1.0 -> 1.5" in said
    assert said.endswith("4 more files differ, largest relative difference 0.33")


def test_another_order_of_columns_is_found(script: ModuleType, folders: dict[str, Path]) -> None:
    path = folders["after"] / "results" / "runs.csv"
    path.write_text("\n".join(",".join(reversed(line.split(","))) for line in path.read_text().splitlines()))
    assert "order of keys" in compare(script, folders)


def test_a_changed_config_hash_is_found_unless_it_may_change(script: ModuleType, folders: dict[str, Path]) -> None:
    run = run_of(folders["after"])
    write_json(run / "run.json", {**json.loads((run / "run.json").read_text()), "config_hash": "b"})
    assert "config_hash: a -> b" in compare(script, folders)
    assert compare(script, folders, "config_hash", "comparison") == ""


def test_a_case_whose_command_fails_or_leaves_nothing_fails(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    programs = {"before": "print('nothing that is compared')", "after": "raise SystemExit('a reason')"}
    for side, program in programs.items():
        (tmp_path / side / "microgpt").mkdir(parents=True)
        (tmp_path / side / "microgpt" / "__init__.py").touch()
        (tmp_path / side / "microgpt" / "__main__.py").write_text(program)
    versions = [
        script.Version(tmp_path / side, {**os.environ, "PYTHONPATH": str(tmp_path / side)}) for side in programs
    ]
    monkeypatch.setitem(script.CASES, "one", ["mode=scalar"])
    assert script.compare_versions(["one"], *versions, set()) == 1
    said = capsys.readouterr().out
    assert "failed before and after" in said
    assert "command 1 of one: the command left nothing to compare" in said
    assert "command 1 of one: exit code 1, not 0: a reason" in said
    assert "0 same, 0 different, 1 failed" in said


def test_list_names_all_cases_and_a_revision_is_needed(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--list"]) == 0
    assert set(script.CASES) <= set(capsys.readouterr().out.splitlines())
    with pytest.raises(SystemExit, match="2"):
        script.main([])
    assert script.main(["--before", "no-such-revision"]) == 2
    assert "no-such-revision" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the versions come from git")
def test_a_version_equals_itself(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    cases = ["scalar_bigram", "interrupted_scalar"]
    assert script.main(["--before", "HEAD", "--after", "HEAD", "--only", *cases]) == 0, capsys.readouterr().out
    assert "2 same, 0 different, 0 failed" in capsys.readouterr().out
