"""The training of each comparison: sizes, batch, optimizer and steps by baseline, profile and device.

The baseline and this project get the same settings; the module of a baseline lists the exceptions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from microgpt.reports.tables import counted

BASELINES = ("microgpt", "nanogpt", "nanochat")
GROUPS = {"both": ("nanogpt", "nanochat"), "all": BASELINES}  # additional values of --baseline
PROFILES = ("quick", "full")
INTERVALS = 5  # evaluations of a run; the steps before the first one are its warm-up


@dataclass(frozen=True)
class Precision:
    dtype: str  # float32 | float64 | bfloat16
    compiled: bool = False  # torch.compile

    def __str__(self) -> str:
        return self.dtype + ", compiled" * self.compiled

    @property
    def file_name(self) -> str:
        return self.dtype + "_compiled" * self.compiled

    def variables(self, device: str) -> dict[str, str]:
        """Return the environment variables that make float32 products exact on a GPU."""
        return {"NVIDIA_TF32_OVERRIDE": "0"} if device == "cuda" and self.dtype == "float32" else {}


@dataclass(frozen=True)
class Setup:
    """The training settings of every program in a comparison."""

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
    schedule: str  # a schedule of this project
    eval_documents: int  # largest number of validation examples
    seed: int
    device: str  # cpu | cuda
    threads: int | None = None  # CPU threads of every program; None: each program's default

    @property
    def thread_variables(self) -> dict[str, str]:
        """Return the environment variables that limit PyTorch's threads."""
        return {} if self.threads is None else {"OMP_NUM_THREADS": str(self.threads)}

    @property
    def interval(self) -> int:
        """Steps between evaluations."""
        return self.steps // INTERVALS

    @property
    def warmdown(self) -> int:
        """Number of steps in which the learning rate descends: the last 65 %, as in nanochat by default."""
        return round(0.65 * self.steps)

    def summary(self) -> str:
        clip = f", gradient clipped at {self.grad_clip:g}" if self.grad_clip else ""
        threads = f"{counted(self.threads, 'thread')} each" if self.threads else "threads as each program chooses"
        return (
            f"{counted(self.n_layer, 'layer')}, {counted(self.n_head, 'head')}, n_embd {self.n_embd}, "
            f"block {self.block_size}, batch {self.batch_size}, {self.steps} steps; Adam lr {self.lr:g}, "
            f"betas {self.beta1:g} and {self.beta2:g}, schedule {self.schedule}{clip}; seed {self.seed}, "
            f"device {self.device}, {threads}"
        )


def make_setup(
    baseline: str, profile: str, device: str, seed: int, steps: int | None = None, threads: int | None = None
) -> Setup:
    """Return the settings of a comparison; `steps`, a multiple of INTERVALS, replaces the number of the profile."""
    is_full, on_gpu = profile == "full", device == "cuda"
    if baseline == "microgpt":  # the model and the optimizer of microgpt.py, which has no GPU support
        found = Setup(1, 4, 16, 16, 1, 1000 if is_full else 60, 0.01, 0.85, 0.99, None, "linear", 200, seed, "cpu")
    else:
        block, batch = (128, 32) if is_full or on_gpu else (64, 12)  # the small size: nanoGPT's README, for a CPU
        count = {(False, False): 100, (True, False): 500, (False, True): 500, (True, True): 2000}[is_full, on_gpu]
        clip, schedule = (1.0, "cosine") if baseline == "nanogpt" else (None, "warmdown")
        found = Setup(4, 4, 128, block, batch, count, 1e-3, 0.9, 0.95, clip, schedule, 240, seed, device)
    return replace(found, steps=steps or found.steps, threads=threads)


def compiles_by_default(baseline: str, device: str) -> bool:
    """Return whether a baseline uses torch.compile by default. nanoGPT's README turns it off on a CPU."""
    return baseline == "nanochat" or device == "cuda"


def precisions(baseline: str, profile: str, device: str) -> Sequence[Precision]:
    """Return how to run a PyTorch baseline: with its default (quick), or both compiled and not (full)."""
    default = compiles_by_default(baseline, device)
    compiled = [default] if profile == "quick" else [default, not default]
    dtypes = ["float32"] if device == "cpu" else ["float32", "bfloat16"]
    return [Precision(dtype, each) for dtype in dtypes for each in compiled]
