"""Exports: their files, readers, rounding, and errors."""

import hashlib
import json
import os
import re
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as drawn_arrays
from support.program import Program, mostly_slow, read_record

from microgpt.data.tokenizer import CHAT_SPECIAL, Tokenizer
from microgpt.engines import make_engine
from microgpt.engines.base import Arrays, EngineState
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.errors import UserError
from microgpt.installation import install_command
from microgpt.model.spec import ModelSpec
from microgpt.runs.checkpoint import Checkpoint, load_checkpoint, write_checkpoint
from microgpt.runs.checkpoint_format import Meta, Origin, Progress
from microgpt.runs.checkpoint_paths import resolve_checkpoint
from microgpt.tasks.export import (
    FORMATS,
    default_name,
    narrow,
    onnx_files,
    refuse_taken,
    unknown_to_earlier_format,
    weight_files,
    write_export,
    write_file,
)

CHARS = list("abcdé")
SPEC = ModelSpec("gpt", vocab_size=6, n_embd=8, n_head=2, n_layer=2, block_size=7)
BIGRAM = ModelSpec("bigram", vocab_size=6, n_embd=6, n_head=1, n_layer=0, block_size=7)
SPECS = {
    "gpt": SPEC,
    "tied": replace(SPEC, tie_lm_head=True),
    "unnormed": replace(SPEC, input_rmsnorm=False, n_layer=1),
    "squared": replace(SPEC, activation="relu_squared", n_layer=3, n_head=4),
    "tied and unnormed": replace(SPEC, tie_lm_head=True, input_rmsnorm=False),
    "no layer": replace(SPEC, n_layer=0),
    "block of one": replace(SPEC, block_size=1),
    "long block": replace(SPEC, block_size=80, n_layer=1),
    "grouped and rotated": replace(
        SPEC, position="rope", n_kv_head=1, qk_norm=True, gated_mlp=True, activation="silu", logit_softcap=20.0
    ),
    "biased": replace(
        SPEC, norm="layernorm", norm_gain=True, final_norm=True, bias=True, activation="gelu_tanh", mlp_width=5
    ),
    "bigram": BIGRAM,
    "tied bigram": replace(BIGRAM, tie_lm_head=True, input_rmsnorm=False),
}
STYLE = {"name": "pirate", "documents": [], "share": 0.1, "phrases": ["arr"], "bias": 3.0}
# The earlier format, F7
FIRST_FIELDS = ["vocab_size", "n_embd", "n_head", "n_layer", "block_size", "chars"]
NUMBERS = {"F16": "<f2", "F32": "<f4"}


def weights(spec: ModelSpec, seed: int = 0, dtype: type = np.float64) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: (0.5 * rng.normal(size=(1, *shape))).astype(dtype) for name, shape in spec.shapes().items()}


def checkpoint_of(
    folder: Path, spec: ModelSpec = SPEC, parameters: Arrays | None = None, special: tuple[str, ...] = ()
) -> Checkpoint:
    """Return a loaded checkpoint in float64 with moments."""
    chars = CHARS[: spec.vocab_size - 1 - len(special)]
    path = folder / "outputs" / "2026-01-02" / "08-00-00_abcdef12" / "checkpoint" / "step_00000500"
    parameters = weights(spec) if parameters is None else parameters
    state = EngineState(parameters, weights(spec, 1), weights(spec, 2))
    write_checkpoint(path, Meta(spec, chars, "float64", "gpt", STYLE, special), state, Progress(500, first_step=100))
    return load_checkpoint(path)


def exported(checkpoint: Checkpoint, folder: Path, dtype: str = "float32") -> Path:
    write_export(folder, weight_files(checkpoint, dtype)[0])
    return folder


def raw(path: Path) -> tuple[dict[str, tuple[str, list[int], bytes]], bytes]:
    """Return name -> (dtype, shape, bytes) of a safetensors file, and the bytes of all tensors, without a library."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    header.pop("__metadata__", None)
    return {
        name: (found["dtype"], found["shape"], data[slice(*found["data_offsets"])]) for name, found in header.items()
    }, data


def logits_of(checkpoint: Checkpoint, tokens: Sequence[int], backend: str = "python", **options: Any) -> np.ndarray:
    """Return an engine's logits after each token: (T, V)."""
    spec = checkpoint.meta.spec
    engine = make_engine(EngineOptions(backend, **options), spec, OptimizerSpec("sgd"), None, checkpoint.state)
    decoder = engine.decoder(0)
    return np.array([decoder.feed(token) for token in tokens])


