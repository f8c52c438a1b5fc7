"""Training with several processes under torchrun: the results and the folder of one process, and its failures."""

import contextlib
import random
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load
from support.application import microgpt as run_here
from support.program import TIMEOUT, Program, checkpoint_files, environment, read_history, read_record, results_of

torch = pytest.importorskip("torch")

import microgpt.engines.torch.engine as engine_module  # noqa: E402 (needs torch)
from microgpt.config.schema import BackendConfig, Config, ModeConfig, TaskConfig  # noqa: E402
from microgpt.config.validation import check_processes  # noqa: E402
from microgpt.data.batches import BatchOrder  # noqa: E402
from microgpt.distributed import Process, this_process  # noqa: E402
from microgpt.engines.base import EngineState, Workload  # noqa: E402
from microgpt.engines.optimizer import OptimizerSpec  # noqa: E402
from microgpt.engines.options import EngineOptions  # noqa: E402
from microgpt.engines.torch.device import choose_device  # noqa: E402
from microgpt.engines.torch.distributed import ProcessGroup  # noqa: E402
from microgpt.engines.torch.engine import TorchEngine  # noqa: E402
from microgpt.errors import UserError  # noqa: E402
from microgpt.model.init import init_parameters  # noqa: E402
from microgpt.model.spec import ModelSpec  # noqa: E402

TENSOR = ("mode=tensor", "backend=torch", "backend.device=cpu")
# A batch size that two does not divide, passes whose number differs between processes, clipped gradients, a style with
# documents, phrases and a bias.
RUN = (
    *TENSOR, "backend.dtype=float64", "backend.micro_batch=3", "train.batch_size=7", "train.steps=40",
    "optim.grad_clip=0.5", "train.log_every=1", "train.eval_every=20", "train.eval_documents=300",
    "sample.num_samples=3",
)  # fmt: skip
STEPS = 600
LONG = (
    *TENSOR, "backend.dtype=float64", "train.batch_size=4", f"train.steps={STEPS}", "train.log_every=10",
    "style=classic", "train.eval_documents=50", "train.checkpoint_every=50", "sample.num_samples=2",
)  # fmt: skip


def start(program: Program, *arguments: str, count: int = 2, torchrun: tuple[str, ...] = ("--standalone",)) -> Any:
    """Start `torchrun -m microgpt` in the program's folder; the end of the test kills what still runs."""
    command = [sys.executable, "-m", "torch.distributed.run", *torchrun, "--nproc-per-node", str(count)]
    process = subprocess.Popen(
        [*command, "-m", "microgpt", *arguments], cwd=program.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=environment(),
    )  # fmt: skip
    program.started.append(process)
    return process


def together(program: Program, *arguments: str, count: int = 2, expect: int = 0) -> tuple[str, str]:
    """Run to the end; return standard output and standard error."""
    process = start(program, *arguments, count=count)
    stdout, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == expect, stdout[-2000:] + stderr[-4000:]
    return stdout, stderr


def alone(program: Program, *arguments: str) -> None:
    """Train with one process, which is that of the test."""
    with contextlib.chdir(program.folder):
        run_here(*arguments)


def until_step(process: Any, step: int) -> str:
    """Wait for the line of the step or of a later one; return what was printed up to there."""
    said = ""
    for line in process.stdout:
        said += line
        if (found := re.match(r"step +(\d+) /", line)) and int(found[1]) >= step:
            return said
    raise AssertionError(said)


def end(process: Any) -> tuple[str, str]:
    """Wait for the failure of a torchrun; return what it printed since the last step that was waited for."""
    stdout, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode != 0
    return stdout, stderr


def workers(process: Any) -> dict[int, psutil.Process]:
    """Return the processes of a torchrun by rank."""
    children = psutil.Process(process.pid).children(recursive=True)
    return {int(rank): child for child in children if (rank := child.environ().get("RANK"))}


