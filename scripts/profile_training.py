"""Time a short training of the PyTorch engine without a profiler, then profile it. Started by profile_gpu.sh.

    python scripts/profile_training.py --out results/profile --no-require-gpu --steps 5

Writes to --out: profile.json (device, times, the operators that take longest), operators.txt (a table) and trace.json
(for a trace viewer); with `--profiler none`, for an external profiler, only profile.json. The warm-up steps, with their
allocations and compilation, are excluded. The exit code is 1 if a GPU is required but was not used.
"""

import argparse
import json
import platform
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import harness
import numpy as np

from microgpt import __version__
from microgpt.benchmarks.reference import names_corpus, reference_engine
from microgpt.engines.base import Engine
from microgpt.engines.options import EngineOptions
from microgpt.errors import MicrogptError
from microgpt.runs.environment import cpu_model

STEPS = {"cuda": (5, 20), "cpu": (1, 3)}  # number of warm-up steps, and default of --steps
LISTED = 15  # operators in profile.json
SHAPE = {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 128, "batch_size": 32}


def choose_device(require_gpu: bool) -> str:
    """Return cuda or, if a GPU is neither required nor available, cpu. Raises MicrogptError."""
    if find_spec("torch") is None:
        raise MicrogptError("there is nothing to profile: PyTorch is not installed")
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if require_gpu:
        raise MicrogptError(
            f"PyTorch {torch.__version__} sees no CUDA GPU, so there is none to profile "
            "(scripts/nvidia_doctor.sh prints the reason; REQUIRE_GPU=0 profiles the CPU)"
        )
    return "cpu"


def seconds_of(engine: Engine, step: int, steps: int, replicas: int = 1) -> float:
    """Return the seconds of training steps. Reading the losses at the end waits for the device."""
    start = time.perf_counter()
    engine.advance(step, np.full((steps, replicas), 1e-3))
    return time.perf_counter() - start


def profile_steps(engine: Engine, step: int, steps: int, out: Path, replicas: int = 1) -> dict[str, Any]:
    """Profile training steps; write the table and the trace. Times in microseconds, over all steps."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if engine.info.using_gpu else [])]
    with profile(activities=activities) as profiler:
        seconds = seconds_of(engine, step, steps, replicas)
    found: Any = profiler.key_averages()
    order = "self_device_time_total" if engine.info.using_gpu else "self_cpu_time_total"
    (out / "operators.txt").write_text(found.table(sort_by=order, row_limit=50))
    profiler.export_chrome_trace(str(out / "trace.json"))
    # A kernel is counted once, by its own event and not by the operator that started it.
    kernels = [event for event in found if event.device_type.name != "CPU" and not event.is_user_annotation]
    shown = sorted(found, key=lambda event: getattr(event, order), reverse=True)[:LISTED]
    return {
        "seconds_profiled": seconds,
        "kernels": sum(event.count for event in kernels),
        "kernel_us": sum(event.self_device_time_total for event in kernels),
        "operators": [
            {"name": event.key, "calls": event.count, order.replace("_total", "_us"): getattr(event, order)}
            for event in shown
        ],
    }


def measure(a: argparse.Namespace) -> dict[str, Any]:
    """Warm up, time, profile; return the content of profile.json."""
    device = choose_device(a.require_gpu)
    import torch

    shape = {key: getattr(a, key) for key in SHAPE}
    # One running text, so that every example fills the block.
    corpus = names_corpus(text_format="stream", block_size=a.block_size)
    sizes = {key: value for key, value in shape.items() if key != "batch_size"}
    options = EngineOptions("torch", device=device, dtype=a.dtype, compile=a.compile)
    engine = reference_engine(options, corpus, a.batch_size, **sizes)
    a.out.mkdir(parents=True, exist_ok=True)
    warm_up, steps = STEPS[device]
    steps = a.steps or steps
    seconds_of(engine, 0, warm_up)
    seconds = seconds_of(engine, warm_up, steps)
    info = engine.info
    found = {
        "device": info.device,
        "device_name": torch.cuda.get_device_name() if info.using_gpu else cpu_model(),
        "using_gpu": info.using_gpu,
        "dtype": info.dtype,
        "kernel": info.kernel,
        "threads": info.threads,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "microgpt": __version__},
        **shape,
        "steps": steps,
        "warm_up_steps": warm_up,
        "seconds": seconds,
        "ms_per_step": 1e3 * seconds / steps,
    }
    if info.using_gpu:
        found["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
    if a.profiler == "torch":
        found |= profile_steps(engine, warm_up + steps, steps, a.out)
    (a.out / "profile.json").write_text(json.dumps(found, indent=2) + "\n")
    return found


def main() -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument("--require-gpu", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--profiler", choices=["torch", "none"], default="torch")
    parser.add_argument(
        "--steps", type=harness.at_least(1), help="number of steps to time, then to profile (20; 3 without a GPU)"
    )
    for key, value in SHAPE.items():
        parser.add_argument(f"--{key.replace('_', '-')}", type=harness.at_least(1), default=value, help=f"({value})")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float64"], default="float32")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    a = parser.parse_args()
    found = measure(a)
    print(f"device={found['device']} using_gpu={str(found['using_gpu']).lower()} {found['device_name']}")
    print(f"{found['ms_per_step']:.3f} ms a step of {found['steps']}, without the profiler")
    if not found["using_gpu"]:
        print("no GPU was used: this is a profile of the CPU")
        if a.require_gpu:
            raise MicrogptError("the training did not run on the GPU")
    elif a.profiler == "torch":
        share = found["kernel_us"] / 1e6 / found["seconds_profiled"]
        print(f"kernels ran in {share:.0%} of the profiled time ({found['kernels']} of them)")
        if not found["kernels"]:
            raise MicrogptError("the profiler recorded no GPU kernel")
    return 0


if __name__ == "__main__":
    sys.exit(harness.finish(main))
