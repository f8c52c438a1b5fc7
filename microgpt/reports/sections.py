"""The contents of the reports: a section for each family of runs, and one for the runs of no family."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from microgpt.data.display import escaped
from microgpt.reports import provenance, tables
from microgpt.reports.analyses import analysed, plan_of_family
from microgpt.reports.budgets import Reader, at_equal_parameters, at_equal_steps, at_equal_time
from microgpt.reports.curves import Curve, read_curve
from microgpt.reports.document import family_object
from microgpt.reports.factor_effects import effects_of
from microgpt.reports.factors import design_of
from microgpt.reports.plots import MOST_CURVES, plots_of, select
from microgpt.reports.records import Collected
from microgpt.reports.report import Block, Bullets, Heading, Paragraph, Plots, Report, Samples, Section, Table
from microgpt.reports.rows import Row
from microgpt.reports.run_families import Family, families
from microgpt.reports.tables import counted, value_cell
from microgpt.reports.variant_comparisons import Comparison, comparisons

MOST_DRAWN = 8  # families, the newest, whose histories are read and drawn
MOST_SINGLES = 200
SAMPLE_SEEDS, SAMPLES = 3, 8  # of each variant, of each seed
SIZES = ("n_embd", "n_head", "n_layer", "block_size")
REFERENCES = (
    "References: uniform is ln V; unigram and bigram count tokens and pairs of tokens in the training documents. They "
    "are evaluated on the same validation documents."
)
CONTRASTS = (
    "Contrasts are computed seed by seed, over the seeds that all four variants have. The interaction is the effect of "
    "the first toggle with the second on, minus its effect with the second off."
)
ONE_SEED = (
    "One seed: a difference between variants cannot be distinguished from chance. Add seeds, for example "
    "`seed=range(8)`."
)
UNEQUAL_SEEDS = (
    "The variants were not run with the same seeds: a comparison leaves out the seeds that one of its variants lacks, "
    "and says how many."
)
LOWER = "Below zero, the first has the lower loss."
EXPLORATORY = "What else the data show (exploratory: not named before the runs began)"
NOTHING = "No two variants can be compared."
NOT_DRAWN = "Only the newest families have plots; collect this folder by itself to see its plots."


@dataclass(frozen=True)
class FamilyReport:
    family: Family
    page: Section  # of report.html
    ablation: Section | None  # of an ablation: for Markdown and the terminal


def family_reports(rows: Sequence[Row], most_drawn: int = MOST_DRAWN) -> list[FamilyReport]:
    """Return the reports of all families, oldest first; only the newest have plots, which take time and space."""
    found = families(rows)
    drawn = sorted(found, key=newest_start, reverse=True)[:most_drawn]
    return [family_report(family, with_plots=family in drawn) for family in found]


def newest_start(family: Family) -> str:
    return max(row.started_at for row in family.rows)


def family_report(family: Family, *, with_plots: bool) -> FamilyReport:
    """`with_plots` includes everything in the page that needs histories: plots, and losses on common budgets."""

    @cache
    def read(row: Row) -> Curve:
        return read_curve(row.folder, row.steps_per_sec)

    compared = comparisons(family) if family.kind == "ablation" else []
    page = page_section(family, compared, read if with_plots else None)
    ablation = ablation_section(family, compared, page, read) if family.kind == "ablation" else None
    return FamilyReport(family, page, ablation)


def page_report(collected: Collected, reports: Sequence[FamilyReport]) -> Report:
    """Return the contents of report.html: families, newest first, then the runs that belong to none."""
    newest = sorted(reports, key=lambda one: newest_start(one.family), reverse=True)
    sections = [replace(one.page, anchor=f"family-{number}") for number, one in enumerate(newest, 1)]
    shown = {row.path for one in reports for row in [*one.family.rows, *one.family.not_completed]}
    singles = [row for row in collected.rows if row.path not in shown]
    rows, skipped = collected.rows, len(collected.skipped)
    days = sorted(row.started_at[:10] for row in rows)
    when = f"of {days[0]}" if days[0] == days[-1] else f"from {days[0]} to {days[-1]}"
    unfinished = sum(row.status != "completed" for row in rows)
    return Report(
        title="Report",
        summary=f"{counted(len(rows), 'run')} {when}, {unfinished:,} not completed, in "
        f"{counted(len(sections), 'section')} of related runs.",
        sections=[*sections, *([single_runs(singles)] if singles else [])],
        footer=f"{counted(skipped, 'file')} named run.json could not be read as a record." if skipped else "",
    )


def single_runs(rows: Sequence[Row]) -> Section:
    columns = ("model", "variant", "style", "mode", "steps", "seed", "val_loss", "mean_loss_last_n", "steps_per_sec")
    newest = rows[::-1][:MOST_SINGLES]
    remarks = [column for column in ("tags", "notes") if any(getattr(row, column) for row in newest)]
    cells = [
        {
            "run": row.path,
            **{column: value_cell(column, getattr(row, column)) for column in columns},
            "status": " ".join(filter(None, [row.status, provenance.reason(row)])),
            **{column: getattr(row, column) for column in remarks},
        }
        for row in newest
    ]
    some = "" if len(newest) == len(rows) else f"The newest {len(newest)} of {len(rows):,}. "
    note = f"{some}runs_style-*.csv beside this page list every run with all columns."
    return Section("Single runs", [Table("", cells, note)], anchor="singles")


def page_section(family: Family, compared: Sequence[Comparison], read: Reader | None) -> Section:
    """Return a family's section of the page; without `read`, leave out what needs histories."""
    plan = plan_of_family(family)
    analyses = analysed(family, read)
    found = list(analyses.values())
    known = [*family.rows, *family.missing]
    references = common_references(family.rows)
    warnings = [
        *([family.obstacle] if family.obstacle else []),
        *provenance.leg_warnings(known),
        *provenance.git_warnings(known),
    ]
    settings = provenance.common_settings(family)
    sentences, budgets = common_budgets(family, read) if read else ([], [])
    own = [plot for one in found for plot in one.plots]
    plots = Plots(plots_of(family, compared, own, references, read)) if read else Paragraph(NOT_DRAWN, "caption")
    sentences = [*(sentence for one in found for sentence in one.findings), *sentences]
    runs = runs_sentence(family)
    blocks: list[Block] = [
        Paragraph(subject(family)),
        Paragraph(f"{runs}."),
        *(Paragraph(remark) for remark in provenance.remarks(known)),
        *(Paragraph(warning, "strong") for warning in warnings),
        *([Paragraph("Settings of all these runs that differ from the defaults:", code=settings)] if settings else []),
        *provenance.failures(family.missing),
        *(block for one in found for block in one.first),
        Heading(EXPLORATORY if plan.contrasts else "What the data show"),
        Bullets(sentences or [NOTHING]),
        variants_table(family, references),
        plots,
        *(block for one in found for block in one.blocks),
        *difference_tables(compared),
        *budgets,
        *samples_of(family),
        *provenance.commands(known),
        *provenance.code_and_environment(known),
    ]
    title = family.key if family.kind == "sweep" else f"Ablation tie_lm_head × input_rmsnorm ({family.key})"
    return Section(
        title,
        blocks,
        summary="; ".join(filter(None, [runs, best_of(family)])),
        data=family_object(family, plan, analyses),
    )


