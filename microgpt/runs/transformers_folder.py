"""Reads and writes folders for Hugging Face transformers: config.json, model.safetensors, tokenizer and model card.

The tokenizer is in the format of the tokenizers library: each character is a token, the special tokens are added
tokens, and every text starts with BOS. As in microgpt, an unknown character is an error.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from microgpt.data.tokenizer import CHAT_SPECIAL, Tokenizer
from microgpt.engines.base import Arrays
from microgpt.errors import UserError
from microgpt.runs.checkpoint_format import INVALID, Meta, Origin
from microgpt.runs.transformers_families import config_of, family_of, spec_of

CONFIG, MODEL, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
TOKENIZER_CONFIG, GENERATION_CONFIG, CARD = "tokenizer_config.json", "generation_config.json", "README.md"
BOS = "<|bos|>"
# [BOS], then [role] + characters + [end_turn] for each turn, like the encoding in data/conversations.py
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}<|end_turn|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def transformers_files(meta: Meta, parameters: Arrays) -> dict[str, bytes]:
    """Return all files of a model except the model card. Raises UserError if no class can represent the model."""
    family, tokenizer = family_of(meta.spec), Tokenizer(meta.chars, meta.special)
    arrays = {name: array[0] for name, array in parameters.items()}
    ends = [tokenizer.bos, *([tokenizer.special_ids["end_turn"]] if meta.special else [])]
    generation = {
        "bos_token_id": tokenizer.bos,
        "eos_token_id": ends if len(ends) > 1 else ends[0],
        "pad_token_id": tokenizer.bos,
        "max_length": meta.spec.block_size,
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": BOS,
        "model_max_length": meta.spec.block_size,
        "clean_up_tokenization_spaces": False,
        **({"chat_template": CHAT_TEMPLATE} if meta.special else {}),
    }
    return {
        CONFIG: document(config_of(family, meta.spec, tokenizer.bos, arrays["wte"].dtype.name)),
        MODEL: save_tensors(family.to_tensors(meta.spec, arrays), metadata={"format": "pt"}),
        GENERATION_CONFIG: document(generation),
        TOKENIZER: document(tokenizer_document(tokenizer)),
        TOKENIZER_CONFIG: document(tokenizer_config),
    }


def document(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False, allow_nan=False, indent=2) + "\n").encode()


def tokenizer_document(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the content of tokenizer.json."""
    special = {f"<|{name}|>": id for name, id in tokenizer.special_ids.items()} | {BOS: tokenizer.bos}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    bos, text = {"SpecialToken": {"id": BOS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id, "content": content, **flags} for content, id in special.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, text],
            "pair": [bos, text, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {BOS: {"id": BOS, "ids": [tokenizer.bos], "tokens": [BOS]}},
        },
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": tokenizer.ids | special, "unk_token": "<|unknown|>"},
    }


# Reading


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a tokenizer.json in microgpt's order, and the row of each token in the model's embedding tables."""

    chars: list[str]
    special: tuple[str, ...]
    rows: list[int]


def read_transformers(name: str, contents: dict[str, bytes]) -> tuple[Meta, Arrays]:
    """Return the model in a folder and its weights (1, rows, columns). `contents` are the folder's files.

    Raises UserError for an architecture or a tokenizer that microgpt does not support.
    """
    try:
        config = json.loads(contents[CONFIG])
        family, spec = spec_of(config)
        if TOKENIZER not in contents:
            raise ValueError(f"{TOKENIZER} is missing")
        vocabulary = vocabulary_of(json.loads(contents[TOKENIZER]), config.get("bos_token_id"))
        if len(vocabulary.rows) != spec.vocab_size:
            raise ValueError(f"{TOKENIZER} has {len(vocabulary.rows)} tokens, but vocab_size is {spec.vocab_size}")
        arrays = family.from_tensors(spec, load_tensors(contents[MODEL]))
        for table in {"wte", spec.output_tensor}:
            arrays[table] = arrays[table][vocabulary.rows]
        dtype = arrays["wte"].dtype.name
        arrays = {name: a.astype(np.float32) if a.dtype == np.float16 else a for name, a in arrays.items()}
    except INVALID as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error).split("\n")[0]
        raise UserError(f"the transformers folder {name} cannot be read: {reason}") from error
    meta = Meta(
        spec,
        vocabulary.chars,
        dtype,
        model=family.model_type,
        style={"name": "classic", "phrases": [], "bias": 0.0},
        special=vocabulary.special,
        origin=Origin(name, 0, dtype),
    )
    return meta, {name: array[np.newaxis] for name, array in arrays.items()}


def vocabulary_of(found: dict[str, Any], bos: int | None) -> Vocabulary:
    """Return the characters, the special tokens and BOS. Raises ValueError for any other token."""
    ids = dict(found["model"]["vocab"]) | {token["content"]: token["id"] for token in found.get("added_tokens", [])}
    texts = {id: text for text, id in ids.items()}
    if bos not in texts:
        raise ValueError(f"bos_token_id {bos} is not a token in {TOKENIZER}")
    chars = sorted(text for id, text in texts.items() if len(text) == 1 and id != bos)
    others = {text: id for id, text in texts.items() if len(text) != 1 and id != bos}
    names = {f"<|{name}|>": name for name in CHAT_SPECIAL}
    unknown = [text for text in others if text not in names]
    if unknown or len(others) not in (0, len(names)):
        raise ValueError(
            f"{TOKENIZER} has the token {(unknown or [*others])[0]!r}, but a microgpt model can only have single "
            f"characters and, for chat, the tokens {', '.join(names)}"
        )
    special = CHAT_SPECIAL if others else ()
    rows = [*(ids[char] for char in chars), *(others[f"<|{name}|>"] for name in special), ids[texts[bos]]]
    return Vocabulary(chars, special, rows)
