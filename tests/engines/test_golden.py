"""Losses and samples of the two versions of microgpt.py, recorded in tests/golden."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.program import GOLDEN

from microgpt.data.corpus import build_corpus
from microgpt.data.sources import DATA_DIR_VARIABLE, read_source
from microgpt.engines.base import Workload
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.engines.scalar.engine import ScalarEngine
from microgpt.model.spec import ModelSpec
from microgpt.training.from_config import initial_state
from microgpt.training.schedules import Schedule

LARGEST_DEVIATION = 1e-12

K2 = ModelSpec("gpt", vocab_size=27, n_embd=16, n_head=4, n_layer=1, block_size=16)
K1 = ModelSpec(
    "gpt", vocab_size=27, n_embd=16, n_head=4, n_layer=1, block_size=8,
    activation="relu_squared", init_std=0.02, residual_init="zero",
)  # fmt: skip
REFERENCES = {
    "k2": (K2, OptimizerSpec("adam", beta1=0.85, beta2=0.99, eps=1e-8), Schedule("linear", 1000)),
    "k1": (K1, OptimizerSpec("adam", beta1=0.9, beta2=0.95, eps=1e-8), Schedule("cosine", 500)),
}


def golden(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}_seed42.json").read_text())


@pytest.mark.parametrize("name", REFERENCES)
def test_the_first_60_losses_equal_the_reference(name: str, data_dir: Path) -> None:
    spec, optimizer, schedule = REFERENCES[name]
    expected = golden(name)
    source = read_source("makemore", None)
    assert source.sha256 == expected["sha256"]
    corpus = build_corpus(
        source, text_format="lines", long_documents="truncate", val_fraction=0, split_seed=0,
        block_size=spec.block_size,
    )  # fmt: skip
    assert corpus.documents == expected["num_docs"]
    assert corpus.tokenizer.vocab_size == expected["vocab_size"]

    initial = initial_state(expected["seed"], corpus, spec, batch_size=1, style_share=0.0)
    engine = ScalarEngine(
        EngineOptions("python"), spec, optimizer, Workload(corpus.examples, [initial.order]), initial.engine_state
    )
    learning_rates = np.array([[0.01 * schedule.factor(step)] for step in range(60)])
    losses = engine.advance(0, learning_rates)[:, 0]
    assert np.abs(losses - expected["losses"][:60]).max() <= LARGEST_DEVIATION


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "name"), [("karpathy", "k2"), ("karpathy_first", "k1")])
def test_the_experiment_equals_the_whole_reference(experiment: str, name: str, data_dir: Path, tmp_path: Path) -> None:
    expected = golden(name)
    run = subprocess.run(
        [sys.executable, "-m", "microgpt", f"experiment={experiment}", f"outputs_dir={tmp_path / 'outputs'}"],
        cwd=tmp_path,
        env=os.environ | {DATA_DIR_VARIABLE: str(data_dir)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[:3] == ["num docs: 32033", "vocab size: 27", f"num params: {expected['num_params']}"]

    (history,) = tmp_path.glob("outputs/**/history.jsonl")
    logged = [json.loads(line) for line in history.read_text().splitlines()]
    assert [line["step"] for line in logged] == list(range(1, expected["steps"] + 1))
    assert np.abs(np.array([line["loss"] for line in logged]) - expected["losses"]).max() <= LARGEST_DEVIATION

    record = json.loads((history.parent / "run.json").read_text())
    assert record["status"] == "completed"
    assert record["samples"] == expected["samples"]
    printed = [line for line in lines if line.startswith("sample ")]
    assert printed == [f"sample {number:2d}: {sample}" for number, sample in enumerate(expected["samples"], 1)]
