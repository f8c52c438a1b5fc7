"""Where to compute and in which numbers: what was asked for, or a sentence why this machine cannot."""

import torch

from microgpt.distributed import Processes, processes
from microgpt.engines.options import EngineOptions
from microgpt.errors import UserError

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}  # of the parameters

OPERATIONS_FOR_THREADS = 5e6  # floating-point operations of a step from which several CPU threads pay


def available_devices() -> list[str]:
    """The best one first."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [name for name, is_there in found.items() if is_there]


def choose_device(asked: str) -> torch.device:
    found = available_devices()
    if asked not in ("auto", "cpu", "cuda", "mps"):
        raise UserError(f"backend.device={asked} is not allowed: it is one of auto, cpu, cuda, mps")
    if asked != "auto" and asked not in found:
        there = "cpu alone" if found == ["cpu"] else ", ".join(found)
        raise UserError(f"backend.device={asked} is not available: this PyTorch ({torch.__version__}) finds {there}")
    here = processes()
    if here.count > 1:
        return device_of_process(asked, found, here)
    return torch.device(found[0] if asked == "auto" else asked)


def device_of_process(asked: str, found: list[str], here: Processes) -> torch.device:
    """The device of one of several processes, on CUDA a GPU of its own. MPS cannot add up over processes."""
    chosen = next(name for name in found if name != "mps") if asked == "auto" else asked
    if chosen == "mps":
        raise UserError(f"backend.device=mps is not allowed with {here.count} processes: it is one of auto, cpu, cuda")
    if chosen == "cpu":
        return torch.device("cpu")
    gpus = torch.cuda.device_count()
    if here.local_count > gpus:
        raise UserError(
            f"backend.device={asked} is not allowed with {here.local_count} processes on a machine with {gpus} GPU(s): "
            f"each needs one of its own, so say --nproc-per-node {gpus}, or backend.device=cpu"
        )
    return torch.device("cuda", here.local_rank)


def choose_dtype(asked: str | None, device: torch.device) -> str:
    """Name of the type: that of the parameters, or bfloat16, which is that of the products alone."""
    allowed = [name for name in DTYPES if name != "float64" or device.type != "mps"]
    if asked is not None and asked not in allowed:
        raise UserError(f"backend.dtype={asked} is not possible on {device.type}: it is one of {', '.join(allowed)}")
    return asked or "float32"


def use_threads(options: EngineOptions, operations: float) -> int:
    """How many CPU threads PyTorch uses from now on, in the whole process, for steps of so many operations.

    Small steps get one thread by themselves: PyTorch's threads wait for each other many times a step, and where another
    process wants a core too, a step of a tiny model takes ten times as long with them as without.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    elif operations < OPERATIONS_FOR_THREADS:
        torch.set_num_threads(1)
    return torch.get_num_threads()
