"""The backends and the options of an engine."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BackendChoice:
    """What a backend supports."""

    devices: tuple[str, ...]
    dtypes: tuple[str, ...]  # the default first
    kernels: tuple[str, ...] = ("auto",)
    keys: tuple[str, ...] = ()  # the keys of `backend` that it reads besides name, device, dtype and kernel


# Every value of backend.name. engines/__init__.py maps these names to engines; engines/choice.py resolves `auto`.
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
    """Where and how an engine computes. Options that a backend does not read keep their defaults."""

    backend: str  # a key of BACKENDS
    device: str = "auto"
    dtype: str | None = None  # None: the backend's default; bfloat16: parameters in float32, products in bfloat16
    threads: int | None = None  # CPU threads; None: one for each core available to this process
    kernel: str = "auto"
    compile: bool = False  # torch.compile
    micro_batch: int | None = None  # examples in one pass; the gradients of a batch's passes add up
    world_size: int = 1  # processes of a torchrun that share each batch
    reason: str = ""  # why `auto` became this backend
