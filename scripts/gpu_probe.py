"""Check PyTorch on an NVIDIA GPU for nvidia_doctor.sh; print one `key=value` per line. Does not need microgpt.

    python scripts/gpu_probe.py

    python, torch                  versions; without PyTorch, only torch_error with the reason
    build                          cuda <version> | rocm <version> | cpu
    visible, gpu                   the number of GPUs, and the name of the first
    probe, probe_device, probe_says    a small training: ok | failed | elsewhere, its device, an explanation

The exit code is 0 if the training ran on a GPU and its results are correct, otherwise 1.
"""

import importlib
import math
import platform
import sys
from collections.abc import Iterator
from typing import Any

STEPS = 20
TOLERANCE = 1e-2  # error of a product of unit normal numbers, relative to the largest element: TF32 rounds to 1e-3


def one_line(error: BaseException) -> str:
    """Return the type of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def build_of(torch: Any) -> str:
    for name in ("cuda", "hip"):
        if version := getattr(torch.version, name, None):
            return f"{'rocm' if name == 'hip' else name} {version}"
    return "cpu"


def train_on(torch: Any, device: str) -> dict[str, str]:
    """Train a linear model for STEPS steps on a device, and compare a matrix product with the same product on the CPU.

    Returns probe, probe_device and probe_says. probe_device is the device of the tensors, not the requested one. Errors
    of PyTorch are not caught.
    """
    torch.manual_seed(0)
    inputs, weights = torch.randn(256, 64), torch.randn(64, 8)
    expected = inputs @ weights
    there = torch.device(device)
    x, y = inputs.to(there), expected.to(there)
    product = x @ weights.to(there)
    model = torch.nn.Linear(64, 8).to(there)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for _ in range(STEPS):
        loss = ((model(x) - y) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    tensors = [product, losses[-1], model.weight, model.weight.grad]
    used = {str(tensor.device) for tensor in tensors}
    found = {"probe_device": " and ".join(sorted(used))}
    if any(tensor.device.type != device for tensor in tensors):
        return found | {"probe": "elsewhere", "probe_says": f"{device} was requested"}
    first, last = float(losses[0]), float(losses[-1])
    difference = float((product.cpu() - expected).abs().max() / expected.abs().max())
    if not (math.isfinite(last) and last < first):
        return found | {"probe": "failed", "probe_says": f"the loss did not fall: {first:.3g} to {last:.3g}"}
    if not difference < TOLERANCE:
        return found | {"probe": "failed", "probe_says": f"a product differs from the CPU's by {difference:.1e}"}
    return found | {"probe": "ok", "probe_says": f"{STEPS} training steps, loss {first:.3g} to {last:.3g}"}


def facts() -> Iterator[tuple[str, str]]:
    """Yield each fact as soon as it is known, so that it is printed even if a later check crashes."""
    yield "python", platform.python_version()
    try:
        torch: Any = importlib.import_module("torch")
    except Exception as error:  # a broken installation raises OSError, ImportError, RuntimeError ...
        missing = isinstance(error, ModuleNotFoundError) and error.name == "torch"
        yield "torch_error", "not installed" if missing else one_line(error)
        return
    yield "torch", str(torch.__version__)
    yield "build", build_of(torch)
    try:
        visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
        yield "visible", str(visible)
        if visible:
            yield "gpu", torch.cuda.get_device_name(0)
            yield from train_on(torch, "cuda").items()
    except Exception as error:
        yield from {"probe": "failed", "probe_says": one_line(error)}.items()


def main() -> int:
    found = {}
    for key, value in facts():
        print(f"{key}={value}", flush=True)
        found[key] = value
    return 0 if found.get("probe") == "ok" else 1


if __name__ == "__main__":
    sys.exit(main())
