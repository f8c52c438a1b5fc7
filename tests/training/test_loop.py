"""The training loop with an engine that only counts: what it saves, evaluates and logs, and when."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from microgpt.data.batches import BatchOrder
from microgpt.data.examples import Examples
from microgpt.engines.base import Decoder, EngineInfo, EngineState, Tokens, Workload
from microgpt.model.spec import ModelSpec
from microgpt.runs.checkpoint_format import Meta, Progress
from microgpt.runs.checkpoint_store import CheckpointStore
from microgpt.runs.history import History
from microgpt.training import loop
from microgpt.training.guards import StopRequest
from microgpt.training.loop import Training
from microgpt.training.progress import RunProgressDisplay
from microgpt.training.replica import Plan, Replica
from microgpt.training.schedules import Schedule

SPEC = ModelSpec("bigram", vocab_size=3, n_embd=3, n_head=1, n_layer=0, block_size=4)
WORK = Workload([[2, 0, 1, 2], [2, 1, 2]], [BatchOrder([0, 1], [], 0.0, 1)])


class CountingEngine:
    """The loss of replica r at step s is s + 1 + 100 r, that of an example its number of targets. Records its calls."""

    info = EngineInfo("counting", "cpu", False, "float64", kernel="none", threads=1)
    compile_seconds = 0.0

    def __init__(self, models: int = 1) -> None:
        self.models = models
        self.calls: list[tuple[int, int]] = []
        self.rates: list[np.ndarray] = []
        self.nan_losses: dict[int, int] = {}  # of a model, from a step on
        self.infinite_weights: set[int] = set()

    def load(self, state: EngineState) -> None: ...

    def state(self) -> EngineState:
        arrays = {name: np.zeros((self.models, *shape)) for name, shape in SPEC.shapes().items()}
        for model in self.infinite_weights:
            arrays["wte"][model] = np.inf
        return EngineState(arrays)

    def advance(self, step: int, learning_rates: np.ndarray) -> np.ndarray:
        self.calls.append((step, len(learning_rates)))
        self.rates.append(learning_rates)
        losses = np.arange(step + 1.0, step + 1 + len(learning_rates))[:, np.newaxis] + 100 * np.arange(self.models)
        for model, first in self.nan_losses.items():
            losses[max(0, first - step) :, model] = np.nan
        return losses

    def evaluate(self, examples: Sequence[Tokens]) -> np.ndarray:
        targets = [len(example) - 1 for example in examples]
        return np.full(self.models, sum(n * n for n in targets) / sum(targets))

    def decoder(self, replica: int) -> Decoder:
        raise AssertionError("the loop does not sample")


def training(
    folder: Path, *, steps: int = 10, examples: Sequence[Tokens] = (), models: int = 1, **plan: int | None
) -> Training:
    for model in range(models):
        (folder / str(model)).mkdir(parents=True)
    chosen = {
        "log_every": 1,
        "eval_every": None,
        "checkpoint_every": None,
        "checkpoint_seconds": 0,
        "last_n": 3,
        "first_step": 0,
    } | plan
    return Training(
        engine=CountingEngine(models),
        plan=Plan(steps=steps, val_examples=Examples.of(examples), **chosen),  # pyright: ignore[reportArgumentType]
        workload=Workload(WORK.examples, [*WORK.orders] * models),
        replicas=[
            Replica(
                lr=0.1 * (model + 1),
                schedule=Schedule("constant", steps),
                progress=Progress(),
                meta=Meta(SPEC, ["a", "b"]),
                checkpoints=CheckpointStore(folder / str(model) / "checkpoint", keep=20),
                history=History(folder / str(model) / "history.jsonl"),
            )
            for model in range(models)
        ],
        observer=RunProgressDisplay(steps),
        stop=StopRequest(),
        memory=None,
    )


def saved_steps(replica: Replica) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in replica.checkpoints.directory.glob("step_*"))


def test_every_logged_step_is_a_line_even_within_one_call_of_the_engine(tmp_path: Path) -> None:
    trained = training(tmp_path, steps=10)
    trained.run()
    assert [line["step"] for line in trained.replicas[0].history.lines()] == list(range(1, 11))
    assert [line["loss"] for line in trained.replicas[0].history.lines()] == [float(s) for s in range(1, 11)]
    assert isinstance(trained.engine, CountingEngine)
    assert trained.engine.calls == [(0, 1), (1, 9)], "the first step is timed alone, the others are one call"
    assert trained.replicas[0].progress.recent_losses == [8.0, 9.0, 10.0]
    assert trained.replicas[0].progress.tokens == 5 * 3 + 5 * 2


@pytest.mark.parametrize(
    ("plan", "lines"),
    [
        ({"log_every": 4}, [1, 4, 8, 10]),
        ({"log_every": 100}, [1, 10]),
        ({"log_every": 5, "checkpoint_every": 3}, [1, 5, 10]),
    ],
    ids=str,
)
def test_first_last_and_every_nth_step_are_logged(tmp_path: Path, plan: dict[str, int], lines: list[int]) -> None:
    trained = training(tmp_path, steps=10, examples=(), **plan)
    trained.run()
    assert [line["step"] for line in trained.replicas[0].history.lines()] == lines


def test_checkpoints_are_saved_on_schedule_before_evaluations_and_at_the_end(tmp_path: Path) -> None:
    trained = training(tmp_path, examples=[[2, 0, 2]], checkpoint_every=4, eval_every=3, log_every=100)
    trained.run()
    assert saved_steps(trained.replicas[0]) == [0, 3, 4, 6, 8, 9, 10]
    assert [line["step"] for line in trained.replicas[0].history.lines() if "val_loss" in line] == [0, 3, 6, 9, 10]


def test_within_checkpoint_seconds_only_the_last_and_the_best_step_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = training(tmp_path, models=2, examples=[[2, 0, 2]], eval_every=2, checkpoint_seconds=1000)
    losses = iter([[3.0, 3.0], [2.0, 4.0], [1.0, 4.0], [2.0, 4.0], [2.0, 4.0], [2.0, 2.0]])
    monkeypatch.setattr(trained.engine, "evaluate", lambda examples: np.array(next(losses)))
    written: list[list[int]] = []
    advance = trained.engine.advance
    monkeypatch.setattr(
        trained.engine,
        "advance",
        lambda *given: (written.append(saved_steps(trained.replicas[0])), advance(*given))[1],
    )
    trained.run()
    assert written == [[]] * len(written), "nothing is written before the end"
    assert [saved_steps(replica) for replica in trained.replicas] == [[4, 10], [10]]
    best = [replica.checkpoints.directory / "best" for replica in trained.replicas]
    assert [path.readlink().name for path in best] == ["step_00000004", "step_00000010"]
    assert [len(replica.history.lines()) for replica in trained.replicas] == [11, 11]


def test_a_failing_run_and_an_error_write_what_is_held_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = training(tmp_path, models=2, examples=[[2, 0, 2]], eval_every=2, checkpoint_seconds=1000)
    assert isinstance(trained.engine, CountingEngine)
    trained.engine.nan_losses = {1: 3}

    def fail(examples: Sequence[Tokens]) -> np.ndarray:
        if trained.step == 6:
            raise RuntimeError("the engine fails")
        return np.array([1.0, 1.0])

    monkeypatch.setattr(trained.engine, "evaluate", fail)
    with pytest.raises(RuntimeError, match="the engine fails"):
        trained.run()
    assert [saved_steps(replica) for replica in trained.replicas] == [[0, 6], [0, 2]]
    assert "the last checkpoint is kept in " in str(trained.replicas[1].failure)
    assert trained.replicas[0].history.lines()[-1]["step"] == 5


def test_new_leg_continues_the_batches_and_counts_its_own_steps(tmp_path: Path) -> None:
    trained = training(tmp_path, steps=3, first_step=20)
    trained.run()
    assert isinstance(trained.engine, CountingEngine)
    assert trained.engine.calls == [(20, 1), (21, 2)]
    assert [line["step"] for line in trained.replicas[0].history.lines()] == [1, 2, 3]


def test_evaluation_in_parts_is_the_mean_over_all_target_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = [[2, *[0] * n] for n in (1, 5, 2, 7, 3, 3, 1)]
    whole = CountingEngine().evaluate(examples)[0]
    for size in (1, 2, 3, 100):
        monkeypatch.setattr(loop, "EXAMPLES_PER_EVALUATION", size)
        trained = training(tmp_path / str(size), steps=0, examples=examples)
        trained.run()
        assert trained.replicas[0].progress.val_loss == pytest.approx(whole, rel=1e-12)


def test_stop_during_an_evaluation_leaves_the_step_unevaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "EXAMPLES_PER_EVALUATION", 1)
    trained = training(tmp_path, examples=[[2, 0, 2]] * 3, eval_every=5)
    evaluate = trained.engine.evaluate

    def stopping(examples: Sequence[Tokens]) -> np.ndarray:
        if trained.step == 5:
            trained.stop.signal_number = 15
        return evaluate(examples)

    monkeypatch.setattr(trained.engine, "evaluate", stopping)
    trained.run()
    assert saved_steps(trained.replicas[0]) == [0, 5]
    assert trained.replicas[0].history.lines()[-1]["step"] == 4
    assert trained.replicas[0].progress.best_step == 0


# Replicas side by side


def test_replicas_write_what_each_would_write_alone(tmp_path: Path) -> None:
    together = training(tmp_path / "together", models=3, examples=[[2, 0, 2]], eval_every=4, checkpoint_every=5)
    together.run()
    for model, replica in enumerate(together.replicas):
        assert saved_steps(replica) == [0, 4, 5, 8, 10]
        assert [line["loss"] for line in replica.history.lines() if "loss" in line] == [
            s + 1 + 100.0 * model for s in range(10)
        ]
        assert {line["lr"] for line in replica.history.lines() if "lr" in line} == {0.1 * (model + 1)}
        assert replica.progress.tokens == 5 * 3 + 5 * 2
        assert replica.progress.recent_losses == [100.0 * model + s for s in (8, 9, 10)]


def test_every_replica_has_its_own_learning_rate(tmp_path: Path) -> None:
    together = training(tmp_path, models=2, steps=4)
    together.replicas[1].schedule = Schedule("linear", 4)
    together.run()
    assert isinstance(together.engine, CountingEngine)
    rates = np.concatenate(together.engine.rates)
    assert rates[:, 0].tolist() == [0.1] * 4
    assert rates[:, 1].tolist() == [0.2 * (1 - s / 4) for s in range(4)]


@pytest.mark.parametrize("log_every", [1, 100])
def test_replica_with_a_non_finite_loss_fails_alone(tmp_path: Path, log_every: int) -> None:
    together = training(tmp_path, models=3, examples=[[2, 0, 2]], eval_every=4, log_every=log_every)
    assert isinstance(together.engine, CountingEngine)
    together.engine.nan_losses = {1: 6}
    together.run()
    assert [replica.failure is None for replica in together.replicas] == [True, False, True]
    failed = together.replicas[1]
    said = str(failed.failure)
    assert said.startswith(
        "the loss of step 7 is nan (lr 0.2); lower model.init_std (now 0.08) and, if necessary, optim.lr (now 0.2): "
    )
    assert "; the last checkpoint is kept in " in said
    assert failed.progress.step == 6
    assert failed.progress.recent_losses == [104.0, 105.0, 106.0]
    assert saved_steps(failed) == [0, 4]
    assert failed.history.lines()[-1]["step"] == (6 if log_every == 1 else 4)
    for replica in (together.replicas[0], together.replicas[2]):
        assert replica.progress.step == 10
        assert saved_steps(replica) == [0, 4, 8, 10]


def test_replica_with_a_non_finite_weight_fails_alone_and_is_not_saved(tmp_path: Path) -> None:
    together = training(tmp_path, models=2, checkpoint_every=5)
    assert isinstance(together.engine, CountingEngine)
    together.engine.infinite_weights = {0}
    together.run()
    assert "after step 5 the model contains non-finite weights; lower " in str(together.replicas[0].failure)
    assert (saved_steps(together.replicas[0]), saved_steps(together.replicas[1])) == ([], [5, 10])


def test_training_ends_when_every_replica_has_failed(tmp_path: Path) -> None:
    together = training(tmp_path, models=2, examples=[[2, 0, 2]])
    assert isinstance(together.engine, CountingEngine)
    together.engine.nan_losses = {0: 2, 1: 3}
    together.run()
    assert [replica.progress.step for replica in together.replicas] == [2, 3]
    assert together.engine.calls[-1][0] < 4


def test_times_are_divided_among_the_replicas(tmp_path: Path) -> None:
    together = training(tmp_path, models=4)
    together.run()
    shares = {replica.progress.train_seconds for replica in together.replicas}
    assert len(shares) == 1
    assert sum(replica.progress.train_seconds for replica in together.replicas) == pytest.approx(together.seconds)
