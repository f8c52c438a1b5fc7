"""Kernels are compiled once, said aloud, kept on disk for what they were compiled from, and forgotten in time."""

import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import llvmlite.binding
import numba
import pytest
from support.program import Program, read_history, read_record

from microgpt.engines.native import kernel_cache

SOURCES = Path(kernel_cache.__file__).parent
RUN = ("experiment=debug", "style=classic", "mode=tensor", "backend=native", "sample.num_samples=0")


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the kernels' sources, which the digest is then taken of."""
    copy = tmp_path / "sources"
    shutil.copytree(SOURCES, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(kernel_cache, "__file__", str(copy / "kernel_cache.py"))
    return copy


# The digest


def test_digest_changes_with_the_path_and_the_time_of_a_source_as_numba_s_own_index_does(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a second copy of the package would believe kernels compiled that numba does not find."""
    before = kernel_cache.digest()
    assert re.fullmatch(r"[0-9a-f]{16}", before)
    os.utime(sources / "simd" / "types.py", (1, 1))
    touched = kernel_cache.digest()
    shutil.copytree(sources, tmp_path / "elsewhere")
    monkeypatch.setattr(kernel_cache, "__file__", str(tmp_path / "elsewhere" / "kernel_cache.py"))
    assert len({before, touched, kernel_cache.digest()}) == 3


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
    (sources / "matmul.py").unlink()
    assert kernel_cache.digest() not in (before, added)


def test_digest_changes_with_the_compiler_and_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {kernel_cache.digest()}
    with monkeypatch.context() as changed:
        changed.setattr(numba, "__version__", "0.0")
        found.add(kernel_cache.digest())
    with monkeypatch.context() as changed:
        changed.setattr(llvmlite.binding, "get_host_cpu_name", lambda: "another")
        found.add(kernel_cache.digest())
    assert len(found) == 3


# Where kernels are kept


def test_kernels_are_kept_in_a_folder_of_their_own_below_numba_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "not" / "yet"))
    folder = kernel_cache.cache_directory()
    assert folder == tmp_path / "not" / "yet" / kernel_cache.digest()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("variable", [None, ""], ids=["unset", "empty"])
def test_kernels_are_kept_in_the_user_s_cache_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    if variable is None:
        monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    else:
        monkeypatch.setenv("NUMBA_CACHE_DIR", variable)
    monkeypatch.setattr(kernel_cache.platformdirs, "user_cache_path", lambda name: tmp_path / name)
    assert kernel_cache.cache_directory() == tmp_path / "microgpt" / "kernels" / kernel_cache.digest()


@pytest.mark.parametrize("blocked", ["root", "folder", "file in it"])
def test_cache_that_cannot_be_written_falls_back_to_a_temporary_one(
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
        (root / kernel_cache.digest()).write_text("a file")
    else:

        def refuse(dir: Path) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    folder = kernel_cache.cache_directory()
    assert folder.parents[1] == tmp_path / "temporary", "what is removed beside it is its own"
    assert folder.is_dir()
    assert kernel_cache.cache_directory() != folder, "each process has its own"


# Compiling, with the compiling itself left out


class Compiler:
    """Stands in for `build`: notes what it was asked for, and takes a moment."""

    def __init__(self, seconds: float = 0.01):
        self.seconds = seconds
        self.built: list[tuple[str, bool]] = []

    def __call__(self, dtype: str, entries_only: bool) -> None:
        time.sleep(self.seconds)
        self.built.append((dtype, entries_only))


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    compiler = Compiler()
    monkeypatch.setattr(kernel_cache, "build", compiler)
    monkeypatch.setattr(kernel_cache, "CACHE", tmp_path / "kernels" / "digest")
    kernel_cache.CACHE.mkdir(parents=True)
    return compiler


def test_kernels_are_compiled_once_for_each_kind_of_float(compiler: Compiler) -> None:
    said: list[str] = []
    assert kernel_cache.compile_kernels("float32", said.append) > 0
    assert re.match("compiling the native kernels for float32: ", said[0])
    assert re.fullmatch(rf"compiled in \d+\.\d s; kept in {kernel_cache.CACHE}", said[1])
    assert kernel_cache.compile_kernels("float32", said.append) == 0
    assert len(said) == 2, "what is there is not talked about"
    assert kernel_cache.compile_kernels("float64", said.append) > 0
    assert len(said) == 4
    assert compiler.built == [("float32", False), ("float32", True), ("float64", False)]


def test_compilation_that_was_broken_off_is_done_again(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(dtype: str, entries_only: bool) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(kernel_cache, "build", interrupted)
        with pytest.raises(KeyboardInterrupt):
            kernel_cache.compile_kernels("float32", lambda line: None)
    assert kernel_cache.compile_kernels("float32", lambda line: None) > 0
    assert compiler.built == [("float32", False)]


def test_of_several_that_start_at_once_one_compiles_and_the_others_wait(compiler: Compiler) -> None:
    compiler.seconds = 0.2
    seconds: list[float] = []

    def start() -> None:
        seconds.append(kernel_cache.compile_kernels("float32", lambda line: None))

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
    """`version("name", float32=1, float64=2)` makes a version whose kernels were compiled at these times."""

    def make(name: str, **compiled_at: int) -> Path:
        folder = tmp_path / name
        (folder / "engine_0123").mkdir(parents=True)
        (folder / "engine_0123" / "kernel.nbc").write_bytes(b"compiled")
        for dtype, at in compiled_at.items():
            (folder / f"{dtype}.compiled").touch()
            os.utime(folder / f"{dtype}.compiled", (at, at))
        return folder

    monkeypatch.setattr(kernel_cache, "CACHE", tmp_path / "current")
    return make


def test_old_versions_are_removed_and_the_newest_kept(version: Version) -> None:
    old = [version(f"old{n}", float32=10 + n, float64=20 + n) for n in range(4)]
    newer = [version(f"newer{n}", float32=100 + n, float64=200 + n) for n in range(kernel_cache.KEPT_VERSIONS - 1)]
    current = version("current", float32=1000, float64=1001)
    kernel_cache.forget_old_versions()
    assert [folder.exists() for folder in old] == [False] * 4
    assert all((folder / "engine_0123" / "kernel.nbc").exists() for folder in [*newer, current])


def test_version_that_was_just_compiled_is_never_the_one_that_goes(version: Version) -> None:
    for n in range(10):
        version(f"earlier{n}", float32=100 + n)
    current = version("current", float64=1000)
    kernel_cache.forget_old_versions()
    assert current.exists()
    assert kernel_cache.KEPT_VERSIONS <= len(list(current.parent.iterdir())) <= 2 * kernel_cache.KEPT_VERSIONS


def test_old_version_that_is_in_use_again_is_kept(version: Version) -> None:
    """An old version that was compiled for a further kind of float counts as new."""
    again = version("again", float32=1, float64=1000)
    for n in range(5):
        version(f"between{n}", float32=100 + n, float64=200 + n)
    kernel_cache.forget_old_versions()
    assert again.exists()


def test_what_is_no_version_is_left_alone(version: Version, tmp_path: Path) -> None:
    (tmp_path / "numba_s_own").mkdir()
    (tmp_path / "numba_s_own" / "index.nbi").touch()
    (tmp_path / "file").touch()
    unfinished = version("unfinished")
    for n in range(10):
        version(f"version{n}", float32=n, float64=n)
    kernel_cache.forget_old_versions()
    assert (tmp_path / "numba_s_own" / "index.nbi").exists()
    assert (tmp_path / "file").exists()
    assert unfinished.exists(), "another process may be compiling it"


def test_few_versions_are_all_kept(version: Version) -> None:
    folders = [version(f"version{n}", float32=n, float64=n) for n in range(kernel_cache.KEPT_VERSIONS)]
    kernel_cache.forget_old_versions()
    assert all(folder.exists() for folder in folders)


# The whole, as a user meets it


@pytest.mark.slow
def test_first_run_says_that_it_compiles_and_the_second_has_it_done(
    microgpt: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = microgpt.folder / "kernels"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(kernels))
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
    assert timings[0]["train"] < 1, "compiling is no part of training"
    assert read_history(one) == read_history(other)
    assert {path.name for path in microgpt.folder.iterdir()} == {"first", "second", "kernels"}


@pytest.mark.slow
def test_second_installation_of_the_same_sources_does_not_compile_in_silence(
    microgpt: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was compiled for one folder must serve another, or the other must say that it compiles for itself."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(microgpt.folder / "kernels"))
    for name in ("one", "other"):
        copy = microgpt.folder / name
        shutil.copytree(SOURCES.parents[1], copy / "microgpt", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(SOURCES.parents[2] / "conf", copy / "conf")
    monkeypatch.setenv("PYTHONPATH", str(microgpt.folder / "one"))
    microgpt(*RUN, "outputs_dir=of_one")
    monkeypatch.setenv("PYTHONPATH", str(microgpt.folder / "other"))
    start = time.monotonic()
    stdout = microgpt(*RUN, "outputs_dir=of_other").stdout
    seconds = time.monotonic() - start
    compiled = read_record(microgpt.only_run("of_other"))["timings"]["compile"]
    assert seconds - compiled < 8, f"{seconds:.0f} s, of which {compiled:.0f} s are told as compiling"
    assert ("compiling" in stdout) == (compiled > 0)
