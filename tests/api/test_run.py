"""Runs as objects and as tables."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.program import read_history, read_record
from support.report_rows import Sweep

import microgpt
from microgpt.api.comparison import comparison_table
from microgpt.api.differences import table
from microgpt.reports.run_families import families
from microgpt.reports.variant_comparisons import comparisons


def changed(run: microgpt.Run, folder: Path, **values: object) -> microgpt.Run:
    """Return a copy of the run with other values in its record."""
    shutil.copytree(run.folder, folder, symlinks=True)
    (folder / "run.json").write_text(json.dumps(read_record(folder) | values))
    return microgpt.Run(folder)


def test_a_run_has_its_files(run: microgpt.Run) -> None:
    assert run.folder.is_absolute()
    assert run.record.document() == read_record(run.folder)
    assert run.config["optim"]["lr"] == 0.01
    assert run.metrics.steps == 30
    assert run.samples == (run.folder / "samples.txt").read_text().splitlines()
    lines = read_history(run.folder)
    assert list(run.history.columns) == ["step", "loss", "lr", "tokens", "val_loss"]
    assert run.history["step"].tolist() == [line["step"] for line in lines]
    assert run.history["val_loss"].dropna().iloc[-1] == run.metrics.val_loss


def test_it_shows_itself(run: microgpt.Run, tmp_path: Path) -> None:
    assert "val_loss 2." in repr(run)
    risky = changed(
        run, tmp_path / "risky", samples=["<b>&", *(f"sample {n}" for n in range(20))], error="a\nlast line"
    )
    page = ElementTree.fromstring(risky._repr_html_())  # everything is escaped and closed
    texts = [element.text for element in page.iter()]
    assert "<b>&" in texts
    assert "and 11 more" in texts
    assert "last line" in texts
    assert page.find(".//svg") is not None
    model = run.model._repr_html_()
    assert "<svg" in model
    assert run.samples[0] in model
    assert "4,192 parameters, step 30, native float32 on cpu" in repr(run.model)


def test_a_folder_without_a_run_and_a_run_without_metrics(run: microgpt.Run, tmp_path: Path) -> None:
    with pytest.raises(microgpt.UserError, match="is not the folder of a run: it has no readable run"):
        microgpt.Run(tmp_path)
    killed = changed(run, tmp_path / "killed", status="running", metrics=None, samples=[])
    with pytest.raises(microgpt.UserError, match="has no metrics: its status is running"):
        print(killed.metrics)
    assert "status running" in repr(killed)


def test_a_table_of_all_runs(run: microgpt.Run) -> None:
    outputs = run.folder.parents[1]
    found = microgpt.runs(outputs)
    assert found["path"].tolist() == [str(run.folder)]
    assert found["val_loss"].tolist() == [run.metrics.val_loss]
    runs = microgpt.Runs(outputs)
    assert [one.folder for one in runs] == [run.folder]
    assert runs[0].samples == run.samples
    assert repr(runs).endswith(": 1 run>")
    page = ElementTree.fromstring(runs._repr_html_())
    assert page.find(".//svg") is not None
    assert run.samples[0] in [element.text for element in page.iter()]
    with pytest.raises(microgpt.UserError, match="is not a folder"):
        microgpt.runs("nowhere")


def losses(sweep: Sweep, lr: float, width: int, values: list[float]) -> None:
    for seed, loss in enumerate(values):
        sweep.add(seed, loss, optim__lr=lr, model__n_embd=width)


def test_the_differences_of_two_variants_are_the_report_s(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    losses(sweep, 0.01, 16, [2.3, 2.4, 2.6])
    losses(sweep, 0.005, 16, [2.1, 2.3, 2.2])
    (family,) = families(sweep.rows)
    (expected,) = comparisons(family)
    table = comparison_table(sweep.rows, "optim.lr")
    assert table[["optim.lr", "against", "metric", "seeds"]].to_numpy().tolist() == [[0.005, 0.01, "val_loss", 3]]
    found = expected.difference
    assert found.interval is not None
    assert table[["difference", "low", "high", "p", "p_holm"]].to_numpy().tolist() == [
        [found.mean, found.interval.low, found.interval.high, found.p, found.p_adjusted]
    ]
    assert table["verdict"].tolist() == [found.sentence]


def test_only_runs_that_differ_in_nothing_else_are_compared(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    for width, base in ((16, 2.0), (32, 1.5)):
        for lr, shift in ((0.01, 0.0), (0.005, 0.1), (0.02, -0.1)):
            losses(sweep, lr, width, [base + shift + noise for noise in (0.0, 0.01, 0.03)])
    losses(sweep, 0.04, 64, [3.0, 3.0])
    table = comparison_table(sweep.rows, "optim.lr")
    assert table[["model.n_embd", "optim.lr", "against"]].to_numpy().tolist() == [
        [width, a, b] for width in (16, 32) for a, b in ((0.005, 0.01), (0.02, 0.01), (0.02, 0.005))
    ]
    assert table["difference"].round(6).tolist() == [0.1, -0.1, -0.2] * 2
    among = "; the runs differ in model.n_embd, optim.lr, seed$"
    for key, why in {
        "model.n_layer": "the runs do not differ in model.n_layer",
        "seed": "compared seed by seed",
    }.items():
        with pytest.raises(microgpt.UserError, match=why + among):
            comparison_table(sweep.rows, key)
    with pytest.raises(microgpt.UserError, match="there are no runs"):
        microgpt.Runs().compare("seed")


def test_a_key_without_effect_on_the_losses_is_a_column_but_is_not_compared(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    for top_k, tags in ((1, ["a"]), (3, ["b"])):
        sweep.add(0, 2.0, sample__top_k=top_k, tags=tags, model__position="learned")
    sweep.add(1, 2.0, sample__top_k=3, tags=["b"], model__position="rope")
    failed = sweep.add(
        2, None, sample__top_k=3, tags=["b"], model__position="rope", status="failed", data={"sha256": None}
    )
    assert failed.data_sha256 is None
    found = table(sweep.rows)
    assert list(found.columns[:6]) == ["model.position", "sample.top_k", "tags", "seed", "val_loss", "mean_loss_last_n"]
    assert found[list(found.columns[:4])].to_numpy().tolist() == [
        ["learned", 1, "a", 0], ["learned", 3, "b", 0], ["rope", 3, "b", 1], ["rope", 3, "b", 2],
    ]  # fmt: skip
    with pytest.raises(
        microgpt.UserError, match=r"sample\.top_k has no effect on the losses; the runs differ in model"
    ):
        comparison_table(sweep.rows, "sample.top_k")


def test_losses_of_other_validation_documents_are_not_compared(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    for fraction in (0.1, 0.2):
        for seed in range(2):
            sweep.add(seed, 2.0 + seed, data__val_fraction=fraction)
    reason = r"compare\('data'\) is not .* validated on the same documents: data\.val_fraction is 0\.1 or 0\.2$"
    with pytest.raises(microgpt.UserError, match=reason):
        comparison_table(sweep.rows, "data")


def test_a_key_that_follows_from_another_is_not_compared(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    for name, beta in (("adam", 0.9), ("lion", 0.95)):
        for seed in range(2):
            sweep.add(seed, 2.0 + beta + seed / 10, optim__name=name, optim__beta1=beta)
    with pytest.raises(
        microgpt.UserError, match=r"beta1 differs only together .*; the runs differ in optim\.name, seed$"
    ):
        comparison_table(sweep.rows, "optim.beta1")
    assert len(comparison_table(sweep.rows, "optim")) == 1


def test_a_group_is_compared_by_its_name(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    for name, shift, documents in (("classic", 0.0, []), ("pirate", 0.1, ["arr"])):
        for seed, loss in enumerate((2.0, 2.1, 2.3)):
            share = 0.1 if documents else 0.0
            sweep.add(seed, loss + shift, style__name=name, style__documents=documents, style__share=share)
    table = comparison_table(sweep.rows, "style")
    assert table[["style", "against"]].to_numpy().tolist() == [["pirate", "classic"]]
