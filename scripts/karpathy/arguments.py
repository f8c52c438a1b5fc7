"""The command line of scripts/benchmark_karpathy.py."""

import argparse
import math

import harness

from karpathy.sources import REPOSITORIES
from karpathy.workloads import BASELINES, GROUPS, INTERVALS, PROFILES
from microgpt.errors import UserError

LEAST_STEPS = 2 * INTERVALS
EPILOG = f"""exit codes: 0 every run completed; 1 a run failed, or a baseline is not available; 2 an error in the
command; 3 a GPU is required but not available, or a run fell back to the CPU; 124 a run exceeded --timeout; 130 and 143
stopped by a signal. The results up to then are always written.

without --nanogpt-dir, --nanochat-dir or --microgpt-file, the baseline is downloaded: nanoGPT at
{REPOSITORIES["nanogpt"][1]}, nanochat at
{REPOSITORIES["nanochat"][1]}. A local checkout is copied, not changed.
"""
OPTIONS = {  # option -> its baseline
    "nanogpt_dir": "nanogpt", "nanogpt_ref": "nanogpt", "nanochat_dir": "nanochat", "nanochat_ref": "nanochat",
    "microgpt_file": "microgpt",
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    p = harness.parser(
        "Time this project against microgpt.py, nanoGPT and nanochat on the same work.",
        prog="benchmark_karpathy.py",
        epilog=EPILOG,
    )
    p.add_argument("--baseline", choices=(*BASELINES, *GROUPS), default="all", help="both: nanogpt and nanochat")
    p.add_argument("--profile", choices=(*PROFILES, "auto"), default="auto", help="auto: full on a GPU, else quick")
    p.add_argument(
        "--require-gpu",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="fail if a GPU cannot be used (default: only if nvidia-smi lists one)",
    )
    p.add_argument("--install-deps", action="store_true", help="install missing packages into a virtual environment")
    p.add_argument("--nanogpt-ref", metavar="REF", help="commit, tag or branch to clone instead of the pinned one")
    p.add_argument("--nanochat-ref", metavar="REF")
    p.add_argument("--nanogpt-dir", metavar="DIR", help="use a local checkout instead of a clone")
    p.add_argument("--nanochat-dir", metavar="DIR")
    p.add_argument("--microgpt-file", metavar="FILE", help="use a local microgpt.py")
    p.add_argument("--dry-run", action="store_true", help="print the commands; download, install and write nothing")
    p.add_argument(
        "--steps", type=int, help=f"training steps of a run, a multiple of {INTERVALS} (default: the profile's)"
    )
    p.add_argument("--repeats", type=int, default=5, help="rounds after the warm-up (default: 5)")
    p.add_argument("--timeout", type=float, default=1800.0, help="time limit of one command in seconds (default: 1800)")
    p.add_argument("--threads", type=int, help="CPU threads of every program (default: each program's own)")
    p.add_argument(
        "--seed", type=int, default=42, help="seed of our weights and of the order of the data (default: 42)"
    )
    p.add_argument(
        "--val-loss", type=float, help="report the time to this loss (default: the lowest loss that all reach)"
    )
    p.add_argument("--earlier", metavar="JSON", help="an earlier report; shows which ratios agree with it")
    p.add_argument("--data", metavar="FILE", help="an ASCII text, one document per line (default: the bundled names)")
    p.add_argument("--results-dir", default="results", help="default: results")
    p.add_argument("--scratch", metavar="DIR", help="work in this folder and keep it (default: a temporary folder)")
    return p


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Return the arguments and the baselines. Raises UserError for values that are not allowed."""
    found = parser().parse_args(argv)
    baselines = list(GROUPS.get(found.baseline, (found.baseline,)))
    if found.steps is not None and (found.steps < LEAST_STEPS or found.steps % INTERVALS):
        raise UserError(
            f"--steps={found.steps} is not allowed: it must be a multiple of {INTERVALS}, at least {LEAST_STEPS}"
        )
    for key, least in (("repeats", 1), ("threads", 1), ("seed", 0)):
        value = getattr(found, key)
        if value is not None and value < least:
            raise UserError(f"--{key}={value} is not allowed: it must be at least {least}")
    for key in ("timeout", "val_loss"):
        value = getattr(found, key)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{key.replace('_', '-')}={value:g} is not allowed: it must be finite and above 0")
    for key, baseline in OPTIONS.items():
        value, option = getattr(found, key), f"--{key.replace('_', '-')}"
        if value is not None and baseline not in baselines:
            raise UserError(f"{option}={value} cannot be combined with --baseline {found.baseline}")
        if value == "":
            raise UserError(f"{option} is empty")
    for name in ("nanogpt", "nanochat"):
        if getattr(found, f"{name}_dir") is not None and getattr(found, f"{name}_ref") is not None:
            raise UserError(f"--{name}-ref cannot be combined with --{name}-dir, whose checkout is used unchanged")
    return found, baselines
