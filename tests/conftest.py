"""Fixtures that every test may request, and the compilation of the kernels once for all test processes."""

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.program import Program, make_program

from microgpt.data.sources import DATA_DIR_VARIABLE

KERNELS = "NUMBA_CACHE_DIR"
# Files that take longest, longest first. They start first, so that no process ends alone with a long one.
LONGEST = (
    "test_readme", "test_compliance", "test_torch_distributed", "test_nvidia_doctor", "test_task_train_tensor",
    "test_playground", "test_resume", "test_serve_fuzz", "test_torch_engine", "test_executors", "test_sweep_commands",
    "test_native_compilation", "test_task_export", "test_notebook", "test_task_chat", "test_figure_scripts",
    "test_sweep_faults", "test_native_bulk_sampling", "test_benchmark_karpathy", "test_serve_load",
    "test_exported_page", "test_runner", "test_model_scripts", "test_native_golden", "test_gpu_check",
    "test_serve_faults", "test_export_transformers", "test_train", "test_task_train", "test_golden",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Kernels are compiled once for all processes of a session, into a folder that goes when it ends.

    Programs that the tests start do not compile Python modules each time. A shell that starts the tests in the
    background has them ignore Ctrl-C, which some of them send.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if not hasattr(config, "workerinput") and KERNELS not in os.environ:
        os.environ[KERNELS] = tempfile.mkdtemp(prefix="microgpt-tests-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(KERNELS), ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the files by length, keeping the order within each file."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """With several processes, the first two compile for one float type each, so that neither waits for the other."""
    dtype = {"gw0": "float32", "gw1": "float64"}.get(os.environ.get("PYTEST_XDIST_WORKER", ""))
    if dtype and any(item.path.name.startswith(("test_compliance", "test_native")) for item in session.items):
        from microgpt.engines.native.machine_code import compile_kernels

        compile_kernels(dtype, lambda said: None)


@pytest.fixture
def microgpt(tmp_path: Path) -> Iterator[Program]:
    """The program in a separate folder for the test."""
    yield from make_program(tmp_path)


@pytest.fixture(scope="module")
def shared_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The program in a folder shared by the tests of a file, for runs that several tests use."""
    yield from make_program(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def data_dir() -> Path:
    """The folder of the reference's names.txt."""
    folder = os.environ.get(DATA_DIR_VARIABLE)
    if not folder:
        pytest.skip(f"{DATA_DIR_VARIABLE} is not set: it names the folder of the reference's names.txt")
    path = Path(folder).absolute()
    if not (path / "names.txt").is_file():
        pytest.skip(f"there is no names.txt in {DATA_DIR_VARIABLE}={folder}")
    return path


@pytest.fixture
def text_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty folder with names.txt, 36 documents of two characters."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("".join(f"{one}{other}\n" for one in "abcdef" for other in "abcdef"))
    return tmp_path