# The files, read without this package


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", ["gpt", "tied"])
def test_the_raw_files_are_those_of_the_earlier_format(tmp_path, name, dtype):
    path = exported(checkpoint_of(tmp_path, SPECS[name]), tmp_path / "out", dtype)
    assert {file.name for file in path.iterdir()} == {"weights.safetensors", "meta.json", "checksums.json"}
    found, data = raw(path / "weights.safetensors")
    shapes = {"wte": [6, 8], "wpe": [7, 8], "lm_head": [6, 8]}  # with lm_head even if it is tied
    for layer in range(2):
        shapes |= {f"layer{layer}.attn_{x}": [8, 8] for x in ("wq", "wk", "wv", "wo")}
        shapes |= {f"layer{layer}.mlp_fc1": [32, 8], f"layer{layer}.mlp_fc2": [8, 32]}
    assert {key: shape for key, (_, shape, _) in found.items()} == shapes
    kind = {"float32": "F32", "float16": "F16"}[dtype]
    assert {stated for stated, _, _ in found.values()} == {kind}
    for key, parameter in weights(SPECS[name]).items():  # row major, little endian
        assert found[key][2] == parameter[0].astype(NUMBERS[kind]).tobytes()
    assert len(data) == sum(rows * columns for rows, columns in shapes.values()) * np.dtype(dtype).itemsize
    if name == "tied":
        assert found["lm_head"] == found["wte"]


def test_meta_json_begins_with_the_keys_of_the_earlier_format(tmp_path):
    meta = json.loads((exported(checkpoint_of(tmp_path), tmp_path / "out", "float16") / "meta.json").read_text("utf-8"))
    assert list(meta)[:6] == FIRST_FIELDS
    assert [meta[key] for key in FIRST_FIELDS] == [6, 8, 2, 2, 7, CHARS]
    assert "special_tokens" not in meta
    assert (meta["dtype"], meta["style"], meta["tie_lm_head"]) == ("float16", STYLE, False)
    assert meta["exported_from"] == {"name": "2026-01-02_08-00-00_abcdef12", "step": 600, "dtype": "float64"}


def test_a_chat_model_s_special_tokens_are_a_list_of_names(tmp_path):
    checkpoint = checkpoint_of(tmp_path, special=CHAT_SPECIAL)
    path = exported(checkpoint, tmp_path / "out")
    meta = json.loads((path / "meta.json").read_text("utf-8"))
    assert list(meta)[:7] == [*FIRST_FIELDS, "special_tokens"]
    assert meta["special_tokens"] == ["user", "assistant", "end_turn"]
    assert load_checkpoint(path).meta.special == CHAT_SPECIAL


def test_checksums_are_those_of_the_files(tmp_path):
    path = exported(checkpoint_of(tmp_path), tmp_path / "out")
    stated = json.loads((path / "checksums.json").read_text())
    files = [file for file in path.iterdir() if file.name != "checksums.json"]
    assert stated == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_half_takes_exactly_half_the_bytes(tmp_path):
    checkpoint = checkpoint_of(tmp_path)
    sizes = [
        len(raw(exported(checkpoint, tmp_path / dtype, dtype) / "weights.safetensors")[1])
        for dtype in ("float16", "float32")
    ]
    assert 2 * sizes[0] == sizes[1] == 4 * SPEC.parameter_count()


