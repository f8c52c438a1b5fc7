"""task=train, sample and info as a program: console line, files, records, repeatability, legs."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.program import RECORD_KEYS, Program, checkpoint_files, mostly_slow, read_history, read_record, results_of

from microgpt.runs.checkpoint import load_checkpoint

CONSOLE_KEYS = [
    "mode", "model", "style", "backend", "device", "using_gpu", "tie_lm_head", "input_rmsnorm", "params", "steps",
    "final_loss", "val_loss", "mean_loss_last_50", "steps_per_sec", "tokens_per_sec", "vocab_size", "train_tokens",
]  # fmt: skip
QUICK = ("experiment=debug", "train.steps=2", "train.eval_documents=5", "sample.num_samples=1")
CLASSIC = (*QUICK, "style=classic")
UNVALIDATED = ("experiment=debug", "train.steps=2", "sample.num_samples=1", "style=classic", "data.val_fraction=0")


@pytest.fixture(scope="module")
def twins(shared_program: Program) -> tuple[Program, list[str]]:
    """Run two processes of the same command at the same time, and return their standard output."""
    processes = [shared_program.start("experiment=debug") for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    return shared_program, outputs


@pytest.fixture(scope="module")
def run(twins: tuple[Program, list[str]]) -> Path:
    """Return a completed run of experiment=debug."""
    return twins[0].runs()[0]


def console(stdout: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in stdout.splitlines()[-1].split(" "))


def sample_lines(stdout: str) -> list[str]:
    """Return the printed samples without stop reasons."""
    return [re.sub(r"  \[stopped: \w+\]$", "", s) for s in re.findall(r"^sample +\d+: (.*)$", stdout, re.MULTILINE)]


# The console line and the files


def test_last_line_is_the_console_line(twins: tuple[Program, list[str]], run: Path) -> None:
    shown, metrics = console(twins[1][0]), read_record(run)["metrics"]
    assert list(shown) == CONSOLE_KEYS
    assert (shown["mode"], shown["model"], shown["backend"], shown["device"]) == ("scalar", "gpt", "python", "cpu")
    assert (shown["using_gpu"], shown["tie_lm_head"], shown["input_rmsnorm"]) == ("false", "false", "true")
    assert (shown["params"], shown["steps"]) == (str(metrics["parameter_count"]), "20")
    assert shown["final_loss"] == f"{metrics['final_loss']:.6f}"
    assert shown["val_loss"] == f"{metrics['val_loss']:.6f}"
    assert shown["mean_loss_last_50"] == f"{metrics['mean_loss_last_n']:.6f}"
    assert re.fullmatch(r"\d+\.\d\d", shown["steps_per_sec"])
    assert re.fullmatch(r"\d+\.\d\d", shown["tokens_per_sec"])
    assert (shown["vocab_size"], shown["train_tokens"]) == ("29", str(metrics["train_tokens"]))


def test_a_run_folder_has_these_files(run: Path) -> None:
    assert {path.name for path in run.iterdir()} >= {"run.json", "history.jsonl", "samples.txt", "checkpoint"}
    assert run.relative_to(run.parents[2]).parts[0] == "outputs"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", run.parent.name)
    assert {path.name for path in run.rglob("*") if path.name.startswith(".")} == {".lock", ".hydra"}


def test_the_record_describes_the_run(run: Path) -> None:
    record = read_record(run)
    assert set(record) >= RECORD_KEYS
    assert (record["status"], record["task"], record["error"]) == ("completed", "train", None)
    assert record["run_id"] == f"{run.parent.name}/{run.name}"
    assert record["command"] == "python -m microgpt experiment=debug"
    assert record["overrides"] == ["experiment=debug"]
    assert record["started_at"] < record["finished_at"]
    assert set(record["git"]) == {"commit", "dirty"}
    assert set(record["data"]) >= {
        "name", "sha256", "documents", "train_documents", "val_documents", "train_tokens", "vocab_size",
    }  # fmt: skip
    assert set(record["model"]) >= {"kind", "parameter_count", "tie_lm_head", "input_rmsnorm"}
    assert set(record["environment"]) >= {"python", "platform", "cpu", "cores", "gpu", "versions"}
    assert set(record["timings"]) >= {"compile", "train", "evaluate", "checkpoint"}
    assert record["config"]["train"]["steps"] == 20
    assert (record["backend"], record["device"], record["using_gpu"], record["dtype"]) == (
        "python", "cpu", False, "float64",
    )  # fmt: skip


def test_metrics_agree_with_the_history(run: Path) -> None:
    metrics, history = read_record(run)["metrics"], read_history(run)
    evaluated = {line["step"]: line["val_loss"] for line in history if "val_loss" in line}
    assert set(evaluated) == {0, 10, 20}
    assert (metrics["first_val_loss"], metrics["val_loss"]) == (evaluated[0], evaluated[20])
    assert metrics["best_val_loss"] == min(evaluated.values()) == evaluated[metrics["best_step"]]
    assert metrics["final_loss"] == history[-1]["loss"]
    assert metrics["tokens_seen"] == history[-1]["tokens"]
    assert metrics["bits_per_character"] == pytest.approx(metrics["val_loss"] / math.log(2))
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["val_loss"]))
    assert metrics["last_n"] == 50
    seconds = read_record(run)["timings"]["train"]
    assert metrics["steps_per_sec"] == pytest.approx(20 / seconds)
    assert metrics["tokens_per_sec"] == pytest.approx(metrics["tokens_seen"] / seconds)


def test_the_history_has_the_logged_steps(run: Path) -> None:
    history = read_history(run)
    assert [line["step"] for line in history] == [0, 1, 5, 10, 15, 20]
    assert "loss" not in history[0]
    for line in history[1:]:
        assert line["lr"] == pytest.approx(0.01 * (1 - (line["step"] - 1) / 20))
        assert math.isfinite(line["loss"])


def test_samples_are_printed_recorded_and_written(twins: tuple[Program, list[str]], run: Path) -> None:
    samples = read_record(run)["samples"]
    assert len(samples) == 5
    assert sample_lines(twins[1][0]) == samples
    assert (run / "samples.txt").read_text() == "".join(f"{sample}\n" for sample in samples)


def test_last_and_best_checkpoints_are_kept(run: Path) -> None:
    best = read_record(run)["metrics"]["best_step"]
    kept = {path.name for path in (run / "checkpoint").glob("step_*")}
    assert kept == {"step_00000010", "step_00000020", f"step_{best:08d}"}
    assert (run / "checkpoint" / "latest").resolve().name == "step_00000020"
    assert (run / "checkpoint" / "best").resolve().name == f"step_{best:08d}"
    assert {path.name for path in (run / "checkpoint" / "latest").iterdir()} >= {
        "weights.safetensors", "meta.json", "train_state.json", "optimizer_m.safetensors", "optimizer_v.safetensors",
    }  # fmt: skip


def test_the_memory_guard_does_not_stop_a_normal_run(run: Path) -> None:
    record = read_record(run)
    assert record["config"]["train"]["max_memory_growth"] == 2.0
    assert record["status"] == "completed"


# Repeatability


def test_two_processes_of_one_command_have_two_folders_with_equal_results(
    twins: tuple[Program, list[str]],
) -> None:
    first, second = twins[0].runs()
    assert results_of(first, 20) == results_of(second, 20)
    assert read_record(first)["config_hash"] == read_record(second)["config_hash"]
    assert checkpoint_files(first, 20)


@pytest.mark.slow
def test_another_seed_gives_other_results(run: Path, microgpt: Program) -> None:
    microgpt("experiment=debug", "seed=43", "train.steps=1", "sample.num_samples=0")
    other = microgpt.only_run()
    assert read_history(other)[0]["val_loss"] != read_history(run)[0]["val_loss"]
    assert read_record(other)["data"] == read_record(run)["data"], "all seeds share data and split"


@pytest.mark.slow
def test_every_step_can_be_logged(microgpt: Program) -> None:
    microgpt(*CLASSIC, "train.steps=7", "train.log_every=1", "train.eval_every=null")
    history = read_history(microgpt.only_run())
    assert [line["step"] for line in history] == list(range(8))
    assert [line["step"] for line in history if "val_loss" in line] == [0, 7]
    assert [line["tokens"] for line in history] == sorted({line["tokens"] for line in history})


# What can be trained


@pytest.mark.slow
def test_zero_steps_report_the_untrained_model(microgpt: Program) -> None:
    done = microgpt(*CLASSIC, "train.steps=0")
    record = read_record(microgpt.only_run())
    metrics = record["metrics"]
    assert metrics["steps"] == 0
    assert metrics["val_loss"] == metrics["first_val_loss"] == pytest.approx(math.log(27), abs=0.4)
    assert metrics["final_loss"] == metrics["mean_loss_last_n"] == pytest.approx(math.log(27), abs=0.6)
    assert (metrics["steps_per_sec"], metrics["tokens_seen"]) == (0, 0)
    assert console(done.stdout)["steps"] == "0"
    assert len(record["samples"]) == 1


@pytest.mark.slow
def test_without_validation_val_loss_is_none(microgpt: Program) -> None:
    done = microgpt(*UNVALIDATED)
    assert console(done.stdout)["val_loss"] == "none"
    record = read_record(microgpt.only_run())
    assert record["metrics"]["val_loss"] is record["metrics"]["best_step"] is None
    assert record["data"]["train_documents"] == record["data"]["documents"]
    assert all("val_loss" not in line for line in read_history(microgpt.only_run()))


@mostly_slow(1,
    ("overrides", "lr", "factor"),
    [
        (["model=bigram", "optim=sgd", "schedule=cosine"], 0.1, lambda s: 0.5 * (1 + math.cos(math.pi * s / 8))),
        (["model=gpt_first", "optim=adamw", "schedule=warmdown"], 0.01, lambda s: 1 if s <= 4 else (8 - s) / 4),
        (["train.batch_size=4", "schedule=sqrt", "schedule.warmdown_steps=2"], 0.01,
         lambda s: 1 if s <= 6 else 1 - math.sqrt((s - 6) / 2)),
        (["optim.grad_clip=0.5", "schedule=constant", "schedule.warmup_steps=4"], 0.01, lambda s: min(1, (s + 1) / 4)),
        (["model.n_layer=2", "model.n_embd=8", "schedule.total_steps=16"], 0.01, lambda s: 1 - s / 16),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)  # fmt: skip
def test_a_choice_trains_by_its_schedule(
    microgpt: Program, overrides: list[str], lr: float, factor: Callable[[int], float]
) -> None:
    microgpt(*CLASSIC, "train.steps=8", "train.log_every=1", "train.eval_documents=20", *overrides)
    record, history = read_record(microgpt.only_run()), read_history(microgpt.only_run())
    assert [line["lr"] for line in history[1:]] == pytest.approx([lr * factor(step) for step in range(8)])
    assert record["metrics"]["val_loss"] < record["metrics"]["first_val_loss"]


@pytest.mark.slow
def test_a_batch_of_four_has_the_examples_of_four_steps(microgpt: Program) -> None:
    microgpt(*CLASSIC, "train.steps=4", "outputs_dir=one")
    microgpt(*CLASSIC, "train.steps=1", "train.batch_size=4", "outputs_dir=four")
    one, four = (read_record(microgpt.only_run(outputs))["metrics"]["tokens_seen"] for outputs in ("one", "four"))
    assert one == four


@pytest.mark.slow
def test_gradient_clipping_changes_the_results_of_sgd(microgpt: Program) -> None:
    weights = {}
    for clip in ("1e6", "1e-3"):
        microgpt(*CLASSIC, "model=bigram", "optim=sgd", f"optim.grad_clip={clip}", f"outputs_dir=clip_{clip}")
        weights[clip] = checkpoint_files(microgpt.only_run(f"clip_{clip}"), 2)["weights.safetensors"]
    assert weights["1e6"] != weights["1e-3"]


# Texts and styles


@mostly_slow(
    1,
    ("overrides", "documents", "tokens"),
    [
        (["data.long_documents=truncate"], 3, 4 + 16 + 16),
        (["data.long_documents=window"], 3, 4 + 16 + 41),
        (["data.long_documents=skip"], 3, 4 + 16),
        (["data.format=stream"], 4, 4 + 16 + 41),
    ],
    ids=["truncate", "window", "skip", "stream"],
)
def test_text_becomes_examples(microgpt: Program, overrides: list[str], documents: int, tokens: int) -> None:
    (microgpt.folder / "input.txt").write_text("abc\n" + "d" * 15 + "\n" + "e" * 40 + "\n")
    microgpt(*UNVALIDATED, "data=text", "data.path=input.txt", *overrides)
    data = read_record(microgpt.only_run())["data"]
    assert (data["documents"], data["train_tokens"]) == (documents, tokens)
    assert data["name"] == "text"


@pytest.mark.slow
def test_the_style_has_its_share_of_the_training_examples(microgpt: Program) -> None:
    (microgpt.folder / "input.txt").write_text("".join(f"{a}{b}a\n" for a in "abcdefgh" for b in "abcdefgh"))
    text = "data=text", "data.path=input.txt", "data.val_fraction=0", "experiment=debug", "sample.num_samples=2"
    microgpt(*text, "style=classic", "outputs_dir=classic")
    microgpt(*text, "style=futuristic", "outputs_dir=futuristic")
    classic, futuristic = (read_record(microgpt.only_run(style)) for style in ("classic", "futuristic"))
    assert classic["metrics"]["tokens_seen"] == 20 * 4
    assert futuristic["metrics"]["tokens_seen"] == 18 * 4 + 2 * 16, "a tenth of 20 examples are full windows"
    assert "style_effect" not in classic["metrics"]
    effect = futuristic["metrics"]["style_effect"]
    assert (effect["documents"], effect["share"], effect["bias"]) == (4, 0.1, 3.0)
    assert math.isfinite(effect["train_loss"])
    assert (classic["style"], futuristic["style"]) == ("classic", "futuristic")


@pytest.mark.slow
def test_the_style_s_bias_affects_samples_and_is_measured(microgpt: Program) -> None:
    microgpt(*QUICK, "style.bias=1000", "sample.num_samples=4", "train.steps=1")
    record = read_record(microgpt.only_run())
    effect = record["metrics"]["style_effect"]
    assert (effect["phrase_rate"], effect["phrase_rate_without_bias"]) == (1.0, 0.0)
    assert all(sample.startswith(tuple(record["config"]["style"]["phrases"])) for sample in record["samples"])


# Failure


@mostly_slow(
    1,
    "overrides",
    [
        ["optim.lr=1e300", "train.checkpoint_every=1"],
        ["optim=sgd", "optim.lr=1e200", "train.eval_every=1"],
        ["model=gpt_first", "optim=sgd", "optim.lr=1e200", "train.eval_every=1"],
        ["optim.lr=1e200", "train.steps=1", "data.val_fraction=0"],
    ],
    ids=" ".join,
)
def test_a_run_that_is_no_longer_finite_stops_with_a_sentence(microgpt: Program, overrides: list[str]) -> None:
    done = microgpt("experiment=debug", "sample.num_samples=1", *overrides, expect=1)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert re.search(r"step \d+", done.stderr)
    run = microgpt.only_run()
    record = read_record(run)
    assert record["status"] == "failed"
    assert done.stderr == f"error: {record['error']}\n"
    if (run / "checkpoint").exists():
        last = load_checkpoint((run / "checkpoint" / "latest").resolve())
        assert all(np.isfinite(array).all() for array in last.state.parameters.values())
        assert str(last.path.relative_to(microgpt.folder)) in record["error"]


# Sampling and information


def test_the_latest_checkpoint_gives_the_samples_of_its_run(twins: tuple[Program, list[str]], run: Path) -> None:
    before = twins[0].files()
    done = twins[0]("task=sample", "checkpoint=latest", "sample.num_samples=5")
    assert sample_lines(done.stdout) == read_record(run)["samples"]
    assert twins[0].files() == before, "sampling is no run"


@pytest.mark.slow
def test_another_seed_gives_other_samples(twins: tuple[Program, list[str]], run: Path) -> None:
    command = "task=sample", f"checkpoint={run}", "sample.num_samples=5"
    own, one, again, other = (
        sample_lines(twins[0](*command, *seed).stdout) for seed in ((), ("seed=1",), ("sample.seed=1",), ("seed=2",))
    )
    assert one == again
    assert len({tuple(own), tuple(one), tuple(other)}) == 3


@pytest.mark.slow
def test_a_style_key_changes_the_checkpoint_s_style(microgpt: Program) -> None:
    microgpt("experiment=debug", "style=classic", "sample.num_samples=0")
    command = "task=sample", "checkpoint=latest", "sample.num_samples=5", "sample.seed=1"
    plain = sample_lines(microgpt(*command).stdout)
    assert sample_lines(microgpt(*command, "style.bias=50").stdout) == plain, "classic has no phrases to favour"
    phrased = sample_lines(microgpt(*command, "style.bias=50", "style.phrases=[zebra]").stdout)
    assert all(sample.startswith("zebra") for sample in phrased)
    assert sample_lines(microgpt(*command, "style=futuristic", "style.bias=50").stdout) != plain


@pytest.mark.slow
def test_greedy_samples_of_a_prompt_are_equal(twins: tuple[Program, list[str]], run: Path) -> None:
    command = (
        "task=sample", f"checkpoint={run}", "sample.prompt=an", "sample.temperature=0", "sample.num_samples=3",
    )  # fmt: skip
    first, second = twins[0](*command).stdout, twins[0](*command).stdout
    assert first == second
    samples = sample_lines(first)
    assert len(samples) == 3
    assert len(set(samples)) == 1
    assert samples[0].startswith("an")


@pytest.mark.slow
def test_samples_come_from_the_trained_weights(microgpt: Program) -> None:
    """A model trained on one name generates this name; an untrained model does not."""
    (microgpt.folder / "input.txt").write_text("otto\n" * 9)
    text = "data=text", "data.path=input.txt", "data.val_fraction=0", "style=classic", "train.log_every=50"
    for steps in (0, 100):
        microgpt(*text, f"train.steps={steps}", f"outputs_dir=after{steps}", "sample.num_samples=5")
    untrained, trained = (read_record(microgpt.only_run(f"after{steps}"))["samples"] for steps in (0, 100))
    assert trained == ["otto"] * 5
    assert "otto" not in untrained


def test_info_prints_the_content_of_a_checkpoint(twins: tuple[Program, list[str]], run: Path) -> None:
    stdout = twins[0]("task=info", f"checkpoint={run}").stdout
    facts = dict(re.findall(r"^([\w' ]+): +(.*)$", stdout, re.MULTILINE))
    assert (facts["kind"], facts["parameters"], facts["step"]) == ("gpt", "4256", "20")
    assert (facts["optimizer state"], facts["seed"], facts["run's status"]) == ("yes", "42", "completed")
    assert float(facts["run's val_loss"]) == read_record(run)["metrics"]["val_loss"]
    assert re.search(r"^  layer0\.mlp_fc1: *\[64, 16\] float64$|^  layer0\.mlp_fc1 +\[64, 16\] float64$", stdout, re.M)


# Legs


@pytest.mark.slow
def test_a_leg_has_its_own_folder_and_schedule(twins: tuple[Program, list[str]], run: Path, microgpt: Program) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = microgpt(*QUICK, "train.steps=5", "train.log_every=1", f"train.resume={run}")
    leg = microgpt.only_run()
    record = read_record(leg)
    assert record["leg"]["first_step"] == 20
    assert Path(record["leg"]["from"]).name == "step_00000020"
    assert "continuation of 5 steps: schedule linear starts again with lr 0.01, over 5 steps" in done.stdout
    assert [line["lr"] for line in read_history(leg)[1:]] == pytest.approx([0.01 * (1 - s / 5) for s in range(5)])
    assert record["metrics"]["first_val_loss"] != read_record(run)["metrics"]["first_val_loss"]
    state = json.loads((leg / "checkpoint" / "latest" / "train_state.json").read_text())
    assert (state["first_step"], state["step"], state["total_steps"]) == (20, 5, 5)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before, "the run is left alone"


@pytest.mark.slow
def test_two_legs_at_a_constant_rate_give_the_results_of_one_run(microgpt: Program) -> None:
    constant = *CLASSIC, "schedule=constant"
    microgpt(*constant, "train.steps=6", "outputs_dir=whole")
    microgpt(*constant, "train.steps=3", "outputs_dir=first")
    microgpt(*constant, "train.steps=3", "outputs_dir=second", f"train.resume={microgpt.only_run('first')}")
    assert checkpoint_files(microgpt.only_run("second"), 3) == checkpoint_files(microgpt.only_run("whole"), 6)


@mostly_slow(
    1,
    ("override", "reason"),
    [
        ("style=classic", "does not fit the data: it knows the characters ' .abcdefghijklmnopqrstuvwxyz', but "),
        ("model.n_layer=2", "does not fit the model: model.n_layer is 1 in the checkpoint but 2 in this run"),
        ("model.tie_lm_head=true", "does not fit the model: model.tie_lm_head is False in the checkpoint but True"),
        ("optim=sgd", "does not fit optim=sgd: the checkpoint was trained with optim=adam"),
    ],
)
def test_a_leg_refuses_a_checkpoint_that_does_not_fit(run: Path, microgpt: Program, override: str, reason: str) -> None:
    done = microgpt(*QUICK, f"train.resume={run}", override, expect=2)
    assert len(done.stderr.splitlines()) == 1
    assert reason in done.stderr
    assert not microgpt.files()
