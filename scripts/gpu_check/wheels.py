"""Collect the packages that gpu_check.sh needs besides PyTorch as wheels, and unpack them without a network.

    python scripts/gpu_check/wheels.py collect DIR [--python 3.12] [--machine x86_64]
    python scripts/gpu_check/wheels.py unpack DIR SITE

`unpack` skips packages that the running Python already has. Uses only the standard library.
"""

import argparse
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NEEDED = (  # versions: constraints.txt
    "hydra-core", "omegaconf", "PyYAML", "packaging", "numpy", "safetensors", "filelock", "psutil",
    "pytest", "iniconfig", "pluggy", "Pygments", "pytest-xdist", "execnet",
)  # fmt: skip
# Pure Python, published only as source; required by hydra-core and omegaconf
WITHOUT_WHEEL = ("antlr4-python3-runtime",)
OLDEST_GLIBC, NEWEST_GLIBC = 5, 39  # minor versions of glibc 2 in the names of wheels


def platforms(machine: str) -> list[str]:
    """Return the names of the Linux platforms in the names of wheels."""
    named = [f"manylinux{year}_{machine}" for year in (1, 2010, 2014)]
    return [*(f"manylinux_2_{minor}_{machine}" for minor in range(OLDEST_GLIBC, NEWEST_GLIBC + 1)), *named]


def pip_commands(folder: Path, python: str, machine: str) -> list[list[str]]:
    """Return the arguments of pip for collecting the wheels for another Python."""
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    tags = [f"--platform={name}" for name in platforms(machine)]
    chosen = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp", *tags]
    return [
        ["download", "--quiet", "--no-deps", *constraints, *chosen, f"--dest={folder}", *NEEDED],
        ["wheel", "--quiet", "--no-deps", *constraints, f"--wheel-dir={folder}", *WITHOUT_WHEEL],
    ]


def collect(folder: Path, python: str, machine: str) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    for arguments in pip_commands(folder, python, machine):
        done = subprocess.run([sys.executable, "-m", "pip", *arguments], check=False)
        if done.returncode:
            print("error: pip could not collect the wheels", file=sys.stderr)
            return 1
    wheels = sorted(folder.glob("*.whl"))
    size = sum(wheel.stat().st_size for wheel in wheels)
    print(f"{len(wheels)} wheels for Python {python} on Linux {machine}, {size / 1e6:.1f} MB: {folder}")
    return 0


def is_installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def unpack(folder: Path, site: Path) -> int:
    """Unpack the wheels whose packages are missing into a folder for PYTHONPATH."""
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        print(
            f"error: --wheels {folder}: the folder contains no wheels (--collect-wheels collects them)", file=sys.stderr
        )
        return 2
    missing = [wheel for wheel in wheels if not is_installed(wheel.name.split("-")[0])]
    for wheel in missing:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    print(f"{len(missing)} of {len(wheels)} packages come from {folder}; the others are installed", file=sys.stderr)
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    collecting, unpacking = commands.add_parser("collect"), commands.add_parser("unpack")
    collecting.add_argument("folder", type=Path)
    collecting.add_argument(
        "--python", default="3.12", help="version of the Python that will import the packages (3.12)"
    )
    collecting.add_argument("--machine", choices=["x86_64", "aarch64"], default="x86_64", help="(x86_64)")
    unpacking.add_argument("folder", type=Path)
    unpacking.add_argument("site", type=Path)
    a = parser.parse_args(arguments)
    return collect(a.folder, a.python, a.machine) if a.command == "collect" else unpack(a.folder, a.site)


if __name__ == "__main__":
    sys.exit(main())
