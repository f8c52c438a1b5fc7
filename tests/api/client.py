"""A program that uses every public name, for type checkers. It is not run."""

from pathlib import Path
from typing import assert_type

import numpy as np

import microgpt
from microgpt import Model, Run, Runs, UserError, load, runs, sweep, train


def main() -> None:
    try:
        run = train("mode=tensor", {"train.steps": 100, "optim": {"lr": 0.005}})
    except UserError as error:
        print(error)
        return
    assert_type(run, Run)
    assert_type(train(documents=["anna", "bo"]), Run)
    print(run.model.loss(run.validation_documents), load(run).step, Run(run) == run)
    assert_type(run.folder, Path)
    assert_type(run.samples, list[str])
    print(run.history["val_loss"].min(), run.record.status, run.config["seed"], run.metrics.val_loss)
    model = load(run.folder, "backend=native")
    assert_type(model, Model)
    assert_type(run.model, Model)
    assert_type(model.generate("an", 3, temperature=0.8, top_k=5, max_new_tokens=9, seed=1), list[str])
    assert_type(model.chat([{"role": "user", "content": "hello"}]), str)
    assert_type(model.loss(["anna", "emma"]), float)
    logits: np.ndarray = model.logits("anna")
    attention: np.ndarray = model.attention("anna")
    print(logits.shape, attention.shape, model.weights["wte"].shape, model.config.n_embd, model.tokenizer.encode("a"))
    found = sweep("mode=tensor", {"seed": range(4), "optim.lr": [0.01, 0.005]})
    assert_type(found, Runs)
    assert_type(found.report("report.html"), Path)
    assert_type(found[0], Run)
    assert_type(list(found), list[Run])
    print(found.dataframe().columns, found.compare("optim.lr").shape, runs("outputs").shape, microgpt.runs().shape)
    print(microgpt.__version__, microgpt.train is train, microgpt.sweep is sweep, microgpt.UserError is UserError)
