"""export.format=transformers: stock classes load the folder with the same results, and microgpt reads it back."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.compositions import composed
from support.program import Program, read_record

from microgpt.config.schema import DataConfig
from microgpt.data.conversations import Turn, encode_prompt_turns
from microgpt.data.tokenizer import CHAT_SPECIAL, Tokenizer
from microgpt.engines.base import Arrays, EngineState
from microgpt.errors import UserError
from microgpt.inference.attention_maps import forward
from microgpt.inference.loading import load_model
from microgpt.model.spec import ModelSpec
from microgpt.runs.checkpoint import Checkpoint, load_checkpoint, write_checkpoint
from microgpt.runs.checkpoint_format import Meta, Progress
from microgpt.runs.invocation import Invocation
from microgpt.serve.model import ServedModel
from microgpt.tasks.export import transformers_export, write_export
from microgpt.tasks.model_card import ratio_of, token_losses
from microgpt.training.from_config import read_corpus

CHARS = list("\n !aé語🎉")
PLAIN = ModelSpec(
    "gpt", vocab_size=8, n_embd=8, n_head=2, n_layer=2, block_size=9, input_rmsnorm=False, final_norm=True
)
LLAMA = replace(
    PLAIN, position="rope", rope_theta=100.0, norm_gain=True, activation="silu", gated_mlp=True, mlp_width=11,
    n_kv_head=1,
)  # fmt: skip
SPECS = {
    "gpt2": replace(PLAIN, norm="layernorm", norm_gain=True, bias=True, activation="gelu_tanh", tie_lm_head=True),
    "llama": LLAMA,
    "nanochat": replace(
        PLAIN, position="rope", qk_norm=True, input_rmsnorm=True, activation="relu_squared", norm_eps=1e-6,
        logit_softcap=15.0,
    ),
    "chat": replace(LLAMA, vocab_size=11, block_size=40),
}  # fmt: skip
CLASSES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "nanochat": "NanoChatForCausalLM"}


def weights(spec: ModelSpec) -> Arrays:
    rng = np.random.default_rng(1)
    return {
        name: rng.normal(float(name.endswith("gain")), 0.4, (1, *shape)).astype(np.float32)
        for name, shape in spec.shapes().items()
    }


def exported(folder: Path, name: str, **changes: Any) -> tuple[Checkpoint, Path]:
    """Write a checkpoint with random weights and its export."""
    spec = replace(SPECS[name], **changes)
    special = CHAT_SPECIAL if name == "chat" else ()
    path = folder / "checkpoint"
    write_checkpoint(path, Meta(spec, CHARS, special=special), EngineState(weights(spec)), Progress(500))
    checkpoint = load_checkpoint(path)
    files, _ = transformers_export(checkpoint, "float32")
    write_export(folder / "out", files)
    return checkpoint, folder / "out"


@pytest.mark.parametrize("name", SPECS)
def test_a_stock_class_computes_the_same_logits(tmp_path: Path, name: str) -> None:
    import transformers

    checkpoint, folder = exported(tmp_path, name)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == CLASSES.get(name, CLASSES["llama"])
    text = [checkpoint.meta.spec.vocab_size - 1, 3, 0, 6, 5, 4, 1]
    with torch.no_grad():
        logits = model(torch.tensor([text])).logits[0]
    expected = forward(checkpoint.meta.spec, checkpoint.state.parameters, text).logits
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "chat"])
def test_the_tokenizer_is_ours(tmp_path: Path, name: str) -> None:
    import transformers

    checkpoint, folder = exported(tmp_path, name)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = Tokenizer(checkpoint.meta.chars, checkpoint.meta.special)
    for text in ("", "a", "é 語🎉!", " \n\n a", "aaa  !"):
        ids = theirs(text)["input_ids"]
        assert ids == [ours.bos, *ours.encode(text)]
        assert theirs.decode(ids, skip_special_tokens=True) == text
    assert (theirs.bos_token_id, theirs.eos_token_id, len(theirs)) == (ours.bos, ours.bos, ours.vocab_size)
    with pytest.raises(Exception, match="Missing"):
        theirs("unknown")


def test_the_chat_template_is_our_encoding(tmp_path: Path) -> None:
    import transformers

    checkpoint, folder = exported(tmp_path, "chat")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    turns = [Turn("user", "a é"), Turn("assistant", "!"), Turn("user", "語")]
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    found = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    tokenizer = Tokenizer(checkpoint.meta.chars, checkpoint.meta.special)
    assert found["input_ids"] == encode_prompt_turns(turns, tokenizer, checkpoint.meta.spec.block_size)[0]


@pytest.mark.parametrize("name", SPECS)
def test_the_folder_is_a_checkpoint(tmp_path: Path, name: str) -> None:
    checkpoint, folder = exported(tmp_path, name)
    found = load_checkpoint(folder)
    assert replace(found.meta.spec, init_std=0.08) == checkpoint.meta.spec
    assert (found.meta.chars, found.meta.special) == (checkpoint.meta.chars, checkpoint.meta.special)
    assert list(found.state.parameters) == list(checkpoint.state.parameters)
    for key, array in checkpoint.state.parameters.items():
        assert np.array_equal(found.state.parameters[key], array), key
    assert not found.state.m


def test_the_folder_is_served(tmp_path: Path) -> None:
    _, folder = exported(tmp_path, "llama")
    overrides = ["task=serve", "mode=scalar", f"checkpoint={folder}"]
    served = ServedModel(load_model(composed(*overrides), Invocation(tuple(overrides))), max_new_tokens=5)
    assert served.card()["options"]["n_kv_head"] == 1
    attention = np.array(json.loads(served.compute_attention([7, 0, 1]))["attention"])
    assert attention.shape == (2, 2, 3, 3)
    assert served.created > 0


@pytest.mark.parametrize(("name", "changes", "said"), [
    ("gpt2", {"norm": "rmsnorm"}, "supports model.norm=rmsnorm; the nearest is GPT2LMHeadModel, which "
                                  "needs model.norm=layernorm"),
    ("llama", {"qk_norm": True}, "supports model.qk_norm=true; the nearest is LlamaForCausalLM, which "
                                  "needs model.qk_norm=false"),
    ("nanochat", {"bias": True}, "supports model.bias=true; the nearest is NanoChatForCausalLM"),
    ("gpt2", {"n_kv_head": 1, "final_norm": False}, "model.final_norm=false model.n_kv_head=1; the nearest is"),
])  # fmt: skip
def test_a_model_that_no_class_computes_is_refused(
    tmp_path: Path, name: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=r"export\.format=transformers is not possible for this model") as raised:
        exported(tmp_path, name, **changes)
    assert said in str(raised.value)


def changed(folder: Path, file: str, **values: Any) -> None:
    content = json.loads((folder / file).read_text())
    for key, value in values.items():
        content[key] = content[key] | value if isinstance(value, dict) else value
    (folder / file).write_text(json.dumps(content))


@pytest.mark.parametrize(("name", "file", "values", "said"), [
    ("llama", "config.json", {"model_type": "mistral"},
     "model_type 'mistral' is not supported; supported: gpt2, llama, nanochat"),
    ("llama", "config.json", {"hidden_act": "mish"}, "the activation 'mish' is not supported; supported: relu"),
    ("llama", "config.json", {"mlp_bias": True}, "attention_bias and mlp_bias differ"),
    ("llama", "config.json", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type is yarn"),
    ("llama", "config.json", {"intermediate_size": 12}, "gate_proj.weight has the shape (11, 8), but config.json "),
    ("llama", "config.json", {"num_hidden_layers": 3}, "the tensor model.layers.2.input_layernorm.weight is missing"),
    ("llama", "config.json", {"vocab_size": 9}, "tokenizer.json has 8 tokens, but vocab_size is 9"),
    ("gpt2", "config.json", {"scale_attn_weights": False}, "scale_attn_weights is False"),
    ("gpt2", "config.json", {"bos_token_id": 99}, "bos_token_id 99 is not a token in tokenizer.json"),
    ("gpt2", "tokenizer.json", {"model": {"vocab": {"the": 0}}}, "tokenizer.json has the token 'the'"),
    ("gpt2", "config.json", {"n_embd": None}, "cannot be read"),
])  # fmt: skip
def test_a_folder_that_microgpt_cannot_compute_is_refused(
    tmp_path: Path, name: str, file: str, values: dict[str, Any], said: str
) -> None:
    _, folder = exported(tmp_path, name)
    changed(folder, file, **values)
    with pytest.raises(UserError, match="the transformers folder out cannot be read: ") as raised:
        load_checkpoint(folder)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_interval_of_a_loss_is_that_of_a_ratio() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(3, 9, (2000, 40))
    sums = counts * 2.0 + rng.normal(0, 1, counts.shape) * counts**0.5
    measured = [ratio_of(s, c) for s, c in zip(sums, counts, strict=True)]
    covered = [abs(m.loss - 2.0) <= (m.half_width or 0.0) for m in measured]
    assert 0.92 < np.mean(covered) < 0.96, "95 % intervals of 40 examples, by the normal distribution"


LOADER = """
import json, os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
sys.modules["microgpt"] = None  # not importable
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
names = json.loads(sys.stdin.read())
for folder in sys.argv[1:]:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    bos, total, count = tokenizer.bos_token_id, 0.0, 0
    with torch.no_grad():
        for name in names:
            ids = [*tokenizer(name)["input_ids"], bos][: model.config.max_position_embeddings + 1]
            logits = model(torch.tensor([ids[:-1]])).logits[0].double()
            total += torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum").item()
            count += len(ids) - 1
        texts = [
            tokenizer.decode(
                model.generate(**tokenizer(prompt, return_tensors="pt"), do_sample=False)[0], skip_special_tokens=True
            )
            for prompt in ("", "k", "mar")
        ]
    print(json.dumps([total / count, texts]))