def largest_difference(one: Path, other: Path) -> float:
    """Return the largest difference between two histories of the same lines, in losses and validation losses."""
    ours, theirs = read_history(one), read_history(other)
    assert [(line["step"], line["tokens"], line.keys()) for line in ours] == [
        (line["step"], line["tokens"], line.keys()) for line in theirs
    ]
    keys = ("loss", "val_loss")
    return max(abs(a[key] - b[key]) for a, b in zip(ours, theirs, strict=True) for key in keys if key in a)


# Two processes against one


@pytest.fixture(scope="module")
def run_alone(shared_program: Program) -> Path:
    alone(shared_program, *RUN, "outputs_dir=alone")
    return shared_program.only_run("alone")


@pytest.mark.slow
def test_two_processes_write_the_run_that_one_process_writes(shared_program: Program, run_alone: Path) -> None:
    before = shared_program.files()
    stdout, stderr = together(shared_program, *RUN, "outputs_dir=together")
    run = shared_program.only_run("together")
    assert largest_difference(run_alone, run) < 1e-9
    for name, found in checkpoint_files(run, 40).items():
        expected = load(checkpoint_files(run_alone, 40)[name])
        for tensor, array in load(found).items():
            np.testing.assert_allclose(array, expected[tensor], rtol=1e-7, atol=1e-9)
    record, other = read_record(run), read_record(run_alone)
    assert record["samples"] == other["samples"]
    assert (record["status"], record["processes"], other["processes"]) == ("completed", 2, 1)
    assert record["config_hash"] == other["config_hash"], "the world size is not part of what a run computes"
    assert record["command"].startswith("torchrun --nproc-per-node 2 -m microgpt mode=tensor ")
    (where,) = [line for line in stdout.splitlines() if line.startswith("backend=")]
    assert where.endswith(" processes=2")
    assert stdout.count("step    1 /   40") == stdout.count("--- samples ---") == 1
    assert "error" not in stderr
    assert "Traceback" not in stderr
    new = {file.split("/")[0] for file in shared_program.files() - before}
    assert new == {"together"}, "only rank 0 writes"


@pytest.mark.slow
def test_a_new_leg_in_float32_differs_by_rounding_only(shared_program: Program, run_alone: Path) -> None:
    """All ranks receive weights and moments from a checkpoint of one process."""
    leg = *RUN, "backend.dtype=float32", "train.steps=200", f"train.resume={run_alone}"
    alone(shared_program, *leg, "outputs_dir=leg_alone")
    together(shared_program, *leg, "outputs_dir=leg_together")
    runs = shared_program.only_run("leg_alone"), shared_program.only_run("leg_together")
    assert 0 < largest_difference(*runs) < 1e-5


@pytest.mark.slow
def test_three_processes_compute_the_same_even_if_one_has_no_example(microgpt: Program) -> None:
    run = *RUN, "train.batch_size=2", "model=bigram", "backend.micro_batch=null"
    alone(microgpt, *run, "outputs_dir=alone")
    together(microgpt, *run, "outputs_dir=together", count=3)
    assert largest_difference(microgpt.only_run("alone"), microgpt.only_run("together")) < 1e-9


@pytest.mark.slow
def test_the_second_machine_needs_no_configuration_data_or_folder(microgpt: Program) -> None:
    rng = random.Random(3)
    lines = ["".join(rng.choices("abcdef", k=rng.randint(1, 12))) for _ in range(80)]
    (microgpt.folder / "input.txt").write_text("\n".join(lines) + "\n")
    other = Program(microgpt.folder / "other", microgpt.started)
    other.folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    run = *RUN, "data=text", "data.path=input.txt"
    place = "--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", port, "--node-rank"
    first = start(microgpt, *run, count=1, torchrun=(*place, "0"))
    second = start(other, count=1, torchrun=(*place, "1"))
    stdout, stderr = first.communicate(timeout=TIMEOUT)
    assert first.returncode == 0, stdout + stderr
    assert second.communicate(timeout=TIMEOUT)[0] == ""
    assert second.returncode == 0
    assert not other.files()
    alone(microgpt, *run, "outputs_dir=alone")
    assert largest_difference(microgpt.only_run("alone"), microgpt.only_run()) < 1e-9


# Interruptions and failures