def subject(family: Family) -> str:
    """Return a sentence about what was trained, without what the variants differ in."""
    forms = {"model.name": "model {}"} | {f"model.{key}": f"{key} {{}}" for key in SIZES}
    forms |= {"data.name": "data {}", "style.name": "style {}", "train.steps": "{} steps"}
    forms |= {"train.batch_size": "batch {}", "optim.name": "optimizer {}", "optim.lr": "lr {}"}
    forms |= {"schedule.name": "schedule {}", "mode.name": "mode {}"}
    values = {key: text_of(key, family) for key in forms if key not in family.variants[0].settings}
    return f"Trained: {', '.join(forms[key].format(value) for key, value in values.items() if value is not None)}."


def text_of(key: str, family: Family) -> str | None:
    """Return the value of a key; `0.01 (adam) or 0.1 (sgd)` if the options of its group have their own; None: null."""
    group, name = key.split(".")
    found: dict[str, str] = {}
    for row in family.rows:
        if (value := row.setting(group, name)) is not None:
            found.setdefault(str(value), str(row.setting(group, "name")))
    if len(found) > 1:
        return " or ".join(f"{value} ({option})" for value, option in found.items())
    return next(iter(found), None)


def runs_sentence(family: Family) -> str:
    ended = [f"{len(family.rows):,} completed"]
    for status in ("failed", "interrupted", "running"):
        number = sum(row.status == status for row in family.missing)
        ended += [f"{number:,} {status}"] * (number > 0)
    seeds = {row.seed for row in family.rows}
    return (
        f"{counted(len(family.rows) + len(family.missing), 'run')}: {', '.join(ended)}; "
        f"{counted(len(family.variants), 'variant')}, {counted(len(seeds), 'seed')}"
    )


def best_of(family: Family) -> str:
    """Return the metric's mean, and the best variant's name if there are several.

    Return an empty string if the variants are not comparable or none has a result.
    """
    if not family.ranked or family.obstacle is not None:
        return ""
    variant, found = family.ranked[0]
    return f"{family.metric} {found.mean:.4f}{f', best {variant.name}' if len(family.ranked) > 1 else ''}"


