"""Time the native engine (float32) against other programs, which run alternately on the same CPU cores.

    python scripts/benchmark_native.py
    python scripts/benchmark_native.py --cases d16_b16,sample_one --rounds 9 \\
        --peer d16_b16="path/to/trainer 10000" --peer sample_one="path/to/sampler 1000000"

A case is a named workload on the names data; --help lists the cases. In each round, every program of a case runs in a
new process, one after the other on the same CPU core, in reversed order every other round. The next round uses the next
core that this process may use. On a platform without CPU affinity, the programs are not pinned.

The time of microgpt is the CPU time of its training steps or of its sampling, without start-up, compiling, reading
data and, before sampling, training. For two_cores it is wall time. Other programs time themselves.

The figures are medians with the smallest and the largest value of the rounds, and the ratio microgpt / peer: the median
of the ratios within each round, so that noise that lasts longer than a round cancels. Microgpt is faster if a ratio of
times is below 1, or if a ratio of tokens per second is above 1. For presets_*, the ratio is default model / preset. For
two_cores, it is the speed-up, threads=1 / threads=2, which is also given for only the rounds in which all threads were
on a CPU nearly all the time.

d128, d256 and d384 are wide models on random tokens (native_measurements.py), compared with the torch engine and, if
MICROGPT_NANOGPT is a folder with nanoGPT's model.py, with nanoGPT. For *_cores, the figure is wall time.

The data is the reference's names.txt if MICROGPT_DATA_DIR is set, otherwise the bundled names; the output says which.
"""

import argparse
import json
import math
import os
import shlex
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import harness
from native_cases import CASES, FORMS, SPEED, TIME, UNITS, Case

from microgpt.benchmarks.reference import BLOCK_SIZE, names_corpus
from microgpt.errors import MicrogptError

MEASUREMENT = Path(__file__).with_name("native_measurements.py").resolve()
UNDISTURBED = 0.97  # fraction of the wall time that a program's threads were on a CPU
HAS_TORCH = find_spec("torch") is not None
WIDE_PEERS = [peer for peer in ("torch", os.environ.get("MICROGPT_NANOGPT", "")) if peer and HAS_TORCH]


# The rounds


@dataclass
class Program:
    label: str
    command: list[str]
    is_peer: bool
    figures: list[float] = field(default_factory=list)
    note: str = ""  # from the last round
    on_cpu: list[float] = field(default_factory=list)  # fraction of the wall time, if that is measured

    def measure(self, figure: str, cores: set[int] | None) -> None:
        """Run the program once and append its figure. Raises MicrogptError."""
        done = harness.run(self.command, name=f"`{self.label}`", cores=cores)
        for line in reversed(done.stdout.splitlines()):
            try:
                found = json.loads(line)
                value = float(found[figure])
            except (ValueError, TypeError, KeyError):
                continue
            if math.isfinite(value) and value > 0:
                self.figures.append(value)
                self.note = str(found.get("note", ""))
                if not self.is_peer and "on_cpu" in found:
                    self.on_cpu.append(found["on_cpu"])
                return
        raise MicrogptError(f'`{self.label}` printed no JSON line with a positive "{figure}"')


def programs_of(name: str, seconds: float, peers: list[tuple[str, list[str]]]) -> list[Program]:
    """Return the programs of a case: microgpt with each number of threads, and the peers."""

    def measurement(program: str, threads: int) -> list[str]:
        return [sys.executable, str(MEASUREMENT), name, program, str(threads), str(seconds)]

    native = [
        Program(f"microgpt, {model or 'backend=native'}, threads={threads}", measurement(model, threads), is_peer=False)
        for threads in CASES[name].threads
        for model in CASES[name].models
    ]
    if CASES[name].wide and len(CASES[name].threads) == 1:
        native += [Program(Path(peer).name, measurement(peer, 1), is_peer=True) for peer in WIDE_PEERS]
    return native + [Program(shlex.join(command), command, is_peer=True) for case, command in peers if case == name]


def measure_all(programs: dict[str, list[Program]], rounds: int) -> None:
    cores = harness.available_cores()
    for turn in range(rounds):
        for name, all_of_case in programs.items():
            harness.say(f"round {turn + 1} of {rounds}: {name}")
            chosen = {cores[(turn + n) % len(cores)] for n in range(max(CASES[name].threads))} if cores else None
            for program in harness.in_turn(all_of_case, turn):
                try:
                    program.measure(CASES[name].figure, chosen)
                except MicrogptError as error:
                    raise MicrogptError(f"{name}: {'the peer ' if program.is_peer else ''}{error}") from error


def summary(case: Case, programs: list[Program]) -> list[dict[str, Any]]:
    """Return one row per program, with ratios to the first program, round by round."""
    rows = []
    for program in programs:
        row: dict[str, Any] = {"program": program.label, "is_peer": program.is_peer, "note": program.note}
        row["figure"] = harness.spread(program.figures)
        if program is not programs[0]:
            pairs = list(zip(programs[0].figures, program.figures, strict=True))
            inverse = case.figure == SPEED and len(case.threads) > 1  # a speed-up is a ratio of times
            row["ratio"] = harness.spread([b / a if inverse else a / b for a, b in pairs])
        rows.append(row | ({"on_cpu": program.on_cpu} if program.on_cpu else {}))
    return rows