@pytest.fixture(scope="module")
def uninterrupted(shared_program: Program) -> Path:
    together(shared_program, *LONG, "outputs_dir=uninterrupted")
    return shared_program.only_run("uninterrupted")


@pytest.mark.slow
def test_stopped_and_killed_processes_end_all_and_the_same_command_finishes(
    microgpt: Program, uninterrupted: Path
) -> None:
    """Ctrl-C, then each rank is killed, then one is killed that torchrun restarts: each command resumes the run."""
    process = start(microgpt, *LONG)
    until_step(process, 60)
    process.send_signal(signal.SIGINT)
    stdout, stderr = end(process)
    assert "interrupted: the last checkpoint is in" in stdout, stderr
    run = microgpt.only_run()
    record = read_record(run)
    assert (record["status"], record["error"]) == ("interrupted", f"stopped by signal {int(signal.SIGINT)}")
    stopped_at = record["metrics"]["steps"]
    assert 60 <= stopped_at < STEPS
    assert checkpoint_files(run, stopped_at), "the last step is saved"

    for rank in (0, 1):
        process = start(microgpt, *LONG)
        until_step(process, stopped_at + 60 * (rank + 1))
        ranks = workers(process)
        ranks[rank].kill()
        _, stderr = end(process)
        _, alive = psutil.wait_procs(ranks.values(), timeout=30)
        assert not alive
        # A killed process cannot write its record.
        assert read_record(run)["status"] == ("running", "interrupted")[rank]
        assert stderr.count("another process of this run has ended") <= 1

    process = start(microgpt, *LONG, torchrun=("--standalone", "--max-restarts", "1"))
    said = until_step(process, stopped_at + 180)
    workers(process)[1].kill()
    stdout, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, stderr
    assert said.count("resuming ") == stdout.count("resuming ") == 1
    steps = [leg["step"] for leg in read_record(microgpt.only_run())["resumed"]]
    assert len(steps) == 4
    assert steps[0] == stopped_at
    assert steps == sorted(steps)
    assert results_of(run, STEPS) == results_of(uninterrupted, STEPS), "the same bits"


