"""One short training by the torch engine, timed without a profiler and then profiled. profile_gpu.sh starts it.

    python scripts/_profiled_run.py --out results/profile --no-require-gpu --steps 5

Writes into --out: profile.json (where it ran, times, the costliest operators), operators.txt (a table) and trace.json
(for a trace viewer); with `--profiler none`, for a profiler around it, profile.json alone. The first steps, with their
allocations and compilation, are in no figure. Exit code 1 where a GPU is required and was not used.
"""

import argparse
import json
import platform
import sys
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from microgpt.data.corpus import build_corpus
from microgpt.data.sources import read_source
from microgpt.engines import make_engine
from microgpt.engines.base import Engine, Workload
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.errors import UserError
from microgpt.model.spec import ModelSpec
from microgpt.runs.environment import cpu_model
from microgpt.training.assembly import initial_state

STEPS = {"cuda": (5, 20), "cpu": (1, 3)}  # to warm up, and to time where --steps does not say
COSTLIEST = 15  # operators that profile.json lists


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for what is written")
    parser.add_argument("--require-gpu", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--profiler", choices=["torch", "none"], default="torch")
    parser.add_argument("--steps", type=positive, help="that are timed, then profiled (default: 20; 3 without a GPU)")
    parser.add_argument("--n-layer", type=positive, default=4)
    parser.add_argument("--n-head", type=positive, default=4)
    parser.add_argument("--n-embd", type=positive, default=128)
    parser.add_argument("--block-size", type=positive, default=128)
    parser.add_argument("--batch-size", type=positive, default=32)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float64"], default="float32")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    return parser.parse_args()


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def choose_device(require_gpu: bool) -> str:
    """cuda, or where it is not required and not there, cpu. Raises UserError."""
    if find_spec("torch") is None:
        raise UserError("PyTorch is not installed, so there is nothing to profile")
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if require_gpu:
        raise UserError(
            f"PyTorch {torch.__version__} sees no CUDA GPU, so there is none to profile "
            "(scripts/nvidia_doctor.sh says why; REQUIRE_GPU=0 profiles the CPU)"
        )
    return "cpu"


def make(a: argparse.Namespace, device: str) -> Engine:
    """One model on the embedded names as one running text, so that every example fills the block."""
    corpus = build_corpus(
        read_source("names", None),
        text_format="stream",
        long_documents="truncate",
        val_fraction=0.0,
        split_seed=0,
        block_size=a.block_size,
    )
    spec = ModelSpec(
        "gpt",
        corpus.tokenizer.vocab_size,
        n_embd=a.n_embd,
        n_head=a.n_head,
        n_layer=a.n_layer,
        block_size=a.block_size,
    )
    start = initial_state(42, corpus, spec, batch_size=a.batch_size, style_share=0.0)
    options = EngineOptions("torch", device=device, dtype=a.dtype, compile=a.compile)
    adam = OptimizerSpec("adam", beta1=0.85, beta2=0.99, eps=1e-8)
    return make_engine(options, spec, adam, Workload(corpus.examples, [start.order]), start.engine_state)


def seconds(engine: Engine, step: int, steps: int) -> float:
    """Of so many training steps. Losses come back at the end, so the device has finished."""
    began = time.perf_counter()
    engine.advance(step, np.full((steps, 1), 1e-3))
    return time.perf_counter() - began


def profiled(engine: Engine, step: int, steps: int, out: Path) -> dict[str, Any]:
    """Profile so many steps; writes the table and the trace. Times in microseconds, over all steps."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if engine.info.using_gpu else [])]
    with profile(activities=activities) as profiler:
        spent = seconds(engine, step, steps)
    found: Any = profiler.key_averages()
    order = "self_device_time_total" if engine.info.using_gpu else "self_cpu_time_total"
    (out / "operators.txt").write_text(found.table(sort_by=order, row_limit=50))
    profiler.export_chrome_trace(str(out / "trace.json"))
    # A kernel counts once: its own event, not the operator that started it.
    kernels = [event for event in found if event.device_type.name != "CPU" and not event.is_user_annotation]
    shown = sorted(found, key=lambda event: getattr(event, order), reverse=True)[:COSTLIEST]
    return {
        "seconds_profiled": spent,
        "kernels": sum(event.count for event in kernels),
        "kernel_us": sum(event.self_device_time_total for event in kernels),
        "operators": [
            {"name": event.key, "calls": event.count, order.replace("_total", "_us"): getattr(event, order)}
            for event in shown
        ],
    }


def measure(a: argparse.Namespace) -> dict[str, Any]:
    """Warm up, time, profile; everything that profile.json holds."""
    import torch

    device = choose_device(a.require_gpu)
    engine = make(a, device)
    a.out.mkdir(parents=True, exist_ok=True)
    warm_up, steps = STEPS[device]
    steps = a.steps or steps
    seconds(engine, 0, warm_up)
    spent = seconds(engine, warm_up, steps)
    shape = {key: getattr(a, key) for key in ("n_layer", "n_head", "n_embd", "block_size", "batch_size")}
    info = engine.info
    found = {
        "device": info.device,
        "device_name": torch.cuda.get_device_name() if info.using_gpu else cpu_model(),
        "using_gpu": info.using_gpu,
        "dtype": info.dtype,
        "kernel": info.kernel,
        "threads": info.threads,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "microgpt": version("microgpt")},
        **shape,
        "steps": steps,
        "warm_up_steps": warm_up,
        "seconds": spent,
        "ms_per_step": 1e3 * spent / steps,
    }
    if info.using_gpu:
        found["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
    if a.profiler == "torch":
        found |= profiled(engine, warm_up + steps, steps, a.out)
    return found


def summary(found: dict[str, Any]) -> str:
    lines = [f"{found['ms_per_step']:.3f} ms a step of {found['steps']}, without the profiler"]
    if found["using_gpu"] and "kernel_us" in found:
        share = found["kernel_us"] / 1e6 / found["seconds_profiled"]
        lines.append(f"kernels ran in {share:.0%} of the profiled time ({found['kernels']} of them)")
    if not found["using_gpu"]:
        lines.append("no GPU was used: this is a profile of the CPU")
    return "\n".join(lines)


def main() -> int:
    a = parse()
    try:
        found = measure(a)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    (a.out / "profile.json").write_text(json.dumps(found, indent=2) + "\n")
    print(f"device={found['device']} using_gpu={str(found['using_gpu']).lower()} {found['device_name']}")
    print(summary(found))
    if a.require_gpu and not found["using_gpu"]:
        print("error: the training did not run on the GPU", file=sys.stderr)
        return 1
    if found["using_gpu"] and a.profiler == "torch" and not found["kernels"]:
        print("error: the profiler recorded no GPU kernel", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
