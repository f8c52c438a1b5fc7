"""Checkpoints and atomic files: what is written, what is found again, what damage and crashes leave."""

import hashlib
import json
import math
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

from microgpt.atomic import write_atomically, write_json
from microgpt.engines.base import Arrays, EngineState
from microgpt.errors import UserError
from microgpt.model.spec import ModelSpec
from microgpt.runs.checkpoint import CheckpointStore, load_checkpoint, resolve_checkpoint, write_checkpoint
from microgpt.runs.checkpoint_format import Meta, Progress, meta_document, parse_meta

SPEC = ModelSpec("gpt", vocab_size=4, n_embd=6, n_head=2, n_layer=2, block_size=5)
CHARS = ["a", "b", "é"]
STYLE = {"name": "futuristic", "documents": ["neon"], "share": 0.1, "phrases": ["neon"], "bias": 3.0}
FILES = (
    "weights.safetensors", "optimizer_m.safetensors", "optimizer_v.safetensors", "meta.json", "train_state.json",
    "checksums.json",
)  # fmt: skip


def arrays(spec: ModelSpec, seed: int, dtype: type = np.float64) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(1, *shape)).astype(dtype) for name, shape in spec.shapes().items()}


def engine_state(spec: ModelSpec = SPEC, seed: int = 0, dtype: type = np.float64) -> EngineState:
    return EngineState(arrays(spec, seed, dtype), arrays(spec, seed + 1, dtype), arrays(spec, seed + 2, dtype))


def train_state(step: int = 7) -> Progress:
    return Progress(
        step=step, first_step=3, total_steps=100, steps=50, tokens=1234, recent_losses=[3.3, 1 / 3, 0.1 + 0.2],
        val_loss=2.5, best_val_loss=2.25, best_step=5, first_val_loss=3.25, train_seconds=1.25, evaluate_seconds=0.5,
        checkpoint_seconds=0.125, rng_state=list(random.Random(42).getstate()), seed=42, data_sha256="d" * 64,
        config_hash="c" * 64,
    )  # fmt: skip


def meta_of(spec: ModelSpec = SPEC) -> Meta:
    return Meta(spec, CHARS, "float64", "gpt", STYLE)


def written(folder: Path, spec: ModelSpec = SPEC, step: int = 7, dtype: type = np.float64) -> Path:
    path = folder / f"step_{step:08d}"
    write_checkpoint(path, meta_of(spec), engine_state(spec, dtype=dtype), train_state(step))
    return path


def assert_same_bits(found: Arrays, expected: Arrays) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes(), name


# Round trips


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("spec", [
    SPEC,
    replace(SPEC, tie_lm_head=True, input_rmsnorm=False, activation="relu_squared", zero_init_residual=True),
    ModelSpec("bigram", vocab_size=4, n_embd=4, n_head=1, n_layer=0, block_size=16, tie_lm_head=True),
])  # fmt: skip
def test_everything_comes_back_bit_for_bit(tmp_path, spec, dtype):
    found = load_checkpoint(written(tmp_path, spec, dtype=dtype))
    expected = engine_state(spec, dtype=dtype)
    assert_same_bits(found.state.parameters, expected.parameters)
    assert_same_bits(found.state.m, expected.m)
    assert_same_bits(found.state.v, expected.v)
    assert found.meta == meta_of(spec)
    assert asdict(found.progress) == asdict(replace(train_state(), rng_state=found.progress.rng_state))


def test_the_random_state_comes_back_so_that_draws_go_on(tmp_path):
    found = load_checkpoint(written(tmp_path))
    assert found.progress.rng_state is not None
    version, internal, gauss_next = found.progress.rng_state
    rng, reference = random.Random(), random.Random(42)
    rng.setstate((version, tuple(internal), gauss_next))
    assert [rng.random() for _ in range(5)] == [reference.random() for _ in range(5)]


def test_special_floats_of_the_weights_survive(tmp_path):
    state = engine_state()
    state.parameters["wte"][0, 0, :4] = [0.0, -0.0, 5e-324, 1.7976931348623157e308]
    write_checkpoint(tmp_path / "c", meta_of(), state, train_state())
    assert load_checkpoint(tmp_path / "c").state.parameters["wte"].tobytes() == state.parameters["wte"].tobytes()


