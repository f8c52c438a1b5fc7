"""Sweeps: the ablation of four variants, their common files, and a repeated command."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file
from support.program import Program, make_program, read_record

FOUR = (
    "-m", "model.tie_lm_head=true,false", "model.input_rmsnorm=true,false", "experiment=debug", "train.steps=10",
    "train.eval_every=5", "train.eval_documents=5", "train.keep_checkpoints=9", "sample.num_samples=1",
)  # fmt: skip
VARIANTS = {"tied_no_input_rmsnorm", "tied_input_rmsnorm", "untied_no_input_rmsnorm", "untied_input_rmsnorm"}
FIRST_COLUMNS = [
    "variant", "tie_lm_head", "input_rmsnorm", "style", "parameter_count", "steps", "seed", "final_loss",
    "mean_loss_last_n", "last_n", "steps_per_sec", "tokens_per_sec", "vocab_size", "train_tokens",
]  # fmt: skip


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Return the folder of an ablation. Another test checks the exit code."""
    for program in make_program(tmp_path_factory.mktemp("ablation")):
        program.start(*FOUR).communicate()
        yield program


def records(program: Program) -> list[dict[str, Any]]:
    return [read_record(job) for job in program.jobs()]


@pytest.mark.slow
def test_four_variants_are_run(ablation: Program) -> None:
    toggles = {(record["model"]["tie_lm_head"], record["model"]["input_rmsnorm"]) for record in records(ablation)}
    assert toggles == {(True, True), (True, False), (False, True), (False, False)}
    assert [record["status"] for record in records(ablation)] == ["completed"] * 4
    assert [job.name for job in ablation.jobs()] == ["0", "1", "2", "3"]


@pytest.mark.slow
def test_variants_share_data_split_and_validation(ablation: Program) -> None:
    data = [record["data"] for record in records(ablation)]
    assert data == [data[0]] * 4
    assert (data[0]["train_documents"], data[0]["val_documents"]) == (26919, 2991)
    assert data[0]["evaluated_documents"] == 5
    assert len({record["metrics"]["tokens_seen"] for record in records(ablation)}) == 1


def test_every_variant_is_validated_at_start_and_end(ablation: Program) -> None:
    for record in records(ablation):
        metrics = record["metrics"]
        assert metrics["best_val_loss"] <= metrics["val_loss"] < metrics["first_val_loss"]
        assert metrics["best_step"] in (5, 10)


def test_the_tied_variant_has_no_output_matrix(ablation: Program) -> None:
    counts = {record["model"]["tie_lm_head"]: record["metrics"]["parameter_count"] for record in records(ablation)}
    vocab_size = records(ablation)[0]["data"]["vocab_size"]
    assert counts[False] - counts[True] == vocab_size * 16


def test_variants_share_the_initial_values_of_their_common_tensors(ablation: Program) -> None:
    first = [load_file(job / "checkpoint" / "step_00000000" / "weights.safetensors") for job in ablation.jobs()]
    assert [("lm_head" in tensors) for tensors in first] == [False, False, True, True]
    for tensors in first[:2]:
        assert {name: array.tobytes() for name, array in tensors.items()} == {
            name: array.tobytes() for name, array in first[2].items() if name != "lm_head"
        }
    assert {name: array.tobytes() for name, array in first[2].items()} == {
        name: array.tobytes() for name, array in first[3].items()
    }