def show(name: str, rows: list[dict[str, Any]]) -> None:
    case = CASES[name]
    print(f"\n{name}: {UNITS[case.figure]}; {case.about}")
    compared = "speed-up" if len(case.threads) > 1 else "gpt/model" if len(case.models) > 1 else "ours/peer"
    print(f"{'median':>11}{'min':>11}{'max':>11}{compared:>11}  (min-max)")
    for row in rows:
        numbers = "".join(f"{each:>11}" for each in harness.cells(row["figure"]["rounds"], FORMS[case.figure]))
        ratio = with_range(row["ratio"]["rounds"], 11) if "ratio" in row else " " * 26
        print(f"{numbers}{ratio}  {row['program']}" + (f"  [{row['note']}]" if row["note"] else ""))
        if "ratio" in row and case.goal is not None:
            middle = row["ratio"]["median"]
            met = middle >= case.goal if case.is_least else middle <= case.goal
            limit = "at least" if case.is_least else "at most"
            print(f"{'':>33}{limit:>11}  {case.goal}: {'met' if met else 'missed'}")
    if len(case.threads) > 1:
        shares = list(zip(*[row["on_cpu"] for row in rows], strict=True))
        ratios = zip(rows[-1]["ratio"]["rounds"], shares, strict=True)
        kept = [ratio for ratio, share in ratios if min(share) >= UNDISTURBED]
        speed_up = f": speed-up {with_range(kept)}" if kept else ""
        count = f"{len(kept)} of {len(shares)}"
        print(f"rounds with all threads on a CPU for {UNDISTURBED:.0%} of the time: {count}{speed_up}")


def with_range(ratios: list[float], width: int = 0) -> str:
    middle, low, high = harness.cells(ratios, ".3f")
    return f"{middle:>{width}}  ({low}-{high})"


def compare(chosen: argparse.Namespace) -> None:
    if "two_cores" in chosen.cases and len(harness.available_cores()) == 1:
        raise MicrogptError("two_cores needs two CPU cores, but this process may use only one: choose other --cases")
    programs = {name: programs_of(name, chosen.seconds, chosen.peer) for name in chosen.cases}
    corpus = names_corpus(harness.names_source())
    measure_all(programs, chosen.rounds)
    print(
        f"data: {corpus.source.origin}, {len(corpus.train.examples)} names; native engine in float32; rounds: "
        f"{chosen.rounds}, of {chosen.seconds:g} s; Python {sys.version.split()[0]}"
    )
    results = {name: summary(CASES[name], each) for name, each in programs.items()}
    for name, rows in results.items():
        show(name, rows)
    if chosen.json:
        written = {
            name: {"about": CASES[name].about, "unit": CASES[name].figure, "programs": rows}
            for name, rows in results.items()
        }
        document = {"data": corpus.source.origin, "rounds": chosen.rounds, "seconds": chosen.seconds, "cases": written}
        chosen.json.write_text(json.dumps(document, indent=1))


# The command line


def peer(text: str) -> tuple[str, list[str]]:
    name, _, command = text.partition("=")
    if name not in CASES:
        raise argparse.ArgumentTypeError(f"{name!r} is not a case: use CASE=COMMAND with one of {', '.join(CASES)}")
    if len(CASES[name].threads) > 1 or len(CASES[name].models) > 1:
        raise argparse.ArgumentTypeError(f"{name} compares microgpt with itself and takes no peer")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"the command of {text!r} cannot be split: {error}") from error
    if not words:
        raise argparse.ArgumentTypeError(f"{text!r} has no command: use CASE=COMMAND")
    return name, words


PEER_HELP = f"""a program to time against microgpt in a case; may be repeated. COMMAND is split as by a shell but runs
without one. It must do the work of the case and print a JSON line with "{TIME}", or with "{SPEED}" for a sampling case.
It is ignored if its case is not among --cases. If it prints no figure, the exit code is 2"""


def main() -> int:
    listed = "\n".join(f"  {name:12} {UNITS[case.figure]}: {case.about}" for name, case in CASES.items())
    about = f"cases (if not wide, 4 heads, 1 layer, block {BLOCK_SIZE}; Adam; one thread except *_cores):\n{listed}"
    parser = harness.parser(__doc__, epilog=about)
    parser.add_argument("--rounds", type=harness.at_least(1), default=5, help="number of rounds (5)")
    parser.add_argument("--seconds", type=harness.above_0, default=1.0, help="least seconds of a measurement (1.0)")
    parser.add_argument(
        "--cases", type=harness.one_of(list(CASES)), default=list(CASES), help="cases, separated by commas (all)"
    )
    parser.add_argument("--peer", type=peer, action="append", default=[], metavar="CASE=COMMAND", help=PEER_HELP)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of all rounds to a file")
    chosen = parser.parse_args()
    if chosen.json and not chosen.json.absolute().parent.is_dir():
        parser.error(f"--json={chosen.json} cannot be written: its folder does not exist")
    return 2 if harness.finish(lambda: compare(chosen)) else 0


if __name__ == "__main__":
    sys.exit(main())