def test_weights_that_are_no_contiguous_block_are_stored_in_row_major_order(tmp_path):
    state = engine_state()
    columns = np.arange(24.0).reshape(6, 4).T[np.newaxis]
    assert not columns.flags["C_CONTIGUOUS"]
    state.parameters["wte"] = columns
    write_checkpoint(tmp_path / "c", meta_of(), state, train_state())
    assert (load_checkpoint(tmp_path / "c").state.parameters["wte"] == columns).all()


def test_of_several_models_the_first_is_stored(tmp_path):
    state = EngineState({name: np.concatenate([a, a + 1]) for name, a in arrays(SPEC, 0).items()})
    write_checkpoint(tmp_path / "c", meta_of(), state, train_state())
    assert_same_bits(load_checkpoint(tmp_path / "c").state.parameters, arrays(SPEC, 0))


def test_an_optimizer_without_moments_has_no_files_for_them(tmp_path):
    write_checkpoint(tmp_path / "c", meta_of(), EngineState(arrays(SPEC, 0), m=arrays(SPEC, 1)), train_state())
    assert {file.name for file in (tmp_path / "c").iterdir()} == set(FILES) - {"optimizer_v.safetensors"}
    found = load_checkpoint(tmp_path / "c").state
    assert_same_bits(found.m, arrays(SPEC, 1))
    assert found.v == {}


def test_a_train_state_with_nan_is_refused_before_anything_is_visible(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_checkpoint(tmp_path / "c", meta_of(), engine_state(), replace(train_state(), val_loss=math.nan))
    assert not (tmp_path / "c").exists()


# The format, as a reader that does not know this package finds it


def test_a_checkpoint_has_these_files(tmp_path):
    path = CheckpointStore(tmp_path / "checkpoint", 2).save(meta_of(), engine_state(), train_state(500))
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


def test_meta_json_says_what_inference_needs(tmp_path):
    meta = json.loads((written(tmp_path) / "meta.json").read_text("utf-8"))
    assert list(meta)[:6] == ["vocab_size", "n_embd", "n_head", "n_layer", "block_size", "chars"]
    assert [meta[key] for key in list(meta)[:6]] == [4, 6, 2, 2, 5, ["a", "b", "é"]]
    assert meta["dtype"] == "float64"
    assert meta["tie_lm_head"] is False
    assert meta["input_rmsnorm"] is True
    assert meta["kind"] == "gpt"
    assert meta["style"] == STYLE


def test_train_state_json_says_where_the_training_stands(tmp_path):
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


def flip(content: bytes, offset: int, mask: int = 1) -> bytes:
    return content[:offset] + bytes([content[offset] ^ mask]) + content[offset + 1 :]


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
                continue  # one blank for another
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
def test_a_file_grown_at_its_end_is_found(tmp_path, name):
    path = written(tmp_path)
    with (path / name).open("ab") as file:
        file.write(b"{}")
    with pytest.raises(UserError, match="is damaged"):
        load_checkpoint(path)


def test_the_message_names_the_damaged_file(tmp_path):
    path = written(tmp_path)
    (path / "optimizer_v.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"damaged: optimizer_v\.safetensors does not have the SHA-256"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", ["[]", "null", "3", '"x"', '{"weights.safetensors": 3}'])
def test_checksums_of_another_kind_are_damage(tmp_path, content):
    path = written(tmp_path)
    (path / "checksums.json").write_text(content)
    with pytest.raises(UserError, match="is damaged"):
        load_checkpoint(path)


def test_a_folder_that_does_not_exist_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="nowhere is damaged"):
        load_checkpoint(tmp_path / "nowhere")


# The earlier format: no checksums, no train state, a bare meta.json


def earlier_checkpoint(path: Path, **changes: Any) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    weights = {name: array[0] for name, array in arrays(SPEC, 0, np.float32).items()}
    safetensors.numpy.save_file(weights, path / "weights.safetensors")
    meta = {"vocab_size": 4, "n_embd": 6, "n_head": 2, "n_layer": 2, "block_size": 5, "chars": CHARS} | changes
    (path / "meta.json").write_text(json.dumps({key: value for key, value in meta.items() if value is not None}))
    return path


def test_a_checkpoint_of_the_earlier_format_loads(tmp_path):
    found = load_checkpoint(earlier_checkpoint(tmp_path / "s4"))
    assert found.meta.spec == SPEC
    assert found.meta.spec.tie_lm_head is False
    assert found.meta.spec.input_rmsnorm is True
    assert found.meta.chars == CHARS
    assert found.meta.dtype == "float32"
    assert found.meta.style == {}
    assert_same_bits(found.state.parameters, arrays(SPEC, 0, np.float32))
    assert (found.state.m, found.state.v) == ({}, {})
    assert found.progress == Progress()


