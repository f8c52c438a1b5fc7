"""mode=tensor as a program: every engine trains, resumes and samples, with the same results as scalar mode."""

import json
import math
import random
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load
from support.program import RECORD_KEYS, Program, checkpoint_files, make_program, read_history, read_record, results_of

from microgpt.engines.torch.device import available_devices
from microgpt.runs.checkpoint import load_checkpoint

SCALAR = ("mode=scalar",)
NATIVE = ("mode=tensor", "backend=native")
NATIVE64 = (*NATIVE, "backend.dtype=float64")
TORCH = ("mode=tensor", "backend=torch", "backend.device=cpu")
TORCH64 = (*TORCH, "backend.dtype=float64")
ENGINES = {"scalar": SCALAR, "native64": NATIVE64, "native32": NATIVE, "torch64": TORCH64}
EXACT = ("scalar", "native64", "torch64")  # engines that compute in float64

DEBUG = ("experiment=debug", "style=classic", "train.log_every=1")
TEXT = (*DEBUG, "data=text", "data.path=input.txt", "model.n_embd=8", "data.val_fraction=0.2")
MISSING = [device for device in ("cuda", "mps") if device not in available_devices()]


def write_text(folder: Path) -> None:
    """Create documents of one character, of about one block, and of several blocks."""
    rng = random.Random(1)
    lengths = [1, 2, 14, 15, 16, 17, 31, 40, 100, *(rng.randint(2, 9) for _ in range(60))]
    lines = ["".join(rng.choices("abcdef ", [6, 5, 4, 3, 2, 1, 1], k=length)).strip() or "a" for length in lengths]
    (folder / "input.txt").write_text("\n".join(lines) + "\n")


def losses(run: Path, key: str = "loss") -> list[float]:
    return [line[key] for line in read_history(run) if key in line]


def is_close(found: list[float], expected: list[float], tolerance: float) -> bool:
    """Return whether both lists are non-empty and equal within the tolerance."""
    return bool(found) and len(found) == len(expected) and np.allclose(found, expected, rtol=tolerance, atol=0)


def facts(stdout: str) -> str:
    """Return the line with the backend and the device."""
    (line,) = re.findall(r"^backend=\S+ device=\S+ using_gpu=.*$", stdout, re.MULTILINE)
    return line


def sample_lines(stdout: str) -> list[str]:
    return [re.sub(r"  \[stopped: \w+\]$", "", s) for s in re.findall(r"^sample +\d+: (.*)$", stdout, re.MULTILINE)]


# Runs of experiment=debug by every engine


@pytest.fixture(scope="module")
def debug(shared_program: Program) -> tuple[Program, dict[str, str]]:
    """Train the same 20 steps with each engine (native twice) in outputs_dir=<name>; return the standard outputs."""
    commands = {
        "scalar": (*DEBUG, *SCALAR),
        "native": (*DEBUG, *NATIVE),
        "again": (*DEBUG, *NATIVE),
        "torch": (*DEBUG, *TORCH),
        "auto": (*DEBUG, "mode=tensor"),
    }
    return shared_program, {
        name: shared_program(*command, f"outputs_dir={name}").stdout for name, command in commands.items()
    }


Debug = tuple[Program, dict[str, str]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backend", "kernel"),
    [("native", "native", "features"), ("torch", "torch", "eager"), ("auto", "native", "features")],
)
def test_record_and_standard_output_name_backend_and_device(debug: Debug, name: str, backend: str, kernel: str) -> None:
    program, said = debug
    record = read_record(program.only_run(name))
    assert set(record) >= RECORD_KEYS
    assert (record["status"], record["mode"], record["error"]) == ("completed", "tensor", None)
    assert (record["backend"], record["device"], record["using_gpu"]) == (backend, "cpu", False)
    assert (record["dtype"], record["kernel"]) == ("float32", kernel)
    assert record["threads"] >= 1
    assert set(record["timings"]) >= {"compile", "train", "evaluate", "checkpoint"}
    assert record["timings"]["compile"] >= 0
    assert record["metrics"]["steps_per_sec"] == pytest.approx(20 / record["timings"]["train"])
    assert facts(said[name]) == (
        f"backend={backend} device=cpu using_gpu=false dtype=float32 kernel={kernel} threads={record['threads']}"
    )
    assert f" backend={backend} device=cpu using_gpu=false " in said[name].splitlines()[-1]


