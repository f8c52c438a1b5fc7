"""The models that Hugging Face transformers classes can represent, with their config.json and weight names.

Checked against transformers 5.24.0. GPT2LMHeadModel, LlamaForCausalLM and NanoChatForCausalLM are supported. If a class
always has gains or biases, a model without them is written with ones or zeros.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from microgpt.errors import UserError
from microgpt.model.spec import ModelSpec
from microgpt.runs.transformers_weights import Stored, Tensors, from_stored, to_stored

# model.activation -> its names in transformers.activations.ACT2FN; the first one is written
ACTIVATIONS = {
    "relu": ("relu",),
    "relu_squared": ("relu2",),
    "gelu": ("gelu", "gelu_python"),
    "gelu_tanh": ("gelu_new", "gelu_pytorch_tanh"),
    "silu": ("silu", "swish"),
}


@dataclass(frozen=True)
class Family:
    """A transformers class and the models that it can represent."""

    model_type: str  # in config.json
    architecture: str
    needs: Mapping[str, Any]  # the options of a ModelSpec that the class fixes
    always: Mapping[str, Any]  # options that the class always has; at their initial values they have no effect
    config: Callable[[ModelSpec], dict[str, Any]]
    spec: Callable[[dict[str, Any]], dict[str, Any]]  # the inverse of `config`, without `needs` and `always`
    weights: Callable[[ModelSpec], list[Stored]]

    def to_tensors(self, spec: ModelSpec, arrays: Tensors) -> Tensors:
        """Return the tensors of model.safetensors."""
        complete = replace(spec, **self.always)
        return to_stored(self.weights(complete), complete, arrays)

    def from_tensors(self, spec: ModelSpec, tensors: Tensors) -> Tensors:
        """Return microgpt's tensors. Raises ValueError if one is missing or has the wrong shape."""
        return from_stored(self.weights(spec), spec, tensors)

    def obstacles(self, spec: ModelSpec) -> list[str]:
        """Return the options of a model that the class does not support."""
        own = {f.name: getattr(spec, f.name) for f in fields(spec)}
        own["n_kv_head"] = None if spec.kv_heads == spec.n_head else spec.n_kv_head
        return [key for key, value in self.needs.items() if own[key] != value]


def family_of(spec: ModelSpec) -> Family:
    """Return the family that can represent a model.

    Raises UserError with the nearest family and the options that it does not support.
    """
    nearest = min(FAMILIES.values(), key=lambda family: len(family.obstacles(spec)))
    obstacles = nearest.obstacles(spec)
    if obstacles:
        own = " ".join(f"model.{key}={shown(getattr(spec, key))}" for key in obstacles)
        instead = " ".join(f"model.{key}={shown(nearest.needs[key])}" for key in obstacles)
        raise UserError(
            f"export.format=transformers is not possible for this model: no transformers class supports {own}; "
            f"the nearest is {nearest.architecture}, which needs {instead}"
        )
    return nearest


def shown(value: Any) -> str:
    return "null" if value is None else str(value).lower()


def config_of(family: Family, spec: ModelSpec, bos: int, dtype: str) -> dict[str, Any]:
    """Return the content of config.json. BOS marks the start and the end of a text."""
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": spec.vocab_size,
        "tie_word_embeddings": spec.tie_lm_head,
        "initializer_range": spec.init_std,
        "bos_token_id": bos,
        "eos_token_id": bos,
        "pad_token_id": None,
        "dtype": dtype,
        **family.config(spec),
    }


def spec_of(config: dict[str, Any]) -> tuple[Family, ModelSpec]:
    """Return the family and the architecture of a config.json. Raises ValueError if it is not supported."""
    family = FAMILIES.get(config.get("model_type", ""))
    if family is None:
        raise ValueError(f"model_type {config.get('model_type')!r} is not supported; supported: {', '.join(FAMILIES)}")
    known = {name: ours for ours, theirs in ACTIVATIONS.items() for name in theirs}
    found = family.spec(config)
    if found["activation"] not in known:
        raise ValueError(f"the activation {found['activation']!r} is not supported; supported: {', '.join(known)}")
    found["activation"] = known[found["activation"]]
    if found["mlp_width"] == 4 * found["n_embd"]:
        found["mlp_width"] = None
    spec = ModelSpec(
        kind="gpt",
        vocab_size=config["vocab_size"],
        tie_lm_head=config.get("tie_word_embeddings", family.model_type == "gpt2"),
        **{key: value for key, value in family.needs.items() if key not in ("kind", *found)},
        **{key: value for key, value in family.always.items() if key not in found},
        **found,
    )
    return family, spec