def earlier_reader(folder: Path, tokens: Sequence[int]) -> np.ndarray:
    """Compute the logits (V,) after some tokens from the raw bytes: y = x W^T with row-major W."""
    meta = json.loads((folder / "meta.json").read_text("utf-8"))
    found, _ = raw(folder / "weights.safetensors")
    w = {
        name: np.frombuffer(content, NUMBERS[kind]).reshape(shape).astype(float)
        for name, (kind, shape, content) in found.items()
    }
    heads = meta["n_head"]
    width = meta["n_embd"] // heads

    def norm(x: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).mean() + 1e-5)

    keys: list[list[np.ndarray]] = [[] for _ in range(meta["n_layer"])]
    values: list[list[np.ndarray]] = [[] for _ in range(meta["n_layer"])]
    x = np.zeros(meta["n_embd"])
    for position, token in enumerate(tokens):
        x = norm(w["wte"][token] + w["wpe"][position])
        for layer in range(meta["n_layer"]):
            q, k, v = (norm(x) @ w[f"layer{layer}.attn_{name}"].T for name in ("wq", "wk", "wv"))
            keys[layer].append(k)
            values[layer].append(v)
            mixed = []
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                scores = np.array([q[part] @ key[part] for key in keys[layer]]) / np.sqrt(width)
                shares = np.exp(scores - scores.max())
                mixed.append(shares / shares.sum() @ np.array([value[part] for value in values[layer]]))
            x = x + np.concatenate(mixed) @ w[f"layer{layer}.attn_wo"].T
            hidden = np.maximum(norm(x) @ w[f"layer{layer}.mlp_fc1"].T, 0)
            x = x + hidden @ w[f"layer{layer}.mlp_fc2"].T
    return x @ w["lm_head"].T


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", ["gpt", "tied"])
def test_logits_from_the_raw_bytes_equal_the_scalar_engine_s(tmp_path, name, dtype):
    path = exported(checkpoint_of(tmp_path, SPECS[name]), tmp_path / "out", dtype)
    tokens = [5, 0, 3, 3, 1]
    ours = logits_of(load_checkpoint(path), tokens)[-1]
    np.testing.assert_allclose(earlier_reader(path, tokens), ours, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "said"), [
    ("gpt", []), ("tied", []), ("unnormed", ["input_rmsnorm False"]), ("squared", ["activation relu_squared"]),
    ("tied bigram", ["kind bigram", "input_rmsnorm False"]),
])  # fmt: skip
def test_properties_that_the_earlier_format_lacks_are_listed(tmp_path, name, said):
    assert unknown_to_earlier_format(checkpoint_of(tmp_path, SPECS[name])) == said


# Loading


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", SPECS)
def test_an_export_loads_as_the_same_model_without_its_training(tmp_path, name, dtype):
    checkpoint = checkpoint_of(tmp_path, SPECS[name])
    found = load_checkpoint(exported(checkpoint, tmp_path / "out", dtype))
    assert found.meta.spec == checkpoint.meta.spec
    assert (found.meta.chars, found.meta.style) == (checkpoint.meta.chars, checkpoint.meta.style)
    assert (found.state.m, found.state.v, found.progress) == ({}, {}, Progress())
    assert (found.step, checkpoint.step) == (600, 600)
    assert list(found.state.parameters) == list(SPECS[name].shapes())
    for key, array in weights(SPECS[name]).items():
        assert found.state.parameters[key].dtype == np.float32
        assert (found.state.parameters[key] == array.astype(dtype)).all()


@pytest.mark.parametrize(("backend", "bound"), [("python", 1e-12), ("native", 2e-5), ("torch", 2e-5)])
@pytest.mark.parametrize("name", ["gpt", "tied", "tied bigram"])
def test_every_engine_computes_with_a_float16_export(tmp_path, name, backend, bound):
    path = exported(checkpoint_of(tmp_path, SPECS[name]), tmp_path / "out", "float16")
    rounded = {key: array.astype(np.float16).astype(float) for key, array in weights(SPECS[name]).items()}
    expected = logits_of(checkpoint_of(tmp_path / "rounded", SPECS[name], rounded), [5, 1, 2])
    device = {} if backend == "python" else {"device": "cpu"}
    np.testing.assert_allclose(logits_of(load_checkpoint(path), [5, 1, 2], backend, **device), expected, atol=bound)


def test_an_export_of_an_export_has_the_same_weights_and_origin(tmp_path):
    half = exported(checkpoint_of(tmp_path), tmp_path / "half", "float16")
    again = exported(load_checkpoint(half), tmp_path / "again", "float16")
    assert (half / "weights.safetensors").read_bytes() == (again / "weights.safetensors").read_bytes()
    assert load_checkpoint(again).meta.origin == Origin("2026-01-02_08-00-00_abcdef12", 600, "float16")