def test_a_damaged_later_checkpoint_does_not_outlive_the_steps_before_it(tmp_path):
    store = CheckpointStore(tmp_path, keep=1)
    saved(store, 1)
    shutil.copytree(tmp_path / "step_00000001", tmp_path / "step_00000009")
    (tmp_path / "step_00000009" / "weights.safetensors").write_bytes(b"torn")
    saved(store, 2)
    assert steps_of(store) == [2]
    assert load_checkpoint(tmp_path / "latest").progress.step == 2


def test_an_earlier_checkpoint_in_float16_is_widened_without_loss(tmp_path):
    path = earlier_checkpoint(tmp_path / "s4")
    weights = {name: array[0].astype(np.float16) for name, array in arrays(SPEC, 0).items()}
    safetensors.numpy.save_file(weights, path / "weights.safetensors")
    found = load_checkpoint(path)
    assert set(found.stored.values()) == {"float16"}
    for name, array in found.state.parameters.items():
        assert array.dtype == np.float32
        assert (array[0] == weights[name]).all()


def test_an_earlier_training_s_step_and_moments_are_read(tmp_path):
    path = earlier_checkpoint(tmp_path / "s4")
    for number, name in enumerate(("optimizer_m", "optimizer_v"), 1):
        moments = {key: array[0] for key, array in arrays(SPEC, number, np.float32).items()}
        safetensors.numpy.save_file(moments, path / f"{name}.safetensors")
    (path / "train_state.json").write_text('{"step": 500, "adam_step": 500}')
    found = load_checkpoint(path)
    assert (found.step, found.progress.step) == (500, 500)
    assert_same_bits(found.state.m, arrays(SPEC, 1, np.float32))
    assert_same_bits(found.state.v, arrays(SPEC, 2, np.float32))


@pytest.mark.parametrize("origin", [
    3, [], "run", {}, {"name": "run", "step": "7", "dtype": "float32"}, {"name": None, "step": 7, "dtype": "float32"},
    {"name": "run", "step": True, "dtype": "float32"}, {"name": "run", "step": -1, "dtype": "float32"},
])  # fmt: skip
def test_an_origin_that_makes_no_sense_is_a_sentence(tmp_path, origin):
    with pytest.raises(UserError, match="is damaged"):
        load_checkpoint(earlier_checkpoint(tmp_path / "s4", exported_from=origin))


def chat_meta(special: Any, vocab_size: int = 7) -> dict[str, Any]:
    """meta.json of a chat model of the earlier format: three characters, three special tokens, BOS."""
    sizes = {"n_embd": 6, "n_head": 2, "n_layer": 2, "block_size": 5}
    return {"vocab_size": vocab_size, **sizes, "chars": CHARS, "special_tokens": special}


CHAT = {"user": 3, "assistant": 4, "end_turn": 5}


@pytest.mark.parametrize("special", [CHAT, CHAT | {"bos": 6}, list(CHAT)])
def test_a_chat_model_s_special_tokens_are_read_and_written(special):
    meta = parse_meta(chat_meta(special))
    assert (meta.special, meta.spec.vocab_size) == (("user", "assistant", "end_turn"), 7)
    assert meta_document(meta)["special_tokens"] == ["user", "assistant", "end_turn"]  # as the earlier reader wants it
    assert parse_meta(meta_document(meta)) == meta
    assert "special_tokens" not in meta_document(parse_meta(chat_meta(None, vocab_size=4)))


@pytest.mark.parametrize(
    "special", [{"user": 4}, ["assistant", "user", "end_turn"], 3, "user", {"user": "a", "bos": 1}, [["user"]]]
)
def test_special_tokens_that_are_none_of_a_chat_are_refused(special):
    with pytest.raises((ValueError, TypeError)):
        parse_meta(chat_meta(special))


def test_a_vocabulary_without_its_special_tokens_is_refused():
    with pytest.raises(ValueError, match=r"vocab_size 4 is not that of 3 characters, 3 special tokens and BOS"):
        parse_meta(chat_meta(CHAT, vocab_size=4))


def test_moments_that_do_not_fit_are_a_sentence(tmp_path):
    path = earlier_checkpoint(tmp_path / "s4")
    (path / "optimizer_m.safetensors").write_bytes(safetensors.numpy.save({"wte": np.zeros((2, 2), np.float32)}))
    with pytest.raises(UserError, match=r"optimizer_m\.safetensors has wte of shape"):
        load_checkpoint(path)