@pytest.mark.slow
def test_another_world_size_resumes_a_run_with_a_message(
    microgpt: Program, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = microgpt.start(*LONG)
    until_step(process, 60)
    process.send_signal(signal.SIGTERM)
    end(process)
    process = start(microgpt, *LONG)
    message = "was trained by other code or on another machine"
    assert message in until_step(process, 240)
    process.send_signal(signal.SIGTERM)
    end(process)
    alone(microgpt, *LONG)
    assert message in capsys.readouterr().out
    record = read_record(microgpt.only_run())
    assert (record["status"], record["processes"]) == ("completed", 1)
    assert [leg["before"]["processes"] for leg in record["resumed"]] == [1, 2]
    assert largest_difference(uninterrupted, microgpt.only_run()) < 1e-9


@pytest.mark.slow
def test_a_non_finite_loss_ends_all_processes_with_one_sentence(microgpt: Program) -> None:
    _, stderr = together(microgpt, *RUN, "optim=sgd", "optim.lr=1e200", expect=1)
    assert stderr.count("\nerror: the loss of step") == 1
    assert read_record(microgpt.only_run())["status"] == "failed"


# Errors


SWEEP = "experiment=ablation", "mode=tensor"
NO_SWEEP = "a sweep is not allowed with 2 processes of torchrun"


@pytest.mark.slow
def test_an_error_is_printed_once_and_ends_all_processes(microgpt: Program) -> None:
    stdout, stderr = together(microgpt, *SWEEP, expect=1)  # torchrun's own exit code; it prints the program's
    assert stdout == ""
    assert stderr.count("error: ") == 1
    assert f"error: {NO_SWEEP}" in stderr
    assert "exitcode  : 2 " in stderr
    assert not microgpt.files(), "no file is written"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("mode=tensor", "backend=native"), "backend=native is not allowed: 2 processes of torchrun"),
        (SWEEP, NO_SWEEP),
    ],
)
def test_what_several_processes_cannot_do_is_one_sentence(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    set_environment(monkeypatch, 0, 2, 0, 2)
    with pytest.raises(UserError, match=sentence):
        run_here(*arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_help_under_torchrun_ends_all_processes_without_an_error(microgpt: Program) -> None:
    stdout, _ = together(microgpt, "--help")
    assert stdout == microgpt("--help").stdout


@pytest.mark.parametrize("config", [
    Config(task=TaskConfig("info")), Config(), Config(mode=ModeConfig("tensor"), backend=BackendConfig("native")),
    Config(mode=ModeConfig("tensor"), backend=BackendConfig("torch", device="mps")),
])  # fmt: skip
def test_configurations_that_need_a_single_process(config: Config) -> None:
    check_processes(config, 1)
    with pytest.raises(UserError, match="is not allowed: 3 processes of torchrun"):
        check_processes(config, 3)


def set_environment(monkeypatch: pytest.MonkeyPatch, rank: int, count: int, local_rank: int, local_count: int) -> None:
    values = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": local_rank, "LOCAL_WORLD_SIZE": local_count}
    for key, value in values.items():
        monkeypatch.setenv(key, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")


def test_rank_and_world_size_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(key, raising=False)
    assert this_process() == Process()
    assert this_process().launcher() == ["python", "-m", "microgpt"]
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert this_process() == Process(), "other programs set some of them"
    set_environment(monkeypatch, 5, 8, 1, 4)
    assert this_process() == Process(5, 8, 1, 4)
    assert " ".join(this_process().launcher()) == "torchrun --nnodes 2 --nproc-per-node 4 -m microgpt"


def test_each_process_has_its_own_gpu_or_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    set_environment(monkeypatch, 3, 4, 1, 2)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 1)
    assert choose_device("cpu") == torch.device("cpu")
    set_environment(monkeypatch, 2, 3, 2, 3)
    for requested in ("auto", "cuda"):
        with pytest.raises(UserError, match=f"backend.device={requested} is not allowed with 3 processes .* 2 GPU"):
            choose_device(requested)


# The parts of a batch, in one process


class SingleRank(ProcessGroup):
    """One of several ranks, without communication: its sums are those of its part."""

    def connect(self, device: Any) -> None: ...
    def all_reduce(self, tensor: Any) -> None: ...
    def broadcast(self, method: str, *arguments: Any) -> None: ...


EXAMPLES = [[0, *(1 + (i * j) % 4 for j in range(1 + i % 6)), 0] for i in range(17)]
SPEC = ModelSpec(kind="gpt", vocab_size=5, n_embd=4, n_head=2, n_layer=1, block_size=8)


@pytest.mark.slow
@settings(deadline=None)  # the first engine takes longer
@given(batch_size=st.integers(1, 9), count=st.integers(1, 5), micro_batch=st.none() | st.integers(1, 3),
       begin=st.integers(0, 20))  # fmt: skip
def test_the_parts_of_a_batch_add_up_to_the_batch(
    batch_size: int, count: int, micro_batch: int | None, begin: int
) -> None:
    """Check gradients and losses of two replicas whose examples differ in length."""
    rng = random.Random(0)
    states = [EngineState({n: np.array([m]) for n, m in init_parameters(SPEC, rng).items()}) for _ in range(2)]
    orders = [BatchOrder(np.roll(np.arange(17), shift), [], 0.0, batch_size) for shift in (0, 5)]

    def sums(ranks: ProcessGroup) -> Any:
        options = EngineOptions(
            "torch", device="cpu", dtype="float64", threads=1, micro_batch=micro_batch,
            world_size=ranks.process.world_size,
        )  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine_module, "process_group", lambda _: ranks)
            engine = TorchEngine(
                options, SPEC, OptimizerSpec("sgd"), Workload(EXAMPLES, orders), EngineState.stack(states)
            )
        assert engine.batches is not None
        (batch,) = engine.batches.steps(begin, begin + 1)
        loss = engine.loss_and_gradients(batch)
        return torch.cat([engine.grad.flatten(), loss])

    found = sum(sums(SingleRank(Process(rank, count))) for rank in range(count))
    torch.testing.assert_close(found, sums(ProcessGroup(Process())), rtol=1e-12, atol=1e-14)