def test_a_tied_lm_head_that_differs_from_wte_is_damage(tmp_path):
    path = exported(checkpoint_of(tmp_path, replace(SPEC)), tmp_path / "out")
    meta = json.loads((path / "meta.json").read_text("utf-8")) | {"tie_lm_head": True}
    (path / "meta.json").write_text(json.dumps(meta))
    (path / "checksums.json").write_text("{}")
    with pytest.raises(UserError, match="has an lm_head that differs from wte"):
        load_checkpoint(path)


def test_without_checksums_an_export_is_damaged(tmp_path):
    path = exported(checkpoint_of(tmp_path), tmp_path / "out")
    (path / "checksums.json").unlink()
    with pytest.raises(UserError, match=r"checksums\.json is missing"):
        load_checkpoint(path)


# Rounding


@given(drawn_arrays(np.float64, (1, 3, 2), elements=st.floats(-60000, 60000)))
def test_a_weight_is_rounded_to_the_nearest_float16(array):
    found = narrow(Path("c"), {"wte": array}, "float16")["wte"].astype(float)
    steps = np.maximum(np.spacing(np.abs(array).astype(np.float16)).astype(float), 2.0**-24)
    assert np.isfinite(found).all()
    assert (np.abs(found - array) <= steps / 2).all()


@given(drawn_arrays(np.float16, (1, 2, 2), elements=st.floats(allow_nan=False, allow_infinity=False, width=16)))
def test_a_float16_number_is_not_changed(array):
    assert narrow(Path("c"), {"wte": array.astype(np.float32)}, "float16")["wte"].tobytes() == array.tobytes()


@pytest.mark.parametrize(("value", "dtype"), [
    (65505.0, "float16"), (-65519.0, "float16"), (1e300, "float16"), (3.5e38, "float32"), (-1e300, "float32"),
])  # fmt: skip
def test_a_weight_that_overflows_is_refused_by_name(tmp_path, value, dtype):
    parameters = weights(SPEC)
    parameters["layer1.mlp_fc2"][0, 3, 4] = value
    with pytest.raises(UserError, match=rf"cannot be exported in {dtype}: layer1\.mlp_fc2 has a weight of size"):
        weight_files(checkpoint_of(tmp_path, parameters=parameters), dtype)


def test_the_largest_float16_number_is_stored(tmp_path):
    parameters = weights(SPEC)
    parameters["wte"][0, 0, :2] = 65504.0, -65504.0
    path = exported(checkpoint_of(tmp_path, parameters=parameters), tmp_path / "out", "float16")
    assert load_checkpoint(path).state.parameters["wte"][0, 0, :2].tolist() == [65504.0, -65504.0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_non_finite_weights_are_refused(tmp_path, value, dtype):
    parameters = weights(SPEC)
    parameters["wpe"][0, 1, 1] = value
    with pytest.raises(UserError, match="wpe contains non-finite weights"):
        weight_files(checkpoint_of(tmp_path, parameters=parameters), dtype)


def test_the_effect_of_rounding_is_reported(tmp_path):
    parameters = {name: np.ones_like(array) for name, array in weights(SPEC).items()}
    parameters["wte"][0, 0, :3] = 1e-9, 1.0001, 0.0
    checkpoint = checkpoint_of(tmp_path, parameters=parameters)
    found = weight_files(checkpoint, "float16")[1]
    assert (found.weights, found.changed, found.to_zero) == (SPEC.parameter_count(), 2, 1)
    assert found.largest == pytest.approx(1e-4)
    assert str(found) == (
        f"rounding to float16 changed 2 of {SPEC.parameter_count():,} weights by at most 0.0001; 1 became 0"
    )
    parameters["wte"][0, 0, :3] = 1.0
    whole = weight_files(checkpoint_of(tmp_path / "whole", parameters=parameters), "float16")[1]
    assert str(whole) == "conversion to float16 did not change any weight"


# The destination


@pytest.mark.parametrize(("kind", "dtype", "end"), [
    ("safetensors", "float32", "float32"), ("safetensors", "float16", "float16"), ("onnx", "float32", "onnx"),
])  # fmt: skip
def test_the_default_name_has_run_step_and_type(tmp_path, kind, dtype, end):
    checkpoint = checkpoint_of(tmp_path)
    assert default_name(checkpoint, kind, dtype) == f"2026-01-02_08-00-00_abcdef12_step600_{end}"
    elsewhere = replace(checkpoint, path=tmp_path / "names-model")
    assert default_name(elsewhere, kind, dtype) == f"names-model_step600_{end}"


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(UserError, match=r"export\.path=.*out already exists and is not empty"):
        write_export(tmp_path / "out", {"meta.json": b"{}"})
    assert {path.name for path in tmp_path.rglob("*")} == {"out", "mine"}


def test_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match=r"export\.path=.*out already exists and is not a folder"):
        refuse_taken(tmp_path / "out")


