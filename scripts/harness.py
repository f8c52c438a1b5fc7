"""Shared by the scripts: processes, rounds, figures, tables, bundled data, command lines."""

import argparse
import contextlib
import gzip
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import microgpt
from microgpt.data.sources import DATA_DIR_VARIABLE
from microgpt.errors import MicrogptError, UserError

Item = TypeVar("Item")
KEEPS_MODULES = {"PYTHONDONTWRITEBYTECODE": ""}  # programs are timed as users run them, with compiled Python modules


def say(text: str) -> None:
    """Print progress to standard error; standard output contains only results."""
    print(text, file=sys.stderr, flush=True)


# Processes


def run(
    command: Sequence[str],
    folder: str | Path | None = None,
    name: str = "",
    cores: set[int] | None = None,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, on only these CPU cores; return its output.

    Raises MicrogptError with the command and its error if the command cannot be started or fails.
    """
    shown = name or f"`{' '.join(command)}`"
    pin = (lambda: os.sched_setaffinity(0, cores)) if cores else None
    try:
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, **KEEPS_MODULES, **(environment or {})}, preexec_fn=pin,
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
    except OSError as error:
        raise MicrogptError(f"{shown} cannot be started: {error.strerror}") from error
    if done.returncode != 0:
        raise MicrogptError(f"{shown} failed with exit code {done.returncode}: {last_error(done.stderr)}")
    return done


def last_error(output: str) -> str:
    """Return the last line of an output that contains an error, or the last line if there is no error."""
    lines = [line for line in output.splitlines() if line.strip()] or ["no output"]
    return next((line for line in reversed(lines) if "rror:" in line), lines[-1])


def run_python(*arguments: str, **options: Any) -> str:
    """Run Python; return its standard output. Options and errors are those of `run`."""
    name = f"python {' '.join(arguments)}"
    return run([sys.executable, *arguments], **{"name": name, **options}).stdout


def train(outputs: str | Path, *overrides: str) -> str:
    """Train a model in this process, with its output on standard error; return the run's folder in `outputs`."""
    with contextlib.redirect_stdout(sys.stderr):
        return str(microgpt.train(*overrides, {"outputs_dir": str(outputs)}).folder)


def available_cores() -> list[int]:
    """Return the CPU cores that this process may use; empty on a platform without CPU affinity."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def has_torch() -> bool:
    """Return whether PyTorch is installed; print a message if it is not."""
    if find_spec("torch") is not None:
        return True
    print("PyTorch is not installed: its engine is left out.\n")
    return False


def chromium() -> str:
    """Return the path of Chromium. Raises UserError if it is not on PATH."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        raise UserError("no chromium or google-chrome on PATH")
    return found


def names_source() -> str:
    """Return the `data` option: the reference's names.txt if MICROGPT_DATA_DIR is set, otherwise the bundled names."""
    return "makemore" if DATA_DIR_VARIABLE in os.environ else "names"


# Rounds and figures


def in_turn(items: Sequence[Item], round_number: int) -> Sequence[Item]:
    """Return the items in the order of this round. Every other round has the reversed order, so that drift cancels."""
    return items[:: -1 if round_number % 2 else 1]


def spread(values: Sequence[float]) -> dict[str, Any]:
    return {"median": median(values), "min": min(values), "max": max(values), "rounds": list(values)}


def cells(values: Sequence[float], form: str = ".3g") -> list[str]:
    """Return median, smallest and largest value as text."""
    return [f"{each:{form}}" for each in (median(values), min(values), max(values))]


def line(values: Sequence[object]) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(str(value).replace('|', chr(92) + '|') for value in values)} |"


def table(heading: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    return "\n".join([line(heading), "|---" * len(heading) + "|", *map(line, rows)])


# Bundled data

CHECK = "write nothing; exit 1 if the file differs from a new build"  # the help of --check


def rebuild(target: Path, text: str, check: bool, *summary: str) -> int:
    """Write a text file, compressed if it ends in .gz, and print the summary; return the exit code.

    With `check`, only compare the file with the text; the exit code is 1 if they differ.
    """
    pack, unpack = (partial(gzip.compress, mtime=0), gzip.decompress) if target.suffix == ".gz" else (bytes, bytes)
    if check:
        same = unpack(target.read_bytes()) == text.encode()
        print(f"{target}: {'equal to a new build' if same else 'differs from a new build'}")
        return 0 if same else 1
    target.write_bytes(pack(text.encode()))
    print("\n".join(summary))
    return 0


# Command lines


def parser(description: str | None, **options: Any) -> argparse.ArgumentParser:
    """Return a parser whose help begins with the script's docstring."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **options
    )


def at_least(least: int) -> Callable[[str], int]:
    """Return a `type=` for whole numbers of at least `least`."""

    def whole(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed: it must be a whole number of at least {least}")
        return int(text)

    return whole


def above_0(text: str) -> float:
    """Use as `type=` for finite numbers above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: it must be finite and above 0")
    return value


def require(chosen: argparse.Namespace, **least: int) -> None:
    """Raise UserError for an option with a value below its least one."""
    for key, smallest in least.items():
        if (value := getattr(chosen, key)) is not None and value < smallest:
            raise UserError(f"--{key.replace('_', '-')} {value} is not allowed: it must be {smallest} or more")


def one_of(names: Sequence[str]) -> Callable[[str], list[str]]:
    """Return a `type=` for a list of names, separated by commas."""

    def several(text: str) -> list[str]:
        chosen = list(dict.fromkeys(text.split(",")))
        if unknown := [name for name in chosen if name not in names]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not allowed: choose one of {', '.join(names)}")
        return chosen

    return several


def finish(measure: Callable[[], int | None]) -> int:
    """Return the exit code of a measurement; a MicrogptError is printed as one sentence on standard error."""
    try:
        return measure() or 0
    except MicrogptError as error:
        say(f"error: {error}")
        return error.exit_code
