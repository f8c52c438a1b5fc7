"""The contents of the reports: a section for each family of runs, and one for the runs of no family."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from microgpt.data.display import escaped
from microgpt.reports import provenance, tables
from microgpt.reports.analyses import analysed
from microgpt.reports.budgets import Reader, at_equal_parameters, at_equal_steps, at_equal_time
from microgpt.reports.context_sentences import common_references
from microgpt.reports.curves import Curve, read_curve
from microgpt.reports.descriptions import SIZES, best_of, caveat, runs_sentence, subject, varied
from microgpt.reports.document import family_object
from microgpt.reports.effect_report import comparisons_of
from microgpt.reports.factor_effects import Compared
from microgpt.reports.plots import MOST_CURVES, plots_of, select
from microgpt.reports.records import Collected
from microgpt.reports.report import (
    Analysis,
    Block,
    Bullets,
    Cells,
    Heading,
    Paragraph,
    Plots,
    Report,
    Samples,
    Section,
    Table,
)
from microgpt.reports.rows import Row
from microgpt.reports.run_families import Family, families
from microgpt.reports.tables import counted, value_cell
from microgpt.reports.variant_comparisons import Comparison, comparisons

MOST_DRAWN = 8  # families, the newest, whose histories are read and drawn
MOST_SINGLES = 200
SAMPLE_SEEDS, SAMPLES = 3, 8  # of each variant, of each seed
REFERENCES = (
    "References, evaluated on the same validation documents: uniform is ln V; unigram and bigram count tokens and "
    "pairs of tokens in all training documents"
)
CONTRASTS = (
    "An effect is averaged over the other toggle. The interaction is the effect of the first toggle with the second "
    "on, minus its effect with the second off."
)
MEANS = (
    "Losses in nats per target token, ranked by {}, best first. The interval is that of one variant's mean over seeds "
    "(initial weights, order of data). The intervals cover seeds only, not {}. Do not compare variants by the overlap "
    "of their intervals: they share seeds, and their differences are known more exactly."
)
FROM_BEST = (
    "from best: mean difference from the best variant, seed by seed. Its 95 % interval is simultaneous for {}; "
    "differs: yes if the interval does not contain zero."
)
EXPLORATORY = "What else the data show (exploratory: not named before the runs began)"
NOTHING = "No two variants can be compared."
NOT_DRAWN = "Only the newest families have plots; collect this folder by itself to see its plots."


@dataclass(frozen=True)
class FamilyReport:
    family: Family
    page: Section  # of report.html
    ablation: Section | None  # of an ablation: for Markdown and the terminal
    compared: Compared | None = None  # each variant with the best one


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

    analyses = analysed(family, read if with_plots else None)
    effects = analyses.get("effects")
    compared = effects.compared if effects else comparisons_of(family, family.plan)[0]
    page = page_section(family, analyses, compared, read if with_plots else None)
    ablation = ablation_section(family, compared, page, read) if family.kind == "ablation" else None
    return FamilyReport(family, page, ablation, compared)


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


def page_section(
    family: Family, analyses: Mapping[str, Analysis], compared: Compared | None, read: Reader | None
) -> Section:
    """Return a family's section of the page; without `read`, leave out what needs histories."""
    found = list(analyses.values())
    pairs = pairs_of_ablation(family, compared)
    known = [*family.rows, *family.missing]
    references = common_references(family.rows)
    warnings = [
        *([family.obstacle] if family.obstacle else []),
        *provenance.leg_warnings(known),
        *provenance.git_warnings(known),
    ]
    settings = provenance.common_settings(family)
    facts, budgets = common_budgets(family, read) if read else ([], [])
    own = [plot for one in found for plot in one.plots]
    plots = Plots(plots_of(family, pairs, own, references, read)) if read else Paragraph(NOT_DRAWN, "caption")
    sentences = [sentence for one in found for sentence in one.findings]
    sentences += [sentence for one in found for sentence in one.last]
    runs = runs_sentence(family)
    blocks: list[Block] = [
        Paragraph(subject(family)),
        *(Paragraph(line) for line in varied(family) if line),
        Paragraph(f"{runs}."),
        *(Paragraph(remark) for remark in provenance.remarks(known)),
        *(Paragraph(warning, "strong") for warning in warnings),
        *([Paragraph("Settings of all these runs that differ from the defaults:", code=settings)] if settings else []),
        *provenance.failures(family),
        *(block for one in found for block in one.first),
        Heading(EXPLORATORY if family.plan.contrasts else "What the data show"),
        Bullets(sentences or [NOTHING]),
        variants_table(family, references, compared),
        *([Paragraph(" ".join(facts), "caption")] if facts else []),
        plots,
        *(block for one in found for block in one.blocks),
        *difference_tables(pairs),
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
        data=family_object(family, analyses, compared),
    )


