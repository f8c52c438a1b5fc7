"""The machine code of the kernels on disk: its folder, and a check that the files have not changed.

<cache>/<digest>/float32/           a file for each kernel that Python calls (machine_code.py)
<cache>/<digest>/float32.compiled   the SHA-256 of each of these files, written last
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import llvmlite.binding
import platformdirs

KEPT_VERSIONS = 3  # number of versions of compiled kernels kept on disk


def digest() -> str:
    """Return a digest of everything that determines the machine code: the package's sources, compiler and processor."""
    root = Path(__file__).resolve().parent
    sources = [f"{path.relative_to(root)}\n".encode() + path.read_bytes() for path in sorted(root.rglob("*.py"))]
    machine = llvmlite.binding.get_host_cpu_name() + llvmlite.binding.get_host_cpu_features().flatten()
    chosen = [os.environ.get(variable, "") for variable in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")]
    compiler = " ".join([version("numba"), version("llvmlite"), machine, *chosen])
    return hashlib.sha256(b"".join([*sources, compiler.encode()])).hexdigest()[:16]


def cache_directory() -> Path:
    """Return the folder for this digest in NUMBA_CACHE_DIR or in the user's cache."""
    root = os.environ.get("NUMBA_CACHE_DIR")
    return (Path(root) if root else platformdirs.user_cache_path("microgpt") / "kernels") / digest()


def make_cache_directory() -> Path:
    """Create the folder and its parents. Raises OSError if it cannot be created or written."""
    folder = cache_directory()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    return folder


def remove_old_versions(folder: Path) -> None:
    """Remove the compiled kernels of all but the newest versions from the parent of `folder`."""
    versions = sorted(folder.parent.glob("*/float*.compiled"), key=lambda path: path.stat().st_mtime)
    kept = {path.parent for path in versions[::-1][: 2 * KEPT_VERSIONS]}
    for path in versions:
        if path.parent not in kept:
            shutil.rmtree(path.parent, ignore_errors=True)


def checksums(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the SHA-256 of the content of each file, by name."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}


def read_kept(folder: Path, dtype: str) -> tuple[dict[str, bytes], Path | None]:
    """Return the content of the kept files by name, and one that has changed since it was written, or None.

    Another version of the program may remove the folder in the meantime.
    """
    manifest, kept = folder / f"{dtype}.compiled", folder / dtype
    try:
        expected = json.loads(manifest.read_bytes())
        files = {path.name: path.read_bytes() for path in kept.iterdir()}
    except (OSError, ValueError):
        return {}, manifest
    if not isinstance(expected, dict) or not expected:
        return files, manifest
    found = checksums(files)
    changed = [name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)]
    return files, kept / changed[0] if changed else None
