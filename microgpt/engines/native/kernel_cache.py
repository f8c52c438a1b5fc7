"""Where the machine code of the kernels is kept on disk, and whether it is as it was written.

<cache>/<digest>/float32/           numba's index and data files
<cache>/<digest>/float32.compiled   the SHA-256 of each of them, written last
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import llvmlite.binding
import numba
import platformdirs
from numba.core import config

KEPT_VERSIONS = 3  # of compiled kernels, on disk


def digest() -> str:
    """Return a digest of what machine code depends on: the sources of this package, the compiler, the processor.

    numba's own cache compares only the file of a function, not those of the functions that it calls; it also compares
    the path and the modification time of the file, so both are part of the digest.
    """
    sources = b"".join(
        f"{source} {source.stat().st_mtime_ns}".encode() + source.read_bytes()
        for source in sorted(Path(__file__).resolve().parent.rglob("*.py"))
    )
    machine = llvmlite.binding.get_host_cpu_name() + llvmlite.binding.get_host_cpu_features().flatten()
    machine += f"{config.CPU_NAME} {config.CPU_FEATURES}"  # pyright: ignore[reportAttributeAccessIssue]
    versions = f"{numba.__version__} {llvmlite.__version__} {machine}"
    return hashlib.sha256(sources + versions.encode()).hexdigest()[:16]


def cache_directory() -> Path:
    """Return the folder of this digest in NUMBA_CACHE_DIR or the user's cache."""
    root = os.environ.get("NUMBA_CACHE_DIR")
    return (Path(root) if root else platformdirs.user_cache_path("microgpt") / "kernels") / digest()


def make_cache_directory() -> Path:
    """Make the folder. Raises OSError if it cannot be made or written."""
    folder = cache_directory()
    make_writable_folder(folder)
    return folder


def make_writable_folder(folder: Path) -> None:
    """Raises OSError if the folder cannot be made, or takes no file."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def remove_old_versions(folder: Path) -> None:
    """Remove the compiled kernels of all versions beside `folder` except the newest."""
    versions = sorted(folder.parent.glob("*/float*.compiled"), key=lambda path: path.stat().st_mtime)
    kept = {path.parent for path in versions[::-1][: 2 * KEPT_VERSIONS]}
    for path in versions:
        if path.parent not in kept:
            shutil.rmtree(path.parent, ignore_errors=True)


def checksums(kept: Path) -> dict[str, str]:
    """Return the SHA-256 of each file below a folder, by its path there."""
    files = sorted(path for path in kept.rglob("*") if path.is_file())
    return {str(path.relative_to(kept)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def damaged_file(folder: Path, dtype: str) -> Path | None:
    """Return a file of the kept kernels that is not as it was written, or None. numba would raise or not find it."""
    manifest, kept = folder / f"{dtype}.compiled", folder / dtype
    try:
        expected, found = json.loads(manifest.read_bytes()), checksums(kept)
    except (OSError, ValueError):
        return manifest
    if not isinstance(expected, dict) or not expected:
        return manifest
    changed = [name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)]
    return kept / changed[0] if changed else None
