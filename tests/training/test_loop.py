"""The training loop with an engine that only counts: what it saves, evaluates and logs, and in which order."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from microgpt.data.batches import BatchOrder
from microgpt.data.examples import Examples
from microgpt.engines.base import Decoder, EngineInfo, EngineState, Tokens, Workload
from microgpt.model.spec import ModelSpec
from microgpt.runs import checkpoint_format
from microgpt.runs.checkpoint import CheckpointStore
from microgpt.runs.history import History
from microgpt.training import loop
from microgpt.training.guards import StopRequest
from microgpt.training.loop import Plan, Run, Training
from microgpt.training.progress import Progress
from microgpt.training.schedules import Schedule

SPEC = ModelSpec("bigram", vocab_size=3, n_embd=3, n_head=1, n_layer=0, block_size=4)
WORK = Workload([[2, 0, 1, 2], [2, 1, 2]], [BatchOrder([0, 1], [], 0.0, 1)])


class CountingEngine:
    """The loss of model r's step s is s + 1 + 100 r, that of an example its number of targets; remembers its calls."""

    info = EngineInfo("counting", "cpu", False, "float64", kernel="none", threads=1)
    compile_seconds = 0.0

    def __init__(self, models: int = 1) -> None:
        self.models = models
        self.asked: list[tuple[int, int]] = []
        self.rates: list[np.ndarray] = []
        self.spoilt_losses: dict[int, int] = {}  # of a model, from a step on
        self.spoilt_weights: set[int] = set()

    def load(self, state: EngineState) -> None: ...

    def state(self) -> EngineState:
        arrays = {name: np.zeros((self.models, *shape)) for name, shape in SPEC.shapes().items()}
        for model in self.spoilt_weights:
            arrays["wte"][model] = np.inf
        return EngineState(arrays)

    def advance(self, step: int, learning_rates: np.ndarray) -> np.ndarray:
        self.asked.append((step, len(learning_rates)))
        self.rates.append(learning_rates)
        losses = np.arange(step + 1.0, step + 1 + len(learning_rates))[:, np.newaxis] + 100 * np.arange(self.models)
        for model, first in self.spoilt_losses.items():
            losses[max(0, first - step) :, model] = np.nan
        return losses

    def evaluate(self, examples: Sequence[Tokens]) -> np.ndarray:
        targets = [len(example) - 1 for example in examples]
        return np.full(self.models, sum(n * n for n in targets) / sum(targets))

    def decoder(self, replica: int) -> Decoder:
        raise AssertionError("the loop draws no samples")


def training(
    folder: Path, *, steps: int = 10, examples: Sequence[Tokens] = (), models: int = 1, **plan: int | None
) -> Training:
    for model in range(models):
        (folder / str(model)).mkdir(parents=True)
    chosen = {"log_every": 1, "eval_every": None, "checkpoint_every": None, "last_n": 3, "first_step": 0} | plan
    return Training(
        engine=CountingEngine(models),
        plan=Plan(steps=steps, val_examples=Examples.of(examples), **chosen),  # pyright: ignore[reportArgumentType]
        workload=Workload(WORK.examples, [*WORK.orders] * models),
        runs=[
            Run(
                lr=0.1 * (model + 1),
                schedule=Schedule("constant", steps),
                state=checkpoint_format.Progress(),
                meta=checkpoint_format.Meta(SPEC, ["a", "b"]),
                checkpoints=CheckpointStore(folder / str(model) / "checkpoint", keep=20),
                history=History(folder / str(model) / "history.jsonl"),
            )
            for model in range(models)
        ],
        progress=Progress(steps),
        stop=StopRequest(),
        memory=None,
    )


def saved_steps(run: Run) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in run.checkpoints.directory.glob("step_*"))


def test_every_logged_step_is_a_line_also_within_one_call_of_the_engine(tmp_path: Path) -> None:
    run = training(tmp_path, steps=10)
    run.run()
    assert [line["step"] for line in run.runs[0].history.lines()] == list(range(1, 11))
    assert [line["loss"] for line in run.runs[0].history.lines()] == [float(s) for s in range(1, 11)]
    assert isinstance(run.engine, CountingEngine)
    assert run.engine.asked == [(0, 1), (1, 9)], "the first step tells the time, the rest is one call"
    assert run.runs[0].state.recent_losses == [8.0, 9.0, 10.0]
    assert run.runs[0].state.tokens == 5 * 3 + 5 * 2


@pytest.mark.parametrize(
    ("plan", "lines"),
    [
        ({"log_every": 4}, [1, 4, 8, 10]),
        ({"log_every": 100}, [1, 10]),
        ({"log_every": 5, "checkpoint_every": 3}, [1, 5, 10]),
    ],
    ids=str,
)
def test_the_first_and_the_last_step_and_every_nth_are_logged(
    tmp_path: Path, plan: dict[str, int], lines: list[int]
) -> None:
    run = training(tmp_path, steps=10, examples=(), **plan)
    run.run()
    assert [line["step"] for line in run.runs[0].history.lines()] == lines


def test_saved_at_its_times_before_every_evaluation_and_at_the_end(tmp_path: Path) -> None:
    run = training(tmp_path, examples=[[2, 0, 2]], checkpoint_every=4, eval_every=3, log_every=100)
    run.run()
    assert saved_steps(run.runs[0]) == [0, 3, 4, 6, 8, 9, 10]
    assert [line["step"] for line in run.runs[0].history.lines() if "val_loss" in line] == [0, 3, 6, 9, 10]


