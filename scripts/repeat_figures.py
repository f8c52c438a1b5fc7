"""Measure all figures of docs/performance.md, in under 40 minutes on two cores, and write the page.

    python scripts/repeat_figures.py --list
    python scripts/repeat_figures.py --with microgpt.py=a/microgpt.py --with nanoGPT=a/nanoGPT
    python scripts/repeat_figures.py --only serve,start
    python scripts/repeat_figures.py --write

The parts of the page are defined in scripts/figure_parts.py. Each part writes <results-dir>/<part>.json when it ends,
so that the same command continues after an interruption: parts that have been measured at the same commit with the same
commands are not measured again, except with --fresh. --with NAME=VALUE replaces path/to/NAME in a command.

After each part, the page is rendered to <results-dir>/performance.md, from the new measurements and, for the other
parts, from docs/performance.json. --write also replaces docs/performance.json and docs/performance.md; with --only
none, it does so without measuring.

Exit codes: 0 all commands that could be run completed; 1 a command failed; 2 an error in the command line.
"""

import argparse
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import harness
from figure_parts import OPTIONAL, PARTS, Goal, Part

from microgpt.data.sources import DATA_DIR_VARIABLE
from microgpt.runs.environment import cpu_model, git_state, version_of

ROOT = Path(__file__).resolve().parents[1]
PLACE = re.compile(r"path/to/([\w.-]+)")
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
LIBRARIES = ("numpy", "numba", "torch")
BUSY = 1.0  # load average from which the page mentions that the machine was not idle
DURATIONS = ("seconds", "cpu_seconds")
Result = dict[str, Any]  # of a part, as in its JSON file


# Commands


