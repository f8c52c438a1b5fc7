"""The backends and the options of an engine."""

from dataclasses import MISSING, dataclass, fields

from microgpt.model.spec import INITIAL, ModelSpec

# The options of a model that all backends compute: fields of ModelSpec besides the kind, sizes and initial weights.
MODEL_OPTIONS = (
    "tie_lm_head", "input_rmsnorm", "activation", "position", "rope_theta", "norm", "norm_eps", "norm_gain",
    "final_norm", "qk_norm", "bias", "gated_mlp", "mlp_width", "n_kv_head", "logit_softcap",
)  # fmt: skip


@dataclass(frozen=True)
class BackendChoice:
    """The devices, dtypes, kernels, keys and options of a model that a backend supports."""

    devices: tuple[str, ...]
    dtypes: tuple[str, ...]  # the default first
    kernels: tuple[str, ...] = ("auto",)
    keys: tuple[str, ...] = ()  # the keys of `backend` that it uses besides name, device, dtype and kernel
    model_options: tuple[str, ...] = MODEL_OPTIONS


# All allowed values of backend.name. engines/__init__.py maps the names to engines; auto_backend.py resolves `auto`.
BACKENDS = {
    "python": BackendChoice(devices=("auto", "cpu"), dtypes=("float64",)),
    "native": BackendChoice(
        devices=("auto", "cpu"), dtypes=("float32", "float64"), kernels=("auto", "features"), keys=("threads",)
    ),
    "torch": BackendChoice(
        devices=("auto", "cpu", "cuda", "mps"),
        dtypes=("float32", "float64", "bfloat16"),
        kernels=("auto", "eager", "cuda_graph"),
        keys=("threads", "compile", "micro_batch"),
    ),
    "auto": BackendChoice(devices=("auto", "cpu", "cuda", "mps"), dtypes=("float32", "float64"), keys=("threads",)),
}


@dataclass(frozen=True)
class EngineOptions:
    """The options of an engine. Options that the backend does not use keep their defaults."""

    backend: str  # a key of BACKENDS
    device: str = "auto"
    dtype: str | None = None  # None: the backend's default; bfloat16: parameters in float32, products in bfloat16
    threads: int | None = None  # number of CPU threads; None: one per core available to this process
    kernel: str = "auto"
    compile: bool = False  # use torch.compile
    micro_batch: int | None = None  # examples per pass; the gradients of a batch's passes are added
    world_size: int = 1  # number of torchrun processes that share each batch
    reason: str = ""  # why `auto` selected this backend


def missing_option(backend: str, spec: ModelSpec) -> str:
    """Return an option with an effect on the model that the backend does not compute, as `key=value`, or ""."""
    known = {*INITIAL, *BACKENDS[backend].model_options}
    for field in fields(spec):
        value = getattr(spec, field.name)
        if field.default is not MISSING and field.name not in known and value != field.default:
            return f"model.{field.name}={str(value).lower() if isinstance(value, bool) else value}"
    return ""
