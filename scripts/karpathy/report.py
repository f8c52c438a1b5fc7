"""The report of a benchmark: summaries for the JSON document, and Markdown."""

import math
from collections.abc import Callable
from typing import Any

import harness

from karpathy.comparison import COMPLETED, NOT_RUN, UNAVAILABLE, BaselineComparison, Contestant
from karpathy.measures import common_loss, spread
from karpathy.microgpt_py import copy_validation
from microgpt.reports.tables import counted

MIB = 1 << 20
RISE = 0.05  # nats by which a validation loss may exceed an earlier loss
SHORT = 0.2  # seconds; shorter times give no reliable rate
PROTOCOL = (
    "Each program runs in a separate process, one after the other: first a warm-up of all programs, then rounds, with "
    "the order reversed in every other round. The time includes only training, without start-up, compiling, the first "
    "fifth of the steps, evaluation and checkpoints. A step ends when its loss is available on the CPU. A target token "
    "is a token that is predicted. Figures are medians of the rounds; the interval in parentheses contains one more "
    "round in 19 of 20 cases (Student's prediction interval of the logarithms). A ratio is computed within a round. "
    "The time to a loss is the number of steps until an evaluation finds the loss, times the time of a step. Memory is "
    "the maximum resident memory of the process; on a GPU, it is the memory in use minus the memory in use before the "
    "start."
)


def finish(comparison: BaselineComparison, val_loss: float | None) -> None:
    """Set the fields that depend on all runs. May be called again after further runs."""
    comparison.notes = []
    if comparison.baseline == "microgpt" and comparison.runs:
        comparison.notes.append(copy_validation(comparison.runs))
    done = [run.figures for run in comparison.runs if run.round > 0 and run.status == COMPLETED and run.figures]
    comparison.val_loss = common_loss(done) if val_loss is None else val_loss
    comparison.notes += [note for contestant in comparison.contestants for note in notes(comparison, contestant)]


def notes(comparison: BaselineComparison, contestant: Contestant) -> list[str]:
    """Return sentences about the limits of a program's figures."""
    found, label = [], contestant.label
    figures = [run.figures for run in comparison.completed(label) if run.figures]
    shortest = min((each.seconds for each in figures), default=math.inf)
    if shortest < SHORT:
        found.append(
            f"the timed steps of {label} took {1000 * shortest:.3g} ms in total, too short to be precise: increase "
            "--steps"
        )
    curves = [[loss for _, loss in sorted(each.val_losses.items())] for each in figures if each.val_losses]
    if any(curve[-1] > min(curve) + RISE for curve in curves):
        found.append(f"the validation loss of {label} rose again: its speed is valid, but its training diverged")
    return found


def summary(comparison: BaselineComparison, contestant: Contestant) -> dict[str, Any]:
    """Return the figures of one program over the rounds, with rates in target tokens per second and memory in bytes."""
    label, runs = contestant.label, comparison.completed(contestant.label)
    figures = [run.figures for run in runs if run.figures]
    failed = [r for r in comparison.runs if r.contestant == label and r.status != COMPLETED]
    target = comparison.val_loss
    times = [f.seconds_to(target) for f in figures] if target is not None else []
    status = failed[0].status if failed else COMPLETED if runs else UNAVAILABLE if comparison.problem else NOT_RUN
    return {
        "label": label,
        "ours": contestant.against is not None,
        "dtype": contestant.precision.dtype,
        "compiled": contestant.precision.compiled,
        "device": figures[-1].device if figures else None,
        "facts": figures[-1].facts if figures else {},
        "status": status,
        "reason": failed[0].reason if failed else comparison.problem,
        "tokens_per_sec": spread([f.tokens_per_sec for f in figures]),
        "seconds_per_step": spread([f.seconds_per_step for f in figures]),
        "final_val_loss": spread([f.val_losses[max(f.val_losses)] for f in figures if f.val_losses]),
        "seconds_to_val_loss": spread([t for t in times if t is not None]) if None not in times else None,
        "wall_seconds": spread([run.wall_seconds for run in runs]),
        "peak_memory": max((run.peak_memory for run in runs), default=None),
        "peak_gpu_memory": max((run.peak_gpu_memory for run in runs if run.peak_gpu_memory is not None), default=None),
        "against": contestant.against,
        "ratio": spread(ratios(comparison, contestant)),
        "differences": list(contestant.differences),
    }


def ratios(comparison: BaselineComparison, contestant: Contestant) -> list[float]:
    """Return the ratio ours / baseline in target tokens per second, for each round in which both completed."""
    theirs = {run.round: run.figures for run in comparison.completed(contestant.against or "")}
    pairs = [(run.figures, theirs.get(run.round)) for run in comparison.completed(contestant.label)]
    return [a.tokens_per_sec / b.tokens_per_sec for a, b in pairs if a and b]


def document(comparison: BaselineComparison) -> dict[str, Any]:
    return {
        "baseline": comparison.baseline,
        "source": comparison.source,
        "problem": comparison.problem or None,
        "workload": {**vars(comparison.setup), "interval": comparison.setup.interval},
        "val_loss": comparison.val_loss,
        "notes": comparison.notes,
        "differences": comparison.differences,
        "contestants": [summary(comparison, contestant) for contestant in comparison.contestants],
        "runs": [run.to_dict() for run in comparison.runs],
        "briefly": comparison.setup.summary(),
    }


