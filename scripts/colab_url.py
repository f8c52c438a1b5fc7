"""Print the address that opens a notebook of a GitHub repository in Colab.

    python scripts/colab_url.py --repo owner/name --branch main
    python scripts/colab_url.py --notebook microgpt --badge

The notebook is notebooks/<name>.ipynb, by default colab_gpu_benchmark. --badge prints a Markdown badge that links to
the address.

--repo defaults to the remote `origin` of this checkout, and --branch to its current branch. The script does not use the
network, so it cannot check whether the branch has been pushed. The exit code is 2 if something is missing.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ("colab_gpu_benchmark", "microgpt")
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
OWNER_AND_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?/[A-Za-z0-9._-]+")
REMOTE = re.compile(r"(?:https?://(?:[^@/]+@)?|ssh://git@|git@|git://)github\.com(?::\d+)?[:/](.+?)(?:\.git)?/?")


class MissingError(Exception):
    """A part of the address cannot be determined."""


def git(*arguments: str) -> str | None:
    """Return the output of git in this checkout; None if it fails or prints nothing."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def repository(remote: str | None) -> str:
    """Return owner/name of the remote origin. Raises MissingError unless it is on GitHub."""
    if remote is None:
        raise MissingError("this checkout has no remote named origin: use --repo owner/name")
    found = REMOTE.fullmatch(remote)
    if not found or not OWNER_AND_NAME.fullmatch(found.group(1)):
        raise MissingError("the remote origin is not a repository on GitHub: use --repo owner/name")
    return found.group(1)


def colab_url(repo: str, branch: str, notebook: str = NOTEBOOKS[0]) -> str:
    """Return the address. Raises MissingError unless `repo` has the form owner/name."""
    if not OWNER_AND_NAME.fullmatch(repo):
        raise MissingError(f"--repo {repo} is not allowed: it must be owner/name of a repository on GitHub")
    return f"https://colab.research.google.com/github/{repo}/blob/{quote(branch)}/notebooks/{notebook}.ipynb"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", help="owner/name on GitHub (default: the remote `origin`)")
    parser.add_argument("--branch", help="branch (default: the branch that is checked out)")
    parser.add_argument("--notebook", choices=NOTEBOOKS, default=NOTEBOOKS[0])
    parser.add_argument("--badge", action="store_true", help="print a badge in Markdown that links to the address")
    a = parser.parse_args()
    try:
        repo = repository(git("remote", "get-url", "origin")) if a.repo is None else a.repo
        branch = a.branch or git("symbolic-ref", "--short", "HEAD")
        if branch is None:
            raise MissingError("no branch is checked out here: use --branch")
        url = colab_url(repo, branch, a.notebook)
        print(f"[![Open in Colab]({BADGE})]({url})" if a.badge else url)
    except MissingError as missing:
        print(f"error: {missing}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
