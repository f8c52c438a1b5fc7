"""What an engine is told about where and how to compute. Standard library alone."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineOptions:
    """Where and how to compute; what an engine does not use keeps its default."""

    backend: str  # python | native | torch: `auto` has been decided by then (engines/choice.py)
    device: str = "auto"  # auto | cpu | cuda | mps
    dtype: str | None = None  # float32 | float64 | bfloat16 (torch: parameters in float32, products in bfloat16)
    threads: int | None = None  # CPU threads; None: one for each core that this process may use
    kernel: str = "auto"  # native: auto | features
    compile: bool = False  # torch: torch.compile
    micro_batch: int | None = None  # torch: examples in one pass; gradients of a batch's passes add up
    processes: int = 1  # torch: among which each batch is shared out
    reason: str = ""  # why this backend, where it was chosen by a rule