def agreement(report: dict[str, Any], earlier: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each ratio in both reports, and whether it is in the interval that the earlier report predicted.

    Only comparisons with the same setup count, because ratios depend on sizes and steps.
    """
    before = {(work, row["label"]): row["ratio"] for work, row in rows_with_ratio(earlier)}
    found = []
    for work, row in rows_with_ratio(report):
        then, now = before.get((work, row["label"])), row["ratio"]["median"]
        if then is not None and then["expected"] is not None:
            low, high = then["expected"]
            one = {"label": row["label"], "against": row["against"], "earlier": then, "now": now}
            found.append({**one, "agrees": low <= now <= high})
    return found


def rows_with_ratio(report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the baseline, the setup and the summary of each program that has a ratio."""
    rows = [(f"{c['baseline']}: {c['briefly']}", each) for c in report["comparisons"] for each in c["contestants"]]
    return [(work, contestant) for work, contestant in rows if contestant["ratio"] is not None]


# Markdown


def markdown(report: dict[str, Any]) -> str:
    parts = ["# Beside Karpathy's programs", *head(report), PROTOCOL, *map(section, report["comparisons"])]
    return "\n\n".join(parts + ([against_earlier(report["earlier"])] if report["earlier"] else [])) + "\n"


def head(report: dict[str, Any]) -> tuple[str, str]:
    hardware = report["hardware"]
    ours, gpus = hardware["microgpt"], ", ".join(gpu["name"] for gpu in hardware["gpus"]) or "no GPU"
    versions = ", ".join(f"{name} {version}" for name, version in hardware["versions"].items())
    commit = f"{ours['commit'] or 'no commit'}{' with changes' if ours['dirty'] else ''}"
    return f"    {report['command']}", bullets(
        f"{report['started_at']} to {report['finished_at']}, exit code {report['exit_code']}"
        + ", interrupted" * report["interrupted"],
        f"{hardware['cpu']}, {hardware['cores']} cores, {gpus}; {hardware['platform']}",
        f"Python {hardware['python']}, {versions}; microgpt {ours['version']}, {commit}",
        f"load (1, 5, 15 minutes) before {report['load_before']}, after {report['load_after']}",
        f"GPU: {report['gpu']}",
        f"data: {report['data']['origin']}, sha256 {report['data']['sha256']}",
    )


def bullets(*lines: str) -> str:
    return "\n".join(f"- {line}" for line in lines)


def section(comparison: dict[str, Any]) -> str:
    source, target = comparison["source"], comparison["val_loss"]
    version = source.get("ref") or (f"sha256 {source['sha256']}" if source.get("sha256") else "not available")
    parts = [f"## {comparison['baseline']}", f"{source.get('origin', '')} ({version}). {comparison['briefly']}."]
    if comparison["problem"]:
        return "\n\n".join([*parts, f"**Not run**: {comparison['problem']}."])
    to_loss = "s to the loss" if target is None else f"s to val loss {target:.4f}"
    columns = ["", "target tokens a second", "times the baseline", "val loss", to_loss, "memory MiB", "differs in"]
    contestants = comparison["contestants"]
    used = {key for contestant in contestants for key in contestant["differences"]}
    remarks = [f"{note}." for note in comparison["notes"]]
    remarks += [f"{key}: {text}." for key, text in comparison["differences"].items() if key in used]
    return "\n\n".join([*parts, harness.table(columns, [cells(each) for each in contestants]), bullets(*remarks)])


def cells(contestant: dict[str, Any]) -> list[str]:
    name, threads = contestant["label"], contestant["facts"].get("threads")
    name += f" ({counted(threads, 'thread')})" if threads else ""
    if contestant["status"] != COMPLETED:
        name += ": " + ", ".join(filter(None, [f"**{contestant['status']}**", contestant["reason"]]))
    memory = [contestant["peak_memory"], contestant["peak_gpu_memory"]]
    ratio = with_interval(contestant["ratio"])
    return [
        name,
        with_interval(contestant["tokens_per_sec"]),
        f"{ratio} of {contestant['against']}" if ratio else "",
        with_interval(contestant["final_val_loss"], lambda loss: f"{loss:.4f}"),
        with_interval(contestant["seconds_to_val_loss"]),
        " + GPU ".join(f"{m / MIB:,.0f}" for m in memory if m is not None),
        ", ".join(contestant["differences"]),
    ]


def against_earlier(earlier: dict[str, Any]) -> str:
    heading, file = "## Beside an earlier run\n\n", f"{earlier['file']}, of {earlier['started_at']}"
    answers = {True: "yes", False: "no"}
    rows = [
        [f"{r['label']} / {r['against']}", with_interval(r["earlier"]), three_digits(r["now"]), answers[r["agrees"]]]
        for r in earlier["rows"]
    ]
    if not rows:
        return f"{heading}{file}, has no ratio of the same work with an expectation."
    count = sum(row["agrees"] for row in earlier["rows"])
    table = harness.table(["", "then", "now", "as expected"], rows)
    return f"{heading}{file}: {count} of {len(rows)} ratios are as that run expected.\n\n{table}"


def three_digits(value: float) -> str:
    """Format a number with at least three significant digits, without an exponent."""
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def with_interval(values: dict[str, Any] | None, form: Callable[[float], str] = three_digits) -> str:
    """Format a median with the prediction interval, unless both ends look alike; "" if there are no values."""
    if values is None:
        return ""
    middle = form(values["median"])
    if values["expected"] is None:
        return middle
    low, high = map(form, values["expected"])
    return middle if low == high else f"{middle} ({low}-{high})"
