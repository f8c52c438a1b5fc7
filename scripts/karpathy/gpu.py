"""Whether a benchmark computes on a GPU, and whether it has to. The answer is a sentence that the report has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gpu:
    device: str  # cpu | cuda
    required: bool
    told: str
    refused: bool = False  # one is required and cannot be used: nothing is run


def decide(
    require: bool | None, gpus: Sequence[dict[str, Any]], baselines: Sequence[str], usable: Callable[[], bool]
) -> Gpu:
    """`require` is what was asked for, None: only where a GPU is visible. `usable` says whether PyTorch finds one."""
    if list(baselines) == ["microgpt"] and not require:
        return Gpu("cpu", False, "not asked for: microgpt.py computes on the CPU alone")
    if not gpus:
        if require:
            return Gpu("cpu", True, "--require-gpu, and nvidia-smi lists none: nothing is run", refused=True)
        why = "--no-require-gpu" if require is False else "not required, as no GPU is visible to nvidia-smi"
        return Gpu("cpu", False, f"{why}: all runs are on the CPU")
    name = gpus[0]["name"]
    if usable():
        why = {True: "--require-gpu", None: "required, as it is visible", False: "--no-require-gpu"}[require]
        note = "; microgpt.py computes on the CPU all the same" if "microgpt" in baselines else ""
        return Gpu("cuda", require is not False, f"{name}: {why}{note}")
    if require is False:
        return Gpu("cpu", False, f"--no-require-gpu: PyTorch cannot use {name}, all runs are on the CPU")
    why = "--require-gpu" if require else "required, as it is visible (--no-require-gpu says otherwise)"
    return Gpu("cpu", True, f"{why}, and PyTorch cannot use {name}: nothing is run", refused=True)
