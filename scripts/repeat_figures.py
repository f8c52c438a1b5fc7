"""Measure the figures of docs/performance.md and docs/log.md again: run every command of the two pages.

    python scripts/repeat_figures.py --dry-run
    python scripts/repeat_figures.py --with microgpt.py=a/microgpt.py --with nanoGPT=a/nanoGPT
    python scripts/repeat_figures.py --only benchmark_sweep

The commands are read from the pages; one that occurs several times is run once.
--with NAME=VALUE replaces path/to/NAME; a command that lacks a replacement is skipped, a --peer that lacks one is
dropped. Output goes to standard output and to results/figures_<UTC>/, with the machine's load before and after each
command. The commands run in the subfolder work/, so that no earlier run is resumed.

Exit codes: 0 all that could be run completed; 1 one of them failed; 2 a mistake in the command.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMAND = re.compile(r"^ {4}(python .+)$", re.MULTILINE)
PAGES = ("performance.md", "log.md")
PLACE = re.compile(r"path/to/([\w.-]+)")


@dataclass(frozen=True)
class Figure:
    """A command of a page, and the replacements that it lacks."""

    shown: str
    argv: list[str]
    lacks: list[str]


def figures(pages: list[str], values: dict[str, str]) -> list[Figure]:
    """Return the commands of the pages, with path/to/NAME replaced by `values`."""
    lines = [line for page in pages for line in COMMAND.findall(page)]
    return [figure(line, values) for line in dict.fromkeys(lines)]


def figure(line: str, values: dict[str, str]) -> Figure:
    argv: list[str] = []
    lacks: list[str] = []
    for word in shlex.split(line)[1:]:
        missing = [name for name in PLACE.findall(word) if name not in values]
        if missing and argv[-1] == "--peer":
            argv.pop()  # ours is measured without it
            continue
        lacks += missing
        argv.append(PLACE.sub(lambda found: values.get(found[1], found[0]), word))
    if argv[0].endswith(".py"):
        argv[0] = str(ROOT / argv[0])
    return Figure(line, [sys.executable, *argv], lacks)


def absolute(value: str) -> str:
    """Return the absolute path of a file or folder, as commands run in another folder; other values unchanged."""
    return str(Path(value).resolve()) if Path(value).exists() else value


def parse(arguments: list[str] | None) -> tuple[argparse.Namespace, dict[str, str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--with", dest="given", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--only", default="", metavar="TEXT", help="run only commands that contain TEXT")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    parser.add_argument("--results-dir", type=Path, default=Path("results"))
    parsed = parser.parse_args(arguments)
    for pair in parsed.given:
        if "=" not in pair:
            parser.error(f"--with {pair} is not allowed: it is NAME=VALUE")
    return parsed, {name: absolute(value) for name, _, value in (pair.partition("=") for pair in parsed.given)}


def run(argv: list[str], folder: Path, log: Path) -> int:
    """Run a command in a folder; print its output and write it to the log; return the exit code."""
    with log.open("w") as kept:
        kept.write(f"{shlex.join(argv)}\nload before: {os.getloadavg()}\n\n")
        with subprocess.Popen(argv, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                kept.write(line)
        kept.write(f"\nexit code {process.returncode}, load after: {os.getloadavg()}\n")
    return process.returncode


def main(arguments: list[str] | None = None) -> int:
    parsed, values = parse(arguments)
    pages = [(ROOT / "docs" / name).read_text() for name in PAGES]
    chosen = [each for each in figures(pages, values) if parsed.only in each.shown]
    if not chosen:
        print(
            f"error: --only {parsed.only} is in none of the commands of docs/{' and docs/'.join(PAGES)}",
            file=sys.stderr,
        )
        return 2
    folder = parsed.results_dir.resolve() / f"figures_{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    failed = 0
    for number, each in enumerate(chosen, 1):
        if each.lacks:
            print(f"--- skipped: {each.shown}\n    it lacks --with {each.lacks[0]}=...", flush=True)
            continue
        print(f"--- {shlex.join(each.argv)}", flush=True)
        if parsed.dry_run:
            continue
        (folder / "work").mkdir(parents=True, exist_ok=True)
        name = each.argv[2] if each.argv[1] == "-m" else Path(each.argv[1]).stem
        failed += run(each.argv, folder / "work", folder / f"{number:02d}_{name}.log") != 0
    if folder.is_dir():
        print(f"files: {folder}" + f"; {failed} of the commands failed" * bool(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
