"""What a comparison came to: summaries for the JSON document, tables for people."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from karpathy.contest import COMPLETED, NOT_RUN, UNAVAILABLE, Comparison, Contestant
from karpathy.measures import common_loss, spread
from karpathy.microgpt_py import take_validation

MIB = 1 << 20
RISE = 0.05  # nats by which a validation loss may be above an earlier one
SHORT = 0.2  # seconds that are too few to tell a rate
PROTOCOL = (
    "Each program runs in a process of its own, one after another: a warm-up that does not count, then rounds through "
    "all of them, in reversed order every other round. What is timed is training alone: not start-up, compiling, the "
    "first fifth of the steps, evaluation and checkpoints. A step ends once its loss is known to the CPU. A target "
    "token is one that is predicted. Figures are medians of the rounds, in parentheses where one more round would lie "
    "in 19 of 20 cases (Student's prediction interval of the logarithms); a ratio is taken within a round. Time to a "
    "loss is the steps until an evaluation finds it times a step's time. Memory is the largest that was resident of "
    "the process; of a GPU, what was in use beyond what was in use before."
)


def finish(comparison: Comparison, val_loss: float | None) -> None:
    """What is known from all runs together. It may be called again once there are more."""
    comparison.notes = []
    if comparison.baseline == "microgpt" and comparison.runs:
        comparison.notes.append(take_validation(comparison.runs))
    done = [run.figures for run in comparison.runs if run.round > 0 and run.status == COMPLETED and run.figures]
    comparison.val_loss = common_loss(done) if val_loss is None else val_loss
    comparison.notes += [note for contestant in comparison.contestants for note in notes(comparison, contestant)]


def notes(comparison: Comparison, contestant: Contestant) -> list[str]:
    """What must be known of a contestant's figures before they are believed."""
    found, label = [], contestant.label
    figures = [run.figures for run in comparison.counted(label) if run.figures]
    if figures and min(each.seconds for each in figures) < SHORT:
        took = 1000 * min(each.seconds for each in figures)
        found.append(
            f"the timed steps of {label} took {took:.3g} ms together: too short to be precise, and mostly what it "
            "does beside training; --steps makes them more"
        )
    curves = [[loss for _, loss in sorted(each.val_losses.items())] for each in figures if each.val_losses]
    if any(curve[-1] > min(curve) + RISE for curve in curves):
        found.append(f"the validation loss of {label} rose again: its speed is told, but its training went astray")
    return found


def summary(comparison: Comparison, contestant: Contestant) -> dict[str, Any]:
    """One contestant's figures over the rounds. Rates in target tokens a second, memory in bytes."""
    label, runs = contestant.label, comparison.counted(contestant.label)
    figures = [run.figures for run in runs if run.figures]
    failed = [r for r in comparison.runs if r.contestant == label and r.status != COMPLETED]
    target = comparison.val_loss
    times = [f.seconds_to(target) for f in figures] if target is not None else []
    final = [f.val_losses[max(f.val_losses)] for f in figures if f.val_losses]
    status = failed[0].status if failed else COMPLETED if runs else UNAVAILABLE if comparison.problem else NOT_RUN
    return {
        "label": label,
        "ours": contestant.is_ours,
        "dtype": contestant.precision.dtype,
        "compiled": contestant.precision.compiled,
        "device": figures[-1].device if figures else None,
        "facts": figures[-1].facts if figures else {},
        "status": status,
        "reason": failed[0].reason if failed else comparison.problem,
        "tokens_per_sec": spread([f.tokens_per_sec for f in figures]),
        "seconds_per_step": spread([f.seconds_per_step for f in figures]),
        "final_val_loss": spread(final),
        "seconds_to_val_loss": spread([t for t in times if t is not None]) if None not in times else None,
        "wall_seconds": spread([run.wall_seconds for run in runs]),
        "peak_memory": max((run.peak_memory for run in runs), default=None),
        "peak_gpu_memory": max((run.peak_gpu_memory for run in runs if run.peak_gpu_memory is not None), default=None),
        "against": contestant.against,
        "ratio": spread(ratios(comparison, contestant)),
        "differences": list(contestant.differences),
    }


def ratios(comparison: Comparison, contestant: Contestant) -> list[float]:
    """Ours over the baseline in target tokens a second, for each round in which both completed."""
    if contestant.against is None:
        return []
    theirs = {run.round: run.figures for run in comparison.counted(contestant.against)}
    pairs = [(run.figures, theirs.get(run.round)) for run in comparison.counted(contestant.label)]
    return [a.tokens_per_sec / b.tokens_per_sec for a, b in pairs if a and b]


def document(comparison: Comparison) -> dict[str, Any]:
    return {
        "baseline": comparison.baseline,
        "source": comparison.source,
        "problem": comparison.problem or None,
        "workload": {**vars(comparison.workload), "interval": comparison.workload.interval},
        "val_loss": comparison.val_loss,
        "notes": comparison.notes,
        "differences": comparison.differences,
        "contestants": [summary(comparison, contestant) for contestant in comparison.contestants],
        "runs": [run.to_dict() for run in comparison.runs],
    }


def markdown(report: dict[str, Any]) -> str:
    """The whole report for people."""
    lines = ["# Beside Karpathy's own", "", *head(report), "", PROTOCOL]
    for comparison in report["comparisons"]:
        lines += ["", *section(comparison)]
    if report["earlier"]:
        lines += ["", *beside(report["earlier"])]
    return "\n".join(lines) + "\n"


