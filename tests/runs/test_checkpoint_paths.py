"""`latest` and `best` in copies of runs and on file systems without links: sampling and resuming work there."""

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from support.checkpoints import saved
from support.program import Program, read_record, results_of

from microgpt.runs.checkpoint import load_checkpoint
from microgpt.runs.checkpoint_paths import BEST, LATEST, linked, resolve_checkpoint
from microgpt.runs.checkpoint_store import CheckpointStore

# progress_at in tests/support/checkpoints.py: the best step is 5


def follow_links(source: Path, target: Path) -> None:  # cp -rL, scp -r, zip
    shutil.copytree(source, target, symlinks=False)


def leave_links_out(source: Path, target: Path) -> None:  # cloud storage
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(LATEST, BEST))


def write_links_as_text(source: Path, target: Path) -> None:  # unzip and git on a file system without links
    leave_links_out(source, target)
    for link in source.rglob("*"):
        if link.is_symlink():
            (target / link.relative_to(source)).write_text(str(link.readlink()))


COPIES = (follow_links, leave_links_out, write_links_as_text)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Create a run with checkpoints of the steps 5 (the best), 7 and 9."""
    store = CheckpointStore(tmp_path / "run" / "checkpoint", keep=2)
    saved(store, 5)
    store.mark_best(5)
    saved(store, 6, 7, 9)
    assert names(store.directory) == {"step_00000005", "step_00000007", "step_00000009", LATEST, BEST}
    return tmp_path / "run"


@pytest.mark.parametrize("copy", COPIES)
def test_copied_run_is_found_and_trained_on(tmp_path: Path, run: Path, copy: Callable[[Path, Path], None]) -> None:
    copy(run, tmp_path / "copy")
    directory = tmp_path / "copy" / "checkpoint"
    for name in ("copy", "copy/checkpoint"):
        assert resolve_checkpoint(str(tmp_path / name), "unused") == directory / "step_00000009"
    if copy is not leave_links_out:
        assert resolve_checkpoint(str(directory / BEST), "unused") == directory / "step_00000005"
        assert resolve_checkpoint(str(directory / LATEST), "unused") == directory / "step_00000009"
    saved(CheckpointStore(directory, keep=2), 11, 12)
    assert names(directory) == {"step_00000005", "step_00000011", "step_00000012", LATEST, BEST}
    assert (directory / LATEST).readlink() == Path("step_00000012")
    assert linked(directory, BEST) == directory / "step_00000005"
    assert not [path for path in directory.iterdir() if path.name == BEST and path.is_dir() and not path.is_symlink()]


def test_copied_best_is_replaced_by_a_better_one(tmp_path: Path, run: Path) -> None:
    follow_links(run, tmp_path / "copy")
    store = CheckpointStore(tmp_path / "copy" / "checkpoint", keep=1)
    store.mark_best(9)
    assert linked(store.directory, BEST) == store.directory / "step_00000009"
    assert names(store.directory) == {"step_00000009", LATEST, BEST}


def test_copy_of_the_latest_checkpoint_alone_is_found(tmp_path: Path, run: Path) -> None:
    shutil.copytree(run / "checkpoint" / LATEST, tmp_path / "copy" / "checkpoint" / LATEST)
    found = resolve_checkpoint(str(tmp_path / "copy"), "unused")
    assert load_checkpoint(found).progress.step == 9


@pytest.mark.parametrize("content", ["", "step_00000008", "../elsewhere", "step_00000009/..", "\0"])
def test_text_that_names_no_step_means_the_newest(run: Path, content: str) -> None:
    (run / "checkpoint" / LATEST).unlink()
    (run / "checkpoint" / LATEST).write_text(content)
    assert resolve_checkpoint(str(run), "unused") == run / "checkpoint" / "step_00000009"


def refuse_links(self: Path, target: str, target_is_directory: bool = False) -> None:
    raise OSError(errno.EPERM, "Operation not permitted", str(self))


def test_file_system_without_links_gets_text_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flush(handle: int, fsync: Callable[[int], None] = os.fsync) -> None:  # nor can it flush a directory
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "symlink_to", refuse_links)
    directory = tmp_path / "run" / "checkpoint"
    store = CheckpointStore(directory, keep=2)
    saved(store, 1, 2)
    store.mark_best(1)
    saved(store, 3, 4)
    assert names(directory) == {"step_00000001", "step_00000003", "step_00000004", LATEST, BEST}
    assert (directory / LATEST).read_text() == "step_00000004\n"
    for name, step in (("", 4), ("checkpoint/best", 1), ("checkpoint/latest", 4)):
        assert resolve_checkpoint(str(tmp_path / "run" / name), "unused") == directory / f"step_{step:08d}"


def test_link_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    saved(store, 1)

    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EACCES, "Permission denied", str(target))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="Permission denied"):
        store.mark_best(1)
    assert names(tmp_path) == {"step_00000001", LATEST}


@pytest.mark.slow
def test_copied_outputs_resume_and_sample_like_the_original(microgpt: Program) -> None:
    """The same command finishes an interrupted run in a copy, with the results of a run that was not interrupted."""
    command = ("experiment=debug", "style=classic", "sample.num_samples=3")
    microgpt(*command)
    whole = results_of(microgpt.only_run(), 20)
    stopped = microgpt.only_run() / "run.json"
    for path in microgpt.only_run().glob("checkpoint/*"):
        if path.is_symlink():
            path.unlink()
    shutil.rmtree(microgpt.only_run() / "checkpoint" / "step_00000020")
    for name in (LATEST, BEST):
        (microgpt.only_run() / "checkpoint" / name).symlink_to("step_00000010")
    stopped.write_text(stopped.read_text().replace('"status": "completed"', '"status": "interrupted"'))
    for copy in COPIES[:2]:
        copy(microgpt.folder / "outputs", microgpt.folder / copy.__name__)
        sampled = microgpt("task=sample", f"outputs_dir={copy.__name__}", "checkpoint=latest", "sample.num_samples=1")
        assert "sample" in sampled.stdout
        done = microgpt(*command, f"outputs_dir={copy.__name__}")
        assert "at step 10" in done.stdout
        run = microgpt.only_run(copy.__name__)
        assert read_record(run)["resumed"][0]["step"] == 10
        assert results_of(run, 20) == whole
        assert not [path for path in run.rglob(".*") if path.name not in (".lock", ".hydra")]
