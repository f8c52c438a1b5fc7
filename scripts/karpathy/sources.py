"""Where the baselines come from: a local checkout, or a clone of a pinned commit. Always a scratch copy is run."""

import hashlib
import http.client
import shutil
import subprocess
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORIES = {
    "nanogpt": ("https://github.com/karpathy/nanoGPT.git", "3adf61e154c3fe3fca428ad6bc3818b27a3b8291", "train.py"),
    "nanochat": (
        "https://github.com/karpathy/nanochat.git",
        "92d63d4e8bb4df75c3b71618f31ddde2378b2bcd",
        "scripts/base_train.py",
    ),
}
MICROGPT_URL = "https://gist.githubusercontent.com/karpathy/8627fe009c40f57531cb18360106ce95/raw/microgpt.py"
LEFT_OUT = (
    ".git",
    ".venv",
    "__pycache__",
    "out",
    "out-*",
    "out_*",
    "*.bin",
    "*.pt",
    "*.parquet",
    "wandb",
)  # of a local checkout
GIT_SECONDS = 600.0


class UnavailableError(Exception):
    """Why a baseline cannot be had: a sentence."""


@dataclass(frozen=True)
class Wanted:
    """Which version of a baseline is asked for: a local path, or else a ref to clone (microgpt.py has none)."""

    baseline: str
    path: Path | None = None
    ref: str | None = None

    def told(self) -> str:
        """What obtaining it does."""
        if self.path is not None:
            return f"copy {self.path}"
        if self.baseline == "microgpt":
            return f"fetch {MICROGPT_URL}"
        url, pinned, _ = REPOSITORIES[self.baseline]
        return f"clone {url} at {self.ref or pinned}"


def obtain(wanted: Wanted, scratch: Path) -> tuple[Path, dict[str, Any]]:
    """A scratch copy (a folder, or the file microgpt.py) and what identifies it. Raises UnavailableError."""
    return obtain_script(wanted, scratch) if wanted.baseline == "microgpt" else obtain_checkout(wanted, scratch)


def obtain_script(wanted: Wanted, scratch: Path) -> tuple[Path, dict[str, Any]]:
    try:
        if wanted.path is not None:
            content, origin = wanted.path.read_bytes(), str(wanted.path)
        else:
            with urllib.request.urlopen(MICROGPT_URL, timeout=30) as response:
                content, origin = response.read(), MICROGPT_URL
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(
            f"microgpt.py cannot be read from {wanted.path or MICROGPT_URL} ({getattr(error, 'reason', error)}); "
            f"name a copy with --microgpt-file"
        ) from error
    scratch.mkdir(parents=True, exist_ok=True)
    script = scratch / "original_microgpt.py"
    script.write_bytes(content)
    return script, {"origin": origin, "ref": None, "sha256": hashlib.sha256(content).hexdigest()}


def obtain_checkout(wanted: Wanted, scratch: Path) -> tuple[Path, dict[str, Any]]:
    url, pinned, entry = REPOSITORIES[wanted.baseline]
    copy = scratch / "checkout"
    shutil.rmtree(copy, ignore_errors=True)
    if wanted.path is None:
        ref = wanted.ref or pinned
        clone(url, ref, copy, wanted.baseline)
        source = {"origin": url, "ref": head_of(copy), "asked": ref}
    else:
        try:
            shutil.copytree(wanted.path, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
        except (OSError, shutil.Error) as error:
            raise UnavailableError(f"--{wanted.baseline}-dir={wanted.path} cannot be copied: {error}") from error
        source = {"origin": str(wanted.path), "ref": head_of(wanted.path), "pinned": pinned}
    if not (copy / entry).is_file():
        raise UnavailableError(f"{source['origin']} is no checkout of {wanted.baseline}: it has no {entry}")
    return copy, {**source, "sha256": digest(copy)}


def clone(url: str, ref: str, target: Path, baseline: str) -> None:
    for arguments in (["clone", "--quiet", url, str(target)], ["-C", str(target), "checkout", "--quiet", ref]):
        try:
            done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=GIT_SECONDS, check=False)
        except (OSError, subprocess.SubprocessError) as error:
            raise UnavailableError(f"git cannot be run: {error}") from error
        if done.returncode != 0:
            words = (done.stderr.strip().splitlines() or ["git says nothing"])[-1]
            raise UnavailableError(
                f"{url} at {ref} cannot be had ({words}); name a local checkout with --{baseline}-dir"
            )


def head_of(folder: Path) -> str | None:
    """The commit of a git checkout, with "-dirty" where files were changed; None where it is none."""
    if not (folder / ".git").exists():
        return None

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30, check=False
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return commit and commit + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")


def digest(folder: Path) -> str:
    """SHA-256 over the Python files of a folder and their names: what ran, where there is no commit to name it."""
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        content = file.read_bytes()
        total.update(f"{file.relative_to(folder).as_posix()} {hashlib.sha256(content).hexdigest()}\n".encode())
    return total.hexdigest()
