"""Time the native engine (float32) beside programs of others: both in one run, on one core, round after round.

    python scripts/benchmark_native.py
    python scripts/benchmark_native.py --cases d16_b16,sample_one --rounds 9 \\
        --peer d16_b16="path/to/trainer 10000" --peer sample_one="path/to/sampler 1000000"

A case is a named workload on names (the list is below). In every round each program of a case runs in a fresh process,
one after the other on one and the same CPU core, in reversed order every other round; the next round takes the next
core that this process may use. Where the platform cannot pin a process to a core, all run unpinned.

What is timed of ours is the CPU time of the loop alone: of training its steps, of sampling its draws, not start-up,
compiling, reading data or, before sampling, training. two_cores alone is wall time. A peer times itself.

Printed are medians with the smallest and the largest value of the rounds, and the ratio ours / peer: the median of the
ratios within each round, which noise that lasts longer than a round does not change. In times a ratio under 1 means
that ours is quicker, in tokens per second one over 1. For two_cores it is the speed-up, threads=1 / threads=2, and is
given apart for the rounds that no other program disturbed: those in which all threads were on a CPU nearly throughout.

The names are the reference names.txt where MICROGPT_DATA_DIR is set, else the embedded ones; the output says which.
"""

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from _native_workloads import BLOCK, CASES, SPEED, TIME, UNITS, measure_ours, read_names

UNDISTURBED = 0.97  # share of the wall time that a program's threads were on a CPU


class NoFigureError(Exception):
    """Why a program gave no figure, as the end of a sentence."""


@dataclass
class Program:
    label: str
    command: list[str]
    is_peer: bool
    figures: list[float] = field(default_factory=list)
    note: str = ""  # of the last round
    on_cpu: list[float] = field(default_factory=list)  # share of the wall time, where that is what is timed


def programs_of(name: str, seconds: float, peers: list[tuple[str, list[str]]]) -> list[Program]:
    """Ours first, then the case's peers."""
    found = []
    for threads in CASES[name].threads:
        command = [sys.executable, str(Path(__file__).resolve()), "--seconds", str(seconds)]
        label = f"microgpt, backend=native, threads={threads}"
        found.append(Program(label, [*command, "--worker", name, "--threads", str(threads)], is_peer=False))
    return found + [Program(shlex.join(command), command, is_peer=True) for case, command in peers if case == name]


def measure(program: Program, figure: str, cores: set[int] | None) -> None:
    """Run it once, pinned where the platform can, and note its figure. Raises NoFigureError."""

    def pin() -> None:
        if cores is not None:
            os.sched_setaffinity(0, cores)

    try:
        done = subprocess.run(
            program.command, capture_output=True, text=True, errors="replace", preexec_fn=pin, check=False
        )
    except OSError as error:
        raise NoFigureError(f"cannot be started: {error.strerror}") from error
    if done.returncode != 0:
        last = "".join(f": {line}" for line in done.stderr.strip().splitlines()[-1:])
        raise NoFigureError(f"failed with exit code {done.returncode}{last}")
    for line in reversed(done.stdout.splitlines()):
        try:
            found = json.loads(line)
            value = float(found[figure])
        except (ValueError, TypeError, KeyError):
            continue
        if math.isfinite(value) and value > 0:
            program.figures.append(value)
            program.note = str(found.get("note", ""))
            if not program.is_peer and "on_cpu" in found:
                program.on_cpu.append(found["on_cpu"])
            return
    raise NoFigureError(f'printed no JSON line with a positive "{figure}"')


