"""The command line of scripts/gpu_check.sh: each part runs in a separate process, which is killed at its time limit."""

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import IO

import harness
from karpathy.machine import visible_gpus

from gpu_check.parts import PARTS
from gpu_check.results import (
    COMPLETED,
    FAILED,
    NOT_RUN,
    TIMED_OUT,
    OutOfTimeError,
    PartResult,
    RestartError,
    Results,
    section,
)
from microgpt.errors import UserError
from microgpt.runs.environment import environment, git_state, version_of
from microgpt.runs.record import timestamp

NAMES = tuple(PARTS)
# For the status of a part; the first one that occurs is the exit code of the check
EXIT_CODES = {FAILED: 1, NOT_RUN: 124, TIMED_OUT: 124}
OUT_OF_TIME, RESTART = 124, 75  # exit codes of the process of a part
MARGIN = 8.0  # seconds for finishing a measurement before a part is killed
LEAST_SECONDS = 10.0  # a part is not started if less time is left


def parser() -> argparse.ArgumentParser:
    p = harness.parser(__doc__, prog="gpu_check.sh")
    p.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: use the CPU instead of a GPU (cuda)")
    p.add_argument("--quick", action="store_true", help="use small models and few steps, to check that the parts work")
    p.add_argument("--nanogpt-dir", metavar="DIR", help="a checkout of nanoGPT; without it, only microgpt is measured")
    p.add_argument("--parts", type=harness.one_of(NAMES), default=list(NAMES), help=f"({','.join(NAMES)})")
    p.add_argument("--replicas", metavar="R,R", help="numbers of models (64,1024,4096,16384; with --quick 4,64)")
    p.add_argument("--seconds", type=harness.above_0, default=480.0, help="time limit of the whole check (480)")
    p.add_argument("--out", type=Path, metavar="DIR", help="output folder (results/gpu_check_<UTC>)")
    p.add_argument("--part", choices=NAMES, help=argparse.SUPPRESS)  # in the process of a part
    p.add_argument("--part-end", type=float, help=argparse.SUPPRESS)  # time.time()
    return p


def numbers_of_replicas(a: argparse.Namespace) -> list[int]:
    given = a.replicas or ("4,64" if a.quick else "64,1024,4096,16384")
    numbers = [int(word) if word.isdecimal() else 0 for word in given.split(",")]
    if min(numbers) < 1:
        raise UserError(f"--replicas={given} is not allowed: it must be whole numbers of at least 1, as in 64,1024")
    return numbers


def run_part(a: argparse.Namespace) -> int:
    """Run a part in this process, within the limits of the process."""
    from gpu_check.measuring import Check
    from microgpt.engines.torch.device import choose_device

    deadline = time.monotonic() + a.part_end - time.time() - MARGIN
    results = Results.load(a.out)
    check = Check(a.device, a.quick, numbers_of_replicas(a), a.nanogpt_dir, deadline, results)
    try:
        part = PARTS[a.part]
        if a.part != "doctor":
            choose_device(a.device)  # raises UserError if PyTorch finds no GPU
        getattr(import_module(f"gpu_check.{part.module}"), part.function)(check)
    except (OutOfTimeError, RestartError) as error:
        harness.say(f"error: {error}")
        return OUT_OF_TIME if isinstance(error, OutOfTimeError) else RESTART
    return 0


def run_limited(command: list[str], log: IO[str], limit: float) -> int | None:
    """Run a command with its output in a log; return its exit code, or None if it was killed at its time limit."""
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:  # including processes that the part started, and even if this process is interrupted
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def finish_part(part: PartResult, code: int | None, seconds: float, limit: float, log: Path, start: int) -> None:
    part.seconds = seconds
    if code == 0:
        part.status = COMPLETED
    elif code is None:
        part.status, part.reason = TIMED_OUT, f"it was stopped after {limit:.0f} s"
    else:
        part.status = TIMED_OUT if code == OUT_OF_TIME else FAILED
        part.reason = harness.last_error(log.read_text(errors="replace")[start:]).removeprefix("error: ").strip()


def machine(device: str) -> dict[str, object]:
    found, code = environment(), git_state()
    versions = ", ".join(f"{name} {version}" for name in ("torch", "triton", "numpy") if (version := version_of(name)))
    gpus = "; ".join(f"{gpu['name']}, {gpu['memory_mib']} MiB, {gpu['driver']}" for gpu in visible_gpus())
    return {
        "device": device,
        "GPU": gpus or "nvidia-smi lists none",
        "CPU": f"{found.cpu}, {len(harness.available_cores()) or found.cores} cores",
        "platform": found.platform,
        "Python": f"{found.python}, {versions}",
        "microgpt": f"{code.commit or 'no commit'}{' with changes' if code.dirty else ''}",
    }


def run_check(a: argparse.Namespace) -> int:
    """Run the parts one after another; return the exit code."""
    end = time.monotonic() + a.seconds
    out = a.out or Path("results") / time.strftime("gpu_check_%Y%m%dT%H%M%SZ", time.gmtime())
    numbers_of_replicas(a)
    if a.nanogpt_dir is not None and not (Path(a.nanogpt_dir) / "model.py").is_file():
        raise UserError(f"--nanogpt-dir={a.nanogpt_dir} is not a checkout of nanoGPT: it has no model.py")
    if (out / "results.json").exists():
        raise UserError(f"--out={out} contains the results of another check")
    out.mkdir(parents=True, exist_ok=True)
    parts = [PartResult(name, PARTS[name].title, PARTS[name].columns) for name in NAMES if name in a.parts]
    command = f"bash scripts/gpu_check.sh {shlex.join(sys.argv[1:])}".strip()
    results = Results(out, machine(a.device), command, parts)
    results.write()
    log = out / "log.txt"
    for name in [part.name for part in parts]:
        limit = min(PARTS[name].limit, end - time.monotonic())
        if limit < LEAST_SECONDS:
            results.part(name).reason = f"the {a.seconds:.0f} s of the check were used up"
        else:
            harness.say(f"{name}: at most {limit:.0f} s ...")
            started = time.monotonic()
            with log.open("a") as file:
                start = file.tell()
                print(f"=== {name}", file=file, flush=True)
                code: int | None = RESTART
                while code == RESTART:
                    left = limit - (time.monotonic() - started)
                    own = ["--out", str(out), "--part", name, "--part-end", str(time.time() + left)]
                    code = run_limited([sys.executable, "-m", "gpu_check", *sys.argv[1:], *own], file, max(0.0, left))
            results = Results.load(out)
            finish_part(results.part(name), code, time.monotonic() - started, limit, log, start)
        results.write()
        print(f"{section(results.part(name))}\n", flush=True)
    results.finished_at = timestamp()
    results.write()
    return conclude(results)


def conclude(results: Results) -> int:
    """Print which parts did not complete; return the exit code."""
    bad = [part for part in results.parts if part.status != COMPLETED]
    for part in bad:
        print(f"{part.name}: {part.status}: {part.reason}")
    print(f"verdict: {len(results.parts) - len(bad)} of {len(results.parts)} parts completed")
    print(f"files: {results.folder}: report.md, results.json, log.txt")
    return next((code for status, code in EXIT_CODES.items() if any(p.status == status for p in bad)), 0)


def stop(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    a = parser().parse_args()
    if a.part:
        return harness.finish(lambda: run_part(a))
    signal.signal(signal.SIGTERM, stop)
    return harness.finish(lambda: run_check(a))


if __name__ == "__main__":
    sys.exit(main())
