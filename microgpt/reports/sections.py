"""What stands in a section of the report: a family of runs, in words, in tables, and with its plots.

Takes figures from families, comparisons and provenance, and makes no statistics of its own. Nothing here is HTML.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from microgpt.reports.budgets import at_equal_parameters, at_equal_steps, at_equal_time
from microgpt.reports.curves import Curve, read_curve
from microgpt.reports.families import JOB
from microgpt.reports.findings import findings
from microgpt.reports.illustrations import MOST_CURVES, plots_of, shown_variants
from microgpt.reports.plot_style import Plot
from microgpt.reports.provenance import (
    Counted,
    commands,
    common_settings,
    counted,
    environments,
    failures,
    git_states,
)
from microgpt.reports.records import Detail, Row, shown
from microgpt.reports.settings import DATA, comparison_key, fingerprint, settings_of
from microgpt.reports.statistics import Factorial
from microgpt.reports.tables import Line, budget_lines, comparison_lines, effect_lines, explanation, variant_lines
from microgpt.reports.variants import Comparison, Family, comparisons, effects

MOST_COMMANDS = 10
MOST_FAILURES = 12  # different sentences of runs that were not completed
SAMPLE_SEEDS, SAMPLES = 3, 8  # of each variant, of each seed
LOWER = "Below zero, the first has the lower loss."

Reader = Callable[[Row], Curve]


@dataclass(frozen=True)
class Table:
    """Lines of the same keys, which are the header; `apart` are lines that are set apart at the end."""

    title: str
    lines: Sequence[Line]
    note: str = ""
    apart: Sequence[Line] = ()
    words: bool = False  # columns of words, which stand at the left


@dataclass(frozen=True)
class Samples:
    variant: str
    seeds: list[tuple[int, tuple[str, ...]]]


@dataclass(frozen=True)
class Section:
    rows: list[Row]  # the runs that it tells of
    kind: str  # as of its family
    key: str
    title: str
    subject: str  # what was trained, a sentence
    runs: str  # how many, and how they ended
    best: str  # the best variant and its mean, or of one variant its mean; empty where there is none
    notes: list[str]  # what must be known before a figure is read
    settings: list[str]  # `key=value`
    failures: Table | None
    findings: list[str]
    variants: Table
    tables: list[Table]
    samples: list[Samples]
    commands: list[Counted]
    code: list[Table]  # states of the code, and environments
    plots: list[Plot] = field(default_factory=list)
    budgets: list[str] = field(default_factory=list)  # sentences on equal time, steps, parameters
    drawn: bool = False


def section_of(family: Family, rows: Sequence[Row], details: Mapping[str, Detail], *, with_plots: bool) -> Section:
    """`rows` are all rows, among which are the family's that were not completed.

    `with_plots` asks for all that takes the histories of the runs: plots, and the figures on a common budget.
    """
    completed, unfinished = family.rows, not_completed(family, rows)
    missing = without_success(unfinished, completed)
    known = [details[row["path"]] for row in [*completed, *missing]]
    references = references_of([details[row["path"]] for row in completed])
    compared, contrasts = comparisons(family), effects(family)
    states, warnings = git_states([*completed, *missing])
    histories = Histories()
    plots = plots_of(family, compared, contrasts, references, histories.of) if with_plots else []
    sentences, tables = on_common_budgets(family, histories.of) if with_plots else ([], [])
    return Section(
        rows=[*completed, *unfinished],
        kind=family.kind,
        key=family.key,
        title=family.key if family.kind == "sweep" else f"Ablation tie_lm_head × input_rmsnorm ({family.key})",
        subject=subject(family),
        runs=runs_sentence(family, completed, missing),
        best=best_of(family),
        notes=[*([family.obstacle] if family.obstacle else []), *warnings],
        settings=common_settings([next(iter(one.rows.values())) for one in family.variants if one.rows]),
        failures=failures_table(missing),
        findings=findings(family, compared, contrasts),
        variants=variants_table(family, references),
        tables=[*difference_tables(family, compared, contrasts), *tables],
        samples=samples_of(family, details),
        commands=commands(known)[:MOST_COMMANDS],
        code=[counted_table("commit", states), counted_table("environment", environments(known))],
        plots=plots,
        budgets=sentences,
        drawn=with_plots,
    )


class Histories:
    """The histories of a family's runs, each read once."""

    def __init__(self) -> None:
        self.read: dict[str, Curve] = {}

    def of(self, row: Row) -> Curve:
        path = row["path"]
        if path not in self.read:
            self.read[path] = read_curve(Path(path), row["steps_per_sec"])
        return self.read[path]


def on_common_budgets(family: Family, read: Reader) -> tuple[list[str], list[Table]]:
    """Loss at equal time, steps and parameters: a table where it is another figure than the family's own."""
    if len(family.ranked) < 2:
        return [], []
    sentences, tables = [], []
    for budget in (at_equal_time(family, read), at_equal_steps(family, read), at_equal_parameters(family)):
        if budget.samples and budget.samples != family.samples():
            title = f"At equal {'time' if budget.axis == 'seconds' else budget.axis}"
            tables.append(Table(title, budget_lines(budget), budget.sentence))
        else:
            sentences.append(budget.sentence)
    return sentences, tables


