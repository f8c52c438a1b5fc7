"""run.json: its keys, records of other versions, and the representation of values that are not valid JSON."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from support.program import RECORD_KEYS

from microgpt.runs.environment import Environment, GitState
from microgpt.runs.invocation import Invocation, SweepJob
from microgpt.runs.record import (
    DataSummary,
    Failure,
    Leg,
    LongDocuments,
    Metrics,
    ModelSummary,
    Provenance,
    Resumption,
    RunIdentity,
    RunRecord,
    StyleEffect,
    Timings,
)

CONFIG = {"task": {"name": "train"}, "mode": {"name": "scalar"}, "style": {"name": "classic"}, "seed": 3}
INVOCATION = Invocation(("seed=3", "+style.bias=2", "style@x=y"), SweepJob(Path("sweeps/a"), 1, "1"))


def new_record() -> RunRecord:
    return RunRecord.new(CONFIG, "f00", INVOCATION)


def whole_record() -> RunRecord:
    """Return a record with a value in every part."""
    before = Provenance(GitState("a" * 40, False), Environment("3", "Linux", "a CPU", 2, None, {"numpy": "2"}), 1)
    return replace(
        new_record(),
        data=DataSummary("names", "d", 9, 8, 1, 8, 1, 50, 27, LongDocuments("truncate", 0), None, {"uniform": 3.3}),
        model=ModelSummary("gpt", 4192, False, True),
        metrics=Metrics(
            4192, 5, 2.5, 2.6, 50, 2.7, 3.3, 2.7, 5, 3.9, 14.9, 100.0, 700.0, 0, 50, 35, 27,
            StyleEffect(8, 7, 1, 0.1, 1.5, 1.6, 3.0, 0.5, 0.25),
        ),
        timings=Timings(0.0, 1.0, 2.0, 3.0),
        samples=["anna", ""],
        trial=0,
        leg=Leg("outputs/x", 100, False),
        earlier_failures=[Failure("2026-01-01", "full disk")],
        resumed=[Resumption("2026-01-02", 3, before)],
    )  # fmt: skip


def test_the_keys_are_in_the_documented_order() -> None:
    document = whole_record().document()
    assert list(document) == [
        "schema_version", "run_id", "status", "task", "started_at", "finished_at", "command", "overrides", "config",
        "config_hash", "seed", "git", "data", "model", "mode", "style", "backend", "device", "using_gpu", "dtype",
        "kernel", "threads", "processes", "backend_reason", "group", "environment", "metrics", "timings", "samples",
        "error", "trial", "leg", "earlier_failures", "resumed",
    ]  # fmt: skip
    assert list(document["leg"]) == ["from", "first_step", "optimizer_state"]
    assert list(document["resumed"][0]["before"]) == ["git", "environment", "processes"]


def test_a_new_record_has_no_optional_keys() -> None:
    document = new_record().document()
    assert set(document) == RECORD_KEYS
    assert document["style"] == "classic"
    assert document["backend"] is None
    record = whole_record()
    assert record.metrics is not None
    record.metrics.style_effect = None
    assert "style_effect" not in record.document()["metrics"]


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    for record in (new_record(), whole_record()):
        record.write(tmp_path)
        assert RunRecord.read(tmp_path) == record


def test_keys_of_other_versions_are_ignored_and_missing_ones_are_none(tmp_path: Path) -> None:
    older = {"schema_version": 0, "status": "running", "config_hash": "f00", "data": {"sha256": "d", "rows": 3},
             "leg": {"from": "x", "first_step": 4}, "resumed": [{"at": "2025"}], "shoe_size": 43}  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(older))
    record = RunRecord.read(tmp_path)
    assert record is not None
    assert (record.schema_version, record.status, record.seed, record.metrics) == (0, "running", None, None)
    assert record.identity == RunIdentity("f00", "d")
    assert record.leg == Leg("x", 4, optimizer_state=True)
    assert record.resumed == [Resumption("2025", None, None)]  # type: ignore[arg-type]
    assert (record.overrides, record.config, record.samples) == ([], {}, [])


@pytest.mark.parametrize(
    "document", [{"data": []}, {"metrics": "x"}, {"overrides": 3, "samples": None}, {"config": [1]}, {"resumed": [7]}]
)
def test_a_part_of_the_wrong_type_is_left_out(tmp_path: Path, document: dict[str, object]) -> None:
    (tmp_path / "run.json").write_text(json.dumps(document))
    record = RunRecord.read(tmp_path)
    assert record is not None
    assert (record.data, record.metrics, record.overrides, record.config, record.resumed) == (None, None, [], {}, [])


@pytest.mark.parametrize("content", [b"", b'{"status": "running", "conf', b"[]", b"null", b"\xff\xfe", None])
def test_a_damaged_or_missing_file_is_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    assert RunRecord.read(tmp_path) is None


def test_values_that_json_lacks_are_written_as_text(tmp_path: Path) -> None:
    record = RunRecord.new({**CONFIG, "sample": {"temperature": math.nan}, "lr": (math.inf, 1.0)}, None, INVOCATION)
    record.write(tmp_path)
    config = json.loads((tmp_path / "run.json").read_text())["config"]
    assert (config["sample"]["temperature"], config["lr"]) == ("nan", ["inf", 1.0])


def test_an_invocation_knows_which_groups_its_overrides_change() -> None:
    assert INVOCATION.keys() == ["seed", "style.bias", "style"]
    assert INVOCATION.touches("style")
    assert not INVOCATION.touches("model")
