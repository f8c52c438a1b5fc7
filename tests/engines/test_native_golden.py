"""The native and the PyTorch engine against tests/golden, as a user runs them; imported libraries and memory."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.program import SPY, Program, mostly_slow, read_history, read_record
from test_golden import golden

from microgpt.data.sources import DATA_DIR_VARIABLE

PRINTED = 100  # steps whose losses in float32 equal the reference's as printed, with four digits
# Largest deviation of a loss in those steps in float32; measured: 9e-7. It does not imply four equal digits: k1's loss
# at step 89 is 2e-8 from the next printed number, and neither engine prints the same; nor does torch for k2's step 24.
FLOAT32 = 2e-6
MEMORY = 300e6
each_reference = mostly_slow(1, ("experiment", "name"), [("karpathy", "k2"), ("karpathy_first", "k1")])
each_backend = pytest.mark.parametrize("backend", ["native", pytest.param("torch", marks=pytest.mark.slow)])


@pytest.fixture
def absolute_data_dir(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(data_dir))


def losses_and_record(program: Program, *arguments: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Run the program in tensor mode on the CPU; return its losses and its record."""
    program("mode=tensor", "backend.device=cpu", *arguments)
    logged, record = read_history(program.only_run()), read_record(program.only_run())
    assert record["status"] == "completed"
    assert [line["step"] for line in logged] == list(range(1, len(logged) + 1))
    return np.array([line["loss"] for line in logged]), record


@pytest.mark.usefixtures("absolute_data_dir")
@each_backend
@each_reference
def test_float64_equals_the_whole_reference(experiment: str, name: str, backend: str, microgpt: Program) -> None:
    expected = golden(name)
    arguments = f"experiment={experiment}", f"backend={backend}", "backend.dtype=float64"
    losses, record = losses_and_record(microgpt, *arguments)
    assert (record["backend"], record["dtype"]) == (backend, "float64")
    assert len(losses) == expected["steps"]
    assert np.abs(losses - expected["losses"]).max() <= 1e-9
    assert record["samples"] == expected["samples"]


@pytest.mark.slow
@pytest.mark.usefixtures("absolute_data_dir")
@each_backend
@each_reference
def test_float32_equals_the_first_losses(experiment: str, name: str, backend: str, microgpt: Program) -> None:
    """Within FLOAT32, and to the printed digits for k2 on the native engine."""
    expected = golden(name)["losses"][:PRINTED]
    steps = f"train.steps={PRINTED}", f"schedule.total_steps={golden(name)['steps']}", "sample.num_samples=1"
    arguments = f"experiment={experiment}", f"backend={backend}", "backend.dtype=float32", *steps
    losses, record = losses_and_record(microgpt, *arguments)
    assert (record["backend"], record["dtype"]) == (backend, "float32")
    assert np.abs(losses - expected).max() <= FLOAT32
    if (name, backend) == ("k2", "native"):
        assert [f"{loss:.4f}" for loss in losses] == [f"{loss:.4f}" for loss in expected]


# Imported libraries


def loaded(folder: Path, *command: str) -> set[str]:
    """Return the heavy libraries that a process has imported by its end, which its last line lists."""
    done = subprocess.run([sys.executable, "-c", *command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    heading, *names = done.stdout.splitlines()[-1].split()
    assert heading == "loaded:"
    return set(names)


def test_the_package_alone_imports_neither_torch_nor_numba(tmp_path: Path) -> None:
    modules = "microgpt, microgpt.engines, microgpt.engines.base, microgpt.engines.scalar.engine, microgpt.app"
    code = f"import sys, {modules}; print('loaded:', *[n for n in ('torch', 'numba', 'llvmlite') if n in sys.modules])"
    assert loaded(tmp_path, code) == set()


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "other"), [("native", "torch"), ("torch", "numba")])
def test_an_engine_does_not_import_the_other_s_library(backend: str, other: str, tmp_path: Path) -> None:
    arguments = "mode=tensor", f"backend={backend}", "experiment=debug", "train.steps=2", "sample.num_samples=1"
    assert other not in loaded(tmp_path, SPY, *arguments)


# Memory

MODELS_OF_THE_DEFAULT_SIZE = """
import sys
def resident(kind):  # VmRSS: now, VmHWM: at most so far
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(kind))
start = resident("VmRSS")
import numpy as np
from microgpt.data.batches import BatchOrder
from microgpt.engines import make_engine
from microgpt.engines.base import EngineState, Workload
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.model.spec import ModelSpec
R = 256
spec = ModelSpec("gpt", vocab_size=27, n_embd=16, n_head=4, n_layer=1, block_size=16)
rng = np.random.default_rng(0)
examples = [[26, *rng.integers(0, 26, length).tolist(), 26] for length in rng.integers(1, 15, 500)]
work = Workload(examples, [BatchOrder(rng.permutation(500), (), 0.0, 1) for _ in range(R)])
state = EngineState({name: rng.normal(0, 0.08, (R, *shape)) for name, shape in spec.shapes().items()})
engine = make_engine(EngineOptions("native", dtype=sys.argv[1]), spec, OptimizerSpec("adam", 0.85, 0.99, 1e-8),
                     work, state, lambda text: None)
found = []
for step, count in ((0, 50), (50, int(sys.argv[2]))):
    assert np.isfinite(engine.advance(step, np.full((count, R), 0.01))).all()
    found.append(resident("VmRSS") - start)
print(engine.compile_seconds, *found, resident("VmHWM") - start)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc/self/status to read")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_256_replicas_train_within_300_mb_without_growing(dtype: str, tmp_path: Path) -> None:
    """Resident memory above that of the bare interpreter: numpy, numba, the engine and the models."""
    command = [sys.executable, "-c", MODELS_OF_THE_DEFAULT_SIZE, dtype]
    runs = [subprocess.run([*command, n], cwd=tmp_path, capture_output=True, text=True) for n in ("1", "1000")]
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr
    # The first run may compile, which takes more memory.
    compiling, early, late, peak = (float(number) for number in runs[1].stdout.split())
    assert compiling == 0, "the kernels were not kept on disk"
    assert peak < MEMORY
    assert late - early < MEMORY / 100