def not_completed(family: Family, rows: Sequence[Row]) -> list[Row]:
    """The runs of a family that were not completed."""
    unfinished = [row for row in rows if row["status"] != "completed"]
    if family.kind == "sweep":
        folders = {Path(row["path"]).parent for row in family.rows}
        return [r for r in unfinished if Path(r["path"]).parent in folders and JOB.fullmatch(str(r["run_id"]))]
    sha256 = family.rows[0]["data_sha256"]
    return [row for row in unfinished if comparison_key(settings_with_data(row, sha256)) == family.key]


def without_success(unfinished: Sequence[Row], completed: Sequence[Row]) -> list[Row]:
    """Those of the unfinished runs that no completed run of their configuration and seed makes good."""
    if not unfinished:
        return []
    sha256 = completed[0]["data_sha256"]
    good = {(fingerprint(settings_of(row)), str(row["seed"])) for row in completed}
    return [r for r in unfinished if (fingerprint(settings_with_data(r, sha256)), str(r["seed"])) not in good]


def settings_with_data(row: Row, sha256: str) -> dict[str, Any]:
    """The settings of a run; one that failed before it read its data is taken to be of this data."""
    settings = settings_of(row)
    return {**settings, DATA: settings[DATA] or sha256}


def subject(family: Family) -> str:
    """What was trained, without what the variants differ in."""
    row = family.rows[0]
    config = row["config"]
    sizes = [f"model.{key}" for key in ("n_embd", "n_head", "n_layer", "block_size")]
    told = [("model.name", "model {}"), *((key, f"{key.partition('.')[2]} {{}}") for key in sizes)]
    told += [("data.name", "data {}"), ("style.name", "style {}"), ("train.steps", "{} steps")]
    told += [("train.batch_size", "batch {}"), ("optim.name", "optimizer {}"), ("optim.lr", "lr {}")]
    told += [("schedule.name", "schedule {}"), ("mode.name", "mode {}")]
    parts = []
    for key, form in told:
        group, _, name = key.partition(".")
        value = (config.get(group) or {}).get(name)
        if value is not None and key not in family.variants[0].settings:
            parts.append(form.format(value))
    return f"Trained: {', '.join(parts)}."


def best_of(family: Family) -> str:
    if not family.ranked or family.obstacle is not None:
        return ""
    variant, found = family.ranked[0]
    return f"{family.figure} {found.mean:.4f}{f', best {variant.name}' if len(family.ranked) > 1 else ''}"


def runs_sentence(family: Family, completed: Sequence[Row], missing: Sequence[Row]) -> str:
    ended = [f"{len(completed):,} completed"]
    for status in ("failed", "interrupted", "running"):
        number = sum(row["status"] == status for row in missing)
        ended += [f"{number:,} {status}"] * (number > 0)
    seeds = {row["seed"] for row in completed}
    return (
        f"{counted(len(completed) + len(missing), 'run')}: {', '.join(ended)}; "
        f"{counted(len(family.variants), 'variant')}, {counted(len(seeds), 'seed')}"
    )


def references_of(details: Sequence[Detail]) -> dict[str, float]:
    """What counting alone reaches, where all runs were measured on the same; else nothing that holds for all."""
    found = [detail.baselines for detail in details]
    return dict(found[0]) if found and all(one == found[0] for one in found) else {}


def failures_table(missing: Sequence[Row]) -> Table | None:
    found = failures(missing)
    if not found:
        return None
    lines = [
        {"status": one.status, "runs": str(one.runs), "why": one.sentence or "-", "the first of them": one.first}
        for one in found[:MOST_FAILURES]
    ]
    rest = len(found) - len(lines)
    return Table("Not completed", lines, f"{counted(rest, 'more sentence')} left out." * (rest > 0), words=True)


def variants_table(family: Family, references: Mapping[str, float]) -> Table:
    lines = variant_lines(family)
    note = f"Losses in nats per target token. Ranked by {family.figure}, best first."
    if family.figure != "val_loss" or not references:
        return Table("", lines, note)
    known = [{"variant": f"reference: {name}", "val_loss mean": shown(loss)} for name, loss in references.items()]
    note += (
        " References: ln V, and counts of tokens and of pairs of tokens in the training documents, measured on the "
        "same validation documents."
    )
    return Table("", lines, note, [{column: one.get(column, "") for column in lines[0]} for one in known])


def difference_tables(family: Family, compared: Sequence[Comparison], contrasts: Factorial | None) -> list[Table]:
    found = []
    if contrasts is not None and family.factors is not None:
        note = explanation([contrasts.a, contrasts.b, contrasts.interaction])
        lines = effect_lines(contrasts, family.factors)
        found.append(Table("Main effects and interaction", lines, f"{LOWER} {note}"))
    if compared:
        note = explanation([one.difference for one in compared])
        found.append(Table("Differences between variants", comparison_lines(compared), f"{LOWER} {note}"))
    return found


def counted_table(what: str, found: Sequence[Counted]) -> Table:
    """Things that runs share, each with the number of runs that it holds for."""
    return Table("", [{"runs": str(one.runs), what: one.text} for one in found], words=True)


def samples_of(family: Family, details: Mapping[str, Detail]) -> list[Samples]:
    """A few texts of the first seeds of each variant that is drawn."""
    found = []
    for variant in shown_variants(family, MOST_CURVES).variants:
        first = list(variant.rows.items())[:SAMPLE_SEEDS]
        seeds = [(seed, details[row["path"]].samples[:SAMPLES]) for seed, row in first]
        found.append(Samples(variant.name, [(seed, texts) for seed, texts in seeds if texts]))
    return [one for one in found if one.seeds]
