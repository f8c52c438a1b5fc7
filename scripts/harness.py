"""Shared by the benchmark and measurement scripts: processes, rounds, figures, tables, command lines."""

import argparse
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from microgpt.data.sources import DATA_DIR_VARIABLE
from microgpt.errors import MicrogptError

Item = TypeVar("Item")


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
            command, cwd=folder, env={**os.environ, **(environment or {})}, preexec_fn=pin,
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
    except OSError as error:
        raise MicrogptError(f"{shown} cannot be started: {error.strerror}") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no output"]
        last = next((line for line in reversed(lines) if "rror:" in line), lines[-1])
        raise MicrogptError(f"{shown} failed with exit code {done.returncode}: {last}")
    return done


def run_python(*arguments: str, **options: Any) -> str:
    """Run Python; return its standard output. Options and errors are those of `run`."""
    name = f"python {' '.join(arguments)}"
    return run([sys.executable, *arguments], **{"name": name, **options}).stdout


def train(folder: str | Path, *overrides: str) -> None:
    """Run `python -m microgpt` in a folder; its output goes to standard error."""
    subprocess.run([sys.executable, "-m", "microgpt", *overrides], cwd=folder, check=True, stdout=sys.stderr)


def available_cores() -> list[int]:
    """Return the CPU cores that this process may use; empty on a platform without CPU affinity."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def has_torch() -> bool:
    """Return whether PyTorch is installed; print a message if it is not."""
    if find_spec("torch") is not None:
        return True
    print("PyTorch is not installed: its engine is left out.\n")
    return False


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
