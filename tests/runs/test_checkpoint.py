"""Checkpoints: round trips, the files on disk, damage, and what checkpoint=... resolves to."""

import hashlib
import json
import math
import os
import random
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open
from support.checkpoints import (
    FILES,
    SPEC,
    STYLE,
    arrays,
    assert_same_bits,
    earlier_checkpoint,
    engine_state,
    flip,
    meta_of,
    progress_at,
    saved,
    written,
)

from microgpt.engines.base import EngineState
from microgpt.errors import UserError
from microgpt.model.spec import ModelSpec
from microgpt.runs.checkpoint import load_checkpoint, write_checkpoint
from microgpt.runs.checkpoint_format import generator_from
from microgpt.runs.checkpoint_paths import resolve_checkpoint
from microgpt.runs.checkpoint_store import CheckpointStore
from microgpt.runs.invocation import Invocation
from microgpt.runs.record import Provenance, Resumption, RunRecord

# Round trips


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("spec", [
    SPEC,
    replace(SPEC, tie_lm_head=True, input_rmsnorm=False, activation="relu_squared", residual_init="zero"),
    ModelSpec("bigram", vocab_size=4, n_embd=4, n_head=1, n_layer=0, block_size=16, tie_lm_head=True),
    replace(SPEC, position="rope", n_embd=8, n_head=4, n_kv_head=2, norm="layernorm", norm_gain=True, bias=True,
            gated_mlp=True, mlp_width=5, logit_softcap=3.0, final_norm=True, norm_eps=1e-6, init="fan_in"),
])  # fmt: skip
def test_a_checkpoint_is_loaded_bit_for_bit(tmp_path, spec, dtype):
    found = load_checkpoint(written(tmp_path, spec, dtype=dtype))
    expected = engine_state(spec, dtype=dtype)
    assert_same_bits(found.state.parameters, expected.parameters)
    assert_same_bits(found.state.m, expected.m)
    assert_same_bits(found.state.v, expected.v)
    assert found.meta == meta_of(spec)
    assert asdict(found.progress) == asdict(replace(progress_at(), rng_state=found.progress.rng_state))


def test_the_random_generator_continues_from_its_saved_state(tmp_path):
    found = load_checkpoint(written(tmp_path))
    assert found.progress.rng_state is not None
    rng, reference = generator_from(found.progress.rng_state), random.Random(42)
    assert [rng.random() for _ in range(5)] == [reference.random() for _ in range(5)]


def test_special_floats_are_kept(tmp_path):
    state = engine_state()
    state.parameters["wte"][0, 0, :4] = [0.0, -0.0, 5e-324, 1.7976931348623157e308]
    write_checkpoint(tmp_path / "c", meta_of(), state, progress_at())
    assert load_checkpoint(tmp_path / "c").state.parameters["wte"].tobytes() == state.parameters["wte"].tobytes()


def test_arrays_that_are_not_contiguous_are_stored_in_row_major_order(tmp_path):
    state = engine_state()
    columns = np.arange(24.0).reshape(6, 4).T[np.newaxis]
    assert not columns.flags["C_CONTIGUOUS"]
    state.parameters["wte"] = columns
    write_checkpoint(tmp_path / "c", meta_of(), state, progress_at())
    assert (load_checkpoint(tmp_path / "c").state.parameters["wte"] == columns).all()


def test_the_first_of_several_replicas_is_stored(tmp_path):
    state = EngineState({name: np.concatenate([a, a + 1]) for name, a in arrays(SPEC, 0).items()})
    write_checkpoint(tmp_path / "c", meta_of(), state, progress_at())
    assert_same_bits(load_checkpoint(tmp_path / "c").state.parameters, arrays(SPEC, 0))


def test_an_optimizer_without_second_moments_has_no_file_for_them(tmp_path):
    write_checkpoint(tmp_path / "c", meta_of(), EngineState(arrays(SPEC, 0), m=arrays(SPEC, 1)), progress_at())
    assert {file.name for file in (tmp_path / "c").iterdir()} == set(FILES) - {"optimizer_v.safetensors"}
    found = load_checkpoint(tmp_path / "c").state
    assert_same_bits(found.m, arrays(SPEC, 1))
    assert found.v == {}


