"""Compare the results of two versions: run the same commands with both versions and compare the files that they write.

    python scripts/compare_versions.py --before HEAD
    python scripts/compare_versions.py --before v1 --after v2 --only karpathy export_info
    python scripts/compare_versions.py --list

A case is one or more `python -m microgpt` commands that share a scratch folder. It runs at the same time with the tree
of --before and with the tree of --after (default: the working tree). The following results must then be bit-identical:
history.jsonl, weights, optimizer moments, exports, samples.txt, run.json, meta.json, train_state.json, tables (CSV,
JSONL, Markdown), the server's answers, and the printed samples and result lines.

Keys in IGNORED_KEYS are not compared, nor are files that display or hash compared results: the HTML report, plots and
checksums. The names of run folders contain the time and part of config_hash; they are compared as run1, run2, ...

Exit codes: 0 all results are the same; 1 a result differs or a command failed; 2 an error in the command.
"""

import argparse
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from result_files import IGNORED_KEYS, compare_folders, describe
from version_cases import CASES, INPUTS, Step

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 300  # seconds for one command

PRINTED = re.compile(r"(num docs|vocab size|num params|sample +\d+):|mode=")  # the lines that scripts rely on
# Rates; a size that depends on the digits of durations; a hash that run.json also contains.
NOT_PRINTED = re.compile(r" (steps|tokens)_per_sec=\S+|^(bytes on disk|config hash):.*", re.MULTILINE)


class CaseError(Exception):
    """A command did not end as expected."""


@dataclass(frozen=True)
class Version:
    """A copy of the tree of one version in folder/tree, next to the scratch folders of its cases."""

    folder: Path
    environment: dict[str, str]


def make_version(revision: str | None, folder: Path, data: Path | None) -> Version:
    """Copy a commit, or the working tree without the files that git ignores. Raises CaseError if git fails."""
    tree = folder / "tree"
    tree.mkdir(parents=True)
    if revision is not None:
        with tarfile.open(fileobj=io.BytesIO(git("archive", "--format=tar", revision))) as archive:
            archive.extractall(tree, filter="data")
    else:
        for name in git("ls-files", "-z", "--cached", "--others", "--exclude-standard").decode().split("\0"):
            if (ROOT / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree / name)
    for name, text in INPUTS.items():
        (folder / name).write_text(text)
    own = {"PYTHONPATH": str(tree), "NUMBA_CACHE_DIR": str(folder / "kernels"), "PYTHONUNBUFFERED": "1"}
    return Version(folder, {**os.environ, **own, **({"MICROGPT_DATA_DIR": str(data.resolve())} if data else {})})


def git(*arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True)
    if done.returncode:
        raise CaseError(f"git {shlex.join(arguments)}: {done.stderr.decode().strip()}")
    return done.stdout


def run_case(name: str, version: Version) -> str | None:
    """Run the commands of a case; return the reason if the case failed, or None."""
    (version.folder / name).mkdir()
    for number, step in enumerate(CASES[name], 1):
        try:
            run_step(Step(step) if isinstance(step, str) else step, version, name, number)
        except CaseError as error:
            return f"command {number} of {name}: {error}"
    return None