@pytest.mark.parametrize("key", ["vocab_size", "n_embd", "n_head", "n_layer", "block_size", "chars"])
def test_a_meta_json_that_lacks_a_field_is_a_sentence_that_names_it(tmp_path, key):
    with pytest.raises(UserError, match=rf"meta\.json lacks {key}"):
        load_checkpoint(earlier_checkpoint(tmp_path / "s4", **{key: None}))


@pytest.mark.parametrize("changes", [
    {"n_layer": 3}, {"n_embd": 8}, {"vocab_size": 5}, {"block_size": 6}, {"n_layer": 1.5}, {"n_embd": "6"},
    {"n_embd": [6]},
])  # fmt: skip
def test_weights_that_do_not_fit_the_meta_are_a_sentence(tmp_path, changes):
    with pytest.raises(UserError, match="is damaged"):
        load_checkpoint(earlier_checkpoint(tmp_path / "s4", **changes))


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000])
def test_a_meta_json_of_another_kind_is_a_sentence(tmp_path, content):
    path = earlier_checkpoint(tmp_path / "s4")
    (path / "meta.json").write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["meta.json", "weights.safetensors"])
@pytest.mark.parametrize("mask", [0x01, 0x08, 0x10, 0x80])
def test_without_checksums_a_flipped_byte_is_a_sentence_or_goes_unseen_but_never_a_traceback(tmp_path, name, mask):
    path = earlier_checkpoint(tmp_path / "s4")
    whole = (path / name).read_bytes()
    end = len(whole) if name == "meta.json" else 8 + int.from_bytes(whole[:8], "little")  # its header
    damaged = 0
    for offset in range(end):
        (path / name).write_bytes(flip(whole, offset, mask))
        try:
            load_checkpoint(path)
        except UserError:
            damaged += 1
    assert damaged > end // 4


# The store


def saved(store: CheckpointStore, *steps: int) -> None:
    for step in steps:
        store.save(meta_of(), engine_state(seed=step), train_state(step))


def steps_of(store: CheckpointStore) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in store.directory.glob("step_*"))


@pytest.mark.parametrize(("keep", "kept"), [(1, [9]), (2, [7, 9]), (3, [5, 7, 9]), (10, [1, 5, 7, 9])])
def test_the_newest_are_kept(tmp_path, keep, kept):
    store = CheckpointStore(tmp_path, keep)
    saved(store, 1, 5, 7, 9)
    assert steps_of(store) == kept