def test_nan_in_the_progress_is_an_error_and_leaves_no_directory(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_checkpoint(tmp_path / "c", meta_of(), engine_state(), replace(progress_at(), val_loss=math.nan))
    assert not (tmp_path / "c").exists()


# The files, read without this package


def test_a_checkpoint_has_these_files(tmp_path):
    path = CheckpointStore(tmp_path / "checkpoint", 2).save(meta_of(), engine_state(), progress_at(500))
    assert path == tmp_path / "checkpoint" / "step_00000500"
    assert {file.name for file in path.iterdir()} == set(FILES)


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer_m.safetensors", "optimizer_v.safetensors"])
@pytest.mark.parametrize(("dtype", "stated"), [(np.float32, "F32"), (np.float64, "F64")])
def test_tensors_have_the_names_shapes_and_types_of_the_format(tmp_path, name, dtype, stated):
    path = written(tmp_path, dtype=dtype)
    with safe_open(path / name, framework="numpy") as file:
        slices = {key: file.get_slice(key) for key in list(file.keys())}
        found = {key: (tuple(part.get_shape()), str(part.get_dtype())) for key, part in slices.items()}
    vocab, width, block = 4, 6, 5
    expected = {"wte": (vocab, width), "wpe": (block, width), "lm_head": (vocab, width)}
    for layer in range(2):
        expected |= {f"layer{layer}.attn_{x}": (width, width) for x in ("wq", "wk", "wv", "wo")}
        expected |= {f"layer{layer}.mlp_fc1": (4 * width, width), f"layer{layer}.mlp_fc2": (width, 4 * width)}
    assert found == {key: (shape, stated) for key, shape in expected.items()}


def test_a_tied_head_is_stored_once(tmp_path):
    path = written(tmp_path, replace(SPEC, tie_lm_head=True))
    for name in ("weights.safetensors", "optimizer_m.safetensors", "optimizer_v.safetensors"):
        tensors = safetensors.numpy.load_file(path / name)
        assert "lm_head" not in tensors
        assert tensors["wte"].shape == (4, 6)


def test_meta_json_has_what_inference_needs(tmp_path):
    meta = json.loads((written(tmp_path) / "meta.json").read_text("utf-8"))
    assert list(meta)[:6] == ["vocab_size", "n_embd", "n_head", "n_layer", "block_size", "chars"]
    assert [meta[key] for key in list(meta)[:6]] == [4, 6, 2, 2, 5, ["a", "b", "é"]]
    assert meta["dtype"] == "float64"
    assert meta["tie_lm_head"] is False
    assert meta["input_rmsnorm"] is True
    assert meta["kind"] == "gpt"
    assert meta["style"] == STYLE


def test_train_state_json_has_the_progress(tmp_path):
    state = json.loads((written(tmp_path) / "train_state.json").read_text())
    assert (state["step"], state["first_step"], state["total_steps"], state["seed"]) == (7, 3, 100, 42)
    assert state["recent_losses"] == [3.3, 1 / 3, 0.1 + 0.2]
    assert "NaN" not in json.dumps(state)


def test_checksums_are_those_of_the_files(tmp_path):
    path = written(tmp_path)
    stated = json.loads((path / "checksums.json").read_text())
    assert stated == {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.iterdir()
        if file.name != "checksums.json"
    }


# Damage


def offsets(size: int) -> list[int]:
    return sorted({0, 1, 8, size // 4, size // 2, size - 2, size - 1})


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_found(tmp_path, name):
    path = written(tmp_path)
    whole = (path / name).read_bytes()
    for offset in offsets(len(whole)):
        for mask in (0x01, 0x20, 0xFF):
            (path / name).write_bytes(flip(whole, offset, mask))
            if name == "checksums.json" and json_or_none(path / name) == json.loads(whole):
                continue  # one white-space character became another
            with pytest.raises(UserError, match="is damaged") as caught:
                load_checkpoint(path)
            assert str(path) in str(caught.value)
            assert "\n" not in str(caught.value)


def json_or_none(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except ValueError:
        return None


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_found(tmp_path, name):
    path = written(tmp_path)
    whole = (path / name).read_bytes()
    for size in (0, 1, len(whole) // 2, len(whole) - 2):
        (path / name).write_bytes(whole[:size])
        with pytest.raises(UserError, match="is damaged"):
            load_checkpoint(path)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(tmp_path, name):
    path = written(tmp_path)
    (path / name).unlink()
    with pytest.raises(UserError, match="is damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", FILES)
def test_bytes_added_to_a_file_are_found(tmp_path, name):
    path = written(tmp_path)
    with (path / name).open("ab") as file:
        file.write(b"{}")
    with pytest.raises(UserError, match="is damaged"):
        load_checkpoint(path)


def test_the_message_names_the_damaged_file(tmp_path):
    path = written(tmp_path)
    (path / "optimizer_v.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"damaged: optimizer_v\.safetensors does not match its SHA-256"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", ["[]", "null", "3", '"x"', '{"weights.safetensors": 3}'])
def test_checksums_of_the_wrong_type_are_damage(tmp_path, content):
    path = written(tmp_path)
    (path / "checksums.json").write_text(content)
    with pytest.raises(UserError, match="is damaged"):
        load_checkpoint(path)


def test_a_missing_folder_is_damage(tmp_path):
    with pytest.raises(UserError, match="nowhere is damaged"):
        load_checkpoint(tmp_path / "nowhere")


# checkpoint=...


def run_with_checkpoints(folder: Path, *steps: int) -> Path:
    saved(CheckpointStore(folder / "checkpoint", 5), *steps)
    return folder


@pytest.mark.parametrize(("below", "step"), [
    ("", 2), ("checkpoint", 2), ("checkpoint/latest", 2), ("checkpoint/step_00000001", 1), ("checkpoint/best", 1),
])  # fmt: skip
def test_a_run_or_a_checkpoint_is_resolved(tmp_path, below, step):
    run = run_with_checkpoints(tmp_path / "run", 1, 2)
    CheckpointStore(run / "checkpoint", 5).mark_best(1)
    found = resolve_checkpoint(str(run / below), "unused")
    assert found.name == f"step_{step:08d}"
    assert load_checkpoint(found).progress.step == step


def recorded(run: Path, **times: Any) -> Path:
    """Write the record of a run with these times."""
    record = RunRecord.new({}, None, Invocation())
    record.started_at = None
    for name, value in times.items():
        setattr(record, name, value)
    record.write(run)
    return run


def test_latest_is_the_newest_checkpoint_of_all_runs_by_their_records(tmp_path):
    names = ("2026-01-02/08-00-00_aaaaaaaa", "2026-01-01/23-00-00_bbbbbbbb", "sweeps/it_abc/0")
    for name, hour in zip(names, (3, 1, 2), strict=True):
        recorded(run_with_checkpoints(tmp_path / name, 1), finished_at=f"2026-01-02T{hour:02d}:00:00.000+00:00")
    (tmp_path / "2026-01-03" / "09-00-00_dddddddd").mkdir(parents=True)
    run_with_checkpoints(tmp_path / "2026-01-04" / "09-00-00_without_a_record", 1)
    newest = Path("2026-01-02", "08-00-00_aaaaaaaa", "checkpoint", "step_00000001")
    assert resolve_checkpoint("latest", str(tmp_path)) == tmp_path / newest
    for name in names[::-1]:  # a copy writes the newest run first
        shutil.copytree(tmp_path / name, tmp_path / "copy" / name, symlinks=True)
        link = tmp_path / "copy" / name / "checkpoint" / "latest"
        os.utime(link, (2e9 - names.index(name), 2e9), follow_symlinks=False)
    assert resolve_checkpoint("latest", str(tmp_path / "copy")) == tmp_path / "copy" / newest


def test_latest_is_a_run_that_was_killed_after_the_others_ended(tmp_path):
    ended = recorded(run_with_checkpoints(tmp_path / "d" / "ended", 1), finished_at="2026-01-01T10:00:00.000+00:00")
    # The progress in the checkpoint says that it had worked for 1.875 seconds.
    killed = recorded(run_with_checkpoints(tmp_path / "d" / "killed", 1), started_at="2026-01-01T09:59:58.500+00:00")
    assert resolve_checkpoint("latest", str(tmp_path)).parents[1] == killed
    recorded(killed, started_at="2026-01-01T09:59:58.000+00:00")
    assert resolve_checkpoint("latest", str(tmp_path)).parents[1] == ended
    resumed = [Resumption("2026-01-01T11:00:00.000+00:00", 1, Provenance(None, None, None))]
    recorded(killed, started_at="2026-01-01T08:00:00.000+00:00", resumed=resumed)
    assert resolve_checkpoint("latest", str(tmp_path)).parents[1] == killed


def test_latest_finds_a_job_of_a_sweep(tmp_path):
    run_with_checkpoints(tmp_path / "sweeps" / "it_abc" / "0", 1)
    assert load_checkpoint(resolve_checkpoint("latest", str(tmp_path))).progress.step == 1


def test_latest_without_a_run_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"checkpoint=latest: no run in outputs_dir=.* has a checkpoint yet"):
        resolve_checkpoint("latest", str(tmp_path))


@pytest.mark.parametrize("name", ["nowhere", "", ".", "meta.json", "a\0b", "a" * 300, "../..", "💥"])
def test_another_name_is_a_user_error_that_quotes_it(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "meta.json").mkdir()
    with pytest.raises(UserError) as caught:
        resolve_checkpoint(name, str(tmp_path))
    assert str(caught.value).startswith(f"checkpoint={name} is not a checkpoint")


def test_a_checkpoint_of_the_earlier_format_is_resolved(tmp_path):
    assert resolve_checkpoint(str(earlier_checkpoint(tmp_path / "s4")), "unused") == tmp_path / "s4"