"""


def greedy(checkpoint: Checkpoint, tokenizer: Tokenizer, prompt: str) -> str:
    """Continue a prompt by the most likely tokens until BOS or the end of the block."""
    spec, ids = checkpoint.meta.spec, [tokenizer.bos, *tokenizer.encode(prompt)]
    while len(ids) < spec.block_size:
        ids.append(int(forward(spec, checkpoint.state.parameters, ids).logits[-1].argmax()))
        if ids[-1] == tokenizer.bos:
            break
    return tokenizer.decode(ids)


@pytest.mark.slow
def test_trained_models_in_a_process_without_microgpt(microgpt: Program) -> None:
    """Greedy samples and the mean loss on 200 held-out names are the same, and the card describes the training."""
    presets = ("llama", "gpt2")
    for preset in presets:
        program = Program(microgpt.folder / preset)
        program.folder.mkdir()
        program(f"model={preset}", "mode=tensor", "backend=torch", "style=classic", "train.steps=300")
        done = program("task=export", "checkpoint=latest", "export.format=transformers", "export.path=out")
        assert "model.safetensors" in done.stdout
    corpus = read_corpus(DataConfig(), 16, (), "window")
    examples = corpus.val.examples[:200]
    names = json.dumps([corpus.tokenizer.decode(example) for example in examples])
    found = subprocess.run(
        [sys.executable, "-c", LOADER, *(str(microgpt.folder / preset / "out") for preset in presets)],
        input=names, cwd=microgpt.folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for preset, line in zip(presets, found.stdout.splitlines()[-2:], strict=True):
        loss, texts = json.loads(line)
        folder = microgpt.folder / preset
        run = Program(folder).only_run()
        checkpoint = load_checkpoint(run / "checkpoint" / "step_00000300")
        ours = np.concatenate([token_losses(checkpoint, example) for example in examples])
        assert loss == pytest.approx(ours.mean(), abs=1e-5)
        assert texts == [greedy(checkpoint, corpus.tokenizer, prompt) for prompt in ("", "k", "mar")]
        card = (folder / "out" / "README.md").read_text()
        assert f"python -m microgpt model={preset} mode=tensor" in card
        assert f"| validation loss | {read_record(run)['metrics']['val_loss']:.3f}" in card
        assert "± 0.0" in card