@pytest.mark.slow
def test_the_reason_for_an_automatic_choice_is_recorded_and_printed(debug: Debug) -> None:
    program, said = debug
    reason = read_record(program.only_run("auto"))["backend_reason"]
    assert re.fullmatch(r"a step of \S+ operations is too small for a GPU", reason)
    assert f"backend=auto is native: {reason}" in said["auto"].splitlines()
    assert read_record(program.only_run("auto"))["config"]["backend"]["name"] == "auto"
    for name in ("native", "torch"):
        assert read_record(program.only_run(name))["backend_reason"] == ""
        assert "backend=auto" not in said[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["native", "torch"])
def test_history_and_samples_agree_with_the_record(debug: Debug, name: str) -> None:
    program, said = debug
    run = program.only_run(name)
    record, history = read_record(run), read_history(run)
    assert [line["step"] for line in history] == list(range(21))
    assert [line["step"] for line in history if "val_loss" in line] == [0, 10, 20]
    assert record["metrics"]["final_loss"] == history[-1]["loss"]
    assert len(record["samples"]) == 5
    assert sample_lines(said[name]) == record["samples"]
    assert (run / "samples.txt").read_text().splitlines() == record["samples"]
    weights = load(checkpoint_files(run, 20)["weights.safetensors"])
    assert {array.dtype for array in weights.values()} == {np.dtype("float32")}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["native", "torch", "auto"])
def test_float32_losses_are_close_to_scalar_mode(debug: Debug, name: str) -> None:
    scalar, ours = (debug[0].only_run(outputs) for outputs in ("scalar", name))
    assert is_close(losses(ours), losses(scalar), 1e-4)
    assert is_close(losses(ours, "val_loss"), losses(scalar, "val_loss"), 1e-4)
    for key in ("lr", "tokens"):
        assert losses(ours, key) == losses(scalar, key)


@pytest.mark.slow
def test_the_same_command_gives_the_same_bits(debug: Debug) -> None:
    program, _ = debug
    first, second, chosen = (program.only_run(name) for name in ("native", "again", "auto"))
    assert results_of(first, 20) == results_of(second, 20) == results_of(chosen, 20)
    assert checkpoint_files(first, 20)
    assert read_record(first)["config_hash"] == read_record(second)["config_hash"]


# Sampling and information across engines


@pytest.mark.slow
def test_scalar_mode_samples_from_a_native_float32_checkpoint(debug: Debug) -> None:
    program, _ = debug
    run = program.only_run("native")
    stdout = program("task=sample", f"checkpoint={run}", "sample.num_samples=5").stdout
    assert facts(stdout) == "backend=python device=cpu using_gpu=false dtype=float64"
    assert sample_lines(stdout) == read_record(run)["samples"]


@pytest.mark.slow
def test_native_float64_samples_like_scalar_mode_from_a_scalar_checkpoint(debug: Debug) -> None:
    program, _ = debug
    run = program.only_run("scalar")
    stdout = program("task=sample", f"checkpoint={run}", "sample.num_samples=5", *NATIVE64).stdout
    assert facts(stdout) == "backend=native device=cpu using_gpu=false dtype=float64"
    assert sample_lines(stdout) == read_record(run)["samples"]


@pytest.mark.slow
def test_torch_samples_like_native_from_a_native_checkpoint(debug: Debug) -> None:
    program, _ = debug
    run = program.only_run("native")
    stdout = program("task=sample", f"checkpoint={run}", "sample.num_samples=5", *TORCH64).stdout
    assert sample_lines(stdout) == read_record(run)["samples"]