def test_the_best_is_kept_beside_the_newest(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    saved(store, 1, 2)
    store.mark_best(2)
    saved(store, 3, 4, 5)
    assert steps_of(store) == [2, 4, 5]
    store.mark_best(5)
    assert steps_of(store) == [4, 5]


def test_the_links_name_the_latest_and_the_best(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    saved(store, 1)
    store.mark_best(1)
    saved(store, 2, 3)
    assert (tmp_path / "latest").readlink() == Path("step_00000003")
    assert (tmp_path / "best").readlink() == Path("step_00000001")
    assert load_checkpoint(tmp_path / "latest").progress.step == 3
    assert load_checkpoint(tmp_path / "best").progress.step == 1


def test_links_survive_a_move_of_the_run(tmp_path):
    store = CheckpointStore(tmp_path / "run" / "checkpoint", keep=2)
    saved(store, 1)
    (tmp_path / "run").rename(tmp_path / "moved")
    assert load_checkpoint(tmp_path / "moved" / "checkpoint" / "latest").progress.step == 1


def test_the_newest_whole_checkpoint_is_found(tmp_path):
    store = CheckpointStore(tmp_path, keep=5)
    assert store.newest() is None
    saved(store, 1, 2, 10)
    found = store.newest()
    assert found is not None
    assert found.progress.step == 10


@pytest.mark.parametrize("name", [name for name in FILES if name != "checksums.json"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, name):
    store = CheckpointStore(tmp_path, keep=5)
    saved(store, 1, 2)
    (tmp_path / "step_00000002" / name).write_bytes(b"torn")
    found = store.newest()
    assert found is not None
    assert found.progress.step == 1
    assert_same_bits(found.state.parameters, arrays(SPEC, 1))


def test_where_all_are_damaged_there_is_none(tmp_path):
    store = CheckpointStore(tmp_path, keep=5)
    saved(store, 1)
    (tmp_path / "step_00000001" / "meta.json").unlink()
    assert store.newest() is None


def test_a_checkpoint_is_never_written_again(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    saved(store, 1)
    before = (tmp_path / "step_00000001").stat().st_ino
    store.save(meta_of(), engine_state(seed=99), train_state(1))
    assert (tmp_path / "step_00000001").stat().st_ino == before


def test_a_damaged_checkpoint_is_mended_when_its_step_is_reached_again(tmp_path):
    store = CheckpointStore(tmp_path, keep=5)
    saved(store, 1, 2)
    (tmp_path / "step_00000002" / "weights.safetensors").write_bytes(b"torn")
    # The run goes on from step 1, which is whole, and comes to step 2 again.
    saved(store, 2)
    assert load_checkpoint(tmp_path / "latest").progress.step == 2


# Crashes


class Crash(BaseException):
    """Like a killed process, nothing that `except Exception` would hold up."""


def crash_at(call: int, original: Callable[..., Any]) -> Callable[..., Any]:
    calls = 0

    def crashing(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Crash
        return original(*arguments, **options)

    return crashing


def assert_whole(store: CheckpointStore, allowed: set[int]) -> None:
    for step in steps_of(store):
        found = load_checkpoint(store.directory / f"step_{step:08d}")
        assert found.progress.step == step
        assert_same_bits(found.state.parameters, arrays(SPEC, step))
    assert load_checkpoint(store.directory / "latest").progress.step in allowed
    newest = store.newest()
    assert newest is not None
    assert newest.progress.step in allowed
    assert all(path.name in ("latest", "best") for path in store.directory.glob("[!.]*") if path.is_symlink())


@pytest.mark.parametrize("call", range(1, 9))  # six files, their folder, and the one above
def test_a_crash_while_flushing_leaves_whole_checkpoints_only(tmp_path, monkeypatch, call):
    store = CheckpointStore(tmp_path, keep=2)
    saved(store, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", crash_at(call, os.fsync))
        with pytest.raises(Crash):
            saved(store, 2)
    assert steps_of(store) == ([1] if call < 8 else [1, 2])
    assert_whole(store, {1} if call < 8 else {1, 2})


@pytest.mark.parametrize("what", ["rename", "replace", "symlink_to", "open"])
def test_a_crash_at_any_step_leaves_whole_checkpoints_only(tmp_path, monkeypatch, what):
    store = CheckpointStore(tmp_path, keep=2)
    saved(store, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, what, crash_at(1, getattr(Path, what)))
        with pytest.raises(Crash):
            saved(store, 2)
    assert steps_of(store) == ([1] if what in ("rename", "open") else [1, 2])
    assert_whole(store, {1, 2})


@pytest.mark.parametrize("call", [3, 4])  # the first two clear the way for the new checkpoint
def test_a_crash_while_old_checkpoints_are_dropped_leaves_the_new_one_whole(tmp_path, monkeypatch, call):
    store = CheckpointStore(tmp_path, keep=1)
    saved(store, 1)
    with monkeypatch.context() as patch:
        patch.setattr("microgpt.runs.checkpoint.shutil.rmtree", crash_at(call, lambda *_, **__: None))
        with pytest.raises(Crash):
            saved(store, 2)
    assert load_checkpoint(tmp_path / "latest").progress.step == 2


def test_what_a_crash_left_is_cleared_away_by_the_next_checkpoint(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep=2)
    saved(store, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", crash_at(3, os.fsync))
        with pytest.raises(Crash):
            saved(store, 2)
    # The next process has another id, and so another hidden name.
    for hidden in tmp_path.glob(".step_*"):
        hidden.rename(tmp_path / ".step_00000002.1")
    saved(store, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"step_00000001", "step_00000002", "latest"}


def test_a_link_that_a_crash_left_without_its_name_is_cleared_away_too(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep=2)
    saved(store, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash_at(1, Path.replace))
        with pytest.raises(Crash):
            store.mark_best(1)
    (left,) = tmp_path.glob(".best.*")
    left.rename(tmp_path / ".best.1")  # of another process
    saved(store, 1)  # as a run that goes on from there does
    assert {path.name for path in tmp_path.iterdir()} == {"step_00000001", "latest"}


# Where checkpoint=... points


def run_with_checkpoints(folder: Path, *steps: int) -> Path:
    saved(CheckpointStore(folder / "checkpoint", 5), *steps)
    return folder


@pytest.mark.parametrize(("below", "step"), [
    ("", 2), ("checkpoint", 2), ("checkpoint/latest", 2), ("checkpoint/step_00000001", 1), ("checkpoint/best", 1),
])  # fmt: skip
def test_a_run_or_a_checkpoint_can_be_named(tmp_path, below, step):
    run = run_with_checkpoints(tmp_path / "run", 1, 2)
    CheckpointStore(run / "checkpoint", 5).mark_best(1)
    found = resolve_checkpoint(str(run / below), "unused")
    assert found.name == f"step_{step:08d}"
    assert load_checkpoint(found).progress.step == step


def test_latest_is_the_run_that_wrote_a_checkpoint_last(tmp_path):
    names = ("2026-01-02/08-00-00_aaaaaaaa", "2026-01-01/23-00-00_bbbbbbbb", "sweeps/it_abc/0")
    for name, written_at in zip(names, (3, 1, 2), strict=True):
        link = run_with_checkpoints(tmp_path / name, 1) / "checkpoint" / "latest"
        os.utime(link, (written_at, written_at), follow_symlinks=False)
    (tmp_path / "2026-01-03" / "09-00-00_dddddddd").mkdir(parents=True)
    found = resolve_checkpoint("latest", str(tmp_path))
    assert found == tmp_path / "2026-01-02" / "08-00-00_aaaaaaaa" / "checkpoint" / "step_00000001"


def test_latest_finds_a_job_of_a_sweep(tmp_path):
    run_with_checkpoints(tmp_path / "sweeps" / "it_abc" / "0", 1)
    assert load_checkpoint(resolve_checkpoint("latest", str(tmp_path))).progress.step == 1


def test_latest_without_any_run_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"checkpoint=latest: no run in outputs_dir=.* has a checkpoint yet"):
        resolve_checkpoint("latest", str(tmp_path))


@pytest.mark.parametrize("name", ["nowhere", "", ".", "meta.json", "a\0b", "a" * 300, "../..", "💥"])
def test_nonsense_is_a_sentence_that_quotes_it(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "meta.json").mkdir()
    with pytest.raises(UserError) as caught:
        resolve_checkpoint(name, str(tmp_path))
    assert str(caught.value).startswith(f"checkpoint={name} is not a checkpoint")


def test_an_earlier_checkpoint_can_be_named(tmp_path):
    assert resolve_checkpoint(str(earlier_checkpoint(tmp_path / "s4")), "unused") == tmp_path / "s4"


# Atomic files


@pytest.mark.parametrize("content", ["zoë\n", b"\x00\xff", "", "\r\n"])
def test_a_file_is_written_as_it_is(tmp_path, content):
    write_atomically(tmp_path / "new" / "folder" / "file", content)
    expected = content.encode() if isinstance(content, str) else content
    assert (tmp_path / "new" / "folder" / "file").read_bytes() == expected


def test_writing_replaces_and_leaves_nothing_beside(tmp_path):
    for content in ("old", "new"):
        write_atomically(tmp_path / "file", content)
    assert (tmp_path / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("failing", [(os, "fsync"), (Path, "replace"), (Path, "chmod")])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_keeps_the_old_content_and_leaves_no_other_file(tmp_path, monkeypatch, failing, error):
    write_atomically(tmp_path / "file", "old")

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(*failing, fail)
        with pytest.raises(type(error)):
            write_atomically(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_new_file_has_the_rights_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", "text")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_json_lacks_and_keeps_the_old_file(tmp_path, value):
    write_json(tmp_path / "it.json", {"loss": 1.0})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "it.json", {"loss": value})
    assert json.loads((tmp_path / "it.json").read_text()) == {"loss": 1.0}


def test_json_keeps_floats_and_characters(tmp_path):
    document = {"loss": 0.1 + 0.2, "text": "zoë\u2028💥", "none": None, "list": [1, True]}
    write_json(tmp_path / "it.json", document)
    assert json.loads((tmp_path / "it.json").read_text("utf-8")) == document
    assert "zoë" in (tmp_path / "it.json").read_text("utf-8")


def test_json_holds_a_file_name_that_is_not_utf8(tmp_path):
    # As data.path and the command line come from the operating system.
    name = os.fsdecode(b"caf\xe9.txt")
    write_json(tmp_path / "it.json", {"command": name})
    assert json.loads((tmp_path / "it.json").read_bytes()) == {"command": name}