@pytest.mark.parametrize("kind", ["none", "empty", "link to an empty one", "deep"])
def test_a_new_or_empty_folder_is_used(tmp_path, kind):
    path = tmp_path / "a" / "b" / "out" if kind == "deep" else tmp_path / "out"
    if kind == "empty":
        path.mkdir()
    if kind == "link to an empty one":
        (tmp_path / "target").mkdir()
        path.symlink_to("target")
    assert load_checkpoint(exported(checkpoint_of(tmp_path), path)).step == 600
    assert not [found for found in path.resolve().parent.iterdir() if found.name.startswith(".")]


@pytest.mark.parametrize("name", ["file/out", "a" * 300, "a\0b", "loop", "loop/out"])
def test_a_path_that_cannot_be_written_is_a_user_error(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=r"export\.path=.* cannot be written: "):
        write_export(tmp_path / name, {"meta.json": b"{}"})
    assert {path.name for path in tmp_path.rglob("*")} == {"file", "loop"}


class Crash(BaseException):
    """Like Ctrl-C: `except Exception` does not catch it."""


@pytest.mark.parametrize("call", range(1, 6))
@pytest.mark.parametrize(("error", "raised"), [
    (OSError(28, "No space left on device"), UserError), (Crash(), Crash),
])  # fmt: skip
def test_a_failure_leaves_no_export_or_a_complete_one(tmp_path, monkeypatch, call, error, raised):
    checkpoint = checkpoint_of(tmp_path)
    calls, fsync = [], os.fsync

    def failing(handle: int) -> None:
        calls.append(handle)
        if len(calls) == call:
            raise error
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(raised):
            exported(checkpoint, tmp_path / "exports" / "out")
    left = [path.name for path in (tmp_path / "exports").iterdir()]
    if call < 5:  # three files and their folder are flushed before the rename
        assert left == []
    else:
        assert left == ["out"]
        assert load_checkpoint(tmp_path / "exports" / "out").step == 600


# ONNX


def run_onnx(content: bytes, tokens: np.ndarray) -> np.ndarray:
    runtime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"tokens": tokens})[0]


def onnx_of(checkpoint: Checkpoint) -> bytes:
    for library in ("torch", "onnx", "onnxscript"):
        pytest.importorskip(library, reason=install_command("onnx"))
    return onnx_files(checkpoint, "float32")[0]["model.onnx"]


@pytest.mark.slow
@mostly_slow(1, "name", ["tied bigram", *(name for name in SPECS if name != "tied bigram")])
def test_an_onnx_graph_gives_the_scalar_engine_s_logits(tmp_path, name):
    checkpoint = checkpoint_of(tmp_path, SPECS[name])
    content, longest = onnx_of(checkpoint), SPECS[name].block_size
    rng = np.random.default_rng(0)
    for batch, time in {(1, 1), (3, 1), (1, longest), (4, min(2, longest)), (2, longest)}:
        tokens = rng.integers(0, 6, size=(batch, time))
        found = run_onnx(content, tokens)
        assert (found.shape, found.dtype) == ((batch, time, 6), np.float32)
        expected = np.array([logits_of(checkpoint, text) for text in tokens.tolist()])
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * max(1.0, np.abs(expected).max()))


