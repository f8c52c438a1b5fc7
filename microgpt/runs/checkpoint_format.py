"""Writes, reads and validates the JSON files of a checkpoint, meta.json and train_state.json.

Other programs may have written them, so every value is checked. ValueError names the invalid value.
"""

import math
import random
import struct
from base64 import b64decode, b64encode
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from microgpt.data.tokenizer import CHAT_SPECIAL
from microgpt.model.spec import ACTIVATIONS, INITS, MODEL_KINDS, NORMS, POSITIONS, RESIDUAL_INITS, ModelSpec

META, TRAIN_STATE = "meta.json", "train_state.json"
WEIGHTS, OPTIMIZER_M, OPTIMIZER_V = "weights.safetensors", "optimizer_m.safetensors", "optimizer_v.safetensors"
CHECKSUMS = "checksums.json"
ONNX = "model.onnx"  # instead of weights, in an export for other programs
FORMAT_VERSION = 1
# Allowed values of the keys of a ModelSpec
LEAST = {
    "vocab_size": 2, "n_embd": 1, "n_head": 1, "n_layer": 0, "block_size": 1, "mlp_width": 1, "n_kv_head": 1,
}  # fmt: skip
POSITIVE = ("rope_theta", "norm_eps", "logit_softcap")
OPTIONAL = ("mlp_width", "n_kv_head", "logit_softcap")  # or null
CHOICES: dict[str, Collection[Any]] = {
    "kind": MODEL_KINDS,
    "activation": ACTIVATIONS,
    "position": POSITIONS,
    "norm": NORMS,
    "residual_init": RESIDUAL_INITS,
    "init": INITS,
    **{f.name: (True, False) for f in fields(ModelSpec) if isinstance(f.default, bool)},
}
# Errors that reading or parsing a damaged file can raise
INVALID = (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError, struct.error)


@dataclass(frozen=True)
class Meta:
    """meta.json: everything that inference needs besides the weights."""

    spec: ModelSpec
    chars: list[str]
    dtype: str = "float32"
    model: str = "gpt"  # model.name in the configuration
    style: dict[str, Any] = field(default_factory=dict)  # the `style` node of the configuration
    special: tuple[str, ...] = ()  # special tokens of a chat model, without BOS
    origin: "Origin | None" = None  # exports only


@dataclass(frozen=True)
class Origin:
    """The checkpoint from which an export was made. An export has no train_state.json."""

    name: str  # of the checkpoint's run
    step: int  # training steps of the weights, including the runs that this run continues
    dtype: str  # of the checkpoint's weights


@dataclass
class Progress:
    """train_state.json: the state besides weights and optimizer state that a run needs to resume bit for bit."""

    step: int = 0  # steps completed in this run
    first_step: int = 0  # steps completed in the runs that this run continues; batches and optimizer count from there
    total_steps: int = 0  # the schedule's length
    steps: int = 0  # train.steps of this run
    tokens: int = 0  # target tokens trained on in this run
    recent_losses: list[float] = field(default_factory=list)  # of the last train.last_n steps, newest last
    val_loss: float | None = None  # of the last evaluation
    best_val_loss: float | None = None
    best_step: int | None = None
    first_val_loss: float | None = None
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    checkpoint_seconds: float = 0.0
    rng_state: list[Any] | None = None  # `generator_state` after initialization, used for drawing samples
    optimizer: str | None = None
    seed: int | None = None
    data_sha256: str | None = None
    config_hash: str | None = None


def meta_document(meta: Meta) -> dict[str, Any]:
    """Return the content of meta.json: the keys of the earlier format (0.5.0), then the other keys."""
    spec = meta.spec
    first = {key: getattr(spec, key) for key in ("vocab_size", "n_embd", "n_head", "n_layer", "block_size")}
    return {
        **first,
        "chars": meta.chars,
        **({"special_tokens": list(meta.special)} if meta.special else {}),
        "format_version": FORMAT_VERSION,
        **{key: value for key, value in spec.to_dict().items() if key not in first},
        "dtype": meta.dtype,
        "model": meta.model,
        "style": meta.style,
        **({"exported_from": asdict(meta.origin)} if meta.origin else {}),
    }


def parse_meta(found: dict[str, Any]) -> Meta:
    """Parse the content of meta.json. Keys missing in the earlier format take the values that its models had."""
    own = {f.name: f.default for f in fields(ModelSpec)}
    known = {key: found.get(key, default) for key, default in own.items()}
    known["kind"] = found.get("kind", "gpt")
    if found.get("zero_init_residual"):  # name of this option in version 0.1.0
        known["residual_init"] = "zero"
    missing = [key for key in ("vocab_size", "n_embd", "n_head", "n_layer", "block_size", "chars") if key not in found]
    if missing:
        raise ValueError(f"meta.json does not have {', '.join(missing)}")
    special = parse_special(found.get("special_tokens"))
    check_meta(known, found["chars"], special)
    return Meta(
        spec=ModelSpec(**known),
        chars=found["chars"],
        special=special,
        dtype=found.get("dtype", "float32"),
        model=found.get("model", known["kind"]),
        style=parse_style(found.get("style", {})),
        origin=parse_origin(found.get("exported_from")),
    )