def test_ablation_is_written(ablation: Program) -> None:
    stem = ablation.folder / "results" / "ablation_style-futuristic"
    with Path(f"{stem}.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0][: len(FIRST_COLUMNS)] == FIRST_COLUMNS
    assert {row[0] for row in rows[1:]} == VARIANTS
    assert rows[0][-1] == "config"
    assert all(json.loads(row[-1])["seed"] == 42 for row in rows[1:])
    lines = [json.loads(line) for line in Path(f"{stem}.jsonl").read_text().splitlines()]
    assert {line["variant"] for line in lines} == VARIANTS
    by_variant = {row[0]: row for row in rows[1:]}
    for line in lines:
        assert float(by_variant[line["variant"]][rows[0].index("val_loss")]) == line["val_loss"]
    markdown = Path(f"{stem}.md").read_text()
    assert all(f"| {variant} |" in markdown for variant in VARIANTS)
    assert "Ranked by val_loss" in markdown


@pytest.mark.slow
def test_the_same_sweep_again_runs_nothing_and_exits_with_0(ablation: Program) -> None:
    before = [(job / "run.json").read_bytes() for job in ablation.jobs()]
    table = (ablation.folder / "results" / "ablation_style-futuristic.csv").read_bytes()
    done = ablation(*FOUR)
    assert ": 4 jobs, 4 completed before, 0 to resume, 0 failed before and run again, 0 new" in done.stdout
    assert "step " not in done.stdout
    assert [(job / "run.json").read_bytes() for job in ablation.jobs()] == before
    assert (ablation.folder / "results" / "ablation_style-futuristic.csv").read_bytes() == table


@pytest.mark.slow
def test_the_same_sweep_in_another_order_runs_nothing(ablation: Program) -> None:
    before = ablation.jobs()
    reordered = FOUR[0], FOUR[2], FOUR[1], *FOUR[3:]
    assert "4 completed before" in ablation(*reordered).stdout
    assert ablation.jobs() == before


@pytest.mark.slow
def test_experiment_ablation_is_a_sweep_without_m(microgpt: Program) -> None:
    chosen = "train.steps=2", "train.eval_documents=5", "sample.num_samples=1", "style=classic"
    microgpt("experiment=ablation", "seed=1,2", *chosen)
    written = {path.name for path in (microgpt.folder / "results").iterdir() if path.suffix != ".png"}
    assert written == {
        f"{table}_style-classic.{kind}" for table in ("runs", "ablation") for kind in ("csv", "jsonl")
    } | {"ablation_style-classic.md", "report.html", "report.md", "report.json"}
    records = [read_record(job) for job in microgpt.jobs()]
    assert len(records) == 8
    assert {record["mode"] for record in records} == {"tensor"}
    assert {record["group"] for record in records} == {2}


@pytest.mark.slow
def test_seeds_are_a_sweep(microgpt: Program) -> None:
    done = microgpt(
        "-m", "seed=1,2,3", "experiment=debug", "train.steps=2", "train.eval_documents=5", "sample.num_samples=1"
    )
    found = records(microgpt)
    assert [record["seed"] for record in found] == [1, 2, 3]
    assert len({record["metrics"]["final_loss"] for record in found}) == 3
    assert len({record["data"]["sha256"] for record in found}) == 1
    assert "collected 3 runs (0 not completed)" in done.stdout
    rows = (microgpt.folder / "results" / "runs_style-futuristic.csv").read_text().splitlines()
    assert len(rows) == 4


@pytest.mark.slow
def test_a_sweep_of_legs_again_runs_nothing(microgpt: Program) -> None:
    quick = "experiment=debug", "train.steps=2", "sample.num_samples=1"
    microgpt(*quick)
    sweep = "-m", "seed=1,2", *quick, f"train.resume={microgpt.only_run()}"
    microgpt(*sweep)
    assert "2 completed before" in microgpt(*sweep).stdout
    assert len(microgpt.jobs()) == 2


@pytest.mark.slow
def test_a_sweep_of_legs_from_the_latest_checkpoint_is_an_error(microgpt: Program) -> None:
    """Each job would continue the previous one."""
    microgpt("experiment=debug", "train.steps=1", "sample.num_samples=0")
    before = microgpt.files()
    done = microgpt("-m", "seed=1,2", "experiment=debug", "train.resume=latest", expect=2)
    assert done.stderr == (
        "error: train.resume=latest is not allowed in a sweep: each job would change the latest checkpoint; set the "
        "folder of a run\n"
    )
    assert microgpt.files() == before