@pytest.mark.slow
def test_the_metadata_of_an_onnx_graph_describe_the_model_and_not_this_machine(tmp_path):
    content = onnx_of(checkpoint_of(tmp_path, replace(SPEC, n_layer=0), special=CHAT_SPECIAL))
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(content)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(facts["chars"]) == CHARS[:2]
    assert json.loads(facts["special_tokens"]) == ["user", "assistant", "end_turn"]
    assert (facts["block_size"], facts["bos"], facts["vocab_size"], facts["kind"]) == ("7", "5", "6", "gpt")
    assert [(i.name, [d.dim_param for d in i.type.tensor_type.shape.dim]) for i in model.graph.input] == [
        ("tokens", ["batch", "time"])
    ]
    assert [output.name for output in model.graph.output] == ["logits"]
    assert b".py" not in content
    assert str(Path(__file__).parents[2]).encode() not in content
    with pytest.raises(Exception, match="Add"):  # a text longer than the block has positions without an embedding
        run_onnx(content, np.zeros((1, 8), dtype=np.int64))


@pytest.mark.parametrize("library", ["onnx", "onnxscript", "torch"])
def test_without_the_libraries_the_extra_is_named(tmp_path, monkeypatch, library):
    if library != "onnx":
        pytest.importorskip("onnx", reason=install_command("onnx"))
    if library == "torch":
        pytest.importorskip("onnxscript", reason=install_command("onnx"))
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, "microgpt.engines.torch.onnx", raising=False)
    with pytest.raises(UserError, match=re.escape(f"export.format=onnx needs {library}: {install_command('onnx')}")):
        onnx_files(checkpoint_of(tmp_path), "float32")


def test_an_onnx_export_cannot_be_loaded_as_a_checkpoint(tmp_path):
    write_export(tmp_path / "out", {"model.onnx": b"graph", "meta.json": b"{}"})
    with pytest.raises(
        UserError, match=r"contains only model\.onnx, for other programs: microgpt reads weights\.safetensors"
    ):
        load_checkpoint(tmp_path / "out")


# The program


@pytest.fixture(scope="module")
def trained(shared_program: Program) -> Program:
    shared_program("mode=tensor", "backend=native", "style=classic", "train.steps=1000")
    shared_program("task=export", "checkpoint=latest", "export.path=full")
    shared_program("task=export", "checkpoint=latest", "export.path=half", "export.half=true")
    return shared_program


@pytest.mark.slow
def test_the_program_prints_destination_sizes_and_what_is_left_out(trained: Program) -> None:
    run = trained.only_run()
    done = trained("task=export", f"checkpoint={run}", "export.half=true")
    path = f"exports/{run.parent.name}_{run.name}_step1000_float16"
    assert f"exported to: {path}\n" in done.stdout
    size = (trained.folder / path / "weights.safetensors").stat().st_size
    assert f"weights.safetensors   {size:>14,} bytes\n" in done.stdout
    assert "4,192 parameters; rounding to float16 changed" in done.stdout
    assert "left out: optimizer_m.safetensors, optimizer_v.safetensors, train_state.json (" in done.stdout
    refused = trained("task=export", f"checkpoint={run}", "export.half=true", expect=2)
    assert refused.stderr == (
        f"error: export.path={path} already exists and is not empty: choose another path or remove it first\n"
    )


@pytest.mark.slow
@mostly_slow(1, "engine", [("mode=scalar",), ("mode=tensor", "backend=native"), ("mode=tensor", "backend=torch")])
def test_exports_are_sampled_like_their_checkpoint(trained: Program, engine: tuple[str, ...]) -> None:
    def said(checkpoint: str) -> list[str]:
        likeliest = ("sample.temperature=0", "sample.num_samples=1", "sample.prompt=k")
        done = trained("task=sample", f"checkpoint={checkpoint}", *engine, *likeliest)
        return done.stdout.split("--- samples ---\n")[1].splitlines()

    assert said("latest") == said("full") == said("half")