def argv_of(command: str, values: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return the words of a command with path/to/NAME replaced, and the names without a value."""
    argv: list[str] = []
    lacks: list[str] = []
    for word in shlex.split(command)[1:]:
        missing = [name for name in PLACE.findall(word) if name not in values]
        if missing and argv[-1] in OPTIONAL:
            argv.pop()
            continue
        lacks += missing
        argv.append(PLACE.sub(lambda found: values.get(found[1], found[0]), word))
    if argv[0].endswith(".py"):
        argv[0] = str(ROOT / argv[0])
    return [sys.executable, *argv], lacks


def run(argv: list[str], command: str, kept: str) -> Result:
    """Run a command in an empty folder; return its duration and the lines to keep of its standard output."""
    with tempfile.TemporaryDirectory() as folder:
        start, cpu = time.perf_counter(), cpu_of_children()
        done = subprocess.run(argv, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
        seconds = time.perf_counter() - start
        sizes = {each.name: size_of(each) for each in sorted(Path(folder).iterdir())}
    lines = done.stdout.strip("\n").splitlines()
    if argv[1] == "-m":
        written = ", ".join(f"{size / 1e6:.1f} MB in {name}" for name, size in sizes.items())
        lines += [f"wall time {seconds:.1f} s", f"files written: {written}"]
    output = "\n".join(line for line in lines if re.search(kept, line))
    return {
        "command": command, "seconds": round(seconds, 1), "cpu_seconds": round(cpu_of_children() - cpu, 1),
        "exit_code": done.returncode, "output": output,
    }  # fmt: skip


def size_of(path: Path) -> int:
    """Return the size of a file or of all files in a folder, in bytes."""
    if not path.is_dir():
        return path.lstat().st_size
    return sum((Path(where) / name).lstat().st_size for where, _, names in os.walk(path) for name in names)


def cpu_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def measure(part: Part, values: dict[str, str]) -> Result:
    result: Result = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}", "commit": commit(), "machine": machine(),
        "load_before": round(os.getloadavg()[0], 1), "commands": list(part.commands), "runs": [],
    }  # fmt: skip
    for command in part.commands:
        argv, lacks = argv_of(command, values)
        if lacks:
            harness.say(f"skipped: {command}\n    it needs --with {lacks[0]}=...")
            continue
        harness.say(f"--- {part.name}: {shlex.join(argv)}")
        measured = run(argv, command, part.kept)
        result["runs"].append(measured | {"output": without_paths(measured["output"], values)})
        print(result["runs"][-1]["output"], flush=True)
    return result


def without_paths(output: str, values: dict[str, str]) -> str:
    """Return an output with the paths of this machine as they are in commands: path/to/NAME, $MICROGPT_DATA_DIR."""
    paths = {value: f"path/to/{name}" for name, value in values.items() if Path(value).is_absolute()}
    if folder := os.environ.get(DATA_DIR_VARIABLE):
        paths[folder.rstrip("/")] = f"${DATA_DIR_VARIABLE}"
    for path, shown in sorted(paths.items(), reverse=True):  # a folder after the paths in it
        output = output.replace(path, shown)
    return output


def machine() -> str:
    """Return the processor, the cores that may be used, Python and the libraries."""
    libraries = ", ".join(f"{name} {found}" for name in LIBRARIES if (found := version_of(name)))
    cores = len(harness.available_cores()) or os.cpu_count()
    return f"{cpu_model()}, {cores} cores, {platform.system()}, Python {platform.python_version()}, {libraries}"


def commit() -> str:
    """Return the beginning of the checkout's commit; empty outside a checkout."""
    return (git_state().commit or "")[:7]


# The page


def figure_of(goal: Goal, output: str) -> str:
    found = re.search(goal.pattern, output, re.MULTILINE)
    return found[1] if found else ""


def verdict(goal: Goal, figure: str, load: float) -> str:
    if not figure:
        return "not measured"
    value = float(figure.replace(",", ""))
    is_met = value >= goal.limit if goal.at_least else value <= goal.limit
    return ("met" if is_met else "**missed**") + (", with other programs running" if load >= BUSY else "")


def total(result: Result, duration: str) -> float:
    return sum(run.get(duration, 0) for run in result["runs"])


def output_of(result: Result) -> str:
    return "\n".join(run["output"] for run in result["runs"])


def goals_table(results: dict[str, Result]) -> str:
    rows = []
    for part in PARTS:
        result = results.get(part.name, {"runs": [], "load_before": 0.0})
        for goal in part.goals:
            figure = figure_of(goal, output_of(result))
            rows.append([part.title, goal.about, figure, verdict(goal, figure, result["load_before"])])
    return harness.table(["part", "goal", "measured", ""], rows)


def blocks(output: str) -> str:
    """Return an output as Markdown: tables unchanged, other lines as text blocks."""
    parts = [part.strip("\n") for part in re.split(r"((?:^\|.*\n?)+)", output, flags=re.MULTILINE)]
    return "\n\n".join(part if part.startswith("|") else f"```text\n{part}\n```" for part in parts if part.strip())


def section(part: Part, result: Result | None) -> str:
    commands = "\n".join(f"    {command}" for command in part.commands)
    head = f"## {part.title}\n\n{part.about}\n\n{commands}"
    if result is None or not result["runs"]:
        return f"{head}\n\nNot measured yet on this page's machine."
    shown = []
    for run in result["runs"]:
        shown.append(blocks(run["output"]))
        if run["exit_code"]:
            shown.append(f"`{run['command']}` failed with exit code {run['exit_code']}.")
    measured = f"Measured on {result['date']} at commit {result['commit']} in {total(result, 'seconds'):.0f} s"
    load = result["load_before"]
    busy = f" Other programs were running (load average {load}), so the times are too long." if load >= BUSY else ""
    return "\n\n".join([head, *shown, f"{measured} on {result['machine']}.{busy}"])


def render(results: dict[str, Result]) -> str:
    """Return the generated part of the page."""
    parts = [section(part, results.get(part.name)) for part in PARTS]
    return "\n\n".join([BEGIN, "## Goals", goals_table(results), *parts, END])


def page_with(results: dict[str, Result], page: str) -> str:
    """Return docs/performance.md with its generated part replaced."""
    before, _, rest = page.partition(BEGIN)
    return before + render(results) + rest.partition(END)[2]


# The command line


def parse(arguments: list[str] | None) -> argparse.Namespace:
    names = [part.name for part in PARTS]
    parser = harness.parser(__doc__)
    parser.add_argument("--with", dest="given", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--only", type=harness.one_of([*names, "none"]), default=names, metavar="PARTS")
    parser.add_argument("--list", action="store_true", help="print the parts, their durations and their commands")
    parser.add_argument(
        "--fresh", action="store_true", help="also measure parts that have been measured at this commit"
    )
    parser.add_argument("--write", action="store_true", help="replace docs/performance.json and docs/performance.md")
    parser.add_argument("--results-dir", type=Path, default=Path("results/figures"))
    parsed = parser.parse_args(arguments)
    for pair in parsed.given:
        if "=" not in pair:
            parser.error(f"--with {pair} is not allowed: it must be NAME=VALUE")
    return parsed


def absolute(value: str) -> str:
    """Return the absolute path of a file or folder, because commands run elsewhere; return other values unchanged."""
    return str(Path(value).resolve()) if Path(value).exists() else value


def is_current(result: Result, part: Part) -> bool:
    return result["commit"] == commit() and result["commands"] == list(part.commands) and bool(result["runs"])


def main(arguments: list[str] | None = None) -> int:
    parsed = parse(arguments)
    values = {name: absolute(value) for name, _, value in (pair.partition("=") for pair in parsed.given)}
    kept, page = ROOT / "docs" / "performance.json", ROOT / "docs" / "performance.md"
    results: dict[str, Result] = json.loads(kept.read_text()) if kept.exists() else {}
    for part in PARTS:
        if (file := parsed.results_dir / f"{part.name}.json").exists():
            results[part.name] = json.loads(file.read_text())
    if parsed.list:
        print(f"{'':16}{'seconds':>8}{'CPU':>8}")
        for part in PARTS:
            took = [f"{total(results[part.name], key):.0f}" for key in DURATIONS] if part.name in results else ["", ""]
            print(f"{part.name:16}{took[0]:>8}{took[1]:>8}  {part.title}")
            print("".join(f"    {command}\n" for command in part.commands), end="")
        return 0
    parsed.results_dir.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        file = parsed.results_dir / f"{part.name}.json"
        if part.name not in parsed.only:
            continue
        if file.exists() and is_current(results[part.name], part) and not parsed.fresh:
            harness.say(f"{part.name}: already measured; --fresh measures it again")
            continue
        found = measure(part, values)
        if found["runs"]:
            results[part.name] = found
            file.write_text(json.dumps(found, indent=1))
            (parsed.results_dir / "performance.md").write_text(page_with(results, page.read_text()))
    if parsed.write:
        ordered = {part.name: results[part.name] for part in PARTS if part.name in results}
        kept.write_text(json.dumps(ordered, indent=1) + "\n")
        page.write_text(page_with(results, page.read_text()))
    runs = [run for part in PARTS if part.name in {*parsed.only} & {*results} for run in results[part.name]["runs"]]
    failed = [run["command"] for run in runs if run["exit_code"]]
    for command in failed:
        harness.say(f"failed: {command}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