@pytest.mark.slow
def test_info_describes_a_native_float32_checkpoint(debug: Debug) -> None:
    program, _ = debug
    stdout = program("task=info", f"checkpoint={program.only_run('native')}").stdout
    found = dict(re.findall(r"^([\w' ]+): +(.*)$", stdout, re.MULTILINE))
    assert (found["dtype"], found["step"], found["optimizer state"]) == ("float32", "20", "yes")
    assert re.search(r"^  layer0\.mlp_fc1\W.*\[64, 16\] float32$", stdout, re.MULTILINE)


# Checkpoints of one engine in another


@pytest.fixture(scope="module")
def legs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], Path]]:
    """For each pair of engines, train 15 steps with the second after 20 steps with the first."""
    for program in make_program(tmp_path_factory.mktemp("legs")):
        write_text(program.folder)
        for engine in ENGINES:
            (program.folder / engine).mkdir()
        common = (*TEXT, "model.n_embd=4", "train.batch_size=2", "optim.lr=0.02", "sample.num_samples=0")
        for engine, keys in ENGINES.items():
            program(*common, *keys, f"outputs_dir={engine}/first")
        firsts = [program.only_run(f"{engine}/first") for engine in ENGINES]
        resume = f"train.resume={','.join(map(str, firsts))}"
        leg = (*common, "train.steps=15", "train.eval_every=null")
        for engine, keys in ENGINES.items():
            program("-m", resume, *leg, *keys, f"outputs_dir={engine}/then")
        runs = {}
        for then in ENGINES:
            jobs = sorted((program.folder / then / "then" / "sweeps").glob("*/*/run.json"))
            runs |= {(first, then): job.parent for first, job in zip(ENGINES, jobs, strict=True)}
        yield runs


Legs = dict[tuple[str, str], Path]


@pytest.mark.parametrize("then", ["native64", "native32", "torch64"])
@pytest.mark.parametrize("first", ENGINES)
@pytest.mark.slow
def test_a_checkpoint_of_any_engine_continues_in_any_other_as_in_scalar_mode(legs: Legs, first: str, then: str) -> None:
    ours, scalar = legs[first, then], legs[first, "scalar"]
    record = read_record(ours)
    assert record["leg"]["first_step"] == 20
    assert Path(record["leg"]["from"]).parts[-6:-4] == (first, "first")
    tolerance = 1e-9 if then in EXACT else 2e-3
    for key in ("loss", "val_loss"):
        assert is_close(losses(ours, key), losses(scalar, key), tolerance), key
    assert len(losses(ours)) == 15
    assert losses(ours, "tokens") == losses(scalar, "tokens")


@pytest.mark.parametrize("then", EXACT)
@pytest.mark.parametrize("first", ["native64", "native32", "torch64"])
@pytest.mark.slow
def test_every_engine_s_checkpoint_equals_scalar_mode_s(legs: Legs, first: str, then: str) -> None:
    tolerance = 1e-9 if first in EXACT else 2e-3
    assert is_close(losses(legs[first, then]), losses(legs["scalar", then]), tolerance)


@pytest.mark.slow
def test_a_leg_does_not_repeat_the_first_steps(legs: Legs) -> None:
    """Optimizer state and batches continue."""
    leg = legs["native64", "native64"]
    first = Path(read_record(leg)["leg"]["from"]).parents[1]
    assert not is_close(losses(leg)[:15], losses(first)[:15], 1e-3)
    assert losses(leg, "val_loss")[0] == losses(first, "val_loss")[-1]


# Configurations against scalar mode


def compared(tmp_path_factory: pytest.TempPathFactory, *overrides: str) -> Iterator[list[tuple[Path, Path]]]:
    """Return the jobs of a sweep in scalar mode and in native float64, in pairs."""
    folder = tmp_path_factory.mktemp("compared")
    for program in make_program(folder):
        write_text(folder)
        for name, mode in (("scalar", SCALAR), ("native", NATIVE64)):
            program("-m", "experiment=debug", "train.log_every=1", *overrides, *mode, f"outputs_dir={name}")
        scalar, native = (
            sorted(path.parent for path in (folder / name / "sweeps").glob("*/*/run.json"))
            for name in ("scalar", "native")
        )
        assert [read_record(run)["backend"] for run in (*scalar, *native)] == (
            ["python"] * len(scalar) + ["native"] * len(native)
        )
        yield list(zip(scalar, native, strict=True))


