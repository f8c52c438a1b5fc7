"""The choice of the engine for backend=auto, and checks that a backend can run on this machine."""

from dataclasses import replace
from importlib.util import find_spec

from microgpt.engines.options import BACKENDS, EngineOptions, missing_option
from microgpt.errors import UserError
from microgpt.installation import install_command
from microgpt.model.spec import ModelSpec

# The number of floating-point operations per training step above which a GPU may be faster: for smaller steps,
# launching the GPU's kernels takes longer than the whole step of the native engine.
LARGE_STEP = 1e9


def choose(options: EngineOptions, spec: ModelSpec, tokens: float) -> EngineOptions:
    """Return `options` with `auto` replaced by torch or native, and the reason.

    torch is chosen for several processes, for a requested GPU, for an option that native does not compute, and for an
    available GPU if the steps are large enough.
    `tokens` is the number of targets per step.
    """
    if options.backend != "auto":
        return options
    if options.world_size > 1:
        return replace(options, backend="torch", reason=f"{options.world_size} processes share the work")
    if missing := missing_option("native", spec):
        return replace(options, backend="torch", reason=f"backend=native does not implement {missing}")
    if options.device != "auto":
        backend = "native" if options.device in BACKENDS["native"].devices else "torch"
        return replace(options, backend=backend, reason=f"backend.device={options.device} was requested")
    operations = 6 * spec.parameter_count() * tokens
    if operations < LARGE_STEP:
        reason = f"a step of {operations:.1e} operations is too small for a GPU"
        return replace(options, backend="native", reason=reason)
    if find_spec("torch") is None:
        return replace(options, backend="native", reason="PyTorch is not installed, so no GPU can be used")
    from microgpt.engines.torch.device import available_devices

    device = available_devices()[0]
    if device == "cpu" or (device == "mps" and options.dtype == "float64"):
        return replace(options, backend="native", reason=f"PyTorch finds no GPU for {options.dtype or 'float32'}")
    reason = f"{device} is available and a step has {operations:.1e} operations"
    return replace(options, backend="torch", device=device, reason=reason)


def check_available(options: EngineOptions) -> None:
    """Raise UserError if this machine lacks the backend's library, the device, the dtype or the kernel."""
    if options.backend != "torch":
        return
    if find_spec("torch") is None:
        raise UserError(f"backend=torch needs PyTorch: {install_command('torch')}")
    from microgpt.engines.torch.cuda_graphs import check_kernel
    from microgpt.engines.torch.device import choose_device, choose_dtype

    device = choose_device(options.device)
    choose_dtype(options.dtype, device)
    check_kernel(options, device)


def is_on_gpu(options: EngineOptions) -> bool:
    """Return whether the engine computes on a GPU. Raises UserError if a requested GPU is not available."""
    if options.backend != "torch":
        return False
    from microgpt.engines.torch.device import choose_device

    return choose_device(options.device).type != "cpu"
