"""Copies of the baselines, from a local checkout or a pinned commit. Only the copy in the scratch folder is run."""

import hashlib
import http.client
import shutil
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from karpathy.processes import UnavailableError, captured

REPOSITORIES = {  # address, pinned commit, a file that identifies a checkout
    "nanogpt": ("https://github.com/karpathy/nanoGPT.git", "3adf61e154c3fe3fca428ad6bc3818b27a3b8291", "train.py"),
    "nanochat": (
        "https://github.com/karpathy/nanochat.git",
        "92d63d4e8bb4df75c3b71618f31ddde2378b2bcd",
        "scripts/base_train.py",
    ),
}
MICROGPT_URL = "https://gist.githubusercontent.com/karpathy/8627fe009c40f57531cb18360106ce95/raw/microgpt.py"
NOT_COPIED = (
    ".git", ".venv", "__pycache__", "out", "out-*", "out_*", "*.bin", "*.pt", "*.parquet", "wandb",
)  # fmt: skip
GIT_SECONDS = 600.0


@dataclass(frozen=True)
class Origin:
    """The origin of a baseline: a local path, or a ref to clone (microgpt.py has none)."""

    baseline: str
    path: Path | None = None
    ref: str | None = None

    def action(self) -> str:
        """Describe the action of `obtain`."""
        if self.path is not None:
            return f"copy {self.path}"
        if self.baseline == "microgpt":
            return f"fetch {MICROGPT_URL}"
        url, pinned, _ = REPOSITORIES[self.baseline]
        return f"clone {url} at {self.ref or pinned}"

    def obtain(self, scratch: Path) -> tuple[Path, dict[str, Any]]:
        """Return a copy (a folder, or the file microgpt.py) and its identification. Raises UnavailableError."""
        return obtain_script(self, scratch) if self.baseline == "microgpt" else obtain_checkout(self, scratch)


def obtain_script(origin: Origin, scratch: Path) -> tuple[Path, dict[str, Any]]:
    place = str(origin.path or MICROGPT_URL)
    try:
        if origin.path is not None:
            content = origin.path.read_bytes()
        else:
            with urllib.request.urlopen(MICROGPT_URL, timeout=30) as response:
                content = response.read()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UnavailableError(
            f"microgpt.py cannot be read from {place} ({reason}); use a copy with --microgpt-file"
        ) from error
    scratch.mkdir(parents=True, exist_ok=True)
    script = scratch / "original_microgpt.py"
    script.write_bytes(content)
    return script, {"origin": place, "ref": None, "sha256": hashlib.sha256(content).hexdigest()}


def obtain_checkout(origin: Origin, scratch: Path) -> tuple[Path, dict[str, Any]]:
    url, pinned, entry = REPOSITORIES[origin.baseline]
    copy = scratch / "checkout"
    shutil.rmtree(copy, ignore_errors=True)
    if origin.path is None:
        ref = origin.ref or pinned
        clone(url, ref, copy, origin.baseline)
        source = {"origin": url, "ref": head_of(copy), "asked": ref}
    else:
        try:
            shutil.copytree(origin.path, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
        except (OSError, shutil.Error) as error:
            raise UnavailableError(f"--{origin.baseline}-dir={origin.path} cannot be copied: {error}") from error
        source = {"origin": str(origin.path), "ref": head_of(origin.path), "pinned": pinned}
    if not (copy / entry).is_file():
        raise UnavailableError(f"{source['origin']} is not a checkout of {origin.baseline}: it has no {entry}")
    return copy, {**source, "sha256": digest(copy)}


def clone(url: str, ref: str, target: Path, baseline: str) -> None:
    for arguments in (["clone", "--quiet", url, str(target)], ["-C", str(target), "checkout", "--quiet", ref]):
        done = captured(["git", *arguments], GIT_SECONDS)
        if done.returncode != 0:
            error = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UnavailableError(
                f"{url} at {ref} cannot be cloned ({error}); use a local checkout with --{baseline}-dir"
            )


def head_of(folder: Path) -> str | None:
    """Return the commit of a git checkout, with "-dirty" if files have changed; None for any other folder."""
    if not (folder / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        done = captured(["git", "-C", str(folder), *arguments])
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "HEAD")
    return commit + "-dirty" * bool(git("status", "--porcelain", "--untracked-files=no")) if commit else None


def digest(folder: Path) -> str:
    """Return the SHA-256 of the names and contents of the Python files, to identify a copy without a commit."""
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        content = file.read_bytes()
        total.update(f"{file.relative_to(folder).as_posix()} {hashlib.sha256(content).hexdigest()}\n".encode())
    return total.hexdigest()