def assert_same_training(scalar: Path, native: Path) -> None:
    expected, found = read_record(scalar), read_record(native)
    what = " ".join(found["overrides"])
    for key in ("data", "model", "style"):
        assert found[key] == expected[key], what
    for key in ("loss", "val_loss"):
        assert is_close(losses(native, key), losses(scalar, key), 1e-9), f"{key} with {what}"
    for key in ("step", "lr", "tokens"):
        assert losses(native, key) == losses(scalar, key), what
    assert found["samples"] == expected["samples"], what
    effects = [record["metrics"].get("style_effect") for record in (expected, found)]
    assert (effects[0] is None) == (effects[1] is None)
    if effects[0] is not None:
        losses_of_style = [{key: effect.pop(key) for key in list(effect) if "loss" in key} for effect in effects]
        assert effects[0] == effects[1], what
        for key, loss in losses_of_style[0].items():
            assert losses_of_style[1][key] == (loss if loss is None else pytest.approx(loss, rel=1e-9)), key


@pytest.mark.slow
def test_models_and_styles_train_as_in_scalar_mode(tmp_path_factory: pytest.TempPathFactory) -> None:
    for pairs in compared(
        tmp_path_factory, "model=gpt,gpt_first,bigram", "style=classic,futuristic", "data=text", "data.path=input.txt"
    ):
        assert len(pairs) == 6
        kinds = {(read_record(run)["config"]["model"]["name"], read_record(run)["style"]) for _, run in pairs}
        assert len(kinds) == 6
        for scalar, native in pairs:
            assert_same_training(scalar, native)


@pytest.mark.slow
def test_texts_and_batches_train_as_in_scalar_mode(tmp_path_factory: pytest.TempPathFactory) -> None:
    for pairs in compared(
        tmp_path_factory, "data.format=lines,stream", "data.long_documents=truncate,window,skip",
        "train.batch_size=1,5", "train.steps=6", "style=classic", "data=text", "data.path=input.txt",
        "data.val_fraction=0.2", "model.n_embd=4",
    ):  # fmt: skip
        assert len(pairs) == 12
        for scalar, native in pairs:
            assert_same_training(scalar, native)
        by_policy = {
            read_record(run)["data"]["long_documents"]["policy"]: read_record(run)["data"]["train_tokens"]
            for _, run in pairs
            if read_record(run)["config"]["data"]["format"] == "lines"
        }
        assert by_policy["skip"] < by_policy["truncate"] < by_policy["window"]


@pytest.mark.slow
def test_optimizers_and_schedules_train_as_in_scalar_mode(tmp_path_factory: pytest.TempPathFactory) -> None:
    for pairs in compared(
        tmp_path_factory, "optim=adam,adamw,sgd", "schedule=linear,cosine,sqrt", "optim.grad_clip=null,0.5",
        "model.tie_lm_head=true", "model.n_embd=8", "style=classic", "data=text", "data.path=input.txt",
    ):  # fmt: skip
        assert len(pairs) == 18
        for scalar, native in pairs:
            assert_same_training(scalar, native)


@pytest.mark.slow
def test_the_whole_validation_set_is_evaluated_by_default(microgpt: Program) -> None:
    words = [f"{a}{b}{c}" for a in "abcdefgh" for b in "abcdefgh" for c in "abcdefgh"]
    (microgpt.folder / "input.txt").write_text("\n".join(words) + "\n")
    text = ("data=text", "data.path=input.txt", "data.val_fraction=0.6", "train.steps=3", "style=classic",
            "model.n_embd=4", "sample.num_samples=0")  # fmt: skip
    microgpt(*text, *SCALAR, "train.eval_documents=null", "outputs_dir=scalar")
    microgpt(*text, *NATIVE64, "outputs_dir=native")
    scalar, native = (microgpt.only_run(name) for name in ("scalar", "native"))
    data = read_record(native)["data"]
    assert data["evaluated_documents"] == data["val_documents"] == 307, "more than are evaluated in one call"
    assert is_close(losses(native, "val_loss"), losses(scalar, "val_loss"), 1e-9)


