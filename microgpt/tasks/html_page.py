"""export.format=html: one HTML file that contains the model, generates text and trains in the browser."""

import json
from collections.abc import Mapping
from dataclasses import fields
from importlib.resources import files

import numpy as np

from microgpt.engines.base import EngineInfo
from microgpt.errors import UserError
from microgpt.model.spec import INITIAL, ModelSpec
from microgpt.runs.checkpoint import Checkpoint
from microgpt.serve.card import model_card, packed_weights
from microgpt.serve.single_file import encoded, single_file, zipped

BROWSER = EngineInfo(
    backend="JavaScript", device="this device", using_gpu=False, dtype="float32", kernel="loops", threads=1
)
MAX_NEW_TOKENS = 1024  # per generated text
MAX_HISTORY_POINTS = 300  # points of the loss curve
# Options that static/model.js supports: these values of ModelSpec's keys with choices, and every value of NUMBERS.
CHOICES = {
    "kind": ("gpt", "bigram"),
    "activation": ("relu", "relu_squared", "gelu", "gelu_tanh", "silu"),
    "position": ("learned", "rope", "none"),
    "norm": ("rmsnorm", "layernorm"),
}
NUMBERS = (
    "vocab_size", "n_embd", "n_head", "n_layer", "block_size", "tie_lm_head", "input_rmsnorm", "rope_theta", "norm_eps",
    "norm_gain", "final_norm", "qk_norm", "bias", "gated_mlp", "mlp_width", "n_kv_head", "logit_softcap",
)  # fmt: skip


def html_page(checkpoint: Checkpoint, weights: Mapping[str, np.ndarray]) -> bytes:
    """Return the page of a model. Raises UserError for a model that static/model.js does not support."""
    meta = checkpoint.meta
    refuse_unsupported(meta.spec)
    content = {
        "card": model_card(checkpoint, BROWSER, MAX_NEW_TOKENS, MAX_HISTORY_POINTS),
        "description": {
            "spec": meta.spec.to_dict(),
            "chars": meta.chars,
            "special": list(meta.special),
            "phrases": list(meta.style.get("phrases", [])),
            "bias": meta.style.get("bias", 0.0),
            "max_new_tokens": MAX_NEW_TOKENS,
        },
    }
    names = (files("microgpt.data") / "names.txt").read_text(encoding="utf-8").split()
    return single_file(
        {
            "data-model": zipped(json.dumps(content, allow_nan=False, separators=(",", ":"))),
            "data-weights": encoded(packed_weights(meta.spec, weights)),
            "data-names": zipped(front_coded(names)),
        }
    ).encode()


def refuse_unsupported(spec: ModelSpec) -> None:
    """Raise UserError for a model with an option that static/model.js does not support."""
    for key in fields(spec):
        value = getattr(spec, key.name)
        choices = CHOICES.get(key.name, (key.default,))
        if key.name not in (*NUMBERS, *INITIAL) and value not in choices:
            raise UserError(
                f"export.format=html is not allowed: the page does not support model.{key.name}={value}; it supports "
                f"only {' and '.join(map(str, choices))}"
            )


def front_coded(names: list[str]) -> str:
    """Return the sorted names, each as one capital letter and its remaining letters.

    The capital is the number of letters shared with the previous name: A for none, B for one, and so on. After
    compression, this takes half the size of the plain names.
    """
    coded, last = [], ""
    for name in sorted(names):
        shared = next((i for i, (a, b) in enumerate(zip(last, name, strict=False)) if a != b), len(last))
        coded.append(chr(ord("A") + shared) + name[shared:])
        last = name
    return "".join(coded)


def page_notes(checkpoint: Checkpoint) -> list[str]:
    return ["open the page in a browser, as a file or from a web server; it makes no network requests"]
