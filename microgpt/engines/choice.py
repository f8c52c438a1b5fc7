"""Which engine computes when nobody says: backend=auto. The reason goes into the record."""

from dataclasses import replace
from importlib.util import find_spec

from microgpt.engines.options import EngineOptions
from microgpt.errors import UserError
from microgpt.model.spec import ModelSpec

# Floating-point operations of a training step from which a GPU may pay: below, starting its kernels takes longer than
# the native engine's whole step.
LARGE_STEP = 1e9


def choose(options: EngineOptions, spec: ModelSpec, tokens: float) -> EngineOptions:
    """`options` with `auto` replaced by torch or native; `tokens` is how many targets a step has.

    torch where a GPU was asked for, or is there and a step is large enough for it, or where several processes share
    the work; native otherwise.
    """
    if options.backend != "auto":
        return options
    if options.processes > 1:
        return replace(options, backend="torch", reason=f"{options.processes} processes share the work")
    if options.device in ("cuda", "mps"):
        return replace(options, backend="torch", reason=f"backend.device={options.device} was asked for")
    if options.device == "cpu":
        return replace(options, backend="native", reason="backend.device=cpu was asked for")
    operations = 6 * spec.parameter_count() * tokens
    if operations < LARGE_STEP:
        return replace(
            options, backend="native", reason=f"a step of {operations:.1e} operations is too small for a GPU"
        )
    if find_spec("torch") is None:
        return replace(options, backend="native", reason="PyTorch is not installed, so there is no GPU to ask for")
    from microgpt.engines.torch.device import available_devices

    device = available_devices()[0]
    if device == "cpu" or (device == "mps" and options.dtype == "float64"):
        return replace(options, backend="native", reason=f"PyTorch finds no GPU for {options.dtype or 'float32'}")
    reason = f"{device} is there and a step has {operations:.1e} operations"
    return replace(options, backend="torch", device=device, reason=reason)


def refuse_unavailable(options: EngineOptions) -> None:
    """Raises UserError for a library, a device or a kind of number that is not there; before anything is written."""
    if options.backend != "torch":
        return
    if find_spec("torch") is None:
        raise UserError("backend=torch needs PyTorch: pip install 'microgpt[torch]'")
    from microgpt.engines.torch.device import choose_device, choose_dtype

    choose_dtype(options.dtype, choose_device(options.device))


def is_on_gpu(options: EngineOptions) -> bool:
    """Whether these options compute on a GPU. Raises UserError for one that was asked for and is not there."""
    if options.backend != "torch":
        return False
    from microgpt.engines.torch.device import choose_device

    return choose_device(options.device).type != "cpu"
