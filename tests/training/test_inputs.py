"""Inputs of runs: which checkpoints a new leg may continue, with which optimizer and on which data."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.program import Program, make_program

from microgpt.engines.optimizer import OPTIMIZERS
from microgpt.reports.provenance import leg_warnings
from microgpt.reports.records import read_rows
from microgpt.training.run_inputs import share_moments


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_continues_its_own_moments(name: str) -> None:
    assert share_moments(name, name)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("adam", "adamw", True), ("adam", "sgd", False), ("adamw", "sgd", False), ("of_a_later_version", "adam", False)],
)
def test_optimizers_that_differ_by_weight_decay_alone_share_moments(one: str, other: str, expected: bool) -> None:
    assert share_moments(one, other) == share_moments(other, one) == expected


# Data of a new leg

BASE = (
    "mode=scalar", "style=classic", "data=text", "model.n_embd=4", "model.n_head=1", "model.block_size=8",
    "train.steps=2", "sample.num_samples=0",
)  # fmt: skip
TEXT = "".join(f"{a}{b}{a}\n" for a in "abcdefgh" for b in "abcdefgh")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Program, Path]]:
    """A run on 64 documents, and its checkpoint's run folder."""
    for program in make_program(tmp_path_factory.mktemp("legs")):
        (program.folder / "text.txt").write_text(TEXT)
        (program.folder / "more.txt").write_text(TEXT + "hah\nheh\n")
        program(*BASE, "data.path=text.txt")
        yield program, program.only_run()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("data.path=more.txt", "SHA-256 was "),
        ("data.split_seed=1", "data.split_seed was 0, now 1"),
        ("data.val_fraction=0.3", "data.val_fraction was 0.1, now 0.3"),
        ("data.format=stream", "data.format was lines, now stream"),
    ],
)
def test_a_leg_on_other_data_is_refused_unless_it_is_allowed(
    trained: tuple[Program, Path], tmp_path: Path, override: str, difference: str
) -> None:
    """Validation documents may be among those that the checkpoint was trained on."""
    program, run = trained
    if override == "data.format=stream":  # which has the line end too: the characters must fit
        text = TEXT.replace("\n", "")
        (program.folder / "text.txt").write_text(text)
    leg = (*BASE, "data.path=text.txt", override, f"train.resume={run}", f"outputs_dir={tmp_path}")
    refused = program(*leg, expect=2)
    (line,) = refused.stderr.splitlines()
    assert difference in line
    assert "set train.resume_on_other_data=true to continue anyway" in line
    assert list(tmp_path.iterdir()) == []

    done = program(*leg, "train.resume_on_other_data=true")
    (warning,) = [line for line in done.stdout.splitlines() if line.startswith("warning: the data differ from the ")]
    assert difference in warning
    (record,) = [json.loads(file.read_text()) for file in tmp_path.glob("*/*/run.json")]
    assert any(difference in one for one in record["leg"]["other_data"])
    (row,) = read_rows([tmp_path]).rows
    assert difference in str(row.leg_other_data)
    assert len(leg_warnings([row])) == 1


@pytest.mark.slow
def test_a_leg_on_the_same_data_needs_no_permission(trained: tuple[Program, Path], tmp_path: Path) -> None:
    program, run = trained
    (program.folder / "text.txt").write_text(TEXT)
    program(*BASE, "data.path=text.txt", f"train.resume={run}", f"outputs_dir={tmp_path}")
    (row,) = read_rows([tmp_path]).rows
    assert row.leg_other_data is None
    assert leg_warnings([row]) == []
