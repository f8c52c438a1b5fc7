"""The training loop with an engine that only counts: what it saves, evaluates and logs, and in which order."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from microgpt.checkpoint import CheckpointStore
from microgpt.checkpoint_format import Meta, TrainState
from microgpt.data.batches import BatchOrder
from microgpt.data.examples import Examples
from microgpt.engines.base import Decoder, EngineInfo, EngineState, Tokens, Workload
from microgpt.model.spec import ModelSpec
from microgpt.training import loop
from microgpt.training.guards import StopRequest
from microgpt.training.history import History
from microgpt.training.loop import Plan, Training
from microgpt.training.progress import Progress
from microgpt.training.schedules import Schedule

SPEC = ModelSpec("bigram", vocab_size=3, n_embd=3, n_head=1, n_layer=0, block_size=4)
WORK = Workload([[2, 0, 1, 2], [2, 1, 2]], [BatchOrder([0, 1], [], 0.0, 1)])


class CountingEngine:
    """The loss of step s is s + 1, that of an example its number of targets; remembers what it was asked."""

    info = EngineInfo("counting", "cpu", False, "float64", kernel="none", threads=1)
    compile_seconds = 0.0

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def load(self, state: EngineState) -> None: ...

    def state(self) -> EngineState:
        return EngineState({name: np.zeros((1, *shape)) for name, shape in SPEC.shapes().items()})

    def advance(self, step: int, learning_rates: np.ndarray) -> np.ndarray:
        self.asked.append((step, len(learning_rates)))
        return np.arange(step + 1.0, step + 1 + len(learning_rates))[:, np.newaxis]

    def evaluate(self, examples: Sequence[Tokens]) -> np.ndarray:
        targets = [len(example) - 1 for example in examples]
        return np.array([sum(n * n for n in targets) / sum(targets)])

    def decoder(self, replica: int) -> Decoder:
        raise AssertionError("the loop draws no samples")


def training(folder: Path, *, steps: int = 10, examples: Sequence[Tokens] = (), **plan: int | None) -> Training:
    chosen = {"log_every": 1, "eval_every": None, "checkpoint_every": None, "last_n": 3, "first_step": 0} | plan
    return Training(
        engine=CountingEngine(),
        plan=Plan(
            steps=steps,
            lr=0.1,
            schedule=Schedule("constant", steps),
            val_examples=Examples.of(examples),
            **chosen,  # pyright: ignore[reportArgumentType]
        ),
        workload=WORK,
        state=TrainState(),
        meta=Meta(SPEC, ["a", "b"]),
        checkpoints=CheckpointStore(folder / "checkpoint", keep=20),
        history=History(folder / "history.jsonl"),
        progress=Progress(steps),
        stop=StopRequest(),
        memory=None,
    )


def saved_steps(run: Training) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in run.checkpoints.directory.glob("step_*"))


def test_every_logged_step_is_a_line_also_within_one_call_of_the_engine(tmp_path: Path) -> None:
    run = training(tmp_path, steps=10)
    run.run()
    assert [line["step"] for line in run.history.lines()] == list(range(1, 11))
    assert [line["loss"] for line in run.history.lines()] == [float(s) for s in range(1, 11)]
    assert isinstance(run.engine, CountingEngine)
    assert run.engine.asked == [(0, 1), (1, 9)], "the first step tells the time, the rest is one call"
    assert run.state.recent_losses == [8.0, 9.0, 10.0]
    assert run.state.tokens == 5 * 3 + 5 * 2


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
    assert [line["step"] for line in run.history.lines()] == lines


def test_saved_at_its_times_before_every_evaluation_and_at_the_end(tmp_path: Path) -> None:
    run = training(tmp_path, examples=[[2, 0, 2]], checkpoint_every=4, eval_every=3, log_every=100)
    run.run()
    assert saved_steps(run) == [0, 3, 4, 6, 8, 9, 10]
    assert [line["step"] for line in run.history.lines() if "val_loss" in line] == [0, 3, 6, 9, 10]


def test_a_leg_counts_batches_on_and_its_own_steps_from_the_start(tmp_path: Path) -> None:
    run = training(tmp_path, steps=3, first_step=20)
    run.run()
    assert isinstance(run.engine, CountingEngine)
    assert run.engine.asked == [(20, 1), (21, 2)]
    assert [line["step"] for line in run.history.lines()] == [1, 2, 3]


def test_evaluation_in_slices_is_the_mean_over_all_target_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = [[2, *[0] * n] for n in (1, 5, 2, 7, 3, 3, 1)]
    whole = CountingEngine().evaluate(examples)[0]
    for size in (1, 2, 3, 100):
        monkeypatch.setattr(loop, "EVALUATION_SLICE", size)
        run = training(tmp_path / str(size), steps=0, examples=examples)
        run.run()
        assert run.state.val_loss == pytest.approx(whole, rel=1e-12)


def test_a_stop_during_an_evaluation_leaves_the_step_to_be_evaluated_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "EVALUATION_SLICE", 1)
    run = training(tmp_path, examples=[[2, 0, 2]] * 3, eval_every=5)
    evaluate = run.engine.evaluate

    def stopping(examples: Sequence[Tokens]) -> np.ndarray:
        if run.state.step == 5:
            run.stop.signal_number = 15
        return evaluate(examples)

    monkeypatch.setattr(run.engine, "evaluate", stopping)
    run.run()
    assert saved_steps(run) == [0, 5]
    assert run.history.lines()[-1]["step"] == 4
    assert run.state.best_step == 0