def common_references(rows: Sequence[Row]) -> dict[str, float]:
    """Return the baseline losses of counting if they are the same for all runs, else nothing."""
    return rows[0].baselines if rows and all(row.baselines == rows[0].baselines for row in rows) else {}


def variants_table(family: Family, references: Mapping[str, float]) -> Table:
    rows = tables.variant_rows(family)
    note = f"Losses in nats per target token. Ranked by {family.metric}, best first."
    if family.metric != "val_loss" or not references:
        return Table("", rows, note)
    known = [{"variant": f"reference: {name}", "val_loss mean": f"{loss:.4f}"} for name, loss in references.items()]
    return Table(
        "", rows, f"{note} {REFERENCES}", [{column: one.get(column, "") for column in rows[0]} for one in known]
    )


def difference_tables(compared: Sequence[Comparison]) -> list[Table]:
    if not compared:
        return []
    note = f"{LOWER} {tables.explanation([one.difference for one in compared])}"
    return [Table("Differences between variants", tables.comparison_rows(compared), note)]


def common_budgets(family: Family, read: Reader) -> tuple[list[str], list[Table]]:
    """Return sentences about losses at equal time, steps and parameters, and tables of those that differ."""
    if len(family.ranked) < 2:
        return [], []
    sentences, found = [], []
    for budget in (at_equal_time(family, read), at_equal_steps(family, read), at_equal_parameters(family)):
        if budget.samples and budget.samples != family.samples():
            title = f"At equal {'time' if budget.axis == 'seconds' else budget.axis}"
            found.append(Table(title, tables.budget_rows(budget), budget.sentence))
        else:
            sentences.append(budget.sentence)
    return sentences, found


def samples_of(family: Family) -> list[Block]:
    """Return generated texts of the first seeds of each variant that is drawn."""
    found = {}
    for variant in select(family, MOST_CURVES).variants:
        first = list(variant.rows.items())[:SAMPLE_SEEDS]
        found[variant.name] = {seed: tuple(map(escaped, row.samples[:SAMPLES])) for seed, row in first if row.samples}
    found = {name: seeds for name, seeds in found.items() if seeds}
    return [Heading("Samples side by side"), Samples(found)] if found else []


def ablation_section(family: Family, compared: Sequence[Comparison], page: Section, read: Reader) -> Section:
    """Return the section of an ablation for Markdown and the terminal; the plots are those of the page."""
    note = f"Ranked by {family.metric}, best first. {caveat(family)}"
    found = [Table("", tables.variant_rows(family), note)]
    if any(ranked.n > 1 for _, ranked in family.ranked):
        design = design_of(family)
        if design is not None and not family.obstacle:
            rows = tables.effect_rows_of_ablation(effects_of(design))
            found.append(Table("Main effects and interaction", rows, CONTRASTS))
        explanation = tables.explanation([one.difference for one in compared])
        note = f"Mean of a - b: below zero, a is better. {explanation}"
        found.append(Table("Differences between variants", tables.comparison_rows(compared), note))
        time, steps, parameters = at_equal_time(family, read), at_equal_steps(family, read), at_equal_parameters(family)
        note = f"{time.sentence} {steps.sentence} {parameters.sentence}"
        found.append(Table("At equal time, steps and parameters", tables.budget_rows(time), note))
    row = family.rows[0]
    known = [(key, row.setting("model", key)) for key in SIZES]
    title = (
        f"model {row.model} ({', '.join(f'{key} {value}' for key, value in known if value)}), data {row.data}, "
        f"style {row.style}, {row.steps} steps of batch {row.setting('train', 'batch_size')}, "
        f"{row.setting('optim', 'name')} lr {row.setting('optim', 'lr')}, "
        f"schedule {row.setting('schedule', 'name')}, mode {row.mode}"
    )
    return Section(title, [*found, Plots(page.plots)], comparison=family.key)


def caveat(family: Family) -> str:
    """Return what the tables do not show: missing seeds, different versions of the code, unfinished runs."""
    seeds = [set(variant.rows) for variant in family.variants]
    if any(own != seeds[0] for own in seeds):
        found = [UNEQUAL_SEEDS]
    elif len(seeds[0]) == 1:
        found = [ONE_SEED]
    else:
        found = [f"All variants have the same {len(seeds[0])} seeds; sd and intervals are over seeds."]
    if len({(row.git_commit, row.git_dirty) for row in family.rows}) > 1:
        found.append("The runs were made with different versions of the code.")
    unfinished = sum(variant.unfinished for variant in family.variants)
    return " ".join([*found, *([f"Unfinished runs: {unfinished}."] if unfinished else [])])
