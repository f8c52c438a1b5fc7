"""The command line of scripts/benchmark_karpathy.py."""

import argparse
import math

from karpathy.sources import REPOSITORIES
from karpathy.workloads import BASELINES, GROUPS, INTERVALS, PROFILES
from microgpt.errors import UserError

LEAST_STEPS = 2 * INTERVALS
EPILOG = f"""exit codes: 0 every run completed; 1 a run failed, or a baseline cannot be had; 2 a mistake in the command;
3 a GPU is required and not there, or a run fell back to the CPU; 124 a run was out of time; 130, 143 stopped by a
signal. What was measured until then is written in any case.

without --nanogpt-dir, --nanochat-dir, --microgpt-file the baseline is fetched: nanoGPT at
{REPOSITORIES["nanogpt"][1]}, nanochat at
{REPOSITORIES["nanochat"][1]}. A checkout is copied; it is never changed.
"""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="benchmark_karpathy.py",
        description="Time this project beside microgpt.py, nanoGPT and nanochat on the same work.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--baseline", choices=(*BASELINES, *GROUPS), default="all", help="both: nanogpt and nanochat")
    p.add_argument("--profile", choices=(*PROFILES, "auto"), default="auto", help="auto: full on a GPU, else quick")
    p.add_argument(
        "--require-gpu",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="fail where a GPU cannot be used (default: only where nvidia-smi lists one)",
    )
    p.add_argument("--install-deps", action="store_true", help="what a baseline needs, into an environment of its own")
    p.add_argument("--nanogpt-ref", metavar="REF", help="commit, tag or branch to clone instead of the pinned one")
    p.add_argument("--nanochat-ref", metavar="REF")
    p.add_argument("--nanogpt-dir", metavar="DIR", help="a local checkout instead of a clone")
    p.add_argument("--nanochat-dir", metavar="DIR")
    p.add_argument("--microgpt-file", metavar="FILE", help="a local microgpt.py")
    p.add_argument("--dry-run", action="store_true", help="say what would be run; fetch, install and write nothing")
    p.add_argument(
        "--steps", type=int, help=f"training steps of a run, a multiple of {INTERVALS} (default: the profile's)"
    )
    p.add_argument("--repeats", type=int, help="rounds that count (default: 5)")
    p.add_argument("--timeout", type=float, default=1800.0, help="seconds that one command may take (default: 1800)")
    p.add_argument(
        "--threads", type=int, help="CPU threads of every program (default: as many as each takes by itself)"
    )
    p.add_argument("--seed", type=int, default=42, help="of our weights, and of the order of the data (default: 42)")
    p.add_argument("--val-loss", type=float, help="tell the time to this loss (default: the lowest that all reach)")
    p.add_argument("--earlier", metavar="JSON", help="a report of an earlier run: tell which ratios agree with it")
    p.add_argument("--data", metavar="FILE", help="an ASCII text, documents as lines (default: the embedded names)")
    p.add_argument("--results-dir", default="results", help="default: results")
    p.add_argument("--scratch", metavar="DIR", help="work here and keep it (default: a temporary folder)")
    return p


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The arguments, and the baselines that are meant. Raises UserError for what cannot be."""
    found = parser().parse_args(argv)
    baselines = list(GROUPS.get(found.baseline, (found.baseline,)))
    if found.steps is not None and (found.steps < LEAST_STEPS or found.steps % INTERVALS):
        raise UserError(
            f"--steps={found.steps} is not allowed: it is a multiple of {INTERVALS}, at least {LEAST_STEPS}"
        )
    for flag in ("repeats", "threads"):
        value = getattr(found, flag)
        if value is not None and value < 1:
            raise UserError(f"--{flag}={value} is not allowed: it must be at least 1")
    if not (math.isfinite(found.timeout) and found.timeout > 0):
        raise UserError(f"--timeout={found.timeout:g} is not allowed: it must be finite and above 0")
    if found.seed < 0:
        raise UserError(f"--seed={found.seed} is not allowed: it must be at least 0")
    if found.val_loss is not None and not (math.isfinite(found.val_loss) and found.val_loss > 0):
        raise UserError(f"--val-loss={found.val_loss:g} is not allowed: it must be finite and above 0")
    for baseline, flag in (
        ("nanogpt", "nanogpt_dir"), ("nanogpt", "nanogpt_ref"), ("nanochat", "nanochat_dir"),
        ("nanochat", "nanochat_ref"), ("microgpt", "microgpt_file"),
    ):  # fmt: skip
        value = getattr(found, flag)
        if value is not None and baseline not in baselines:
            shown = flag.replace("_", "-")
            raise UserError(f"--{shown}={value} does not go with --baseline {found.baseline}")
        if value == "":
            raise UserError(f"--{flag.replace('_', '-')} is empty")
    for name in ("nanogpt", "nanochat"):
        if getattr(found, f"{name}_dir") is not None and getattr(found, f"{name}_ref") is not None:
            raise UserError(f"--{name}-ref goes with a clone: the checkout --{name}-dir is taken as it stands")
    return found, baselines