def measure_all(contest: dict[str, list[Program]], rounds: int) -> str:
    """Fill in all figures; returns why that ended early, or nothing."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    for turn in range(rounds):
        for name, programs in contest.items():
            print(f"round {turn + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            wanted = max(CASES[name].threads)
            chosen = {cores[(turn + n) % len(cores)] for n in range(wanted)} if cores else None
            for program in programs[:: -1 if turn % 2 else 1]:
                try:
                    measure(program, CASES[name].figure, chosen)
                except NoFigureError as reason:
                    return f"{'the peer' if program.is_peer else 'ours,'} `{program.label}` of {name} {reason}"
    return ""


def ratios(programs: list[Program], program: Program) -> list[float]:
    """Round by round, ours / peer; for ours with a further number of threads, one thread / these."""
    ours = programs[0]
    return [a / b for a, b in zip(ours.figures, program.figures, strict=True)] if program is not ours else []


def summary(programs: list[Program]) -> list[dict]:
    rows = []
    for program in programs:
        row = {"program": program.label, "is_peer": program.is_peer, "note": program.note}
        for key, values in (("figure", program.figures), ("ratio", ratios(programs, program))):
            if values:
                row[key] = {"median": median(values), "min": min(values), "max": max(values), "rounds": values}
        if program.on_cpu:
            row["on_cpu"] = program.on_cpu
        rows.append(row)
    return rows


def show(name: str, rows: list[dict]) -> None:
    case = CASES[name]
    print(f"\n{name}: {UNITS[case.figure]}; {case.about}")
    print(f"{'median':>11}{'min':>11}{'max':>11}{'speed-up' if len(case.threads) > 1 else 'ours/peer':>11}  (min-max)")
    for row in rows:
        numbers = "".join(
            f"{row['figure'][key]:11,.0f}" if case.figure == SPEED else f"{row['figure'][key]:11.3f}"
            for key in ("median", "min", "max")
        )
        r = row.get("ratio")
        compared = f"{r['median']:11.3f}  ({r['min']:.3f}-{r['max']:.3f})" if r else " " * 26
        print(f"{numbers}{compared}  {row['program']}" + (f"  [{row['note']}]" if row["note"] else ""))
    if len(case.threads) > 1:
        show_undisturbed(rows)


def show_undisturbed(rows: list[dict]) -> None:
    """The speed-up of the last row over the first in the rounds that no other program took a CPU from."""
    shares = list(zip(*[row["on_cpu"] for row in rows], strict=True))
    kept = [
        ratio for ratio, share in zip(rows[-1]["ratio"]["rounds"], shares, strict=True) if min(share) >= UNDISTURBED
    ]
    speed_up = f": speed-up {median(kept):.3f}  ({min(kept):.3f}-{max(kept):.3f})" if kept else ""
    print(f"rounds with all threads on a CPU for {UNDISTURBED:.0%} of the time: {len(kept)} of {len(shares)}{speed_up}")


def compare(
    cases: list[str], peers: list[tuple[str, list[str]]], rounds: int, seconds: float, file: Path | None
) -> int:
    if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) < 2 and "two_cores" in cases:
        print("error: two_cores needs two CPU cores, and this process may use one: name other --cases", file=sys.stderr)
        return 2
    contest = {name: programs_of(name, seconds, peers) for name in cases}
    corpus, origin = read_names()
    if reason := measure_all(contest, rounds):
        print(f"error: {reason}", file=sys.stderr)
        return 2
    results = {name: summary(programs) for name, programs in contest.items()}
    print(
        f"data: {origin}, {len(corpus.train.examples)} names; native engine in float32; rounds: {rounds}, "
        f"of {seconds:g} s; Python {sys.version.split()[0]}"
    )
    for name, rows in results.items():
        show(name, rows)
    if file:
        about = {name: {"about": CASES[name].about, "unit": CASES[name].figure} for name in cases}
        written = {name: about[name] | {"programs": rows} for name, rows in results.items()}
        file.write_text(json.dumps({"data": origin, "rounds": rounds, "seconds": seconds, "cases": written}, indent=1))
    return 0


# The command line


def case_list(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in CASES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not a case: they are {', '.join(CASES)}")
    return names


def peer(text: str) -> tuple[str, list[str]]:
    name, _, command = text.partition("=")
    if name not in CASES:
        raise argparse.ArgumentTypeError(f"{name!r} is not a case: it is CASE=COMMAND with one of {', '.join(CASES)}")
    if len(CASES[name].threads) > 1:
        raise argparse.ArgumentTypeError(f"{name} compares ours with ours and takes no peer")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"the command of {text!r} cannot be split: {error}") from error
    if not words:
        raise argparse.ArgumentTypeError(f"{text!r} has no command: it is CASE=COMMAND")
    return name, words


def positive(kind: type) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError
        return value

    number.__name__ = f"positive {kind.__name__}"  # argparse names it in its message
    return number


def main() -> int:
    listed = "\n".join(f"  {name:12} {UNITS[case.figure]}: {case.about}" for name, case in CASES.items())
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"cases (all with 4 heads, 1 layer, block {BLOCK}, Adam; one thread but for two_cores):\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=positive(int), default=5, help="how often everything is measured (5)")
    parser.add_argument(
        "--seconds", type=positive(float), default=1.0, help="least length of a measurement of ours (1.0)"
    )
    parser.add_argument("--cases", type=case_list, default=list(CASES), help="which, separated by commas (all)")
    parser.add_argument(
        "--peer",
        type=peer,
        action="append",
        default=[],
        metavar="CASE=COMMAND",
        help="a program to time beside ours, for a case and as often as wanted: COMMAND, split as a shell does and run "
        f'without one, prints a JSON line with "{TIME}", or "{SPEED}" for a case of sampling; whether its work '
        "is that of the case is for you to say. Left out where its case is not among --cases. One that gives no figure "
        "ends the run with exit code 2",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write everything, each round's figures too, to a file"
    )
    parser.add_argument("--worker", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure_ours(CASES[arguments.worker], arguments.threads, arguments.seconds)))
        return 0
    if arguments.json and not arguments.json.absolute().parent.is_dir():
        parser.error(f"--json={arguments.json} cannot be written: its folder does not exist")
    return compare(arguments.cases, arguments.peer, arguments.rounds, arguments.seconds, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
