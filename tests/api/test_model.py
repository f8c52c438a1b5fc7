"""A trained model: samples equal those of task=sample, and losses equal those of the engine and the run's record."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from api.conftest import quietly
from support.checkpoints import earlier_checkpoint

import microgpt
from microgpt.app import execute
from microgpt.sweeps.lifecycle import new_sweep


def printed_samples(folder: Path, *overrides: str) -> list[str]:
    with quietly(folder) as printed, new_sweep():
        execute(["task=sample", "mode=tensor", *overrides])
    return [line.partition(": ")[2] for line in printed.getvalue().splitlines() if line.startswith("sample ")]


def test_texts_are_those_of_task_sample(run: microgpt.Run) -> None:
    folder, model = run.folder.parents[2], run.model
    seeded = printed_samples(
        folder, f"checkpoint={run.folder}", "sample.seed=7", "sample.num_samples=4", "sample.prompt=an"
    )
    assert model.generate("an", np.int64(4), seed=np.int64(7)) == seeded
    assert all(text.startswith("an") for text in seeded)
    with quietly(folder):
        assert microgpt.load().generate(temperature=0, top_k=3) == model.generate(temperature=0)
    assert model.generate(n=3) == model.generate(n=3) == run.samples
    (long,) = model.generate(max_new_tokens=40, temperature=5, seed=3)
    assert len(long) <= 40


def test_engines_agree(run: microgpt.Run) -> None:
    scalar = microgpt.load(run.folder, "mode=scalar")
    assert scalar.info.backend == "python"
    assert run.model.info.backend == "native"
    np.testing.assert_allclose(scalar.logits("anna"), run.model.logits("anna"), atol=1e-5)
    assert scalar.loss(["anna", "bo"]) == pytest.approx(run.model.loss(["anna", "bo"]), abs=1e-5)


def test_logits_losses_and_attention_fit_together(run: microgpt.Run) -> None:
    model, text = run.model, "emma"
    tokens = [model.tokenizer.bos, *model.tokenizer.encode(text)]
    logits = model.logits(text)
    assert logits.shape == (5, model.config.vocab_size)
    targets = [*tokens[1:], model.tokenizer.bos]
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[range(5), targets]
    assert model.loss(text) == pytest.approx(losses.mean(), abs=1e-5)
    assert model.loss([text, text]) == pytest.approx(model.loss(text), abs=1e-6)
    attention = model.attention(text)
    assert attention.shape == (model.config.n_layer, model.config.n_head, 5, 5)
    np.testing.assert_allclose(attention.sum(axis=-1), 1)
    assert np.array_equal(attention, np.tril(attention))
    np.testing.assert_array_equal(model.attention("emm"), attention[..., :4, :4])


def test_the_loss_of_the_held_out_documents_is_the_run_s(run: microgpt.Run) -> None:
    assert len(run.validation_documents) == 20
    assert run.model.loss(run.validation_documents) == pytest.approx(run.metrics.val_loss, abs=1e-6)


def test_a_long_text_is_read_in_windows(run: microgpt.Run) -> None:
    text = "abcdefghijklmnopqrstuvwxyz"
    assert run.model.loss(text) > 0
    with pytest.raises(
        microgpt.UserError, match="the text has 26 tokens without BOS, but the model reads at most 16 including BOS"
    ):
        run.model.logits(text)


def test_a_model_and_its_run_can_be_pickled_and_copied(run: microgpt.Run) -> None:
    expected = run.model.generate(seed=1)
    for copied in (copy.deepcopy(run), pickle.loads(pickle.dumps(run)), microgpt.Run(run)):
        assert copied == run
        assert hash(copied) == hash(run)
    assert pickle.loads(pickle.dumps(run.model)).generate(seed=1) == microgpt.load(run).generate(seed=1) == expected
    runs = microgpt.Runs(run.folder.parent)
    assert [row.job for row in runs.rows] == [None]
    assert pickle.loads(pickle.dumps(runs)) == runs


def test_weights_are_named_and_read_only(run: microgpt.Run) -> None:
    weights = run.model.weights
    assert {name: array.shape for name, array in weights.items()} == run.model.config.shapes()
    with pytest.raises(ValueError, match="read-only"):
        weights["wte"][0, 0] = 1


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda model: model.generate("é"), "sample.prompt='é' has characters that the model does not know"),
        (lambda model: model.generate(temperature=-1), "temperature must be finite and >= 0, got -1"),
        (lambda model: model.generate(top_k=0), "sample.top_k=0 is not allowed"),
        (lambda model: model.generate("a" * 16), "prompt token count 17 exceeds max prompt tokens 16"),
        (lambda model: model.chat("hello"), "this model is not a chat model"),
        (lambda model: model.loss([]), "loss needs at least one text"),
        (lambda model: model.generate(5), "prompt must be a string, not int"),
        (lambda model: model.generate(seed=1.5), "seed=1.5 is not allowed: seed must be an integer"),
        (lambda model: model.generate(n=2.5), "n=2.5 is not allowed: n must be an integer"),
        (lambda model: model.generate(temperature="a"), "temperature must be a number, not str"),
        (
            lambda model: model.loss({"role": "user"}),
            "a text must be a string or, for a chat model, a list",
        ),
        (lambda model: model.loss([{"role": "user"}]), "messages are not allowed: this model is not a chat model"),
        (lambda model: model.logits(["anna", "bo"]), "such as .*, not a list of str$"),
        (lambda model: model.attention(5), "such as .*, not int$"),
        (lambda model: model.chat(["hi"]), "such as .*, not a list of str$"),
        (lambda model: microgpt.load(cast(Any, 5)), "load takes a folder, a run or 'latest', not int"),
        (
            lambda model: microgpt.load(model.path, "seed=5"),
            "^seed=5 is .* argument seed of model.generate$",
        ),
        (lambda model: microgpt.load(model.path, {"sample.top_k": 3}), "argument top_k of model.generate$"),
        (lambda model: microgpt.load(model.path, "style.share=0.5"), "load uses only mode, backend, style, "),
        (lambda model: microgpt.load(model.path, "outputs_dir=x"), "load uses only mode, backend, style, "),
        (lambda model: microgpt.load("nowhere"), "checkpoint=nowhere is not a checkpoint"),
        (lambda model: microgpt.load(model.path, "backend=none"), "backend=none is not an option"),
    ],
)
def test_a_mistake_is_a_sentence(run: microgpt.Run, call: Callable[[microgpt.Model], object], sentence: str) -> None:
    with pytest.raises(microgpt.UserError, match=sentence.replace("(", r"\(").replace("+", r"\+")):
        call(run.model)


def test_an_export_or_a_foreign_checkpoint_has_no_generator_and_takes_the_default_seed(tmp_path: Path) -> None:
    model = microgpt.load(earlier_checkpoint(tmp_path / "earlier"), "mode=scalar")
    assert model.generate(n=2) == model.generate(n=2, seed=42)
    assert "<svg" not in model._repr_html_()
