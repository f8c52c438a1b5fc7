"""Compiled kernels: what they depend on, where they are kept, when they are compiled and when they are removed."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import llvmlite.binding
import numba
import numpy as np
import pytest
from numba.core import codegen
from support.program import Program, mostly_slow, read_history, read_record

from microgpt.engines.native import compilation, kernel_cache, machine_code
from microgpt.engines.native.kernels import declaration
from microgpt.engines.native.optimizer_settings import settings_record
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.errors import UserError

SOURCES = Path(compilation.__file__).parent
RUN = ("experiment=debug", "style=classic", "mode=tensor", "backend=native", "sample.num_samples=0")


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the kernels' sources, from which the digest is computed."""
    copy = tmp_path / "sources"
    shutil.copytree(SOURCES, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(kernel_cache, "__file__", str(copy / "kernel_cache.py"))
    return copy


# The digest


def test_digest_depends_on_the_sources_but_not_on_their_place_and_times(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kernel_cache.digest()
    assert re.fullmatch(r"[0-9a-f]{16}", before)
    os.utime(sources / "kernels" / "train.py", (1, 1))
    shutil.copytree(sources, tmp_path / "elsewhere")
    monkeypatch.setattr(kernel_cache, "__file__", str(tmp_path / "elsewhere" / "kernel_cache.py"))
    assert kernel_cache.digest() == before


@pytest.mark.parametrize("name", sorted(str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.py")))
def test_digest_changes_with_every_source_file(sources: Path, name: str) -> None:
    before = kernel_cache.digest()
    (sources / name).write_text((sources / name).read_text() + "\n")
    assert kernel_cache.digest() != before


def test_digest_changes_when_a_source_is_added_or_removed(sources: Path) -> None:
    before = kernel_cache.digest()
    (sources / "further.py").write_text("# more\n")
    added = kernel_cache.digest()
    (sources / "further.py").unlink()
    assert kernel_cache.digest() == before != added
    (sources / "kernels" / "matmul.py").unlink()
    assert kernel_cache.digest() not in (before, added)


def test_digest_changes_with_the_compiler_and_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {kernel_cache.digest()}
    with monkeypatch.context() as changed:
        changed.setattr(kernel_cache, "version", lambda package: "0.0")
        found.add(kernel_cache.digest())
    with monkeypatch.context() as changed:
        changed.setattr(llvmlite.binding, "get_host_cpu_name", lambda: "another")
        found.add(kernel_cache.digest())
    with monkeypatch.context() as changed:
        changed.setenv("NUMBA_CPU_NAME", "generic")
        found.add(kernel_cache.digest())
    assert len(found) == 4


# The cache directory


def test_cache_directory_is_a_folder_of_this_digest_in_numba_cache_dir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "not" / "yet"))
    folder = kernel_cache.make_cache_directory()
    assert folder == tmp_path / "not" / "yet" / kernel_cache.digest()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("variable", [None, ""], ids=["unset", "empty"])
def test_cache_directory_is_in_the_user_s_cache_without_numba_cache_dir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    if variable is None:
        monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    else:
        monkeypatch.setenv("NUMBA_CACHE_DIR", variable)
    monkeypatch.setattr(kernel_cache.platformdirs, "user_cache_path", lambda name: tmp_path / name)
    assert kernel_cache.make_cache_directory() == tmp_path / "microgpt" / "kernels" / kernel_cache.digest()


def test_importing_the_engine_makes_no_folder(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
    subprocess.run([sys.executable, "-c", "import microgpt.engines.native.engine"], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


# Compilation, of two small kernels


@declaration.inlined
def doubled(x: float) -> float:
    return 2 * x


@declaration.entry
def double(values: declaration.Floats, count: int, record: declaration.SettingsRecord) -> int:
    for i in range(count):
        values[i] = doubled(values[i]) + record.eps
    return count


del declaration.KERNELS[-2:], declaration.ENTRIES[-1:]


class Process:
    """What a process of its own would do: kernels that are not compiled yet, and nothing known of earlier ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.said: list[str] = []
        self.monkeypatch = monkeypatch
        monkeypatch.setattr(compilation, "KERNELS", declared := [])
        monkeypatch.setattr(declaration, "KERNELS", declared)
        monkeypatch.setattr(compilation, "ENTRIES", entries := [])
        monkeypatch.setattr(declaration, "ENTRIES", entries)

    def start(self, dtype: str = "float32") -> float:
        self.said.clear()
        self.monkeypatch.setattr(machine_code, "LOADED", {})
        declaration.KERNELS.clear()
        declaration.ENTRIES.clear()
        self.inner = declaration.inlined(doubled.py_func)
        self.entry = self.declare("double", self.inner)
        return machine_code.compile_kernels(dtype, self.said.append)

    @staticmethod
    def declare(name: str, inner: object) -> object:
        """Declare `double` once more, with another function for `doubled`."""
        function = types.FunctionType(double.py_func.__code__, double.py_func.__globals__ | {"doubled": inner}, name)
        function.__annotations__ = double.py_func.__annotations__
        function.__module__ = __name__
        return declaration.entry(function)

    def works(self, dtype: str = "float32") -> bool:
        values, settings = np.ones(3, dtype), settings_record(OptimizerSpec("adam", eps=0.5))
        kernels = machine_code.kernels_for(dtype)
        return kernels.double(values, 2, settings) == 2 and values.tolist() == [2.5, 2.5, 1]


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Process:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kernels"))
    return Process(monkeypatch)


ONCE = "compiling the native kernels for float32: once for this version on this machine"


def test_kernels_are_compiled_once_for_each_float_type(process: Process) -> None:
    folder = kernel_cache.cache_directory()
    for dtype in ("float32", "float64"):
        assert process.start(dtype) > 0
        assert process.said[0] == ONCE.replace("float32", dtype)
        assert re.fullmatch(rf"compiled in \d+\.\d s; kept in {folder}", process.said[1])
        assert process.works(dtype)
    for dtype in ("float32", "float64"):
        assert process.start(dtype) == 0, process.said
        assert process.said == [], "nothing is printed when kernels are loaded from disk"
        assert process.works(dtype)
        assert machine_code.compile_kernels(dtype, process.said.append) == 0


# The second process


def test_both_halves_together_are_all_kernels() -> None:
    training, others = map(declaration.with_called, declaration.halves())
    assert [kernel for kernel in declaration.KERNELS if kernel in training or kernel in others] == declaration.KERNELS
    names = {kernel.py_func.__name__ for kernel in training}
    assert {"train", "losses", "backward"} <= names
    assert not names & {"sample_texts", "draw_texts"}


def test_kernels_for_both_float_types_have_all_entries() -> None:
    names = [entry.py_func.__name__ for entry in declaration.ENTRIES]
    assert len(set(names)) == len(names)
    for dtype in ("float32", "float64"):
        assert vars(machine_code.kernels_for(dtype)).keys() == set(names)


@pytest.mark.parametrize("fault", ["", "fails", "does not start"])
def test_kernels_that_the_second_process_does_not_compile_are_compiled_here(
    process: Process, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    program = f"""
import pickle, sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
from microgpt.engines.native import compilation
from test_native_compilation import double, doubled
compilation.ENTRIES.append(double)
pickle.dump(compilation.build("float32", [doubled, double]), sys.stdout.buffer)
sys.exit({fault == "fails":d})
"""
    if fault == "does not start":
        monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(compilation, "SECOND_PROCESS", program)
    monkeypatch.setattr(compilation, "available_cores", lambda: 2)
    monkeypatch.setattr(compilation, "halves", lambda: ([process.declare("other", abs)], [process.entry]))
    compiled: list[object] = []
    build = compilation.build

    def observed(dtype: str, chosen: list[object], progress: compilation.Progress) -> compilation.Code:
        compiled.extend(chosen)
        return build(dtype, chosen, progress)

    monkeypatch.setattr(compilation, "build", observed)
    assert process.start() > 0
    assert process.works()
    assert (process.entry in compiled) == bool(fault)
    assert [path.name for path in sorted(kernel_cache.cache_directory().iterdir())] == ["float32", "float32.compiled"]
    assert [path.name for path in files()] == ["double", "other"]


def files() -> list[Path]:
    return sorted(path for path in kernel_cache.cache_directory().glob("*/*"))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "garbled": lambda path: path.write_bytes(bytes(byte ^ 0xFF for byte in path.read_bytes())),
    "one bit": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "removed": Path.unlink,
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"!"),
}


CASES = [("double", damage) for damage in DAMAGE] + [("float32.compiled", damage) for damage in ("garbled", "removed")]
EACH_KIND = [("double", "emptied"), ("double", "cut"), ("float32.compiled", "garbled")]


@pytest.mark.parametrize("cases", [EACH_KIND, pytest.param(CASES, marks=pytest.mark.slow)], ids=["few", "all"])
def test_damaged_kernels_are_discarded_and_compiled_again(process: Process, cases: list[tuple[str, str]]) -> None:
    process.start()
    for kind, damage in cases:
        (file,) = kernel_cache.cache_directory().rglob(kind)
        DAMAGE[damage](file)
        assert process.start() > 0
        if (kind, damage) == ("float32.compiled", "removed"):  # as if the compilation had been interrupted
            assert process.said[0] == ONCE
        else:
            assert process.said[0] == f"{file} is damaged: compiling the native kernels again"
        assert process.said[1].startswith("compiled in ")
        assert len(process.said) == 2
        assert process.works()
    assert process.start() == 0
    assert process.said == []


def test_functions_without_machine_code_are_part_of_their_callers() -> None:
    """Functions of numba that are first used there can be called later, and other threads wait until the block ends."""
    with ThreadPoolExecutor(1) as pool:
        with compilation.without_machine_code():

            @numba.njit("int8(int8, int8)")
            def inner(x: int, y: int) -> int:
                return min(x, y, x)

            other = pool.submit(numba.njit("int16(int16, int16)"), lambda x, y: max(x, y, x))
            with pytest.raises(TimeoutError):
                other.result(timeout=0.1)
        assert other.result()(3, -4) == 3
    outer = numba.njit("int8(int8, int8)")(lambda x, y: inner(x, y) + min(x, y, y))
    assert outer(3, -4) == -8


def test_another_numba_without_a_private_function_compiles_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    before = codegen.CPUCodeLibrary._finalize_final_module
    with compilation.without_machine_code():
        assert codegen.CPUCodeLibrary._finalize_final_module is not before
    monkeypatch.delattr(codegen.CPUCodeLibrary, "_finalize_dynamic_globals")
    with compilation.without_machine_code():
        assert codegen.CPUCodeLibrary._finalize_final_module is before


@pytest.mark.slow
def test_kernels_of_another_version_of_the_compiler_are_left_alone(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as other:
        other.setattr(kernel_cache, "digest", lambda: "other")
        process.start()
        DAMAGE["garbled"](files()[0])
    assert process.start() > 0
    assert process.said[0] == ONCE


def test_kernels_that_another_version_removes_while_they_are_read_are_compiled_again(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.start()
    read, manifest = Path.read_bytes, kernel_cache.cache_directory() / "float32.compiled"

    def removed(path: Path) -> bytes:
        if path == manifest:
            content = read(path)
            shutil.rmtree(path.parent)
            return content
        return read(path)

    with monkeypatch.context() as other:
        other.setattr(Path, "read_bytes", removed)
        other.setattr(compilation, "keep", lambda *arguments: None)
        assert process.start() > 0
    assert process.said[0] == f"{manifest} is damaged: compiling the native kernels again"
    assert process.works()


def test_an_array_of_another_type_is_refused(process: Process) -> None:
    process.start()
    kernels, settings = machine_code.kernels_for("float32"), settings_record(OptimizerSpec("adam"))
    for array in (np.ones(3), np.ones(3, np.int32), np.ones((3, 2), np.float32)[:, 0]):
        with pytest.raises(TypeError, match=r"a kernel needs a contiguous array of float32\*, not"):
            kernels.double(array, 2, settings)
    with pytest.raises(ValueError, match="argument"):
        kernels.double(np.ones(3, np.float32), 2)


LOADED_ALONE = """
import sys
from microgpt.engines.native.machine_code import kernels_for
kernels = kernels_for("float32")
print("numba" in sys.modules, sorted(vars(kernels)))
"""


def test_kept_kernels_are_loaded_without_numba() -> None:
    machine_code.kernels_for("float32")  # compiles them if they are missing
    done = subprocess.run([sys.executable, "-c", LOADED_ALONE], capture_output=True, text=True, check=True)
    names = sorted(entry.py_func.__name__ for entry in declaration.ENTRIES)
    assert done.stdout.splitlines()[-1] == f"False {names}"


@pytest.mark.slow
def test_interrupted_compilation_starts_again(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(compilation, "build", interrupted)
        with pytest.raises(KeyboardInterrupt):
            process.start()
    assert process.start() > 0
    assert process.said[0] == ONCE


@pytest.mark.slow
def test_of_several_threads_at_once_one_compiles_and_the_others_wait(process: Process) -> None:
    process.start()
    machine_code.LOADED.clear()
    shutil.rmtree(kernel_cache.cache_directory())
    with ThreadPoolExecutor(3) as threads:
        seconds = list(threads.map(lambda _: machine_code.compile_kernels("float32", process.said.append), range(3)))
    assert sorted(second > 0 for second in seconds) == [False, False, True]


@mostly_slow(1, "blocked", ["root", "folder", "file in it", "lock"])
def test_kernels_are_not_said_to_be_kept_where_nothing_can_be_written(
    process: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocked: str
) -> None:
    root = tmp_path / "kernels"
    if blocked == "root":
        root.write_text("a file")
    elif blocked == "folder":
        root.mkdir()
        (root / kernel_cache.digest()).write_text("a file")
    elif blocked == "lock":
        (root / f"{kernel_cache.digest()}-float32.lock").mkdir(parents=True)
    else:

        def refuse(dir: Path) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    for _ in range(2):
        assert process.start() > 0
        assert process.said[0] == ONCE
        assert re.fullmatch(
            rf"compiled in \d+\.\d s; not kept, because {root}\S* cannot be written \(.+\): "
            "set NUMBA_CACHE_DIR=<folder> to use another folder",
            process.said[1],
        )
        assert process.works()
        assert machine_code.compile_kernels("float32", process.said.append) == 0
    assert not list(tmp_path.rglob("double"))


def test_kernels_are_used_although_the_disk_is_full(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, data: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert process.start() > 0
    assert f"not kept, because {kernel_cache.cache_directory()} cannot be written (No space left" in process.said[1]
    assert process.works()
    assert list(kernel_cache.cache_directory().iterdir()) == []
    monkeypatch.undo()


def test_switched_off_compiler_is_one_sentence(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    with pytest.raises(UserError, match="NUMBA_DISABLE_JIT disables compilation"):
        process.start()


# Earlier versions


Version = Callable[..., Path]


@pytest.fixture
def version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Version:
    """`version("name", float32=1, float64=2)` makes the folder of a version compiled at these times."""

    def make(name: str, **compiled_at: int) -> Path:
        folder = tmp_path / name
        (folder / "engine_0123").mkdir(parents=True)
        (folder / "engine_0123" / "kernel").write_bytes(b"compiled")
        for dtype, at in compiled_at.items():
            (folder / f"{dtype}.compiled").write_text("{}")
            os.utime(folder / f"{dtype}.compiled", (at, at))
        return folder

    return make


def test_old_versions_are_removed_and_the_newest_are_kept(version: Version) -> None:
    old = [version(f"old{n}", float32=10 + n, float64=20 + n) for n in range(4)]
    newer = [version(f"newer{n}", float32=100 + n, float64=200 + n) for n in range(kernel_cache.KEPT_VERSIONS - 1)]
    current = version("current", float32=1000, float64=1001)
    kernel_cache.remove_old_versions(current)
    assert [folder.exists() for folder in old] == [False] * 4
    assert all((folder / "engine_0123" / "kernel").exists() for folder in [*newer, current])


def test_version_compiled_last_is_never_removed(version: Version) -> None:
    for n in range(10):
        version(f"earlier{n}", float32=100 + n)
    current = version("current", float64=1000)
    kernel_cache.remove_old_versions(current)
    assert current.exists()
    assert kernel_cache.KEPT_VERSIONS <= len(list(current.parent.iterdir())) <= 2 * kernel_cache.KEPT_VERSIONS


def test_old_version_compiled_for_another_float_type_counts_as_new(version: Version, tmp_path: Path) -> None:
    again = version("again", float32=1, float64=1000)
    for n in range(5):
        version(f"between{n}", float32=100 + n, float64=200 + n)
    kernel_cache.remove_old_versions(tmp_path / "current")
    assert again.exists()


def test_other_files_and_unfinished_versions_are_kept(version: Version, tmp_path: Path) -> None:
    (tmp_path / "another").mkdir()
    (tmp_path / "another" / "index").touch()
    (tmp_path / "file").touch()
    unfinished = version("unfinished")
    for n in range(10):
        version(f"version{n}", float32=n, float64=n)
    kernel_cache.remove_old_versions(tmp_path / "current")
    assert (tmp_path / "another" / "index").exists()
    assert (tmp_path / "file").exists()
    assert unfinished.exists(), "another process may be compiling it"


def test_few_versions_are_all_kept(version: Version, tmp_path: Path) -> None:
    folders = [version(f"version{n}", float32=n, float64=n) for n in range(kernel_cache.KEPT_VERSIONS)]
    kernel_cache.remove_old_versions(tmp_path / "current")
    assert all(folder.exists() for folder in folders)


# As a user runs it


@pytest.mark.slow
def test_first_run_reports_that_it_compiles_and_the_second_loads_the_kernels(
    microgpt: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = microgpt.folder / "kernels"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(kernels))
    start = time.monotonic()
    first = microgpt.process(*RUN, "outputs_dir=first").stdout
    seconds = time.monotonic() - start
    start = time.monotonic()
    second = microgpt.process(*RUN, "outputs_dir=second").stdout
    assert time.monotonic() - start < seconds / 2

    assert "compiling the native kernels for float32: once for this version on this machine\n" in first
    (said,) = re.findall(r"^compiled in (\d+\.\d) s; kept in (.*)$", first, re.MULTILINE)
    assert Path(said[1]).parent == kernels
    assert "compil" not in second
    one, other = microgpt.only_run("first"), microgpt.only_run("second")
    timings = [read_record(run)["timings"] for run in (one, other)]
    assert timings[0]["compile"] == pytest.approx(float(said[0]), rel=0.05)
    assert timings[1]["compile"] == 0
    assert timings[0]["train"] < 1, "compiling does not count as training"
    assert read_history(one) == read_history(other)
    assert {path.name for path in microgpt.folder.iterdir()} == {"first", "second", "kernels"}