def variants_table(family: Family, references: Mapping[str, float], compared: Compared | None) -> Table:
    rows = without_constants(tables.variant_rows(family, compared))
    documents = {row.evaluated_documents for row in family.rows}
    known = family.metric == "val_loss" and len(documents) == 1 and None not in documents
    what = f"the choice of the {documents.pop():,} validation documents" if known else "the choice of documents"
    tested = [one for one in compared.from_best.values() if one.p is not None] if compared else []
    note = MEANS.format(family.metric, what)
    if tested:
        note += f" {FROM_BEST.format(tables.composition(tested))}"
    last_n = {row.last_n for row in family.rows if row.last_n}
    if len(last_n) == 1 and any("mean_loss_last_n" in name for name in rows[0]):
        note += f" mean_loss_last_n: mean training loss of the last {last_n.pop()} steps."
    if family.metric != "val_loss" or not references:
        return Table("", rows, note)
    rest = [{"variant": f"reference: {name}", "val_loss mean": f"{loss:.4f}"} for name, loss in references.items()]
    apart = [{column: one.get(column, "") for column in rows[0]} for one in rest]
    return Table("", rows, f"{note} {REFERENCES}{amounts(family.rows)}.", apart)


def amounts(rows: Sequence[Row]) -> str:
    """Return how many tokens the references count, and how many a run was trained on; empty if not all runs say so."""
    counts, seen = {row.train_tokens for row in rows}, [row.tokens_seen for row in rows if row.tokens_seen]
    if len(counts) > 1 or None in counts or len(seen) < len(rows):
        return ""
    return (
        f" ({counts.pop():,} tokens), while a run was trained on {sum(seen) / len(seen):,.0f} tokens (mean over runs)"
    )


def without_constants(rows: list[Cells]) -> list[Cells]:
    """Leave out the columns `parameters` and `failed` if they say the same of all variants: the page states it once."""
    constant = {name for name in ("parameters", "failed") if len({row[name] for row in rows}) == 1}
    constant -= {"failed"} if rows[0]["failed"] != "0" else set()
    return [{name: text for name, text in row.items() if name not in constant} for row in rows]


def pairs_of_ablation(family: Family, compared: Compared | None) -> list[Comparison]:
    """Return all pairs of the variants of an ablation, in the family of comparisons of the report."""
    if family.kind != "ablation":
        return []
    return comparisons(family, pairs_of=compared.pairs if compared else None)


def difference_tables(compared: Sequence[Comparison]) -> list[Table]:
    if not compared:
        return []
    note = f"The difference is a - b. {tables.explanation([one.difference for one in compared])}"
    rows = [{"a": one.a.name, "b": one.b.name, **tables.difference_cells(one.difference)} for one in compared]
    return [Table("Differences between variants", rows, note)]


def common_budgets(family: Family, read: Reader) -> tuple[list[str], list[Table]]:
    """Return facts about losses at equal time, steps and parameters, and tables of those that differ."""
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
    """Return generated texts of the first completed seeds of each variant that is drawn."""
    found = {}
    for variant in select(family, MOST_CURVES).variants:
        first = list(variant.rows.items())[:SAMPLE_SEEDS]
        found[variant.name] = {seed: tuple(map(escaped, row.samples[:SAMPLES])) for seed, row in first if row.samples}
    found = {name: seeds for name, seeds in found.items() if seeds}
    number = len(family.variants)
    drawn = f"the {len(found)} variants drawn above (of {number})" if len(found) < number else "each variant"
    which = Paragraph(f"Of {drawn}, the first {SAMPLE_SEEDS} completed seeds.", "caption")
    return [Heading("Samples side by side"), which, Samples(found)] if found else []


def ablation_section(family: Family, compared: Compared | None, page: Section, read: Reader) -> Section:
    """Return the section of an ablation for Markdown and the terminal; the plots are those of the page."""
    note = f"Ranked by {family.metric}, best first. {caveat(family)}"
    found = [Table("", tables.variant_rows(family), note)]
    if any(ranked.n > 1 for _, ranked in family.ranked):
        if compared is not None and not family.obstacle:
            rows = tables.effect_rows_of_ablation(compared.effects)
            found.append(Table("Main effects and interaction", rows, CONTRASTS))
        found += difference_tables(pairs_of_ablation(family, compared))
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
