"""Where to compute and in which numbers: what was asked for, or a sentence why this machine cannot."""

import torch

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
    return torch.device(found[0] if asked == "auto" else asked)


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
