"""What stands in a checkpoint's meta.json and train_state.json: written, read, and checked.

Anyone may have made them: whatever does not make sense is a ValueError that says what.
Standard library alone: the weights are checkpoint.py's.
"""

import math
import random
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from microgpt.data.tokenizer import CHAT_SPECIAL
from microgpt.model.spec import ACTIVATIONS, MODEL_KINDS, ModelSpec

META, TRAIN_STATE = "meta.json", "train_state.json"
WEIGHTS, OPTIMIZER_M, OPTIMIZER_V = "weights.safetensors", "optimizer_m.safetensors", "optimizer_v.safetensors"
CHECKSUMS = "checksums.json"
ONNX = "model.onnx"  # instead of weights, in an export for other programs
FORMAT_VERSION = 1
BOOLEANS = (True, False)


@dataclass(frozen=True)
class Meta:
    """What inference needs to know beside the weights."""

    spec: ModelSpec
    chars: list[str]
    dtype: str = "float32"
    model: str = "gpt"  # the name under which it was chosen
    style: dict[str, Any] = field(default_factory=dict)  # the style's node of the configuration
    special: tuple[str, ...] = ()  # a chat model's tokens beside characters and BOS
    origin: "Origin | None" = None  # of an export: what it was made of


@dataclass(frozen=True)
class Origin:
    """Which checkpoint an export was made of: it has no train_state.json that could tell."""

    name: str  # of its run
    step: int  # how many steps the weights were trained
    dtype: str  # in which they were trained and stored


@dataclass
class TrainState:
    """Where a training stands, apart from weights and moments. Everything a run needs to go on as if never stopped."""

    step: int = 0  # steps done in this leg
    first_step: int = 0  # steps done before this leg; the batches and the optimizer count from there
    total_steps: int = 0  # the schedule's horizon
    steps: int = 0  # the steps that the leg was asked for
    tokens: int = 0  # target tokens trained on, in this leg
    recent_losses: list[float] = field(default_factory=list)  # the last steps' losses, newest last
    val_loss: float | None = None  # of the last evaluation
    best_val_loss: float | None = None
    best_step: int | None = None
    first_val_loss: float | None = None
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    checkpoint_seconds: float = 0.0
    rng_state: list[Any] | None = None  # random.getstate() after the initial values were drawn: the samples' draws
    optimizer: str | None = None
    seed: int | None = None
    data_sha256: str | None = None
    config_hash: str | None = None


def meta_document(meta: Meta) -> dict[str, Any]:
    """meta.json: first the fields that the earlier format has, then ours."""
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
    """Read meta.json; what the earlier format did not have takes the values that its models had."""
    own = {f.name: f.default for f in fields(ModelSpec)}
    known = {key: found.get(key, default) for key, default in own.items()}
    known["kind"] = found.get("kind", "gpt")
    missing = [key for key in ("vocab_size", "n_embd", "n_head", "n_layer", "block_size", "chars") if key not in found]
    if missing:
        raise ValueError(f"meta.json lacks {', '.join(missing)}")
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
    """The names of a chat model's special tokens in the order of their ids, BOS apart; of other models none."""
    if not found:
        return ()
    names = sorted(found, key=found.__getitem__) if isinstance(found, dict) else list(found)
    if tuple(name for name in names if name != "bos") != CHAT_SPECIAL:
        raise ValueError(f"{META} has special_tokens {found!r}; a chat model's are {', '.join(CHAT_SPECIAL)}")
    return CHAT_SPECIAL


def check_meta(spec: dict[str, Any], chars: Any, special: tuple[str, ...] = ()) -> None:
    """Raises ValueError for an architecture that no model of ours has. meta.json may have been written by anyone."""
    least = {"vocab_size": 2, "n_embd": 1, "n_head": 1, "n_layer": 0, "block_size": 1}
    for key, smallest in least.items():
        if type(spec[key]) is not int or spec[key] < smallest:
            raise ValueError(f"{META} has {key} {spec[key]!r}")
    for key, allowed in (
        ("kind", tuple(MODEL_KINDS)),
        ("activation", ACTIVATIONS),
        ("tie_lm_head", BOOLEANS),
        ("input_rmsnorm", BOOLEANS),
    ):
        if spec[key] not in allowed:
            raise ValueError(f"{META} has {key} {spec[key]!r}, which is none of {', '.join(map(str, allowed))}")
    if spec["n_embd"] % spec["n_head"] != 0:
        raise ValueError(f"{META} has n_embd {spec['n_embd']}, no multiple of n_head {spec['n_head']}")
    single = isinstance(chars, list) and all(isinstance(char, str) and len(char) == 1 for char in chars)
    if not single or len(set(chars)) != len(chars):
        raise ValueError(f"{META} has chars that are no list of distinct characters")
    if spec["vocab_size"] != len(chars) + len(special) + 1:
        others = f"{len(special)} special tokens and BOS" if special else "BOS"
        raise ValueError(f"vocab_size {spec['vocab_size']} is not that of {len(chars)} characters, {others}")


def parse_style(style: Any) -> dict[str, Any]:
    """The style's node that sampling needs; empty where the checkpoint records none."""
    if not style:
        return {}
    phrases, bias = style["phrases"], style["bias"]
    if not all(isinstance(phrase, str) and phrase for phrase in phrases) or not math.isfinite(bias):
        raise ValueError(f"{META} has a style whose phrases or bias cannot be used")
    return style


def parse_origin(found: Any) -> Origin | None:
    if found is None:
        return None
    origin = Origin(found["name"], found["step"], found["dtype"])
    names = isinstance(origin.name, str) and isinstance(origin.dtype, str)
    if not names or type(origin.step) is not int or origin.step < 0:
        raise ValueError(f"{META} has exported_from {found!r}")
    return origin


def parse_train_state(found: Any) -> TrainState:
    """Read train_state.json; what the earlier format did not have takes its default."""
    train = TrainState(**{f.name: found[f.name] for f in fields(TrainState) if f.name in found})
    whole = (train.step, train.first_step, train.tokens)
    if not all(type(number) is int and number >= 0 for number in whole):
        raise ValueError(f"{TRAIN_STATE} counts steps or tokens in {whole}")
    if not all(isinstance(loss, float) for loss in train.recent_losses):
        raise ValueError(f"{TRAIN_STATE} has recent_losses that are no numbers")
    if train.rng_state is not None:
        generator_at(train.rng_state)
    return train


def generator_at(state: list[Any]) -> random.Random:
    """The random generator whose `getstate()` was written to train_state.json."""
    version, internal, gauss_next = state
    generator = random.Random()
    generator.setstate((version, tuple(internal), gauss_next))
    return generator
