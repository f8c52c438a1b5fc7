"""The choice of the device, the dtype and the number of threads."""

import torch

from microgpt.distributed import Process, this_process
from microgpt.engines.options import BACKENDS, EngineOptions
from microgpt.errors import UserError

CHOICE = BACKENDS["torch"]
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}  # dtype of the parameters

OPERATIONS_FOR_THREADS = 5e6  # floating-point operations per step above which several CPU threads are faster


def available_devices() -> list[str]:
    """Return the devices of this machine, fastest first."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [name for name, is_available in found.items() if is_available]


def choose_device(requested: str) -> torch.device:
    """Return the requested device, or the fastest for `auto`. Raises UserError if it is not available."""
    found = available_devices()
    if requested not in CHOICE.devices:
        raise UserError(f"backend.device={requested} is not allowed: choose one of {', '.join(CHOICE.devices)}")
    if requested != "auto" and requested not in found:
        names = "only cpu" if found == ["cpu"] else ", ".join(found)
        raise UserError(
            f"backend.device={requested} is not available: this PyTorch ({torch.__version__}) finds {names}"
        )
    process = this_process()
    if process.world_size > 1:
        return device_of_process(requested, found, process)
    return torch.device(found[0] if requested == "auto" else requested)


def device_of_process(requested: str, found: list[str], process: Process) -> torch.device:
    """Return the device of one of several processes: the CPU, or one GPU per process. MPS has no all_reduce."""
    name = next(name for name in found if name != "mps") if requested == "auto" else requested
    if name == "mps":
        raise UserError(
            f"backend.device=mps is not allowed with {process.world_size} processes: choose one of auto, cpu, cuda"
        )
    if name == "cpu":
        return torch.device("cpu")
    gpus = torch.cuda.device_count()
    if process.local_world_size > gpus:
        raise UserError(
            f"backend.device={requested} is not allowed with {process.local_world_size} processes on a machine with "
            f"{gpus} GPU(s): each process needs its own GPU, so use --nproc-per-node {gpus} or backend.device=cpu"
        )
    return torch.device("cuda", process.local_rank)


def choose_dtype(requested: str | None, device: torch.device) -> str:
    """Return the name of the dtype. Raises UserError if the device does not support it."""
    allowed = [name for name in CHOICE.dtypes if name != "float64" or device.type != "mps"]
    if requested is not None and requested not in allowed:
        raise UserError(
            f"backend.dtype={requested} is not possible on {device.type}: choose one of {', '.join(allowed)}"
        )
    return requested or CHOICE.dtypes[0]


def set_threads(options: EngineOptions, operations: float) -> int:
    """Set the number of CPU threads of this process according to the operations per step, and return the number.

    Small steps use one thread by default: PyTorch's threads synchronise many times in a step, and if another process
    competes for a core, a step of a tiny model takes ten times as long with several threads as with one thread.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    elif operations < OPERATIONS_FOR_THREADS:
        torch.set_num_threads(1)
    return torch.get_num_threads()
