"""The checkpoints of a run: which ones are kept, and the files after a crash."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import (
    FILES,
    SPEC,
    arrays,
    assert_same_bits,
    engine_state,
    meta_of,
    progress_at,
    saved,
)

from microgpt.runs import checkpoint
from microgpt.runs.checkpoint import Snapshot, load_checkpoint
from microgpt.runs.checkpoint_store import CheckpointStore, write_held

# Which checkpoints are kept


def steps_of(store: CheckpointStore) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in store.directory.glob("step_*"))


@pytest.mark.parametrize(("keep", "kept"), [(1, [9]), (2, [7, 9]), (3, [6, 7, 9]), (10, [1, 6, 7, 9])])
def test_the_newest_checkpoints_are_kept(tmp_path, keep, kept):
    store = CheckpointStore(tmp_path, keep)
    saved(store, 1, 6, 7, 9)
    assert steps_of(store) == kept


def test_the_best_checkpoint_is_kept_besides_the_newest(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    saved(store, 1, 2)
    store.mark_best(2)
    saved(store, 3, 4, 5)
    assert steps_of(store) == [2, 4, 5]
    store.mark_best(5)
    assert steps_of(store) == [4, 5]


def test_links_lead_to_the_latest_and_the_best(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    saved(store, 1)
    store.mark_best(1)
    saved(store, 2, 3)
    assert (tmp_path / "latest").readlink() == Path("step_00000003")
    assert (tmp_path / "best").readlink() == Path("step_00000001")
    assert load_checkpoint(tmp_path / "latest").progress.step == 3
    assert load_checkpoint(tmp_path / "best").progress.step == 1


def test_links_are_valid_after_the_run_is_moved(tmp_path):
    store = CheckpointStore(tmp_path / "run" / "checkpoint", keep=2)
    saved(store, 1)
    (tmp_path / "run").rename(tmp_path / "moved")
    assert load_checkpoint(tmp_path / "moved" / "checkpoint" / "latest").progress.step == 1


def test_the_newest_checkpoint_is_found(tmp_path):
    store = CheckpointStore(tmp_path, keep=5)
    assert store.newest() is None
    saved(store, 1, 2, 10)
    found = store.newest()
    assert found is not None
    assert found.progress.step == 10


@pytest.mark.parametrize("name", [name for name in FILES if name != "checksums.json"])
def test_a_damaged_checkpoint_is_skipped(tmp_path, name):
    store = CheckpointStore(tmp_path, keep=5)
    saved(store, 1, 2)
    (tmp_path / "step_00000002" / name).write_bytes(b"torn")
    found = store.newest()
    assert found is not None
    assert found.progress.step == 1
    assert_same_bits(found.state.parameters, arrays(SPEC, 1))


def test_if_all_are_damaged_there_is_none(tmp_path):
    store = CheckpointStore(tmp_path, keep=5)
    saved(store, 1)
    (tmp_path / "step_00000001" / "meta.json").unlink()
    assert store.newest() is None


def test_a_checkpoint_is_never_written_again(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    saved(store, 1)
    before = (tmp_path / "step_00000001").stat().st_ino
    store.save(meta_of(), engine_state(seed=99), progress_at(1))
    assert (tmp_path / "step_00000001").stat().st_ino == before


def test_a_damaged_checkpoint_is_replaced_when_its_step_is_reached_again(tmp_path):
    store = CheckpointStore(tmp_path, keep=5)
    saved(store, 1, 2)
    (tmp_path / "step_00000002" / "weights.safetensors").write_bytes(b"torn")
    # The run is resumed from step 1 and reaches step 2 again.
    saved(store, 2)
    assert load_checkpoint(tmp_path / "latest").progress.step == 2


def test_a_damaged_later_checkpoint_is_removed_by_an_earlier_step(tmp_path):
    store = CheckpointStore(tmp_path, keep=1)
    saved(store, 1)
    shutil.copytree(tmp_path / "step_00000001", tmp_path / "step_00000009")
    (tmp_path / "step_00000009" / "weights.safetensors").write_bytes(b"torn")
    saved(store, 1)  # the run is resumed from it, and passes it again
    assert steps_of(store) == [1]
    saved(store, 2)
    assert steps_of(store) == [2]
    assert load_checkpoint(tmp_path / "latest").progress.step == 2


# Moments after the last step


def moments_of(store: CheckpointStore) -> dict[str, bool]:
    return {path.name: bool(load_checkpoint(path).state.m) for path in store.steps()}


def test_checkpoints_of_a_completed_run_can_do_without_moments(tmp_path):
    store = CheckpointStore(tmp_path, keep=1, keep_optimizer_state=False)
    saved(store, 20)
    store.mark_best(20)
    saved(store, 30)
    assert moments_of(store) == {"step_00000020": True, "step_00000030": True}, "a run that is stopped here resumes"
    saved(store, 50)  # the last step
    assert moments_of(store) == {"step_00000020": True, "step_00000050": False}
    store.finish()
    assert moments_of(store) == {"step_00000020": False, "step_00000050": False}
    assert {file.name for path in store.steps() for file in path.iterdir()} == {
        "weights.safetensors", "meta.json", "train_state.json", "checksums.json",
    }  # fmt: skip
    assert_same_bits(load_checkpoint(tmp_path / "best").state.parameters, engine_state(seed=20).parameters)


def test_a_crash_while_moments_are_removed_leaves_a_valid_checkpoint(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep=1, keep_optimizer_state=False)
    saved(store, 20)
    removed = []

    def unlink(path: Path, missing_ok: bool = False) -> None:
        removed.append(path.name)
        if len(removed) == 2:
            raise KeyboardInterrupt
        os.unlink(path)  # noqa: PTH108 (Path.unlink is replaced)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(KeyboardInterrupt):
        store.finish()
    monkeypatch.undo()
    assert removed == ["optimizer_m.safetensors", "optimizer_v.safetensors"]
    found = load_checkpoint(tmp_path / "step_00000020")
    assert (found.state.m, found.state.v) == ({}, {})
    store.finish()
    assert not (tmp_path / "step_00000020" / "optimizer_v.safetensors").exists()


@pytest.mark.parametrize("content", [None, b"torn", b"[]"])
def test_moments_of_a_damaged_checkpoint_are_left_alone(tmp_path, content):
    store = CheckpointStore(tmp_path, keep=2, keep_optimizer_state=False)
    saved(store, 20, 30)
    damaged = tmp_path / "step_00000020"
    (damaged / "checksums.json").unlink()
    if content is not None:
        (damaged / "checksums.json").write_bytes(content)
    store.finish()
    assert (damaged / "optimizer_m.safetensors").exists()
    assert not (tmp_path / "step_00000030" / "optimizer_m.safetensors").exists()


# Checkpoints in memory


def test_only_the_newest_and_the_best_of_the_checkpoints_in_memory_are_written(tmp_path):
    store = CheckpointStore(tmp_path, keep=5)
    for step in (1, 2, 3):
        store.held = Snapshot(meta_of(), engine_state(seed=step), progress_at(step))
        if step == 2:
            store.mark_best(2)
    assert steps_of(store) == []
    write_held([store])
    assert steps_of(store) == [2, 3]
    assert [(tmp_path / name).readlink().name for name in ("best", "latest")] == ["step_00000002", "step_00000003"]
    assert_complete(store, {3})
    write_held([store])
    assert steps_of(store) == [2, 3], "nothing is held any more"


def test_checkpoints_of_many_runs_are_flushed_with_their_histories_before_they_are_renamed(tmp_path, monkeypatch):
    stores = [CheckpointStore(tmp_path / str(n), keep=1) for n in range(5)]
    for store in stores:
        store.held = Snapshot(meta_of(), engine_state(seed=4), progress_at(4))
    flushed = []
    monkeypatch.setattr(
        checkpoint, "flush_to_disk", lambda paths: flushed.append((set(paths), [steps_of(one) for one in stores]))
    )
    write_held(stores, [tmp_path / "history.jsonl"])
    (first, steps), _ = flushed
    assert steps == [[]] * 5
    assert tmp_path / "history.jsonl" in first
    assert len(first) == 1 + 5 * 7
    for store in stores:
        assert_complete(store, {4})


# Crashes


class Crash(BaseException):
    """A kill, which `except Exception` does not catch."""


def crash_at(call: int, original: Callable[..., Any]) -> Callable[..., Any]:
    calls = 0

    def crashing(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Crash
        return original(*arguments, **options)

    return crashing


def assert_complete(store: CheckpointStore, allowed: set[int]) -> None:
    for step in steps_of(store):
        found = load_checkpoint(store.directory / f"step_{step:08d}")
        assert found.progress.step == step
        assert_same_bits(found.state.parameters, arrays(SPEC, step))
    assert load_checkpoint(store.directory / "latest").progress.step in allowed
    newest = store.newest()
    assert newest is not None
    assert newest.progress.step in allowed
    assert all(path.name in ("latest", "best") for path in store.directory.glob("[!.]*") if path.is_symlink())


@pytest.mark.parametrize("call", range(1, 9))  # six files, their folder and its parent
def test_a_crash_while_flushing_leaves_complete_checkpoints(tmp_path, monkeypatch, call):
    store = CheckpointStore(tmp_path, keep=2)
    saved(store, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", crash_at(call, os.fsync))
        with pytest.raises(Crash):
            saved(store, 2)
    assert steps_of(store) == ([1] if call < 8 else [1, 2])
    assert_complete(store, {1} if call < 8 else {1, 2})


@pytest.mark.parametrize("what", ["rename", "replace", "symlink_to", "mkdir"])
def test_a_crash_in_any_file_operation_leaves_complete_checkpoints(tmp_path, monkeypatch, what):
    store = CheckpointStore(tmp_path, keep=2)
    saved(store, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, what, crash_at(1, getattr(Path, what)))
        with pytest.raises(Crash):
            saved(store, 2)
    assert steps_of(store) == ([1] if what in ("rename", "mkdir") else [1, 2])
    assert_complete(store, {1, 2})


@pytest.mark.parametrize("call", [1, 2])
def test_a_crash_while_old_checkpoints_are_removed_leaves_the_new_one(tmp_path, monkeypatch, call):
    store = CheckpointStore(tmp_path, keep=1)
    saved(store, 1)
    with monkeypatch.context() as patch:
        patch.setattr("microgpt.runs.checkpoint.shutil.rmtree", crash_at(call, lambda *_, **__: None))
        with pytest.raises(Crash):
            saved(store, 2)
    assert load_checkpoint(tmp_path / "latest").progress.step == 2


def test_the_next_checkpoint_removes_what_a_crash_left(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep=2)
    saved(store, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", crash_at(3, os.fsync))
        with pytest.raises(Crash):
            saved(store, 2)
    # Another process has another id, and so another hidden name.
    for hidden in tmp_path.glob(".step_*"):
        hidden.rename(tmp_path / ".step_00000002.1")
    saved(store, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"step_00000001", "step_00000002", "latest"}


def test_the_next_checkpoint_removes_a_temporary_link(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep=2)
    saved(store, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash_at(1, Path.replace))
        with pytest.raises(Crash):
            store.mark_best(1)
    (left,) = tmp_path.glob(".best.*")
    left.rename(tmp_path / ".best.1")  # of another process
    saved(store, 1)  # as a resumed run does
    assert {path.name for path in tmp_path.iterdir()} == {"step_00000001", "latest"}
