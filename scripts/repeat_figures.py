"""Measure again what README says in "How fast" and what docs/log.md says: every command that stands there, in turn.

    python scripts/repeat_figures.py --dry-run
    python scripts/repeat_figures.py --with microgpt.py=a/microgpt.py --with nanoGPT=a/nanoGPT
    python scripts/repeat_figures.py --only benchmark_sweep

The commands are read from the two documents themselves, so that none can be forgotten; one that stands in both, or
twice, is run once. Where one names path/to/NAME, --with NAME=VALUE puts something there; a command that lacks it is
skipped, a --peer that lacks it is left out. What they print goes to standard output and into results/figures_<UTC>/,
with the machine's load before and after each. They run in its folder work/, where runs begin anew.

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
SECTION = re.compile(r"^## How fast\n(.*?)^## ", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^ {4}(python .+)$", re.MULTILINE)  # in README's section, and anywhere in the log
PLACE = re.compile(r"path/to/([\w.-]+)")


@dataclass(frozen=True)
class Figure:
    """A command of README, and what it still lacks."""

    shown: str
    argv: list[str]
    lacks: list[str]


def figures(readme: str, log: str, values: dict[str, str]) -> list[Figure]:
    """The commands of README's section, then those of the log, with `values` where they say path/to/."""
    section = SECTION.search(readme)
    lines = COMMAND.findall(section[1] if section else "") + COMMAND.findall(log)
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
    """A file or folder by its whole path, as commands do not run here; anything else as it stands."""
    return str(Path(value).resolve()) if Path(value).exists() else value


def parse(arguments: list[str] | None) -> tuple[argparse.Namespace, dict[str, str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--with", dest="given", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--only", default="", metavar="TEXT", help="the commands that have this in them")
    parser.add_argument("--dry-run", action="store_true", help="say what would be run")
    parser.add_argument("--results-dir", type=Path, default=Path("results"))
    parsed = parser.parse_args(arguments)
    for pair in parsed.given:
        if "=" not in pair:
            parser.error(f"--with {pair} is not allowed: it is NAME=VALUE")
    return parsed, {name: absolute(value) for name, _, value in (pair.partition("=") for pair in parsed.given)}


def run(argv: list[str], folder: Path, log: Path) -> int:
    """Run in the folder to the end, showing what it prints and keeping it; returns the exit code."""
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
    readme, written = (ROOT / "README.md").read_text(), (ROOT / "docs" / "log.md").read_text()
    chosen = [each for each in figures(readme, written, values) if parsed.only in each.shown]
    if not chosen:
        print(f"error: --only {parsed.only} is in none of the commands of README and docs/log.md", file=sys.stderr)
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