# Special cases


SLOW_TORCH = pytest.param(TORCH, marks=pytest.mark.slow)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [NATIVE, SLOW_TORCH], ids=["native", "torch"])
def test_zero_steps_report_the_untrained_model(microgpt: Program, engine: tuple[str, ...]) -> None:
    stdout = microgpt(*DEBUG, *engine, "train.steps=0", "sample.num_samples=1").stdout
    record = read_record(microgpt.only_run())
    metrics = record["metrics"]
    assert metrics["val_loss"] == metrics["first_val_loss"] == pytest.approx(math.log(27), abs=0.4)
    assert metrics["final_loss"] == pytest.approx(math.log(27), abs=0.6)
    assert (metrics["steps"], metrics["steps_per_sec"], metrics["tokens_seen"]) == (0, 0, 0)
    assert len(record["samples"]) == 1
    assert " steps=0 " in stdout.splitlines()[-1]


@pytest.mark.slow
def test_the_number_of_threads_does_not_change_results(microgpt: Program) -> None:
    """The batch and the model are large enough to be split among threads."""
    run = (*DEBUG, *NATIVE, "train.batch_size=64", "model.n_embd=64", "sample.num_samples=2", "train.steps=15")
    for count in (1, 2):
        microgpt(*run, f"backend.threads={count}", f"outputs_dir=threads{count}")
    one, two = (microgpt.only_run(f"threads{n}") for n in (1, 2))
    assert [read_record(run)["threads"] for run in (one, two)] == [1, 2]
    assert results_of(one, 15) == results_of(two, 15)
    assert checkpoint_files(one, 15)


@pytest.mark.slow
def test_bfloat16_trains_and_keeps_float32(microgpt: Program) -> None:
    stdout = microgpt(*DEBUG, *TORCH, "backend.dtype=bfloat16", "train.eval_documents=200").stdout
    run = microgpt.only_run()
    record = read_record(run)
    assert record["dtype"] == "bfloat16"
    assert " dtype=bfloat16 " in facts(stdout)
    assert record["metrics"]["val_loss"] < record["metrics"]["first_val_loss"] - 0.1
    checkpoint = load_checkpoint((run / "checkpoint" / "latest").resolve())
    assert checkpoint.meta.dtype == "float32"
    parts = (checkpoint.state.parameters, checkpoint.state.m, checkpoint.state.v)
    assert {array.dtype for part in parts for array in part.values()} == {np.dtype("float32")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine", [NATIVE, pytest.param(NATIVE64, marks=pytest.mark.slow), SLOW_TORCH], ids=["native", "native64", "torch"]
)
@pytest.mark.parametrize(
    "optimizer",
    [("optim.lr=1e300",), pytest.param(("optim=sgd", "optim.lr=1e30"), marks=pytest.mark.slow)],
    ids=["adam", "sgd"],
)
def test_a_run_that_diverges_stops_with_a_sentence_and_keeps_its_last_checkpoint(
    microgpt: Program, engine: tuple[str, ...], optimizer: tuple[str, ...]
) -> None:
    done = microgpt(*DEBUG, *engine, *optimizer, "train.checkpoint_every=1", "train.steps=200", expect=1)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert re.search(r"step \d+", done.stderr)
    run = microgpt.only_run()
    record = read_record(run)
    assert (record["status"], done.stderr) == ("failed", f"error: {record['error']}\n")
    last = load_checkpoint((run / "checkpoint" / "latest").resolve())
    assert last.state.is_finite()
    assert str(last.path.relative_to(microgpt.folder)) in record["error"]
    assert all(math.isfinite(loss) for loss in losses(run))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "auto"])
@pytest.mark.skipif(not MISSING, reason="every device is there")
def test_an_absent_device_is_one_sentence_and_nothing_is_written(microgpt: Program, backend: str) -> None:
    device = MISSING[0]
    done = microgpt(*DEBUG, "mode=tensor", f"backend={backend}", f"backend.device={device}", expect=2)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f"error: backend.device={device} is not available: ")
    assert done.stdout == ""
    assert not microgpt.files()


