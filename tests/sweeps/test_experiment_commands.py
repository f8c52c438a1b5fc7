"""Commands of experiments: known effects are found in real runs, and a killed command gives the same tables."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from support.program import TIMEOUT, Program

from microgpt.reports.analyses import analysed
from microgpt.reports.records import read_rows
from microgpt.reports.run_families import families

pytestmark = pytest.mark.slow

SCREENING = (
    "-m", "hydra/sweeper=screening", "mode=tensor", "backend=native", "style=classic", "train.eval_every=null",
    "train.checkpoint_every=null", "train.eval_documents=200", "sample.num_samples=0",
)  # fmt: skip
TUNED = (
    *SCREENING, "train.steps=20", "seed=range(4)", "model.bias=false,true", "model.norm=rmsnorm,layernorm",
    "screening.tune_lr=true", "screening.tuning_seeds=2",
)  # fmt: skip
VARYING = {"steps_per_sec", "tokens_per_sec", "started_at", "finished_at", "git_commit", "git_dirty", "path"}


def effects(program: Program) -> dict[str, dict[str, Any]]:
    """Return the effects in the report, keyed by their configuration keys."""
    (family,) = families(read_rows([program.folder / "outputs"]).rows)
    found = analysed(family, None)["effects"].data["effects"]
    return {" x ".join(sorted(one["factors"])): one for one in found}


def test_a_screening_of_real_runs_names_what_was_planted(microgpt: Program) -> None:
    """A halved learning rate; two keys that give the same model if either or both are set; one that trains the same."""
    microgpt(
        *SCREENING, "train.steps=100", "seed=range(16)", "model.init_std=0.3", "optim.lr=0.01,0.005",
        "model.residual_init=normal,zero", "model.zero_init_residual=false,true", "train.last_n=50,60",
    )  # fmt: skip
    found = effects(microgpt)
    one, other = "model.residual_init", "model.zero_init_residual"
    assert found[one]["estimate"] == pytest.approx(found[other]["estimate"])
    assert found[f"{one} x {other}"]["estimate"] == pytest.approx(-2 * found[one]["estimate"])
    assert all(found[key]["p_adjusted"] < 1e-4 for key in ("optim.lr", one, other, f"{one} x {other}"))
    without_effect = [one for key, one in found.items() if "train.last_n" in key]
    assert len(without_effect) == 4
    assert all(one["estimate"] == 0 and one["verdict"] == "zero" for one in without_effect)


def test_a_screening_killed_in_either_stage_has_the_same_tables(microgpt: Program, tmp_path: Path) -> None:
    whole, killed = (Program(tmp_path / name, microgpt.started) for name in ("whole", "killed"))
    for program in (whole, killed):
        program.folder.mkdir()
    output = whole(*TUNED).stdout
    assert "before that: 3 learning rates, 2 other seeds each: 24 runs" in output
    for runs in (8, 30):  # while learning rates are tried, and after that
        kill_at(killed, runs)
    assert tables(killed, killed(*TUNED).stdout) == tables(whole, output)


def kill_at(program: Program, runs: int) -> None:
    """Send SIGKILL to the command once the given number of runs exists."""
    process = program.start(*TUNED)
    end = time.monotonic() + TIMEOUT
    while process.poll() is None and len(list(program.folder.glob("outputs/sweeps/*/*/run.json"))) < runs:
        assert time.monotonic() < end
        time.sleep(0.01)
    process.kill()
    process.communicate()


def tables(program: Program, output: str) -> list[Any]:
    """Return the report and the table rows, both without times and rates, and the chosen learning rates."""
    rows = map(json.loads, (program.folder / "results" / "runs_style-classic.jsonl").read_text().splitlines())
    (chosen,) = [line for line in output.splitlines() if line.startswith("learning rates chosen")]
    same = sorted(json.dumps({k: v for k, v in row.items() if k not in VARYING}) for row in rows)
    same = [row.replace(str(program.folder), "") for row in same]
    assert len(same) == 40
    return [same, effects(program), chosen]