def with_bias(name: str, ours: str, spec: ModelSpec, form: str = "matrix") -> list[Stored]:
    biases = [Stored(f"{name}.bias", (f"{ours}_bias",), "vector")] if spec.bias else []
    return [Stored(f"{name}.weight", (ours,), form), *biases]


# GPT-2


def gpt2_config(spec: ModelSpec) -> dict[str, Any]:
    return {
        "n_positions": spec.block_size,
        "n_embd": spec.n_embd,
        "n_layer": spec.n_layer,
        "n_head": spec.n_head,
        "n_inner": spec.mlp_features,
        "activation_function": ACTIVATIONS[spec.activation][0],
        "layer_norm_epsilon": spec.norm_eps,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }


def gpt2_spec(config: dict[str, Any]) -> dict[str, Any]:
    for key, computed in {
        "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
    }.items():  # fmt: skip
        if config.get(key, computed) != computed:
            raise ValueError(f"{key} is {config[key]}, which microgpt does not support")
    return {
        "n_embd": config["n_embd"],
        "n_head": config["n_head"],
        "n_layer": config["n_layer"],
        "block_size": config["n_positions"],
        "mlp_width": config.get("n_inner"),
        "activation": config.get("activation_function", "gelu_new"),
        "norm_eps": config.get("layer_norm_epsilon", 1e-5),
    }


def gpt2_weights(spec: ModelSpec) -> list[Stored]:
    qkv = ("attn_wq", "attn_wk", "attn_wv")

    def norm(name: str, ours: str) -> list[Stored]:
        return [Stored(f"{name}.{part}", (f"{ours}_{our}",), "vector") for part, our in
                (("weight", "gain"), ("bias", "bias"))]  # fmt: skip

    found = [Stored("transformer.wte.weight", ("wte",)), Stored("transformer.wpe.weight", ("wpe",))]
    for layer in range(spec.n_layer):
        theirs, ours = f"transformer.h.{layer}", f"layer{layer}"
        found += [
            *norm(f"{theirs}.ln_1", f"{ours}.attn_norm"),
            Stored(f"{theirs}.attn.c_attn.weight", tuple(f"{ours}.{name}" for name in qkv), "conv1d"),
            Stored(f"{theirs}.attn.c_attn.bias", tuple(f"{ours}.{name}_bias" for name in qkv), "vector"),
            *with_bias(f"{theirs}.attn.c_proj", f"{ours}.attn_wo", spec, "conv1d"),
            *norm(f"{theirs}.ln_2", f"{ours}.mlp_norm"),
            *with_bias(f"{theirs}.mlp.c_fc", f"{ours}.mlp_fc1", spec, "conv1d"),
            *with_bias(f"{theirs}.mlp.c_proj", f"{ours}.mlp_fc2", spec, "conv1d"),
        ]
    return [*found, *norm("transformer.ln_f", "final_norm"), *output_weights(spec)]


def output_weights(spec: ModelSpec) -> list[Stored]:
    return [] if spec.tie_lm_head else [Stored("lm_head.weight", ("lm_head",))]


# Llama and nanochat


def rotary_config(spec: ModelSpec) -> dict[str, Any]:
    return {
        "hidden_size": spec.n_embd,
        "intermediate_size": spec.mlp_features,
        "num_hidden_layers": spec.n_layer,
        "num_attention_heads": spec.n_head,
        "num_key_value_heads": spec.kv_heads,
        "max_position_embeddings": spec.block_size,
        "hidden_act": ACTIVATIONS[spec.activation][0],
        "rms_norm_eps": spec.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": spec.rope_theta},
        "attention_bias": spec.bias,
        "attention_dropout": 0.0,
    }