def agreement(report: dict[str, Any], earlier: dict[str, Any]) -> list[dict[str, Any]]:
    """Each ratio that both reports have: the earlier one, the one now, and whether this lies where it was expected.

    Of comparisons in which both times the same was trained: another shape, or other steps, has another ratio.
    """
    before = {(work, row["label"]): row["ratio"] for work, row in measured(earlier)}
    found = []
    for work, row in measured(report):
        then, now = before.get((work, row["label"])), row["ratio"]["median"]
        if then is not None and then["expected"] is not None:
            low, high = then["expected"]
            one = {"label": row["label"], "against": row["against"], "earlier": then, "now": now}
            found.append({**one, "agrees": low <= now <= high})
    return found


def measured(report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The baseline and what was trained, and the contestant, of each that has a ratio."""
    rows = [(f"{c['baseline']}: {c['briefly']}", each) for c in report["comparisons"] for each in c["contestants"]]
    return [(work, contestant) for work, contestant in rows if contestant["ratio"] is not None]


def beside(earlier: dict[str, Any]) -> list[str]:
    """The table that says how this benchmark agrees with an earlier one."""
    rows = [
        [
            f"{one['label']} / {one['against']}",
            told(one["earlier"]),
            three_digits(one["now"]),
            "yes" if one["agrees"] else "no",
        ]
        for one in earlier["rows"]
    ]
    if not rows:
        told_none = f"{earlier['file']}, of {earlier['started_at']}, has no ratio of the same work with an expectation."
        return ["## Beside an earlier run", "", told_none]
    count = sum(one["agrees"] for one in earlier["rows"])
    return [
        "## Beside an earlier run",
        "",
        f"{earlier['file']}, of {earlier['started_at']}: {count} of {len(rows)} ratios are as that run expected.",
        "",
        *map(row, [["", "then", "now", "as expected"], ["---"] * 4, *rows]),
    ]


def head(report: dict[str, Any]) -> list[str]:
    hardware = report["hardware"]
    ours, gpus = hardware["microgpt"], ", ".join(gpu["name"] for gpu in hardware["gpus"]) or "no GPU"
    versions = ", ".join(f"{name} {version}" for name, version in hardware["versions"].items())
    commit = f"{ours['commit'] or 'no commit'}{' with changes' if ours['dirty'] else ''}"
    return [
        f"    {report['command']}",
        "",
        f"- {report['started_at']} to {report['finished_at']}, exit code {report['exit_code']}"
        + (", interrupted" if report["interrupted"] else ""),
        f"- {hardware['cpu']}, {hardware['cores']} cores, {gpus}; {hardware['platform']}",
        f"- Python {hardware['python']}, {versions}; microgpt {ours['version']}, {commit}",
        f"- load (1, 5, 15 minutes) before {report['load_before']}, after {report['load_after']}",
        f"- GPU: {report['gpu']}",
        f"- data: {report['data']['origin']}, sha256 {report['data']['sha256']}",
    ]


def section(comparison: dict[str, Any]) -> list[str]:
    source, target = comparison["source"], comparison["val_loss"]
    which = source.get("ref") or (f"sha256 {source['sha256']}" if source.get("sha256") else "not there")
    lines = [f"## {comparison['baseline']}", "", f"{source.get('origin', '')} ({which}). {comparison['briefly']}."]
    if comparison["problem"]:
        return [*lines, "", f"**Not run**: {comparison['problem']}."]
    to_loss = "s to the loss" if target is None else f"s to val loss {target:.4f}"
    columns = ["", "target tokens a second", "times the baseline", "val loss", to_loss, "memory MiB", "differs in"]
    lines += ["", row(columns), row(["---"] * len(columns))]
    lines += [row(cells(contestant)) for contestant in comparison["contestants"]]
    lines += ["", *(f"- {note}." for note in comparison["notes"])]
    used = {key for contestant in comparison["contestants"] for key in contestant["differences"]}
    return lines + [f"- {key}: {text}." for key, text in comparison["differences"].items() if key in used]


def cells(contestant: dict[str, Any]) -> list[str]:
    name = contestant["label"]
    facts = contestant["facts"]
    if facts.get("threads"):
        name += f" ({facts['threads']} thread{'s' * (facts['threads'] != 1)})"
    if contestant["status"] != COMPLETED:
        name += ": " + ", ".join(filter(None, [f"**{contestant['status']}**", contestant["reason"]]))
    memory = [contestant["peak_memory"], contestant["peak_gpu_memory"]]
    shown = " + GPU ".join(f"{m / MIB:,.0f}" for m in memory if m is not None)
    ratio = told(contestant["ratio"])
    against = contestant["against"]
    return [
        name,
        told(contestant["tokens_per_sec"]),
        f"{ratio} of {against}" if ratio else "",
        told(contestant["final_val_loss"], lambda loss: f"{loss:.4f}"),
        told(contestant["seconds_to_val_loss"]),
        shown,
        ", ".join(contestant["differences"]),
    ]


def three_digits(value: float) -> str:
    """At least three that count, and never a power of ten."""
    return (
        f"{value:,.0f}" if value >= 100 else f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value else "0"
    )


def told(values: dict[str, Any] | None, form: Callable[[float], str] = three_digits) -> str:
    """Median (where one more is expected); one number where they look alike, nothing where there are none."""
    if values is None:
        return ""
    middle = form(values["median"])
    if values["expected"] is None:
        return middle
    low, high = map(form, values["expected"])
    return middle if low == high else f"{middle} ({low}-{high})"


def row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
