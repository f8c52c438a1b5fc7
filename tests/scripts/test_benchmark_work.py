"""Both programs of a comparison do the same work, and their figures are read correctly."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from karpathy import nanochat
from karpathy.comparison import COMPLETED, Run
from karpathy.data import lines_text, read_data, stream_text
from karpathy.measures import Figures, NoFiguresError, common_loss, one_more, read_figures, spread
from karpathy.microgpt_py import LABEL, copy_validation, patched
from karpathy.nanogpt import flags_of, write_data
from karpathy.ours import Ours
from karpathy.processes import Command, Finished, OutputLine, run_command
from karpathy.report import against_earlier, agreement, three_digits
from karpathy.workloads import BASELINES, INTERVALS, Precision, make_setup, precisions
from support.fake_programs import MICROGPT, write

from microgpt.engines import base
from microgpt.errors import UserError
from microgpt.model.spec import ModelSpec
from microgpt.training.from_config import initial_state

# The same work for both


def test_only_the_settings_of_microgpt_py_are_changed() -> None:
    w = make_setup("microgpt", "quick", "cpu", seed=7, steps=25)
    changed = patched(MICROGPT, w).splitlines()
    differing = [(a, b) for a, b in zip(MICROGPT.splitlines(), changed, strict=True) if a != b]
    assert [b for _, b in differing] == [
        "random.seed(7)", "num_steps = 25 # how many", "for sample_idx in range(0):",
    ]  # fmt: skip
    with pytest.raises(UserError, match="has 2 lines that begin with `n_head = <number>`"):
        patched(MICROGPT + "n_head = 4\n", w)


def test_nanogpt_reads_our_split_in_our_vocabulary(tmp_path: Path) -> None:
    text = stream_text(read_data(None), block_size=64, batch_size=12, eval_documents=240)
    write_data(tmp_path, text)
    train, val = (np.fromfile(tmp_path / f"{name}.bin", np.uint16) for name in ("train", "val"))
    assert len(val) == 240 * 64
    assert "".join(text.chars[i] for i in val) == "".join(text.val)
    assert len(train) % 64 == 0
    pieces = {"".join(text.chars[i] for i in piece) for piece in train.reshape(-1, 64)}
    assert not pieces & set(text.val)
    assert train.max() < text.corpus.tokenizer.vocab_size - 1  # BOS does not occur


@pytest.mark.slow
@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 1000), batch_size=st.sampled_from([1, 3]))
def test_target_tokens_of_a_step_equal_those_of_our_training(seed: int, batch_size: int) -> None:
    text = lines_text(read_data(None), block_size=16, eval_documents=10)
    spec = ModelSpec("gpt", text.corpus.tokenizer.vocab_size, 4, 1, 1, 16)
    order = initial_state(seed, text.corpus, spec, batch_size, style_share=0.0).order
    expected = base.Workload(text.corpus.examples, [order]).target_tokens(0, 50, 0)
    assert text.targets(seed, batch_size)[:50].tolist() == expected.tolist()


def test_nanochat_gets_the_examples_in_our_order(tmp_path: Path) -> None:
    w = make_setup("nanochat", "quick", "cpu", seed=5, steps=10)
    text = stream_text(read_data(None), w.block_size, w.batch_size, w.eval_documents)
    comparison = nanochat.compare_nanochat(tmp_path, "python", text, w, [Precision("float32")], tmp_path)
    comparison.prepare()
    written = json.loads((tmp_path / "base" / "text.json").read_text())
    examples = text.corpus.train.examples
    spec = ModelSpec("gpt", text.corpus.tokenizer.vocab_size, 4, 1, 1, w.block_size)
    first = initial_state(5, text.corpus, spec, w.batch_size, style_share=0.0).order.batch(0)
    assert written["train"][: w.batch_size] == [text.corpus.tokenizer.decode(examples[i][1:]) for i in first]
    assert {len(piece) for piece in written["train"] + written["val"]} == {w.block_size}
    assert len(written["val"]) % w.batch_size == 0


def test_flags_of_nanogpt_have_the_types_that_its_configurator_requires() -> None:
    w = make_setup("nanogpt", "quick", "cpu", 42)
    flags = flags_of(w, Precision("float32"), 20, "out")
    floats = {"dropout", "learning_rate", "beta1", "beta2", "weight_decay", "grad_clip", "min_lr"}
    assert {key for key, value in flags.items() if type(value) is float} == floats
    assert flags["lr_decay_iters"] == flags["max_iters"] == w.steps


def test_text_that_is_too_short_or_not_ascii_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is too short"):
        stream_text(read_data(str(write(tmp_path / "a", "".join(map(str, range(700)))))), 64, 12, 240)
    with pytest.raises(UserError, match="not plain ASCII"):
        read_data(str(write(tmp_path / "b", "früh")))


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "dtype"), [("python", "float64"), ("native", "float32"), ("torch", "float32")])
def test_our_program_does_the_requested_work(tmp_path: Path, backend: str, dtype: str) -> None:
    w = make_setup("microgpt", "quick", "cpu", seed=3, steps=10)
    text = lines_text(read_data(None), w.block_size, 20)
    side = Ours(tmp_path, text, ["model.tie_lm_head=false"], log_every=1)
    side.prepare()
    launch = side.launch(backend, Precision(dtype), "cpu", w, 1)
    done = run_command(launch.command, tmp_path / "log", 120)
    assert done.exit_code == 0, done.last_line()
    figures = launch.read(done)
    assert figures.steps == 8
    assert figures.tokens == text.targets(3, 1)[2:10].sum()
    assert sorted(figures.val_losses) == [0, 2, 4, 6, 8, 10]
    assert sorted(figures.losses) == list(range(1, 11))
    assert figures.facts["backend"] == backend
    assert not list(tmp_path.glob("outputs*"))


# Figures


@given(
    step=st.floats(0.001, 10), evaluation=st.floats(0, 100), interval=st.integers(2, 10), log=st.sampled_from([1, 2])
)  # fmt: skip
def test_evaluations_and_warm_up_are_not_timed(step: float, evaluation: float, interval: int, log: int) -> None:
    interval *= log
    steps, now, lines = interval * INTERVALS, 0.0, []
    for number in range(steps + 1):
        now += (evaluation if number % interval == 0 else 0.0) + (step if number >= interval else 50 * step)
        if number % log == 0:
            lines.append(OutputLine(now, f"iter {number}: loss 2.5"))
    w = replace(make_setup("nanogpt", "quick", "cpu", 1), steps=steps)
    found = read_figures(lines, r"^iter (\d+): loss (\S+)", w, lambda _: 3)
    assert found.seconds / found.steps == pytest.approx(step, rel=1e-6)
    assert found.tokens == 3 * found.steps
    assert found.steps == (INTERVALS - 1) * (interval - log)


def test_output_without_times_has_no_figures() -> None:
    with pytest.raises(NoFiguresError):
        read_figures([OutputLine(1.0, "hello")], r"^iter (\d+): (\S+)", make_setup("nanogpt", "quick", "cpu", 1))


def test_common_loss_is_one_that_all_reached() -> None:
    runs = [Figures(1, 1.0, 1, val_losses=losses) for losses in ({0: 3.0, 5: 1.0}, {0: 3.0, 5: 2.0}, {})]
    loss = common_loss(runs)
    assert loss == 2.0
    assert [run.seconds_to(2.0) for run in runs] == [5.0, 5.0, None]
    assert common_loss([]) is None


def test_spread_is_median_smallest_and_largest() -> None:
    found = spread([3.0, 1.0, 2.0])
    assert found is not None
    expected = found.pop("expected")
    assert expected[0] < 1.0 < 3.0 < expected[1]
    assert found == {"median": 2.0, "min": 1.0, "max": 3.0, "rounds": [3.0, 1.0, 2.0]}
    assert spread([]) is None


def test_expected_interval_holds_19_of_20_further_rounds() -> None:
    rng = np.random.default_rng(0)
    for rounds in (2, 3, 5):
        values = np.exp(rng.normal(3.0, 0.05, (4000, rounds + 1)))
        intervals = [one_more(row[:-1].tolist()) for row in values]
        inside = [
            interval[0] <= row[-1] <= interval[1] for interval, row in zip(intervals, values, strict=True) if interval
        ]
        assert np.mean(inside) == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4000))


def test_expected_interval_of_one_round_and_of_equal_rounds() -> None:
    assert one_more([2.0]) is None
    assert one_more([0.0, 1.0]) is None
    assert one_more([2.0, 2.0, 2.0]) == pytest.approx((2.0, 2.0))


def report_of(briefly: str = "100 steps", /, **ratios: list[float]) -> dict[str, Any]:
    contestants = [
        {"label": label, "against": "theirs", "ratio": spread(rounds) if rounds else None}
        for label, rounds in ratios.items()
    ]
    return {"comparisons": [{"baseline": "nanogpt", "briefly": briefly, "contestants": contestants}]}


def test_a_ratio_agrees_with_an_earlier_run_inside_its_expected_interval() -> None:
    earlier = report_of(same=[1.0, 1.1, 1.2], other=[1.0, 1.01, 1.02], gone=[1.0, 2.0], once=[1.0], theirs=[])
    now = report_of(same=[1.15], other=[1.3], once=[1.0], new=[1.0], theirs=[])
    assert [(one["label"], one["agrees"]) for one in agreement(now, earlier)] == [("same", True), ("other", False)]
    assert agreement(report_of("20 steps", same=[1.15]), earlier) == []
    nothing = against_earlier({"file": "a.json", "started_at": "then", "rows": []})
    assert nothing.endswith("a.json, of then, has no ratio of the same work with an expectation.")


@given(st.floats(1e-6, 1e9))
def test_shown_numbers_have_three_digits_and_no_exponent(value: float) -> None:
    shown = three_digits(value)
    assert "e" not in shown
    assert float(shown.replace(",", "")) == pytest.approx(value, rel=0.0051)


def test_microgpt_py_with_other_losses_gets_no_validation_losses() -> None:
    same = {1: 3.0, 2: 2.5}
    runs = [
        Run(LABEL, 1, COMPLETED, figures=Figures(1, 1.0, 1, losses={1: 3.0, 2: 2.51})),
        Run("ours", 1, COMPLETED, figures=Figures(1, 1.0, 1, same, {2: 2.0}, facts={"dtype": "float64"})),
    ]
    assert "not the same work" in copy_validation(runs)
    assert runs[0].figures is not None
    assert runs[0].figures.val_losses == {}
    assert "is not known" in copy_validation(runs[:1])


# Running a command


def run_python(tmp_path: Path, code: str, timeout: float = 30) -> Finished:
    return run_command(Command([sys.executable, "-c", code], tmp_path), tmp_path / "log", timeout)


def test_lines_have_the_time_of_their_arrival(tmp_path: Path) -> None:
    done = run_python(tmp_path, "import time; print('a', end='\\r'); time.sleep(0.3); print('b'); print('c', end='')")
    assert [line.text for line in done.lines] == ["a", "b", "c"]
    assert done.lines[1].seconds - done.lines[0].seconds >= 0.25
    assert done.exit_code == 0
    assert (tmp_path / "log").read_text().splitlines()[2:5] == ["a", "b", "c"]


def test_peak_memory_is_the_maximum(tmp_path: Path) -> None:
    done = run_python(tmp_path, "import time; x = bytearray(200 << 20); del x; time.sleep(0.5)")
    assert done.peak_memory > (200 << 20) or sys.platform != "linux"


def test_program_that_cannot_be_started_has_a_problem(tmp_path: Path) -> None:
    done = run_command(Command(["/absent/program"], tmp_path), tmp_path / "log", 5)
    assert done.exit_code is None
    assert done.problem == "cannot be started: No such file or directory"


@pytest.mark.slow
def test_gpu_memory_in_use_before_the_start_is_subtracted(tmp_path: Path) -> None:
    readings: Callable[[], int | None] = iter([100, 100, 350, *[200] * 1000]).__next__
    done = run_command(
        Command([sys.executable, "-c", "import time; time.sleep(2)"], tmp_path), tmp_path / "log", 30, readings
    )
    assert done.peak_gpu_memory == 250


def test_help_lists_options_and_exit_codes() -> None:
    script = Path(__file__).parents[2] / "scripts" / "benchmark_karpathy.py"
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=True)
    for option in (
        "--baseline", "--profile", "--require-gpu, --no-require-gpu", "--install-deps", "--nanogpt-ref",
        "--nanochat-ref", "--nanogpt-dir", "--nanochat-dir", "--microgpt-file", "--dry-run", "--steps", "--repeats",
        "--timeout", "--seed",
    ):  # fmt: skip
        assert option in done.stdout
    assert "exit codes: 0" in done.stdout


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("profile", ["quick", "full"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_steps_of_every_profile_are_whole_intervals(baseline: str, profile: str, device: str) -> None:
    w = make_setup(baseline, profile, device, 42)
    assert w.steps % w.interval == 0
    assert w.n_embd % w.n_head == 0
    assert w.n_embd % w.n_layer == 0
    assert math.isfinite(w.lr)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_nanochat_is_compiled_as_it_comes_and_the_full_profile_has_both(device: str) -> None:
    quick, full = (precisions("nanochat", profile, device) for profile in ("quick", "full"))
    assert all(precision.compiled for precision in quick)
    assert set(quick) < set(full)
    assert len(full) == 2 * len(quick) == (2 if device == "cpu" else 4)
    assert [precision.compiled for precision in precisions("nanogpt", "quick", "cpu")] == [False]