def rotary_spec(config: dict[str, Any]) -> dict[str, Any]:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"rope_type is {rope['rope_type']}, which microgpt does not support")
    n_embd, n_head = config["hidden_size"], config["num_attention_heads"]
    if (config.get("head_dim") or n_embd // n_head) * n_head != n_embd:
        raise ValueError(f"head_dim is {config['head_dim']}, but microgpt needs hidden_size / num_attention_heads")
    kv_heads = config.get("num_key_value_heads") or n_head
    return {
        "n_embd": n_embd,
        "n_head": n_head,
        "n_kv_head": None if kv_heads == n_head else kv_heads,
        "n_layer": config["num_hidden_layers"],
        "block_size": config["max_position_embeddings"],
        "mlp_width": config["intermediate_size"],
        "norm_eps": config.get("rms_norm_eps", 1e-6),
        "rope_theta": rope.get("rope_theta", config.get("rope_theta", 10000.0)),
        "bias": config.get("attention_bias", False),
    }


def llama_config(spec: ModelSpec) -> dict[str, Any]:
    return rotary_config(spec) | {"head_dim": spec.head_dim, "mlp_bias": spec.bias}


def llama_spec(config: dict[str, Any]) -> dict[str, Any]:
    if config.get("mlp_bias", False) != config.get("attention_bias", False):
        raise ValueError("attention_bias and mlp_bias differ, but microgpt has biases in both or in neither")
    return rotary_spec(config) | {"activation": config.get("hidden_act", "silu")}


def rotary_weights(spec: ModelSpec, qk_form: str, mlp: Mapping[str, str]) -> list[Stored]:
    """Return the tensors of a Llama-like class. `mlp` maps the class's names of MLP matrices to microgpt's names."""
    found = [Stored("model.embed_tokens.weight", ("wte",))]
    norms = {"input_layernorm": "attn_norm", "post_attention_layernorm": "mlp_norm"} if spec.norm_gain else {}
    attention = {"q_proj": "attn_wq", "k_proj": "attn_wk", "v_proj": "attn_wv", "o_proj": "attn_wo"}
    for layer in range(spec.n_layer):
        theirs, ours = f"model.layers.{layer}", f"layer{layer}"
        found += [Stored(f"{theirs}.{name}.weight", (f"{ours}.{our}_gain",), "vector") for name, our in norms.items()]
        for name, our in attention.items():
            form = qk_form if name in ("q_proj", "k_proj") else "matrix"
            found += with_bias(f"{theirs}.self_attn.{name}", f"{ours}.{our}", spec, form)
        for name, our in mlp.items():
            found += with_bias(f"{theirs}.mlp.{name}", f"{ours}.{our}", spec)
    final = [Stored("model.norm.weight", ("final_norm_gain",), "vector")] if spec.norm_gain else []
    return [*found, *final, *output_weights(spec)]


LLAMA_MLP = {"gate_proj": "mlp_gate", "up_proj": "mlp_fc1", "down_proj": "mlp_fc2"}
NANOCHAT_MLP = {"fc1": "mlp_fc1", "fc2": "mlp_fc2"}
FAMILIES = {
    "gpt2": Family(
        model_type="gpt2",
        architecture="GPT2LMHeadModel",
        needs={
            "kind": "gpt", "position": "learned", "norm": "layernorm", "final_norm": True, "input_rmsnorm": False,
            "qk_norm": False, "gated_mlp": False, "n_kv_head": None, "logit_softcap": None,
        },
        always={"norm_gain": True, "bias": True},
        config=gpt2_config,
        spec=gpt2_spec,
        weights=gpt2_weights,
    ),
    "llama": Family(
        model_type="llama",
        architecture="LlamaForCausalLM",
        needs={
            "kind": "gpt", "position": "rope", "norm": "rmsnorm", "final_norm": True, "input_rmsnorm": False,
            "qk_norm": False, "gated_mlp": True, "logit_softcap": None,
        },
        always={"norm_gain": True},
        config=llama_config,
        spec=llama_spec,
        weights=lambda spec: rotary_weights(spec, "matrix", LLAMA_MLP),
    ),
    "nanochat": Family(
        model_type="nanochat",
        architecture="NanoChatForCausalLM",
        needs={
            "kind": "gpt", "position": "rope", "norm": "rmsnorm", "norm_gain": False, "final_norm": True,
            "input_rmsnorm": True, "qk_norm": True, "bias": False, "gated_mlp": False,
        },
        always={},
        config=lambda spec: rotary_config(spec) | {"final_logit_softcapping": spec.logit_softcap},
        spec=lambda config: rotary_spec(config) | {
            "activation": config.get("hidden_act", "relu2"),
            "logit_softcap": config.get("final_logit_softcapping", 15.0),
        },
        weights=lambda spec: rotary_weights(spec, "half_swapped", NANOCHAT_MLP),
    ),
}  # fmt: skip