def run_step(step: Step, version: Version, name: str, number: int) -> None:
    """Run one command and keep its output. Raises CaseError if the command fails or leaves nothing to compare."""
    folder, log = version.folder / name, version.folder / f"{name}_{number}.log"
    known = set(folder.rglob("*"))
    command = [sys.executable, "-m", "microgpt", *shlex.split(step.arguments)]
    with log.open("w") as out, log.with_suffix(".err").open("w") as err:
        process = subprocess.Popen(
            command, cwd=folder, env=version.environment, stdin=subprocess.PIPE, stdout=out, stderr=err, text=True
        )
        try:
            if step.until:
                found = wait_for(step.until, log, process)
                for index, (path, body) in enumerate(step.requests, 1):
                    (folder / f"answer_{index}.jsonl").write_text(post(found + path, body))
                process.send_signal(signal.SIGTERM)
            process.communicate(step.stdin, timeout=TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise CaseError(str(error)) from error
        finally:
            process.kill()
            process.wait()
    expected = 128 + signal.SIGTERM if step.until and not step.requests else 0
    if process.returncode != expected:
        complaint = log.with_suffix(".err").read_text().strip() or "nothing on standard error"
        raise CaseError(f"exit code {process.returncode}, not {expected}: {complaint.splitlines()[-1]}")
    is_whole = "task=chat" in command or "task=info" in command
    lines = NOT_PRINTED.sub("", log.read_text()).splitlines()
    kept = [line for line in lines if is_whole or PRINTED.match(line)]
    if kept:
        (folder / f"printed_{number}.txt").write_text("\n".join(kept))
    if set(folder.rglob("*")) == known:
        raise CaseError("the command left nothing to compare")


def wait_for(pattern: str, log: Path, process: subprocess.Popen[str]) -> str:
    """Return the first match in the output of a process. Raises CaseError if the process ends without one."""
    end = time.monotonic() + TIMEOUT
    while not (found := re.search(pattern, log.read_text())):
        if process.poll() is not None or time.monotonic() > end:
            raise CaseError(f"{pattern!r} was not printed: {log.with_suffix('.err').read_text()[-500:]}")
        time.sleep(0.005)
    return found[0]


def post(url: str, body: dict[str, Any]) -> str:
    """Return the JSON of an answer or, one per line, of a stream's events. Raises CaseError if there is no answer."""
    import httpx

    try:
        answer = httpx.post(url, json=body, timeout=TIMEOUT, trust_env=False)
    except httpx.HTTPError as error:
        raise CaseError(f"{url}: {error!r}") from error
    return "\n".join(line.removeprefix("data: ") for line in answer.text.splitlines() if "{" in line)


def compare_case(name: str, before: Version, after: Version, ignored: set[str]) -> tuple[str, list[str]]:
    """Run a case with both versions; return "same", "different" or which version failed, and lines that explain it."""
    with ThreadPoolExecutor(2) as pool:
        reasons = list(pool.map(partial(run_case, name), (before, after)))
    if any(reasons):
        failed = [side for side, reason in zip(("before", "after"), reasons, strict=True) if reason]
        return f"failed {' and '.join(failed)}", [reason for reason in reasons if reason]
    differences, count = compare_folders(before.folder / name, after.folder / name, ignored)
    return ("different" if differences else "same"), [f"{count} files compared", *describe(differences)]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", metavar="REV", help="a commit, branch or tag")
    parser.add_argument("--after", metavar="REV", help="default: the working tree, including uncommitted changes")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=list(CASES), default=list(CASES))
    parser.add_argument("--list", action="store_true", help="print the cases and their commands")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="new folder in which to keep the scratch folders")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="folder with names.txt; default: MICROGPT_DATA_DIR")
    parser.add_argument(
        "--ignore",
        nargs="+",
        metavar="KEY",
        default=[],
        help="further keys of the files, such as config_hash comparison",
    )
    parsed = parser.parse_args(arguments)
    if not parsed.list and parsed.before is None:
        parser.error("--before REV is required")
    if parsed.keep and parsed.keep.exists():
        parser.error(f"--keep {parsed.keep} already exists")
    return parsed


def main(arguments: list[str] | None = None) -> int:
    parsed = parse(arguments)
    if parsed.list:
        for name in parsed.only:
            print(name, *(step if isinstance(step, str) else step.arguments for step in CASES[name]), sep="\n    ")
        return 0
    ignored = {*IGNORED_KEYS, *parsed.ignore}
    with tempfile.TemporaryDirectory(prefix="compare-versions-") as temporary:
        folder = (parsed.keep or Path(temporary)).resolve()
        try:
            before = make_version(parsed.before, folder / "before", parsed.data)
            after = make_version(parsed.after, folder / "after", parsed.data)
        except CaseError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return compare_versions(parsed.only, before, after, ignored)


def compare_versions(names: list[str], before: Version, after: Version, ignored: set[str]) -> int:
    """Print the result of each case and the estimated time left; return the exit code."""
    begin, results = time.monotonic(), []
    for name in names:
        start = time.monotonic()
        result, lines = compare_case(name, before, after, ignored)
        results.append(result)
        elapsed, done = time.monotonic() - begin, len(results)
        left = elapsed / done * (len(names) - done)
        seconds = time.monotonic() - start
        print(f"[{done:2}/{len(names)}, {left:3.0f} s left] {name:26}{result:12}{seconds:5.1f} s, {lines[0]}")
        for line in lines[1:]:
            print(f"    {line}")
        sys.stdout.flush()
    same, different = results.count("same"), results.count("different")
    print(f"{len(names)} cases in {time.monotonic() - begin:.0f} s: ", end="")
    print(f"{same} same, {different} different, {len(names) - same - different} failed")
    return int(same < len(names))


if __name__ == "__main__":
    sys.exit(main())
