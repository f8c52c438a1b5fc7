"""Print the address at which Colab opens notebooks/colab_gpu_benchmark.ipynb of a repository on GitHub.

    python scripts/colab_url.py --repo owner/name --branch main
    python scripts/colab_url.py

Without --repo it is that of the remote `origin` of this checkout; without --branch, the branch that is checked out. No
network is asked: whether the branch was pushed is for you to know. Exit code 2 where something is missing.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = "notebooks/colab_gpu_benchmark.ipynb"
OWNER_AND_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?/[A-Za-z0-9._-]+")
REMOTE = re.compile(r"(?:https?://(?:[^@/]+@)?|ssh://git@|git@|git://)github\.com(?::\d+)?[:/](.+?)(?:\.git)?/?")


class MissingError(Exception):
    """What the address cannot be made without; a sentence."""


def git(*arguments: str) -> str | None:
    """What git says about this checkout; None where it has nothing to say."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def repository(remote: str | None) -> str:
    """owner/name of a remote's address. Raises MissingError where it has none on GitHub."""
    if remote is None:
        raise MissingError("this checkout has no remote named origin: say --repo owner/name")
    found = REMOTE.fullmatch(remote)
    if not found or not OWNER_AND_NAME.fullmatch(found.group(1)):
        raise MissingError("the remote origin is not a repository on GitHub: say --repo owner/name")
    return found.group(1)


def colab_url(repo: str, branch: str) -> str:
    """Raises MissingError where `repo` is not of the form owner/name."""
    if not OWNER_AND_NAME.fullmatch(repo):
        raise MissingError(f"--repo {repo} is not allowed: it is owner/name, of a repository on GitHub")
    return f"https://colab.research.google.com/github/{repo}/blob/{quote(branch)}/{NOTEBOOK}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", help="owner/name on GitHub (default: the remote `origin`)")
    parser.add_argument("--branch", help="(default: the branch that is checked out)")
    a = parser.parse_args()
    try:
        repo = repository(git("remote", "get-url", "origin")) if a.repo is None else a.repo
        branch = a.branch or git("symbolic-ref", "--short", "HEAD")
        if branch is None:
            raise MissingError("no branch is checked out here: say --branch")
        print(colab_url(repo, branch))
    except MissingError as missing:
        print(f"error: {missing}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