# Interrupted and resumed

STEPS = 200_000  # more than a second
LONG = ("experiment=debug", f"train.steps={STEPS}", "train.checkpoint_every=5000", "train.eval_every=50000",
        "train.log_every=5000", "optim.lr=0.001", "backend.threads=1")  # fmt: skip


def uninterrupted(folder: Path, dtype: str) -> dict[str, Any]:
    """Return the results of LONG without an interruption."""
    for program in make_program(folder):
        program(*LONG, *NATIVE, f"backend.dtype={dtype}")
        run = program.only_run()
        assert "resumed" not in read_record(run)
        return results_of(run, STEPS)
    raise AssertionError


@pytest.mark.slow
def test_a_run_killed_at_random_moments_gives_the_bits_of_an_uninterrupted_one(
    microgpt: Program, tmp_path_factory: pytest.TempPathFactory
) -> None:
    expected = uninterrupted(tmp_path_factory.mktemp("uninterrupted"), "float32")
    run = (*LONG, *NATIVE, "backend.dtype=float32")
    rng = random.Random(7)
    for _ in range(2):
        assert microgpt.kill_after(rng.uniform(0.2, 0.5), *run, from_first_step=True)
    microgpt(*run)
    assert len(microgpt.runs()) == 1, "no kill came too late"
    resumed = read_record(microgpt.only_run())["resumed"]
    assert len(resumed) == 2
    assert STEPS > resumed[-1]["step"] > 0
    assert results_of(microgpt.only_run(), STEPS) == expected


@pytest.mark.slow
def test_ctrl_c_stops_at_a_checkpoint_and_the_same_command_finishes(
    microgpt: Program, tmp_path_factory: pytest.TempPathFactory
) -> None:
    expected = uninterrupted(tmp_path_factory.mktemp("uninterrupted"), "float64")
    process = microgpt.start(*LONG, *NATIVE, "backend.dtype=float64")
    said = microgpt.stop(process, "step 20000 ", signal.SIGINT)
    assert process.returncode == 130
    run = microgpt.only_run()
    assert f"interrupted: the last checkpoint is in {run.relative_to(microgpt.folder)}; the same command" in said
    record = read_record(run)
    assert record["status"] == "interrupted"
    step = record["metrics"]["steps"]
    assert 20000 <= step < STEPS
    assert load_checkpoint((run / "checkpoint" / "latest").resolve()).progress.step == step
    microgpt(*LONG, *NATIVE, "backend.dtype=float64")
    assert [leg["step"] for leg in read_record(run)["resumed"]] == [step]
    assert results_of(run, STEPS) == expected


@pytest.mark.slow
def test_a_killed_torch_run_gives_the_bits_of_an_uninterrupted_one(microgpt: Program) -> None:
    run = (*DEBUG, *TORCH, "train.steps=900", "train.checkpoint_every=50", "train.eval_every=300", "backend.threads=1")
    microgpt(*run, "outputs_dir=uninterrupted")
    assert microgpt.kill_after(0.5, *run, from_first_step=True)
    microgpt(*run)
    taken_up, whole = microgpt.only_run(), microgpt.only_run("uninterrupted")
    assert len(read_record(taken_up)["resumed"]) == 1
    assert results_of(taken_up, 900) == results_of(whole, 900)


@pytest.mark.slow
def test_another_engine_does_not_resume_an_interrupted_run(microgpt: Program) -> None:
    """Another engine or dtype is a different configuration, and the results are not bit-identical."""
    microgpt.stop(microgpt.start(*LONG, *NATIVE), "step 20000 ", signal.SIGINT)
    (stopped,) = microgpt.runs()
    before = (stopped / "run.json").read_bytes()
    microgpt(*LONG, *NATIVE64)
    assert len(microgpt.runs()) == 2
    assert (stopped / "run.json").read_bytes() == before
    state = json.loads((stopped / "checkpoint" / "latest" / "train_state.json").read_text())
    assert state["step"] < STEPS