def test_a_leg_counts_batches_on_and_its_own_steps_from_the_start(tmp_path: Path) -> None:
    run = training(tmp_path, steps=3, first_step=20)
    run.run()
    assert isinstance(run.engine, CountingEngine)
    assert run.engine.asked == [(20, 1), (21, 2)]
    assert [line["step"] for line in run.runs[0].history.lines()] == [1, 2, 3]


def test_evaluation_in_slices_is_the_mean_over_all_target_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = [[2, *[0] * n] for n in (1, 5, 2, 7, 3, 3, 1)]
    whole = CountingEngine().evaluate(examples)[0]
    for size in (1, 2, 3, 100):
        monkeypatch.setattr(loop, "EVALUATION_SLICE", size)
        run = training(tmp_path / str(size), steps=0, examples=examples)
        run.run()
        assert run.runs[0].state.val_loss == pytest.approx(whole, rel=1e-12)


def test_a_stop_during_an_evaluation_leaves_the_step_to_be_evaluated_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "EVALUATION_SLICE", 1)
    run = training(tmp_path, examples=[[2, 0, 2]] * 3, eval_every=5)
    evaluate = run.engine.evaluate

    def stopping(examples: Sequence[Tokens]) -> np.ndarray:
        if run.step == 5:
            run.stop.signal_number = 15
        return evaluate(examples)

    monkeypatch.setattr(run.engine, "evaluate", stopping)
    run.run()
    assert saved_steps(run.runs[0]) == [0, 5]
    assert run.runs[0].history.lines()[-1]["step"] == 4
    assert run.runs[0].state.best_step == 0


# Runs side by side


def test_runs_side_by_side_write_what_each_would_write_alone(tmp_path: Path) -> None:
    together = training(tmp_path / "together", models=3, examples=[[2, 0, 2]], eval_every=4, checkpoint_every=5)
    together.run()
    for model, run in enumerate(together.runs):
        assert saved_steps(run) == [0, 4, 5, 8, 10]
        assert [line["loss"] for line in run.history.lines() if "loss" in line] == [
            s + 1 + 100.0 * model for s in range(10)
        ]
        assert {line["lr"] for line in run.history.lines() if "lr" in line} == {0.1 * (model + 1)}
        assert run.state.tokens == 5 * 3 + 5 * 2
        assert run.state.recent_losses == [100.0 * model + s for s in (8, 9, 10)]


def test_every_run_has_a_learning_rate_of_its_own(tmp_path: Path) -> None:
    together = training(tmp_path, models=2, steps=4)
    together.runs[1].schedule = Schedule("linear", 4)
    together.run()
    assert isinstance(together.engine, CountingEngine)
    rates = np.concatenate(together.engine.rates)
    assert rates[:, 0].tolist() == [0.1] * 4
    assert rates[:, 1].tolist() == [0.2 * (1 - s / 4) for s in range(4)]


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_run_whose_loss_is_no_number_fails_alone(tmp_path: Path, log_every: int) -> None:
    together = training(tmp_path, models=3, examples=[[2, 0, 2]], eval_every=4, log_every=log_every)
    assert isinstance(together.engine, CountingEngine)
    together.engine.spoilt_losses = {1: 6}
    together.run()
    assert [run.failure is None for run in together.runs] == [True, False, True]
    failed = together.runs[1]
    assert "the loss of step 7 is nan (lr 0.2); the last checkpoint is kept in " in str(failed.failure)
    assert failed.state.step == 6
    assert failed.state.recent_losses == [104.0, 105.0, 106.0]
    assert saved_steps(failed) == [0, 4]
    assert failed.history.lines()[-1]["step"] == (6 if log_every == 1 else 4)
    for run in (together.runs[0], together.runs[2]):
        assert run.state.step == 10
        assert saved_steps(run) == [0, 4, 8, 10]


def test_a_run_whose_weights_are_spoilt_fails_alone_and_is_not_saved(tmp_path: Path) -> None:
    together = training(tmp_path, models=2, checkpoint_every=5)
    assert isinstance(together.engine, CountingEngine)
    together.engine.spoilt_weights = {0}
    together.run()
    assert "after step 5 a weight is not finite; there is no checkpoint yet" in str(together.runs[0].failure)
    assert (saved_steps(together.runs[0]), saved_steps(together.runs[1])) == ([], [5, 10])


def test_a_training_ends_when_no_run_is_left(tmp_path: Path) -> None:
    together = training(tmp_path, models=2, examples=[[2, 0, 2]])
    assert isinstance(together.engine, CountingEngine)
    together.engine.spoilt_losses = {0: 2, 1: 3}
    together.run()
    assert [run.state.step for run in together.runs] == [2, 3]
    assert together.engine.asked[-1][0] < 4


def test_times_are_shared_out_among_the_runs(tmp_path: Path) -> None:
    together = training(tmp_path, models=4)
    together.run()
    shares = {run.state.train_seconds for run in together.runs}
    assert len(shares) == 1
    assert sum(run.state.train_seconds for run in together.runs) == pytest.approx(together.seconds)
