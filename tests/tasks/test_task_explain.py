"""task=explain explains the first step of the run that the same configuration trains."""

import re

import pytest
from support.program import Program, read_history


@pytest.mark.slow
def test_the_loss_is_that_of_the_run_s_first_step(microgpt: Program) -> None:
    printed = microgpt("task=explain", "style=classic").stdout
    microgpt(
        "style=classic", "train.steps=1", "train.eval_every=null", "train.eval_documents=1", "sample.num_samples=0"
    )
    loss = read_history(microgpt.only_run())[-1]["loss"]
    assert f"The loss of this document was {loss:.6f}." in printed


@pytest.mark.slow
def test_formats_and_mistakes(microgpt: Program) -> None:
    tiny = "model.n_embd=8", "model.n_head=2"
    assert (
        microgpt("task=explain", "explain.format=html", "explain.document=emma", *tiny).stdout == "wrote explain.html\n"
    )
    page = (microgpt.folder / "explain.html").read_text()
    assert "<svg" in page
    assert not re.search(r"(src|href)=.?(http|//)|@import|url\(", page)
    microgpt("task=explain", "explain.format=svg", "explain.path=a/graph.svg", *tiny)
    assert (microgpt.folder / "a" / "graph.svg").read_text().startswith("<svg")
    for overrides, sentence in {
        ("explain.document=e2",): "explain.document='e2' has characters that the model does not know: '2'",
        ("explain.path=x",): "explain.path=x is not allowed: it requires explain.format=html or svg",
        ("mode=tensor",): "mode=tensor is not allowed: task=explain requires the scalar engine (mode=scalar)",
        ("explain.format=svg", "explain.path=a/graph.svg/x"): "explain.path=a/graph.svg/x cannot be written: ",
    }.items():
        assert f"error: {sentence}" in microgpt("task=explain", *overrides, expect=2).stderr