@pytest.mark.slow
def test_info_prints_the_type_and_bytes_of_an_export(trained: Program) -> None:
    lines = trained("task=info", "checkpoint=half").stdout.splitlines()
    facts = {key: value.strip() for key, _, value in (line.partition(":") for line in lines) if value}
    assert (facts["dtype"], facts["bytes of weights"]) == ("float16", "8,384")
    size = sum(file.stat().st_size for file in (trained.folder / "half").iterdir())
    assert (facts["bytes on disk"], facts["step"], facts["optimizer state"]) == (f"{size:,}", "1000", "no")
    assert any(line.split() == ["wte", "[27,", "16]", "float16"] for line in lines)
    full = trained("task=info", "checkpoint=full").stdout
    assert re.search(r"^bytes of weights: +16,768$", full, re.MULTILINE)


@pytest.mark.slow
def test_info_reads_the_meta_json_of_an_onnx_export(trained: Program) -> None:
    folder = trained.folder / "graph"
    write_export(folder, {"model.onnx": b"x" * 100, "meta.json": (trained.folder / "full" / "meta.json").read_bytes()})
    said = trained("task=info", "checkpoint=graph").stdout
    assert "graph/model.onnx for other programs\n" in said
    assert re.search(r"^parameters: +4192$", said, re.MULTILINE)
    assert re.search(r"^step: +1000$", said, re.MULTILINE)


@pytest.mark.slow
def test_rounding_changes_greedy_text_only_between_about_equally_likely_characters(trained: Program) -> None:
    full, half = (load_checkpoint(resolve_checkpoint(str(trained.folder / name), "")) for name in ("full", "half"))
    letters = [chr(number) for number in range(ord("a"), ord("z") + 1)]
    prompts = ["", *letters, *(first + second for first in letters[::3] for second in letters)]
    changed = 0
    for prompt, (text, gaps), (rounded, _) in zip(prompts, greedy(full, prompts), greedy(half, prompts), strict=True):
        if text != rounded:
            changed += 1
            parting = next(at for at, pair in enumerate(zip(text, rounded, strict=False)) if pair[0] != pair[1])
            assert gaps[parting] < 0.02, prompt
    assert changed <= len(prompts) // 50


def greedy(checkpoint: Checkpoint, prompts: Sequence[str]) -> Iterator[tuple[list[int], list[float]]]:
    """Return the most likely continuation, and the difference between the two largest logits at each token."""
    tokenizer, spec = Tokenizer(checkpoint.meta.chars), checkpoint.meta.spec
    engine = make_engine(EngineOptions("native", dtype="float64"), spec, OptimizerSpec("sgd"), None, checkpoint.state)
    for prompt in prompts:
        decoder = engine.decoder(0)
        tokens = [tokenizer.bos, *tokenizer.encode(prompt)]
        logits = [decoder.feed(token) for token in tokens][-1]
        chosen, gaps = [], []
        while len(tokens) + len(chosen) < spec.block_size and tokenizer.bos not in chosen:
            second, first = sorted(logits)[-2:]
            chosen.append(logits.index(first))
            gaps.append(first - second)
            logits = decoder.feed(chosen[-1])
        yield chosen, gaps


@pytest.mark.slow
def test_training_from_an_export_starts_with_its_weights_at_step_0(trained: Program) -> None:
    done = trained(
        "mode=tensor", "backend=native", "style=classic", "train.steps=20", "train.resume=full", "outputs_dir=on"
    )
    assert f"continuing from step 0 of {trained.folder.resolve() / 'full'}\n" in done.stdout
    record, before = read_record(trained.only_run("on")), read_record(trained.only_run())
    assert record["leg"]["first_step"] == 0
    history = (trained.only_run("on") / "history.jsonl").read_text().splitlines()
    assert json.loads(history[0])["val_loss"] == before["metrics"]["val_loss"]


def test_a_page_is_one_file_named_after_its_run(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path)
    assert default_name(checkpoint, "html", "float32") == "2026-01-02_08-00-00_abcdef12_step600.html"
    files, rounding = FORMATS["html"].files(checkpoint, "float32")
    (content,) = files.values()
    assert content.startswith(b"<!doctype html>")
    assert rounding.dtype == "float32"
    path = tmp_path / "pages" / "names.html"
    write_file(path, content)
    assert path.read_bytes() == content
    with pytest.raises(UserError, match=r"export\.path=.*pages cannot be written"):
        write_file(path.parent, content)
    assert [file.name for file in path.parent.iterdir()] == ["names.html"]
