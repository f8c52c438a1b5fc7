"""What is trained in each comparison: shape, batch, optimizer, steps, by baseline, profile and device.

The same values go to ours and to the baseline; what a baseline cannot take is told by its own module.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

BASELINES = ("microgpt", "nanogpt", "nanochat")
GROUPS = {"both": ("nanogpt", "nanochat"), "all": BASELINES}  # what --baseline may name beside one baseline
PROFILES = ("quick", "full")
INTERVALS = 5  # evaluations of a run: the steps before the first are its warm-up


@dataclass(frozen=True)
class Precision:
    """How a contestant computes, in as much as both sides can be told."""

    dtype: str  # float32 | float64 | bfloat16
    compiled: bool = False  # torch.compile

    def __str__(self) -> str:
        return self.dtype + ", compiled" * self.compiled


@dataclass(frozen=True)
class Workload:
    """One training, as every contestant of a comparison is asked for it."""

    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    batch_size: int
    steps: int
    lr: float
    beta1: float
    beta2: float
    grad_clip: float | None
    schedule: str  # as ours calls it
    eval_documents: int  # validation examples, at most
    seed: int
    device: str  # cpu | cuda
    threads: int | None = None  # CPU threads of every program; None: as many as each takes by itself

    @property
    def thread_variables(self) -> dict[str, str]:
        """What tells PyTorch how many threads it may use."""
        return {} if self.threads is None else {"OMP_NUM_THREADS": str(self.threads)}

    @property
    def interval(self) -> int:
        """Steps between evaluations."""
        return self.steps // INTERVALS

    def briefly(self) -> str:
        clip = f", gradient clipped at {self.grad_clip:g}" if self.grad_clip else ""
        threads = (
            "threads as each program chooses" if self.threads is None else f"{counted(self.threads, 'thread')} each"
        )
        return (
            f"{counted(self.n_layer, 'layer')}, {counted(self.n_head, 'head')}, n_embd {self.n_embd}, "
            f"block {self.block_size}, batch {self.batch_size}, {self.steps} steps; Adam lr {self.lr:g}, "
            f"betas {self.beta1:g} and {self.beta2:g}, schedule {self.schedule}{clip}; seed {self.seed}, "
            f"device {self.device}, {threads}"
        )


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def workload(
    baseline: str, profile: str, device: str, seed: int, steps: int | None = None, threads: int | None = None
) -> Workload:
    """`steps` replaces the profile's own number; it is a multiple of INTERVALS."""
    is_full, on_gpu = profile == "full", device == "cuda"
    if baseline == "microgpt":  # the model and the optimizer that stand in microgpt.py, which knows no GPU
        found = Workload(1, 4, 16, 16, 1, 1000 if is_full else 60, 0.01, 0.85, 0.99, None, "linear", 200, seed, "cpu")
    else:
        large = is_full or on_gpu
        block, batch = (128, 32) if large else (64, 12)  # the small one: nanoGPT's README, for a CPU
        count = {(False, False): 100, (True, False): 500, (False, True): 500, (True, True): 2000}[is_full, on_gpu]
        clip, schedule = (1.0, "cosine") if baseline == "nanogpt" else (None, "warmdown")
        found = Workload(4, 4, 128, block, batch, count, 1e-3, 0.9, 0.95, clip, schedule, 240, seed, device)
    return replace(found, steps=steps or found.steps, threads=threads)


def precisions(baseline: str, profile: str, device: str) -> Sequence[Precision]:
    """In which ways a baseline that uses PyTorch is run: quick, as it comes; full, compiled and not.

    nanochat always compiles; nanoGPT does, but its README leaves it out on a CPU.
    """
    as_it_comes = baseline == "nanochat" or device == "cuda"  # whether that is compiled
    compiled = [as_it_comes] if profile == "quick" else [as_it_comes, not as_it_comes]
    dtypes = ["float32"] if device == "cpu" else ["float32", "bfloat16"]
    return [Precision(dtype, each) for dtype in dtypes for each in compiled]
