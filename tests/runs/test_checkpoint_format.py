"""meta.json and train_state.json: the earlier format, chat models, and rejected values."""

import json
import random
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from support.checkpoints import (
    CHARS,
    SPEC,
    arrays,
    assert_same_bits,
    earlier_checkpoint,
    flip,
)

from microgpt.errors import UserError
from microgpt.model.spec import ModelSpec
from microgpt.runs.checkpoint import load_checkpoint
from microgpt.runs.checkpoint_format import (
    Meta,
    Progress,
    generator_from,
    generator_state,
    meta_document,
    parse_meta,
)

# The earlier format: no checksums, no train state, a bare meta.json


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


def test_float16_weights_become_float32(tmp_path):
    path = earlier_checkpoint(tmp_path / "s4")
    weights = {name: array[0].astype(np.float16) for name, array in arrays(SPEC, 0).items()}
    safetensors.numpy.save_file(weights, path / "weights.safetensors")
    found = load_checkpoint(path)
    assert set(found.stored.values()) == {"float16"}
    for name, array in found.state.parameters.items():
        assert array.dtype == np.float32
        assert (array[0] == weights[name]).all()


def test_the_generator_s_state_may_be_a_list_of_words(tmp_path):
    path, generator = earlier_checkpoint(tmp_path / "s4"), random.Random(3)
    (path / "train_state.json").write_text(json.dumps({"rng_state": generator.getstate()}))
    state = load_checkpoint(path).progress.rng_state
    assert state is not None
    assert generator_from(state).getstate() == generator_from(generator_state(generator)).getstate()


@pytest.mark.parametrize("words", ["AAAA", "AAAAA", "no base64", [1, 2], None])
def test_an_invalid_state_of_the_generator_is_rejected(tmp_path, words):
    path = earlier_checkpoint(tmp_path / "s4")
    (path / "train_state.json").write_text(json.dumps({"rng_state": [3, words, None]}))
    with pytest.raises(UserError, match="is damaged"):
        load_checkpoint(path)


def test_step_and_moments_of_the_earlier_format_are_read(tmp_path):
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
def test_an_invalid_origin_is_damage(tmp_path, origin):
    with pytest.raises(UserError, match="is damaged"):
        load_checkpoint(earlier_checkpoint(tmp_path / "s4", exported_from=origin))


def chat_meta(special: Any, vocab_size: int = 7) -> dict[str, Any]:
    """Return meta.json of a chat model in the earlier format, with three characters, three special tokens and BOS."""
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
def test_other_special_tokens_are_refused(special):
    with pytest.raises((ValueError, TypeError)):
        parse_meta(chat_meta(special))


def test_a_vocabulary_without_its_special_tokens_is_refused():
    with pytest.raises(ValueError, match=r"vocab_size 4 does not match 3 characters, 3 special tokens and BOS"):
        parse_meta(chat_meta(CHAT, vocab_size=4))


def test_moments_of_the_wrong_shape_are_damage(tmp_path):
    path = earlier_checkpoint(tmp_path / "s4")
    (path / "optimizer_m.safetensors").write_bytes(safetensors.numpy.save({"wte": np.zeros((2, 2), np.float32)}))
    with pytest.raises(UserError, match=r"wte in optimizer_m\.safetensors has the shape"):
        load_checkpoint(path)


@pytest.mark.parametrize("key", ["vocab_size", "n_embd", "n_head", "n_layer", "block_size", "chars"])
def test_a_missing_key_of_meta_json_is_named(tmp_path, key):
    with pytest.raises(UserError, match=rf"meta\.json does not have {key}"):
        load_checkpoint(earlier_checkpoint(tmp_path / "s4", **{key: None}))


@pytest.mark.parametrize("changes", [
    {"n_layer": 3}, {"n_embd": 8}, {"vocab_size": 5}, {"block_size": 6}, {"n_layer": 1.5}, {"n_embd": "6"},
    {"n_embd": [6]},
])  # fmt: skip
def test_weights_that_contradict_meta_json_are_damage(tmp_path, changes):
    with pytest.raises(UserError, match="is damaged"):
        load_checkpoint(earlier_checkpoint(tmp_path / "s4", **changes))


@pytest.mark.parametrize(("changes", "said"), [
    ({"position": "alibi"}, "position 'alibi'; supported: learned, rope, none"),
    ({"norm": "batchnorm"}, "norm 'batchnorm'; supported:"),
    ({"bias": "yes"}, "bias 'yes'; supported: True, False"),
    ({"residual_init": 1}, "residual_init 1; supported:"),
    ({"position": "rope"}, "position rope, but heads with 3 features"),
    ({"n_kv_head": 3}, "n_head 2, which is not a multiple of n_kv_head 3"),
    ({"n_kv_head": 0}, "n_kv_head 0"),
    ({"mlp_width": 2.5}, "mlp_width 2.5"),
    ({"norm_eps": None}, "norm_eps None"),
    ({"logit_softcap": -1.0}, "logit_softcap -1.0"),
    ({"rope_theta": "10000"}, "rope_theta '10000'"),
])  # fmt: skip
def test_an_option_that_does_not_exist_is_damage(changes, said):
    spec = ModelSpec("gpt", vocab_size=len(CHARS) + 1, n_embd=6, n_head=2, n_layer=1, block_size=5)
    with pytest.raises(ValueError, match=re.escape(f"meta.json has {said}")):
        parse_meta(meta_document(Meta(spec, CHARS)) | changes)


def test_zero_init_residual_of_version_0_1_0_is_residual_init() -> None:
    spec = ModelSpec("gpt", vocab_size=len(CHARS) + 1, n_embd=6, n_head=2, n_layer=1, block_size=5)
    written = {key: value for key, value in meta_document(Meta(spec, CHARS)).items() if key != "residual_init"}
    assert parse_meta(written | {"zero_init_residual": True}).spec == replace(spec, residual_init="zero")
    assert parse_meta(written | {"zero_init_residual": False}).spec == spec


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000])
def test_a_meta_json_of_the_wrong_type_is_damage(tmp_path, content):
    path = earlier_checkpoint(tmp_path / "s4")
    (path / "meta.json").write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        load_checkpoint(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["meta.json", "weights.safetensors"])
@pytest.mark.parametrize("mask", [0x01, 0x08, 0x10, 0x80])
def test_without_checksums_a_flipped_byte_is_damage_or_unnoticed_but_no_traceback(tmp_path, name, mask):
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
