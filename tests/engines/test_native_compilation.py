"""Compiled kernels: what they depend on, where they are kept, when they are compiled and when they are removed."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import llvmlite.binding
import numba
import pytest
from support.program import Program, read_history, read_record

from microgpt.engines.native import compilation

SOURCES = Path(compilation.__file__).parent
RUN = ("experiment=debug", "style=classic", "mode=tensor", "backend=native", "sample.num_samples=0")


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the kernels' sources, from which the digest is computed."""
    copy = tmp_path / "sources"
    shutil.copytree(SOURCES, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(compilation, "__file__", str(copy / "compilation.py"))
    return copy


# The digest


def test_digest_changes_with_the_path_and_modification_time_of_a_source_like_numba_s_own_index(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a second copy of the package would take kernels for compiled that numba does not find."""
    before = compilation.digest()
    assert re.fullmatch(r"[0-9a-f]{16}", before)
    os.utime(sources / "simd" / "vector.py", (1, 1))
    touched = compilation.digest()
    shutil.copytree(sources, tmp_path / "elsewhere")
    monkeypatch.setattr(compilation, "__file__", str(tmp_path / "elsewhere" / "compilation.py"))
    assert len({before, touched, compilation.digest()}) == 3


@pytest.mark.parametrize("name", sorted(str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.py")))
def test_digest_changes_with_every_source_file(sources: Path, name: str) -> None:
    before = compilation.digest()
    (sources / name).write_text((sources / name).read_text() + "\n")
    assert compilation.digest() != before


def test_digest_changes_when_a_source_is_added_or_removed(sources: Path) -> None:
    before = compilation.digest()
    (sources / "further.py").write_text("# more\n")
    added = compilation.digest()
    (sources / "further.py").unlink()
    assert compilation.digest() == before != added
    (sources / "matmul.py").unlink()
    assert compilation.digest() not in (before, added)


def test_digest_changes_with_the_compiler_and_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {compilation.digest()}
    with monkeypatch.context() as changed:
        changed.setattr(numba, "__version__", "0.0")
        found.add(compilation.digest())
    with monkeypatch.context() as changed:
        changed.setattr(llvmlite.binding, "get_host_cpu_name", lambda: "another")
        found.add(compilation.digest())
    assert len(found) == 3


# The cache directory


def test_cache_directory_is_a_folder_of_this_digest_in_numba_cache_dir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "not" / "yet"))
    folder = compilation.make_cache_directory()
    assert folder == tmp_path / "not" / "yet" / compilation.digest()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("variable", [None, ""], ids=["unset", "empty"])
def test_cache_directory_is_in_the_user_s_cache_without_numba_cache_dir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    if variable is None:
        monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    else:
        monkeypatch.setenv("NUMBA_CACHE_DIR", variable)
    monkeypatch.setattr(compilation.platformdirs, "user_cache_path", lambda name: tmp_path / name)
    assert compilation.make_cache_directory() == tmp_path / "microgpt" / "kernels" / compilation.digest()


@pytest.mark.parametrize("blocked", ["root", "folder", "file in it"])
def test_cache_directory_is_temporary_if_the_usual_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocked: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    root = tmp_path / "root"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(root))
    if blocked == "root":
        root.write_text("a file")
    elif blocked == "folder":
        root.mkdir()
        (root / compilation.digest()).write_text("a file")
    else:

        def refuse(dir: Path) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    folder = compilation.make_cache_directory()
    assert folder.parents[1] == tmp_path / "temporary", "remove_old_versions sees only this process's folders"
    assert folder.is_dir()
    assert compilation.make_cache_directory() != folder, "each process has its own"


def test_importing_the_engine_makes_no_folder(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
    subprocess.run([sys.executable, "-c", "import microgpt.engines.native.engine"], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


# Compilation, with `build` replaced


class Compiler:
    """Replaces `build`: records its arguments and takes a moment."""

    def __init__(self, seconds: float = 0.01):
        self.seconds = seconds
        self.built: list[tuple[str, bool]] = []

    def __call__(self, dtype: str, entries_only: bool) -> None:
        time.sleep(self.seconds)
        self.built.append((dtype, entries_only))


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    compiler = Compiler()
    monkeypatch.setattr(compilation, "build", compiler)
    folder = tmp_path / "kernels" / "digest"
    folder.mkdir(parents=True)
    monkeypatch.setattr(compilation, "cache_directory", lambda: folder)
    return compiler


def test_kernels_are_compiled_once_for_each_float_type(compiler: Compiler) -> None:
    said: list[str] = []
    assert compilation.compile_kernels("float32", said.append) > 0
    assert re.match("compiling the native kernels for float32: ", said[0])
    assert re.fullmatch(rf"compiled in \d+\.\d s; kept in {compilation.cache_directory()}", said[1])
    assert compilation.compile_kernels("float32", said.append) == 0
    assert len(said) == 2, "nothing is printed when kernels are loaded from disk"
    assert compilation.compile_kernels("float64", said.append) > 0
    assert len(said) == 4
    assert compiler.built == [("float32", False), ("float32", True), ("float64", False)]


def test_interrupted_compilation_starts_again(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(dtype: str, entries_only: bool) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(compilation, "build", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compilation.compile_kernels("float32", lambda line: None)
    assert compilation.compile_kernels("float32", lambda line: None) > 0
    assert compiler.built == [("float32", False)]


def test_of_several_threads_at_once_one_compiles_and_the_others_wait(compiler: Compiler) -> None:
    compiler.seconds = 0.2
    seconds: list[float] = []

    def start() -> None:
        seconds.append(compilation.compile_kernels("float32", lambda line: None))

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(second > 0 for second in seconds) == [False, False, True]
    assert compiler.built == [("float32", False), ("float32", True), ("float32", True)]


# Earlier versions


Version = Callable[..., Path]


@pytest.fixture
def version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Version:
    """`version("name", float32=1, float64=2)` makes the folder of a version compiled at these times."""

    def make(name: str, **compiled_at: int) -> Path:
        folder = tmp_path / name
        (folder / "engine_0123").mkdir(parents=True)
        (folder / "engine_0123" / "kernel.nbc").write_bytes(b"compiled")
        for dtype, at in compiled_at.items():
            (folder / f"{dtype}.compiled").touch()
            os.utime(folder / f"{dtype}.compiled", (at, at))
        return folder

    monkeypatch.setattr(compilation, "cache_directory", lambda: tmp_path / "current")
    return make


def test_old_versions_are_removed_and_the_newest_are_kept(version: Version) -> None:
    old = [version(f"old{n}", float32=10 + n, float64=20 + n) for n in range(4)]
    newer = [version(f"newer{n}", float32=100 + n, float64=200 + n) for n in range(compilation.KEPT_VERSIONS - 1)]
    current = version("current", float32=1000, float64=1001)
    compilation.remove_old_versions()
    assert [folder.exists() for folder in old] == [False] * 4
    assert all((folder / "engine_0123" / "kernel.nbc").exists() for folder in [*newer, current])


def test_version_compiled_last_is_never_removed(version: Version) -> None:
    for n in range(10):
        version(f"earlier{n}", float32=100 + n)
    current = version("current", float64=1000)
    compilation.remove_old_versions()
    assert current.exists()
    assert compilation.KEPT_VERSIONS <= len(list(current.parent.iterdir())) <= 2 * compilation.KEPT_VERSIONS


def test_old_version_compiled_for_another_float_type_counts_as_new(version: Version) -> None:
    again = version("again", float32=1, float64=1000)
    for n in range(5):
        version(f"between{n}", float32=100 + n, float64=200 + n)
    compilation.remove_old_versions()
    assert again.exists()


def test_other_files_and_unfinished_versions_are_kept(version: Version, tmp_path: Path) -> None:
    (tmp_path / "numba_s_own").mkdir()
    (tmp_path / "numba_s_own" / "index.nbi").touch()
    (tmp_path / "file").touch()
    unfinished = version("unfinished")
    for n in range(10):
        version(f"version{n}", float32=n, float64=n)
    compilation.remove_old_versions()
    assert (tmp_path / "numba_s_own" / "index.nbi").exists()
    assert (tmp_path / "file").exists()
    assert unfinished.exists(), "another process may be compiling it"


def test_few_versions_are_all_kept(version: Version) -> None:
    folders = [version(f"version{n}", float32=n, float64=n) for n in range(compilation.KEPT_VERSIONS)]
    compilation.remove_old_versions()
    assert all(folder.exists() for folder in folders)


# As a user runs it


@pytest.mark.slow
def test_first_run_reports_that_it_compiles_and_the_second_loads_the_kernels(
    microgpt: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels compiled for one folder must work in another, or the other must report that it compiles again."""
    kernels = microgpt.folder / "kernels"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(kernels))
    for name in ("one", "other"):
        copy = microgpt.folder / name
        shutil.copytree(SOURCES.parents[1], copy / "microgpt", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(SOURCES.parents[2] / "conf", copy / "conf")
    monkeypatch.setenv("PYTHONPATH", str(microgpt.folder / "one"))
    start = time.monotonic()
    first = microgpt(*RUN, "outputs_dir=first").stdout
    seconds = time.monotonic() - start
    start = time.monotonic()
    second = microgpt(*RUN, "outputs_dir=second").stdout
    assert time.monotonic() - start < seconds / 2

    assert "compiling the native kernels for float32: once for this version on this machine\n" in first
    (said,) = re.findall(r"^compiled in (\d+\.\d) s; kept in (.*)$", first, re.MULTILINE)
    assert Path(said[1]).parent == kernels
    assert "compil" not in second
    one, other = microgpt.only_run("first"), microgpt.only_run("second")
    timings = [read_record(run)["timings"] for run in (one, other)]
    assert timings[0]["compile"] == pytest.approx(float(said[0]), abs=0.1)
    assert timings[1]["compile"] == 0
    assert timings[0]["train"] < 1, "compiling does not count as training"
    assert read_history(one) == read_history(other)
    assert {path.name for path in microgpt.folder.iterdir()} == {"first", "second", "kernels", "one", "other"}

    monkeypatch.setenv("PYTHONPATH", str(microgpt.folder / "other"))
    start = time.monotonic()
    third = microgpt(*RUN, "outputs_dir=third").stdout
    seconds = time.monotonic() - start
    compiled = read_record(microgpt.only_run("third"))["timings"]["compile"]
    assert seconds - compiled < 8, f"{seconds:.0f} s, of which {compiled:.0f} s are reported as compiling"
    assert ("compiling" in third) == (compiled > 0)
