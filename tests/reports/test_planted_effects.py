"""Real runs with a known effect: it is detected with 64 seeds, and identical runs show no difference."""

import pytest
from support.program import Program

RUNS = (
    "-m", "mode=tensor", "backend=native", "seed=range(64)", "train.steps=300", "train.eval_every=null",
    "train.eval_documents=300", "train.checkpoint_every=null", "sample.num_samples=1",
)  # fmt: skip


@pytest.mark.slow
def test_a_halved_learning_rate_is_detected_and_identical_runs_show_no_difference(microgpt: Program) -> None:
    microgpt(*RUNS, "optim.lr=0.01,0.005")
    planted = (microgpt.folder / "results" / "report.html").read_text()
    assert "(n = 64)" in planted
    assert "no difference shown" not in planted

    microgpt(*RUNS, "style.bias=0,1", "outputs_dir=identical", "results_dir=same")
    identical = (microgpt.folder / "same" / "report.html").read_text()
    assert "no difference shown (n = 64" in identical
    assert "higher (n = 64)" not in identical
    assert "lower (n = 64)" not in identical