def parse_special(found: Any) -> tuple[str, ...]:
    """Return the special tokens of a chat model, ordered by id and without BOS; empty for other models."""
    if not found:
        return ()
    names = sorted(found, key=found.__getitem__) if isinstance(found, dict) else list(found)
    if tuple(name for name in names if name != "bos") != CHAT_SPECIAL:
        raise ValueError(f"{META} has special_tokens {found!r}; a chat model must have {', '.join(CHAT_SPECIAL)}")
    return CHAT_SPECIAL


def check_meta(spec: dict[str, Any], chars: Any, special: tuple[str, ...] = ()) -> None:
    """Raise ValueError for an architecture that is invalid or contradicts the vocabulary."""
    for key, smallest in LEAST.items():
        absent = spec[key] is None and key in OPTIONAL
        if not absent and (type(spec[key]) is not int or spec[key] < smallest):
            raise ValueError(f"{META} has {key} {spec[key]!r}")
    for key in POSITIVE:
        absent = spec[key] is None and key in OPTIONAL
        if not absent and not (isinstance(spec[key], int | float) and math.isfinite(spec[key]) and spec[key] > 0):
            raise ValueError(f"{META} has {key} {spec[key]!r}")
    for key, allowed in CHOICES.items():
        if spec[key] not in allowed:
            raise ValueError(f"{META} has {key} {spec[key]!r}; supported: {', '.join(map(str, allowed))}")
    n_embd, n_head, n_kv_head = spec["n_embd"], spec["n_head"], spec["n_kv_head"]
    if n_embd % n_head != 0:
        raise ValueError(f"{META} has n_embd {n_embd}, which is not a multiple of n_head {n_head}")
    if n_kv_head is not None and n_head % n_kv_head != 0:
        raise ValueError(f"{META} has n_head {n_head}, which is not a multiple of n_kv_head {n_kv_head}")
    if POSITIONS[spec["position"]].needs_pairs and n_embd // n_head % 2 != 0:
        raise ValueError(f"{META} has position {spec['position']}, but heads with {n_embd // n_head} features")
    single = isinstance(chars, list) and all(isinstance(char, str) and len(char) == 1 for char in chars)
    if not single or len(set(chars)) != len(chars):
        raise ValueError(f"{META} has chars that are not a list of distinct characters")
    if spec["vocab_size"] != len(chars) + len(special) + 1:
        others = f"{len(special)} special tokens and BOS" if special else "BOS"
        raise ValueError(f"vocab_size {spec['vocab_size']} does not match {len(chars)} characters, {others}")


def parse_style(style: Any) -> dict[str, Any]:
    """Return the style node of the configuration, or an empty dictionary if the checkpoint has none."""
    if not style:
        return {}
    phrases, bias = style["phrases"], style["bias"]
    if not all(isinstance(phrase, str) and phrase for phrase in phrases) or not math.isfinite(bias):
        raise ValueError(f"{META} has a style with invalid phrases or an invalid bias")
    return style


def parse_origin(found: Any) -> Origin | None:
    if found is None:
        return None
    origin = Origin(found["name"], found["step"], found["dtype"])
    names = isinstance(origin.name, str) and isinstance(origin.dtype, str)
    if not names or type(origin.step) is not int or origin.step < 0:
        raise ValueError(f"{META} has exported_from {found!r}")
    return origin


def parse_progress(found: Any) -> Progress:
    """Parse the content of train_state.json. Missing keys take their defaults."""
    progress = Progress(**{f.name: found[f.name] for f in fields(Progress) if f.name in found})
    counts = (progress.step, progress.first_step, progress.tokens)
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError(f"{TRAIN_STATE} has the step and token counts {counts}, which must be whole numbers >= 0")
    if not all(isinstance(loss, float) for loss in progress.recent_losses):
        raise ValueError(f"{TRAIN_STATE} has recent_losses that are not all floats")
    if progress.rng_state is not None:
        generator_from(progress.rng_state)
    return progress


def generator_state(generator: random.Random) -> list[Any]:
    """Return the state of a random number generator for train_state.json.

    This is `getstate()` with its 625 words in base64 (32 bits each, little-endian), half as long as a list of numbers.
    """
    version, internal, gauss_next = generator.getstate()
    return [version, b64encode(struct.pack(f"<{len(internal)}I", *internal)).decode(), gauss_next]


def generator_from(state: list[Any]) -> random.Random:
    """Return the random number generator with a state from train_state.json; earlier ones have a list of words."""
    version, internal, gauss_next = state
    if isinstance(internal, str):
        internal = [word for (word,) in struct.iter_unpack("<I", b64decode(internal, validate=True))]
    generator = random.Random()
    generator.setstate((version, tuple(internal), gauss_next))
    return generator
