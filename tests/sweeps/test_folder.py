"""Folders of a sweep's jobs: which attempt counts, and locks."""

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from microgpt.engines.base import EngineState
from microgpt.errors import UserError
from microgpt.model.spec import ModelSpec
from microgpt.runs.checkpoint_format import Meta, Progress
from microgpt.runs.checkpoint_store import CheckpointStore
from microgpt.sweeps.folder import JobIdentity, SweepFolder, failed_since, lock_name

HASH, OTHER = "0123456789abcdef", "0123456799999999"
DATA = "d" * 64
JOB = JobIdentity(HASH, DATA)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / "sweeps" / "it_abc"


def earlier(path: Path, status: str = "running", config_hash: str | None = HASH, data: str | None = DATA) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    record = {
        "status": status, "config_hash": config_hash, "data": data and {"sha256": data},
        "metrics": {"val_loss": 2.5}, "finished_at": "2026-01-01", "error": "no luck",
    }  # fmt: skip
    (path / "run.json").write_text(json.dumps(record))
    return path


def claimed(folder: Path, number: int = 3, resume: bool = True):
    sweep = SweepFolder(folder)
    lock = sweep.lock(JOB)
    assert lock is not None
    return sweep.claim(JOB, str(number), lock, resume, keep_checkpoints=2)


@pytest.mark.parametrize(
    ("statuses", "state"),
    [
        ([], "new"),
        (["completed"], "completed"),
        (["running"], "interrupted"),
        (["interrupted"], "interrupted"),
        (["failed"], "failed"),
        (["failed", "completed"], "completed"),
        (["completed", "failed"], "completed"),
        (["failed", "interrupted"], "interrupted"),
    ],
    ids=str,
)
def test_state_of_a_job(folder: Path, statuses: list[str], state: str) -> None:
    for number, status in enumerate(statuses, 1):
        earlier(folder / ("3" if number == 1 else f"3-{number}"), status)
    assert SweepFolder(folder).state(JOB) == state


@pytest.mark.parametrize("changes", [{"config_hash": OTHER}, {"data": "e" * 64}, {"data": None}, {"config_hash": None}])
def test_a_job_is_identified_by_what_it_computes(folder: Path, changes: dict[str, str | None]) -> None:
    earlier(folder / "3", "completed", **{"config_hash": HASH, "data": DATA, **changes})
    assert SweepFolder(folder).state(JOB) == "new"
    earlier(folder / "11", "completed")
    assert SweepFolder(folder).state(JOB) == "completed"


@pytest.mark.parametrize("content", [b"", b'{"status": "completed", "conf', b"[]", b"null", b"\xff\xfe"])
def test_an_unreadable_record_is_ignored(folder: Path, content: bytes) -> None:
    earlier(folder / "3")
    (folder / "4").mkdir()
    (folder / "4" / "run.json").write_bytes(content)
    sweep = SweepFolder(folder)
    assert [one.path.name for one in sweep.attempts_at(JOB)] == ["3"]


def test_refresh_reads_what_another_process_wrote(folder: Path) -> None:
    earlier(folder / "3")
    sweep = SweepFolder(folder)
    record = json.loads((folder / "3" / "run.json").read_text())
    replacement = folder / "3" / "new"
    replacement.write_text(json.dumps(record | {"status": "completed"}))
    replacement.replace(folder / "3" / "run.json")
    assert sweep.state(JOB) == "interrupted"
    sweep.refresh()
    assert sweep.state(JOB) == "completed"


def test_a_new_job_gets_the_folder_of_its_number(folder: Path) -> None:
    found = claimed(folder)
    assert (found.path, found.run_id) == (folder / "3", "sweeps/it_abc/3")
    assert found.earlier is None
    found.release()


def test_a_job_whose_folder_is_taken_gets_another(folder: Path) -> None:
    earlier(folder / "3", config_hash=OTHER)
    assert claimed(folder).path == folder / "3-2"


def test_an_interrupted_job_resumes_in_its_folder_from_its_newest_checkpoint(folder: Path) -> None:
    path = earlier(folder / "7", "interrupted")
    spec = ModelSpec("bigram", vocab_size=3, n_embd=3, n_head=1, n_layer=0, block_size=4)
    state = EngineState({name: np.zeros((1, *shape)) for name, shape in spec.shapes().items()})
    for step in (5, 10):
        CheckpointStore(path / "checkpoint", keep=3).save(Meta(spec, ["a", "b"]), state, Progress(step=step))
    found = claimed(folder)
    assert found.path == path
    assert found.checkpoint is not None
    assert found.checkpoint.progress.step == 10


def test_a_failed_job_starts_again_in_its_folder(folder: Path) -> None:
    path = earlier(folder / "7", "failed")
    (path / "history.jsonl").write_text('{"step": 1}\n')
    (path / "checkpoint" / "step_00000000").mkdir(parents=True)
    found = claimed(folder)
    assert (found.path, found.checkpoint) == (path, None)
    assert found.earlier is not None
    assert found.earlier.error == "no luck"
    assert [child.name for child in path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("status", ["running", "interrupted", "failed", "completed"])
def test_without_resume_earlier_attempts_stay(folder: Path, status: str) -> None:
    earlier(folder / "3", status)
    assert claimed(folder, resume=False).path == folder / "3-2"


def test_the_record_of_a_job_that_failed_before_it_started_is_replaced(folder: Path) -> None:
    earlier(folder / "3", "failed", config_hash=None)
    assert claimed(folder).path == folder / "3"
    assert not (folder / "3" / "run.json").exists()


def test_a_job_is_locked_by_one_process_at_a_time(folder: Path) -> None:
    sweep = SweepFolder(folder)
    path = folder / ".locks" / lock_name(JOB)
    path.parent.mkdir(parents=True)
    code = (
        "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); "
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert sweep.lock(JOB) is None
        assert sweep.is_held()
        other = sweep.lock(JobIdentity(OTHER, DATA))
        assert other is not None
        other.release()
        holder.kill()
    lock = sweep.lock(JOB)
    assert lock is not None, "the lock of a killed process is released"
    lock.release()
    assert not sweep.is_held()


def test_a_sweep_that_cannot_be_written_is_an_error_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder, key in (("file/sweeps/it_0123abcd", "outputs_dir=.*file"), ("file/sweeps/it", "hydra.sweep.dir=.*it")):
        with pytest.raises(UserError, match=f"^{key} cannot be written: "):
            SweepFolder(tmp_path / folder).lock(JOB)


def test_every_job_has_a_lock_of_its_own() -> None:
    parts = product((HASH, OTHER), (DATA, "e" * 64), ("", '{"notes": "a"}', '{"notes": "b"}'))
    assert len({lock_name(JobIdentity(*identity)) for identity in parts}) == 12


def test_jobs_that_failed_in_other_processes_are_found(tmp_path: Path) -> None:
    for name, status, day in (("0", "failed", 3), ("1", "completed", 3), ("2", "failed", 1)):
        (tmp_path / name).mkdir()
        record = {"status": status, "finished_at": f"2026-01-0{day}T00:00:00.000+00:00"}
        (tmp_path / name / "run.json").write_text(json.dumps(record))
    assert failed_since(tmp_path, "2026-01-02T00:00:00.000+00:00") == [tmp_path / "0"]
